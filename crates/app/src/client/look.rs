//! `status`, `scans`, `transactions`, `drift` and `alerts`: looking, and handling alerts.

use openwatch_api::dto::{Alert, AlertAction, Drift, Host, Scan, SilenceAction, StatusReport, Transaction};
use openwatch_model::alert::AlertState;
use openwatch_model::scan::Lane;
use time::OffsetDateTime;

use super::{Client, moment, table};
use crate::cli::{
    AlertActionArgs, AlertCommand, AlertsArgs, ClientArgs, ListArgs, LookArgs, TransactionsArgs,
};
use crate::exit::Failure;
use crate::place::url_encode;

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
    let (at, score) = (table::moment(it.as_of), table::score(it.score));
    let mut line = format!("{at} UTC: {} of {} hosts scored, fleet score {score}", it.hosts_scored, it.hosts);
    // What answered and what was under way is not kept: nothing is said of it for the past.
    line.extend(it.unreachable.map(|hosts| format!(", {hosts} unreachable")));
    line.extend(it.queue.map(|queue| format!(", {} scans queued, {} running", queue.queued, queue.running)));
    table::line(&line);
    if let Some(since) = it.probers_isolated_since {
        table::line(&format!(
            "most hosts have been silent since {} UTC: our own network is the likely cause, and no host is called unreachable",
            table::moment(since)
        ));
    }
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
    let mut query = Vec::new();
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
    let scans: Vec<Scan> = client.list("/scans", &query(&args), args.limit).await?;
    if client.json {
        return table::json(&scans);
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
    for scan in &scans {
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
pub async fn transactions(args: TransactionsArgs) -> Result<(), Failure> {
    let TransactionsArgs { list: args, rule, since } = args;
    let client = Client::new(&args.client)?;
    let mut query = query(&args);
    query.extend(rule.iter().map(|rule| ("rule", rule.clone())));
    query.extend(since.map(|at| ("since", moment(&at))));
    let transactions: Vec<Transaction> = client.list("/transactions", &query, args.limit).await?;
    if let (true, Some(host), Some(rule)) = (transactions.is_empty(), &args.host, &rule) {
        super::hosts::measured(&client, host, rule, args.as_of).await?;
    }
    if client.json {
        return table::json(&transactions);
    }
    let mut table = table::new(&["when", "host", "rule", "change", "before", "now", "severity"]);
    for it in &transactions {
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
    table::print(&table, "nothing has changed");
    match &args.host {
        Some(host) => silence(&client, host, args.as_of).await,
        None => Ok(()),
    }
}

/// Silence is evidence: when the host was looked at last, and that nothing was new then.
async fn silence(client: &Client, host: &str, as_of: Option<OffsetDateTime>) -> Result<(), Failure> {
    let as_of: Vec<_> = as_of.iter().map(|at| ("as_of", moment(at))).collect();
    // A host that was removed since has its transactions, and no newest scan.
    match client.get::<Host>(&format!("/hosts/{}", url_encode(host)), &as_of).await {
        Ok(host) => verified(&host),
        Err(failure) if failure.code == crate::exit::USAGE => {}
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// Says whether the newest full scan found anything new.
pub(super) fn verified(host: &Host) {
    let Some(at) = host.compliance.last_scanned_at else { return };
    let words = if host.compliance.unchanged { "verified unchanged" } else { "last verified" };
    table::line(&format!("{}: {words} at {} UTC", host.name, table::moment(at)));
}

/// `drift`.
///
/// # Errors
/// As the API's answer.
pub async fn drift(args: ListArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let drifts: Vec<Drift> = client.list("/drift", &query(&args), args.limit).await?;
    if client.json {
        return table::json(&drifts);
    }
    let mut table = table::new(&[
        "when",
        "host",
        "drift",
        "before",
        "now",
        "points",
        "now failing c/h/m/l",
        "of those new",
        "now passing c/h/m/l",
        "doubt",
    ]);
    for it in &drifts {
        let by =
            |s: openwatch_api::dto::BySeverity| format!("{}/{}/{}/{}", s.critical, s.high, s.medium, s.low);
        table.add_row([
            table::moment(it.detected_at),
            it.host.clone(),
            it.kind.as_str().to_owned(),
            table::score(it.score_before),
            table::score(it.score_after),
            it.score_delta.map_or("-".to_owned(), |points| format!("{points:+.2}")),
            by(it.became_failing),
            it.newly_observed_failing.to_string(),
            by(it.became_passing),
            doubt(it).to_owned(),
        ]);
    }
    table::print(&table, "no drift yet");
    Ok(())
}

/// What makes a drift less than certain.
fn doubt(drift: &Drift) -> &'static str {
    match (drift.low_confidence, drift.low_overlap) {
        (true, _) => "checks were lost",
        (_, true) => "few rules in common",
        _ => "",
    }
}

/// `alerts`, listing.
///
/// # Errors
/// As the API's answer.
pub async fn alerts(args: AlertsArgs) -> Result<(), Failure> {
    let AlertsArgs { list: args, open, state, severity, since, until, .. } = args;
    let client = Client::new(&args.client)?;
    let mut query = query(&args);
    query.extend(open.then(|| ("open", "true".to_owned())));
    query.extend(state.map(|state| ("state", state)));
    query.extend(severity.map(|severity| ("severity", severity)));
    query.extend(since.map(|at| ("since", moment(&at))));
    query.extend(until.map(|at| ("until", moment(&at))));
    let alerts: Vec<Alert> = client.list("/alerts", &query, args.limit).await?;
    if client.json {
        return table::json(&alerts);
    }
    let mut table = table::new(&["when", "alert", "severity", "state", "host", "times", "what", "id"]);
    for it in &alerts {
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

/// `alerts show`.
async fn alert(id: uuid::Uuid, args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::new(args)?;
    let it: Alert = client.get(&format!("/alerts/{id}"), &[]).await?;
    if client.json {
        return table::json(&it);
    }
    let host = it.host.as_deref().map(|host| format!("{host}: ")).unwrap_or_default();
    let (severity, kind, state) = (it.severity.as_str(), it.kind.as_str(), it.state.as_str());
    table::line(&format!(
        "[{severity}] {host}{}\n{kind}, {state}, {} times, last {} UTC",
        it.title,
        it.occurrences,
        table::moment(it.last_occurred_at)
    ));
    if !it.body.is_empty() {
        table::line(&it.body);
    }
    if let Some(scan) = it.tags.get("scan_id") {
        table::line(&format!("shown by `openwatch scans {scan}`"));
    }
    let mut steps = table::new(&["step", "when", "state", "by", "why", "until"]);
    for step in &it.history {
        steps.add_row([
            step.number.to_string(),
            table::moment(step.changed_at),
            step.state.as_str().to_owned(),
            step.actor.clone(),
            step.reason.clone().unwrap_or_else(|| "-".to_owned()),
            table::moment_or(step.until, "-"),
        ]);
    }
    table::print(&steps, "no history");
    super::channels::deliveries(&it.deliveries, "no channel was told");
    Ok(())
}

/// `alerts show|ack|silence|unsilence|resolve|dismiss`.
///
/// # Errors
/// As the API's answer.
pub async fn act(command: AlertCommand) -> Result<(), Failure> {
    let plain = |args: AlertActionArgs, verb: &'static str| (args, verb, None);
    let (args, verb, until) = match command {
        AlertCommand::Show { id, client } => return alert(id, &client).await,
        AlertCommand::Ack(args) => plain(args, "acknowledge"),
        AlertCommand::Unsilence(args) => plain(args, "unsilence"),
        AlertCommand::Resolve(args) => plain(args, "resolve"),
        AlertCommand::Dismiss(args) => plain(args, "dismiss"),
        AlertCommand::Silence(args) => (args.action, "silence", args.until),
    };
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
    let until = match (alert.state, alert.silenced_until) {
        (AlertState::Silenced, Some(until)) => format!(" until {} UTC", table::moment(until)),
        (AlertState::Silenced, None) => format!(" until `openwatch alerts unsilence {}`", alert.id),
        _ => String::new(),
    };
    table::line(&format!("alert {} is {}{until}", alert.id, alert.state.as_str()));
    Ok(())
}
