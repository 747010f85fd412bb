//! `events tail`: the public stream, as an outside consumer with read-only credentials sees it.

use std::time::Duration;

use openwatch_bus::tail::{EventTail, Followed, Since};
use openwatch_bus::{Bus, BusOptions, User};
use openwatch_trust::nats_user::NatsUser;
use zeroize::Zeroizing;

use crate::cli::EventsCommand;
use crate::client::table;
use crate::exit::{Failure, INTERRUPTED};
use crate::links::{self, LinkTls};
use crate::place::{ClientFile, default_data_dir};
use crate::run::connect::{bus_failure, nats_tls};

/// With `--no-follow`: silence this long means that the stream has nothing more.
const QUIET: Duration = Duration::from_millis(1500);

/// Runs `events tail`. The exit code.
///
/// # Errors
/// 64 without an address or a seed, 69 when NATS is away.
pub async fn run(command: EventsCommand) -> Result<u8, Failure> {
    let EventsCommand::Tail { since, limit, no_follow, seed_file, nats, data_dir, json } = command;
    let found = ClientFile::read(&data_dir.unwrap_or_else(default_data_dir));
    let (servers, seed_file) = match (nats.nats_url.is_empty(), seed_file, found) {
        (false, Some(seed), _) => (nats.nats_url, seed),
        (given, seed, Ok(file)) => {
            let servers =
                if given { file.nats_url.split(',').map(str::to_owned).collect() } else { nats.nats_url };
            (servers, seed.unwrap_or(file.reader_seed_file))
        }
        (_, _, Err(problem)) => {
            let text = format!("{problem}; name NATS with --nats-url and a read-only user with --seed-file");
            return Err(Failure::usage(text));
        }
    };
    let seed = Zeroizing::new(NatsUser::load(&seed_file)?.seed().to_owned());
    let mut problems = Vec::new();
    let names = ["--nats-ca", "--nats-certificate", "--nats-key"];
    let tls = LinkTls::check(names, [nats.nats_ca, nats.nats_certificate, nats.nats_key], &mut problems);
    problems.extend(links::nats(&servers, &tls, nats.plain_nats));
    if !problems.is_empty() {
        return Err(Failure::usage(problems.join("; ")));
    }
    let mut options = BusOptions::new(servers.clone(), User::Reader).seed(seed);
    options.tls = nats_tls(&servers, &tls);
    let bus = Bus::connect(options).await.map_err(bus_failure)?;
    let mut tail = EventTail::new(&bus, since.map_or(Since::Now, Since::Sequence));
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        let next = tokio::select! {
            next = tail.next() => next.map_err(bus_failure)?,
            () = tokio::time::sleep(QUIET), if no_follow => break,
            _ = tokio::signal::ctrl_c() => {
                tail.close().await;
                return Ok(INTERRUPTED);
            }
        };
        show(&next, json)?;
        left -= 1;
    }
    tail.close().await;
    Ok(0)
}

fn show(next: &Followed, json: bool) -> Result<(), Failure> {
    let header = |name: &str| next.message.header(name).unwrap_or_default().to_owned();
    let body: serde_json::Value = serde_json::from_slice(&next.message.payload).unwrap_or_default();
    if json {
        let event = serde_json::json!({
            "sequence": next.sequence, "id": header("ce-id"), "type": header("ce-type"), "time": header("ce-time"),
            "subject": header("ce-subject"), "data": body,
        });
        table::line(&serde_json::to_string(&event)?);
        return Ok(());
    }
    let kind = header("ce-type");
    let kind = kind.strip_prefix("openwatch.").unwrap_or(&kind);
    table::line(&format!("{:>6}  {}  {kind:<24} {}", next.sequence, header("ce-time"), gist(&body)));
    Ok(())
}

/// The few words of a body that a person looks for.
fn gist(body: &serde_json::Value) -> String {
    const WORDS: [&str; 12] = [
        "host_id",
        "scan_id",
        "reason",
        "status",
        "score",
        "prior_score",
        "current_score",
        "score_delta",
        "type",
        "severity",
        "state",
        "failure",
    ];
    let word = |name: &&str| {
        let value = body.get(*name)?;
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some(format!("{name}={text}"))
    };
    let mut words: Vec<_> = WORDS.iter().filter_map(word).collect();
    if let Some(changes) = body.get("changes") {
        words.push(format!(
            "changes={}",
            changes.as_array().map_or_else(|| changes.to_string(), |c| c.len().to_string())
        ));
    }
    words.join(" ")
}
