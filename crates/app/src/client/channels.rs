//! `openwatch channel`.

mod set;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use openwatch_api::dto::{
    Channel, ChannelChange, DeliveriesReplayed, Delivery, MadeChannel, NewChannel, NewMail, Page,
    ReplayDeliveries, TestAsked,
};
use openwatch_model::alert::AlertSeverity;
use openwatch_model::channel::{ChannelKind, MailSecurity};
use time::OffsetDateTime;

use super::credentials::secret;
use super::{Client, table};
use crate::cli::{ChannelAddCommand, ChannelArgs, ChannelCommand, NewChannelArgs};
use crate::exit::{Failure, TRY_AGAIN};
use crate::place::url_encode;

/// How long a test is waited for: a try and the way to it.
const TEST_LIMIT: Duration = Duration::from_secs(30);
const TEST_LOOK: Duration = Duration::from_millis(200);

/// Runs a `channel` command.
///
/// # Errors
/// As the API's answer; 75 when a test did not arrive.
pub async fn channel(command: ChannelCommand) -> Result<(), Failure> {
    match command {
        ChannelCommand::Add(add) => self::add(*add).await,
        ChannelCommand::Test(args) => test(args).await,
        ChannelCommand::List { client } => {
            let client = Client::new(&client)?;
            let page: Page<Channel> = client.get("/channels", &[]).await?;
            if client.json { table::json(&page.items) } else { list(&page.items) }
        }
        ChannelCommand::Set(args) => set::set(*args).await,
        ChannelCommand::Deliveries { name, client, state, failed, limit } => {
            let client = Client::new(&client)?;
            let mut query = Vec::new();
            query.extend(state.or(failed.then(|| "failed".to_owned())).map(|state| ("state", state)));
            let of = name.map_or(String::new(), |name| format!("/channels/{}", url_encode(&name)));
            let rows: Vec<Delivery> = client.list(&format!("{of}/deliveries"), &query, limit).await?;
            if client.json {
                return table::json(&rows);
            }
            deliveries(&rows, if failed { "nothing was given up" } else { "nothing was sent yet" });
            Ok(())
        }
        ChannelCommand::Replay { channel, delivery } => replay(channel, delivery).await,
        ChannelCommand::Enable(args) => turn(args, true).await,
        ChannelCommand::Disable(args) => turn(args, false).await,
        ChannelCommand::Rm(args) => {
            Client::new(&args.client)?.delete(&path(&args)).await?;
            table::line(&format!("channel {} removed", args.name));
            Ok(())
        }
    }
}

fn path(args: &ChannelArgs) -> String {
    format!("/channels/{}", url_encode(&args.name))
}

async fn replay(args: ChannelArgs, delivery_id: Option<uuid::Uuid>) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let body = ReplayDeliveries { delivery_id };
    let it: DeliveriesReplayed = client.post(&format!("{}/deliveries:replay", path(&args)), &body).await?;
    if client.json {
        return table::json(&it);
    }
    table::line(&match it.replayed {
        0 => format!(
            "nothing of an alert that went through {} was given up or waits for its next try",
            args.name
        ),
        many => format!(
            "{many} in line again; `openwatch channel deliveries {}` shows what becomes of them",
            args.name
        ),
    });
    Ok(())
}

async fn turn(args: ChannelArgs, enabled: bool) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let change = ChannelChange { enabled: Some(enabled), ..ChannelChange::default() };
    let it: Channel = client.patch(&path(&args), &change).await?;
    if client.json {
        return table::json(&it);
    }
    table::line(&format!("channel {} is {}", it.name, if it.enabled { "on" } else { "off" }));
    Ok(())
}

async fn add(command: ChannelAddCommand) -> Result<(), Failure> {
    let (body, client) = wanted(command)?;
    let made: MadeChannel = client.post("/channels", &body).await?;
    if client.json {
        return table::json(&made);
    }
    let it = &made.channel;
    table::line(&format!("channel {} added as {} ({} {})", it.name, it.id, it.kind.as_str(), it.target));
    if let Some(secret) = &made.secret {
        table::line(&format!("signing secret, for the receiver and shown this once: {secret}"));
    }
    table::line(&format!("`openwatch channel test {}` shows whether it arrives", it.name));
    Ok(())
}

/// The request that a command stands for.
fn wanted(command: ChannelAddCommand) -> Result<(NewChannel, Client), Failure> {
    let from = |file: &Path, what: &str| secret(Some(file), what);
    match command {
        ChannelAddCommand::Webhook { channel, address, address_file, secret_file } => {
            let (mut body, client) = common(channel, ChannelKind::Webhook)?;
            body.url = match address_file {
                Some(file) => from(&file, "address")?,
                None => address,
            };
            body.secret = secret(secret_file.as_deref(), "signing secret")?;
            Ok((body, client))
        }
        ChannelAddCommand::Slack { channel, address_file } => {
            let (mut body, client) = common(channel, ChannelKind::Slack)?;
            body.url = from(&address_file, "address")?;
            Ok((body, client))
        }
        ChannelAddCommand::Email {
            channel,
            server,
            port,
            security,
            user,
            password_file,
            from: sender,
            to,
        } => {
            let (mut body, client) = common(channel, ChannelKind::Email)?;
            let security = mail_security(&security);
            let password = secret(password_file.as_deref(), "mail password")?;
            body.mail = Some(NewMail { server, port, security, username: user, password, from: sender, to });
            Ok((body, client))
        }
        ChannelAddCommand::Pagerduty { channel, routing_key_file, address } => {
            let (mut body, client) = common(channel, ChannelKind::Pagerduty)?;
            body.routing_key = from(&routing_key_file, "integration key")?;
            body.url = address;
            Ok((body, client))
        }
        ChannelAddCommand::Nats { channel, subject } => {
            let (mut body, client) = common(channel, ChannelKind::Nats)?;
            body.subject = Some(subject);
            Ok((body, client))
        }
        ChannelAddCommand::Stdout { channel } => common(channel, ChannelKind::Stdout),
    }
}

fn mail_security(text: &str) -> MailSecurity {
    match text {
        "tls" => MailSecurity::Tls,
        "none" => MailSecurity::None,
        _ => MailSecurity::Starttls,
    }
}

fn common(args: NewChannelArgs, kind: ChannelKind) -> Result<(NewChannel, Client), Failure> {
    let client = Client::new(&args.client)?;
    let body = NewChannel {
        name: args.name,
        kind,
        url: None,
        secret: None,
        routing_key: None,
        mail: None,
        subject: None,
        allow_private: args.allow_private,
        min_severity: args.min_severity.as_deref().and_then(AlertSeverity::parse),
        tags: pairs("--tag", &args.tags)?,
        labels: pairs("--label", &args.labels)?,
    };
    Ok((body, client))
}

fn pairs(what: &str, texts: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let pair = |text: &String| {
        let (key, value) =
            text.split_once('=').ok_or_else(|| Failure::usage(format!("{what} {text}: write key=value")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

async fn test(args: ChannelArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let asked: TestAsked = client.post(&format!("{}/test", path(&args)), &serde_json::json!({})).await?;
    let since = Instant::now();
    let it = loop {
        let of = format!("{}/deliveries/{}", path(&args), asked.delivery_id);
        let it: Delivery = client.get(&of, &[]).await?;
        if it.state != "pending" || since.elapsed() > TEST_LIMIT {
            break it;
        }
        tokio::time::sleep(TEST_LOOK).await;
    };
    if client.json {
        table::json(&it)?;
    }
    let failed = |text: String| Err(Failure::new(TRY_AGAIN, anyhow::anyhow!(text)));
    match (it.state.as_str(), it.tries.last()) {
        ("delivered", tried) => {
            if !client.json {
                let answer =
                    tried.and_then(|tried| tried.status).map(|status| format!(", answered {status}"));
                let took = tried.and_then(|tried| tried.took_ms).unwrap_or_default();
                table::line(&format!("the test arrived in {took} ms{}", answer.unwrap_or_default()));
            }
            Ok(())
        }
        ("failed", Some(tried)) => failed(format!(
            "the test did not arrive: {}",
            tried.error.as_deref().unwrap_or("no reason was given")
        )),
        _ => failed("nobody took up the test; does the alerts stage run?".to_owned()),
    }
}

fn list(channels: &[Channel]) -> Result<(), Failure> {
    let mut table = table::new(&["channel", "kind", "leads to", "from severity", "only", "state", "id"]);
    for it in channels {
        let tags: Vec<_> = it.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let state = match (it.enabled, &it.disabled_reason) {
            (true, _) => "on".to_owned(),
            (false, None) => "off".to_owned(),
            (false, Some(reason)) => format!("off: {reason}"),
        };
        table.add_row([
            it.name.clone(),
            it.kind.as_str().to_owned(),
            if it.allow_private { format!("{} (private allowed)", it.target) } else { it.target.clone() },
            it.min_severity.as_str().to_owned(),
            tags.join(", "),
            state,
            it.id.to_string(),
        ]);
    }
    table::print(&table, "no channels yet; `openwatch channel add webhook NAME --address URL` makes one");
    Ok(())
}

/// A table of deliveries, each with its last try.
pub(super) fn deliveries(deliveries: &[Delivery], empty: &str) {
    let mut table =
        table::new(&["when", "channel", "what", "state", "tries", "last try", "alert", "delivery"]);
    for it in deliveries {
        let last = it.tries.last().map(|tried| {
            let status = tried.status.map(|status| status.to_string());
            tried.error.clone().or(status).unwrap_or_else(|| "arrived".to_owned())
        });
        table.add_row([
            table::moment(it.created_at),
            it.channel.clone(),
            it.event.clone(),
            match it.next_try_at {
                // It is its turn, and the channel has not come to it.
                Some(at) if at <= OffsetDateTime::now_utc() => format!("{}, due", it.state),
                Some(at) => format!("{}, next {}", it.state, table::moment(at)),
                None => it.state.clone(),
            },
            it.tries.len().to_string(),
            last.unwrap_or_else(|| "-".to_owned()),
            it.alert_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
            it.id.to_string(),
        ]);
    }
    table::print(&table, empty);
}
