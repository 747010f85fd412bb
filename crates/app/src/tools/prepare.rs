//! `migrate`, `topology`, `config check`, `doctor` and `dead-letters`.

use openwatch_api::dto::{HealthReport, KeysView};
use openwatch_bus::{Profile, User, topology};
use openwatch_pipeline::trail;
use openwatch_store::migrate as run_migrations;

use crate::cli::{ConfigCommand, DatabaseArgs, DeadLetterCommand, DoctorArgs, TopologyCommand};
use crate::client::{Client, table};
use crate::config::{Flags, Settings, load};
use crate::exit::{Failure, TRY_AGAIN, USAGE};
use crate::run::connect::{self, bus_failure};

/// `migrate`.
///
/// # Errors
/// 69 when the database is away, 64 when it is not ours to migrate.
pub async fn migrate(args: DatabaseArgs) -> Result<(), Failure> {
    let settings = load(Flags::of_database(args))?;
    let url = connect::database_url(&settings)?;
    let applied = run_migrations(url, trail::SENDER, trail::message)
        .await
        .map_err(|error| connect::store_failure_at(url, error))?;
    match applied.last() {
        Some(last) => {
            table::line(&format!("{} migrations applied; the schema is at version {last}", applied.len()))
        }
        None => table::line("the schema is up to date"),
    }
    Ok(())
}

fn profile(replicas: u8) -> Result<Profile, Failure> {
    match replicas {
        1 => Ok(Profile::Small),
        3 => Ok(Profile::Production),
        other => Err(Failure::usage(format!("--replicas is 1 (one machine) or 3 (production), not {other}"))),
    }
}

/// `topology apply|check`.
///
/// # Errors
/// 64 when something exists in another shape, 75 when `check` finds something that `apply` cures.
pub async fn topology(command: TopologyCommand) -> Result<(), Failure> {
    let (args, apply) = match command {
        TopologyCommand::Apply(args) => (args, true),
        TopologyCommand::Check(args) => (args, false),
    };
    let profile = profile(args.replicas)?;
    let settings = load(Flags::of_bus(args.nats, args.keys))?;
    let bus = connect::bus(&settings, &connect::keys(&settings)?, User::Admin).await?;
    if apply {
        let report = topology::apply(&bus, profile).await.map_err(bus_failure)?;
        if args.json {
            return table::json(&serde_json::json!({
                "created": report.created, "widened": report.widened, "unchanged": report.unchanged
            }));
        }
        for made in &report.created {
            table::line(&format!("created {made}"));
        }
        for widened in &report.widened {
            table::line(&format!("widened {widened}"));
        }
        for tuned in &report.tuned {
            table::line(&format!("left as it is: {tuned}"));
        }
        table::line(&format!(
            "{} created, {} as they should be",
            report.created.len(),
            report.unchanged.len()
        ));
        return Ok(());
    }
    let differences = topology::check(&bus, profile).await.map_err(bus_failure)?;
    if args.json {
        table::json(&differences.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    } else {
        differences.iter().for_each(|difference| table::line(&difference.to_string()));
    }
    let curable = differences.iter().any(|d| d.field.is_none() || d.narrow);
    match differences.iter().filter(|d| !d.tunable).count() {
        0 => {
            if !args.json {
                table::line("streams and consumers are as they should be");
            }
            Ok(())
        }
        count if curable => Err(Failure::new(
            TRY_AGAIN,
            anyhow::anyhow!("{count} differences; run `openwatch topology apply`"),
        )),
        count => Err(Failure::new(USAGE, anyhow::anyhow!("{count} differences"))),
    }
}

/// `config check`.
///
/// # Errors
/// 64 with every problem.
pub fn config(command: ConfigCommand) -> Result<(), Failure> {
    let ConfigCommand::Check { config, json } = command;
    let settings: Settings = load(Flags { config: Some(config), ..Flags::default() })?;
    if json {
        return table::json(&settings);
    }
    table::line(&serde_json::to_string_pretty(&settings)?);
    table::line(if settings.database_url.is_some() {
        "database: given (not shown)"
    } else {
        "database: none"
    });
    Ok(())
}

/// `doctor`: asks the running system whether it is well.
///
/// # Errors
/// 75 when something says no.
pub async fn doctor(args: DoctorArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let live: HealthReport = client.health("/health/live").await?;
    let ready: HealthReport = client.health("/health/ready").await?;
    // Without a token the rest is still worth telling.
    let keys: Option<KeysView> = client.get("/keys", &[]).await.ok();
    if client.json {
        table::json(&serde_json::json!({ "live": live, "ready": ready, "keys": keys }))?;
    } else {
        let mut rows = table::new(&["what", "is well"]);
        for check in live.checks.iter().chain(&ready.checks) {
            rows.add_row([check.name.as_str(), if check.ok { "yes" } else { "NO" }]);
        }
        table::print(&rows, "nothing to ask");
        for it in keys.iter().flat_map(|keys| &keys.holders) {
            let others: Vec<_> =
                it.key_ids.iter().filter(|id| **id != it.current).map(String::as_str).collect();
            let others =
                if others.is_empty() { String::new() } else { format!(" and {}", others.join(", ")) };
            table::line(&format!("{} {} holds key {}{others}", it.role, it.process, it.current));
        }
        if let Some(it) = keys.and_then(|keys| keys.rotation)
            && it.phase != "done"
        {
            let who = if it.waiting_for.is_empty() { "nobody".to_owned() } else { it.waiting_for.join(", ") };
            table::line(&format!("key rotation: {}; not reloaded: {who}", it.phase));
        }
    }
    if live.ok && ready.ok {
        Ok(())
    } else {
        Err(Failure::new(TRY_AGAIN, anyhow::anyhow!("not everything is well")))
    }
}

/// `dead-letters`.
///
/// # Errors
/// 69 when NATS is away, 64 for a letter that is not there.
pub async fn dead_letters(command: DeadLetterCommand) -> Result<(), Failure> {
    match command {
        DeadLetterCommand::List { nats, keys, limit, json } => {
            let settings = load(Flags::of_bus(nats, keys))?;
            let bus = connect::bus(&settings, &connect::keys(&settings)?, User::Admin).await?;
            let mut letters = bus.dead_letters(1, usize::MAX).await.map_err(bus_failure)?;
            letters.reverse();
            letters.truncate(limit);
            if json {
                let rows: Vec<_> = letters
                    .iter()
                    .map(|filed| {
                        let it = &filed.letter;
                        serde_json::json!({
                            "sequence": filed.sequence, "at": filed.at.to_string(), "stage": it.stage, "stream": it.stream,
                            "stream_sequence": it.sequence, "subject": it.subject, "deliveries": it.deliveries,
                            "reason": it.reason, "bytes": it.payload.len(),
                        })
                    })
                    .collect();
                return table::json(&rows);
            }
            let mut rows = table::new(&["sequence", "when", "stage", "subject", "tries", "why"]);
            for filed in &letters {
                let it = &filed.letter;
                rows.add_row([
                    filed.sequence.to_string(),
                    table::moment(filed.at),
                    it.stage.clone(),
                    it.subject.clone(),
                    it.deliveries.to_string(),
                    it.reason.clone(),
                ]);
            }
            table::print(&rows, "no dead letters");
            Ok(())
        }
        DeadLetterCommand::Replay { sequence, nats, keys } => {
            let settings = load(Flags::of_bus(nats, keys))?;
            let bus = connect::bus(&settings, &connect::keys(&settings)?, User::Admin).await?;
            let found = bus.dead_letters(sequence, 1).await.map_err(bus_failure)?;
            let letter = found
                .into_iter()
                .find(|filed| filed.sequence == sequence)
                .ok_or_else(|| Failure::usage(format!("there is no dead letter {sequence}")))?;
            let published = bus.replay(&letter).await.map_err(bus_failure)?;
            table::line(&format!("sent again to {} as {}", published.stream, published.sequence));
            Ok(())
        }
    }
}
