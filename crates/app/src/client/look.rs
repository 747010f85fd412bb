//! `status`, `scans`, `transactions`, `drift` and `alerts`: looking, and handling alerts.

use openwatch_api::dto::{Alert, AlertAction, Drift, Page, Scan, SilenceAction, StatusReport, Transaction};
use openwatch_model::scan::Lane;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Client, moment, table};
use crate::cli::{AlertActionArgs, AlertCommand, ListArgs, LookArgs};
use crate::exit::Failure;

/// `status`.
///
/// # Errors
/// As the API's answer.
pub async fn status(args: LookArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let as_of: Vec<_> = args.as_of.iter().map(|at| ("as_of", moment(at))).collect();
    let it: StatusReport = client.get("/status", &as_of).await?;
    if client.json {
        return table::json(&it);
    }
    table::line(&format!(
        "{} UTC: {} of {} hosts scored, fleet score {}, {} unreachable, {} scans queued, {} running",
        table::moment(it.as_of),
        it.hosts_scored,
        it.hosts,
        table::score(it.score),
        it.unreachable,
        it.queue.queued,
        it.queue.running
    ));
    let mut states = table::new(&["state", "hosts"]);
    for row in it.by_state.iter().filter(|row| row.hosts > 0) {
        states.add_row([row.state.as_str().to_owned(), row.hosts.to_string()]);
    }
    table::print(&states, "no hosts yet");
    let alerts: Vec<_> = it
        .open_alerts
        .iter()
        .filter(|a| a.alerts > 0)
        .map(|a| format!("{} {}", a.alerts, a.severity.as_str()))
        .collect();
    table::line(&format!(
        "open alerts: {}",
        if alerts.is_empty() { "none".to_owned() } else { alerts.join(", ") }
    ));
    if let Some(host) = it.oldest_unscanned {
        table::line(&format!(
            "longest without a scan: {} ({})",
            host.name,
            table::moment_or(host.last_scanned_at, "never")
        ));
    }
    Ok(())
}

fn query(args: &ListArgs) -> Vec<(&'static str, String)> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.host.iter().map(|host| ("host", host.clone())));
    query.extend(args.as_of.iter().map(|at| ("as_of", moment(at))));
    query
}

/// Who asked for a scan.
fn initiator(scan: &Scan) -> String {
    match scan.initiator.kind {
        Lane::Manual => format!("{} (by hand)", scan.initiator.actor),
        Lane::Scheduled => scan.initiator.actor.clone(),
    }
}

/// `scans`.
///
/// # Errors
/// As the API's answer.
pub async fn scans(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let page: Page<Scan> = client.get("/scans", &query(&args)).await?;
    if client.json {
        return table::json(&page.items);
    }
    let mut table = table::new(&[
        "scan",
        "host",
        "state",
        "score",
        "pass/fail/skip/error",
        "asked by",
        "policy",
        "queued",
        "why",
    ]);
    for scan in &page.items {
        table.add_row([
            scan.id.to_string(),
            scan.host.clone(),
            scan.state.as_str().to_owned(),
            table::score(scan.score),
            scan.counts
                .map_or("-".to_owned(), |c| format!("{}/{}/{}/{}", c.pass, c.fail, c.skipped, c.error)),
            initiator(scan),
            scan.policy_version.clone().unwrap_or_else(|| "-".to_owned()),
            table::moment(scan.queued_at),
            scan.failure.map_or("", |f| f.as_str()).to_owned(),
        ]);
    }
    table::print(&table, "no scans yet");
    Ok(())
}

/// `transactions`.
///
/// # Errors
/// As the API's answer.
pub async fn transactions(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let page: Page<Transaction> = client.get("/transactions", &query(&args)).await?;
    if client.json {
        return table::json(&page.items);
    }
    let mut table = table::new(&["when", "host", "rule", "change", "before", "now", "severity"]);
    for it in &page.items {
        table.add_row([
            table::moment(it.occurred_at),
            it.host.clone(),
            it.rule_id.clone(),
            it.change_kind.as_str().to_owned(),
            it.prior_status.map_or("-", |s| s.as_str()).to_owned(),
            it.status.as_str().to_owned(),
            it.severity.map_or("-", |s| s.as_str()).to_owned(),
        ]);
    }
    table::print(&table, "nothing has changed yet");
    Ok(())
}

/// `drift`.
///
/// # Errors
/// As the API's answer.
pub async fn drift(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let page: Page<Drift> = client.get("/drift", &query(&args)).await?;
    if client.json {
        return table::json(&page.items);
    }
    let mut table =
        table::new(&["when", "host", "drift", "before", "now", "now failing c/h/m/l", "now passing c/h/m/l"]);
    for it in &page.items {
        let by =
            |s: openwatch_api::dto::BySeverity| format!("{}/{}/{}/{}", s.critical, s.high, s.medium, s.low);
        table.add_row([
            table::moment(it.detected_at),
            it.host.clone(),
            it.kind.as_str().to_owned(),
            table::score(it.score_before),
            table::score(it.score_after),
            by(it.became_failing),
            by(it.became_passing),
        ]);
    }
    table::print(&table, "no drift yet");
    Ok(())
}

/// `alerts`, listing.
///
/// # Errors
/// As the API's answer.
pub async fn alerts(args: ListArgs, state: Option<String>) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let mut query = query(&args);
    query.extend(state.map(|state| ("state", state)));
    let page: Page<Alert> = client.get("/alerts", &query).await?;
    if client.json {
        return table::json(&page.items);
    }
    let mut table = table::new(&["when", "alert", "severity", "state", "host", "times", "what", "id"]);
    for it in &page.items {
        table.add_row([
            table::moment(it.occurred_at),
            it.kind.as_str().to_owned(),
            it.severity.as_str().to_owned(),
            it.state.as_str().to_owned(),
            it.host.clone().unwrap_or_else(|| "-".into()),
            it.occurrences.to_string(),
            it.title.clone(),
            it.id.to_string(),
        ]);
    }
    table::print(&table, "no alerts");
    Ok(())
}

/// `alerts ack|silence|unsilence|resolve|dismiss`.
///
/// # Errors
/// As the API's answer.
pub async fn act(command: AlertCommand) -> Result<(), Failure> {
    let plain = |args: AlertActionArgs, verb: &'static str| (args, verb, None);
    let (args, verb, until) = match command {
        AlertCommand::Ack(args) => plain(args, "acknowledge"),
        AlertCommand::Unsilence(args) => plain(args, "unsilence"),
        AlertCommand::Resolve(args) => plain(args, "resolve"),
        AlertCommand::Dismiss(args) => plain(args, "dismiss"),
        AlertCommand::Silence(args) => (args.action, "silence", args.until),
    };
    let until = until
        .map(|text| OffsetDateTime::parse(&text, &Rfc3339))
        .transpose()
        .map_err(|_| Failure::usage("--until is a moment such as 2026-01-15T08:00:00Z"))?;
    let client = Client::new(&args.client)?;
    let path = format!("/alerts/{}:{verb}", args.id);
    let alert: Alert = if verb == "silence" {
        client.post(&path, &SilenceAction { reason: args.reason, until }).await?
    } else {
        client.post(&path, &AlertAction { reason: args.reason }).await?
    };
    if client.json {
        return table::json(&alert);
    }
    table::line(&format!("alert {} is {}", alert.id, alert.state.as_str()));
    Ok(())
}
