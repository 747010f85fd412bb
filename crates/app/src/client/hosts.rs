//! `host`.

use std::collections::BTreeMap;
use std::path::Path;

use openwatch_api::dto::{Host, HostChange, HostRule, MaintenanceWish, NewHost, Page};
use openwatch_model::credential::SudoMode;
use openwatch_model::liveness::Reachability;
use openwatch_model::outcome::Status;
use time::OffsetDateTime;

use super::host_keys::{accept_key, keys, parse_key};
use super::look::verified;
use super::{Client, moment, table};
use crate::cli::{HostAddArgs, HostCommand, HostSetArgs, LookArgs};
use crate::exit::Failure;
use crate::place::url_encode;

/// Runs a `host` command.
///
/// # Errors
/// As the API's answer.
pub async fn host(command: HostCommand) -> Result<(), Failure> {
    match command {
        HostCommand::Add(args) => add(args).await,
        HostCommand::Import { file, client } => import(&file, &Client::new(&client)?).await,
        HostCommand::List { limit, state, label, look } => {
            let client = Client::new(&look.client)?;
            let mut query = Vec::new();
            query.extend(state.map(|state| ("state", state)));
            query.extend(label.map(|label| ("label", label)));
            query.extend(look.as_of.iter().map(|at| ("as_of", moment(at))));
            let hosts: Vec<Host> = client.list("/hosts", &query, limit).await?;
            if client.json { table::json(&hosts) } else { list(&hosts) }
        }
        HostCommand::Show { host, rule, evidence, look } => show(&host, rule, evidence, look).await,
        HostCommand::Rm { host, client } => {
            Client::new(&client)?.delete(&format!("/hosts/{}", url_encode(&host))).await?;
            table::line(&format!("host {host} removed; its history stays"));
            Ok(())
        }
        HostCommand::Set(args) => set(args).await,
        HostCommand::Keys { host, client } => keys(&host, &Client::new(&client)?).await,
        HostCommand::Maintenance { host, until, off, client } => {
            maintenance(&host, until, off, &Client::new(&client)?).await
        }
        HostCommand::AcceptKey { host, fingerprint, key, client } => {
            accept_key(&host, fingerprint, key.as_deref(), &Client::new(&client)?).await
        }
    }
}

async fn add(args: HostAddArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let body = NewHost {
        address: args.address.unwrap_or_else(|| args.name.clone()),
        name: args.name,
        port: Some(args.port),
        user: args.user,
        sudo: args.sudo.then_some(SudoMode::Sudo),
        credential: args.credential,
        jump: args.jump,
        labels: labels(&args.labels)?,
        known_keys: args.host_keys.iter().map(|line| parse_key(line)).collect::<Result<_, _>>()?,
    };
    let host: Host = client.post("/hosts", &body).await?;
    if client.json {
        return table::json(&host);
    }
    table::line(&format!("host {} added as {} ({}:{})", host.name, host.id, host.address, host.port));
    Ok(())
}

async fn set(args: HostSetArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let or_none = |text: String, none: &str| (text != none).then_some(text);
    let body = HostChange {
        credential: args.credential.map(|text| or_none(text, "default")),
        jump: args.jump.map(|text| or_none(text, "none")),
        user: args.user,
        sudo: args.sudo.map(|text| if text == "sudo" { SudoMode::Sudo } else { SudoMode::None }),
        labels: (args.no_labels || !args.labels.is_empty()).then(|| labels(&args.labels)).transpose()?,
    };
    if body == HostChange::default() {
        return Err(Failure::usage(
            "say what changes: --credential, --jump, --user, --sudo, --label or --no-labels",
        ));
    }
    let host: Host = client.patch(&format!("/hosts/{}", url_encode(&args.host)), &body).await?;
    if client.json {
        return table::json(&host);
    }
    let way = host.jump.as_ref().map_or("directly".to_owned(), |jump| format!("through {jump}"));
    table::line(&format!(
        "host {} is reached {way}, with credential {}",
        host.name,
        host.credential.as_deref().unwrap_or("(the default)")
    ));
    Ok(())
}

fn labels(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let split = |pair: &String| {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::usage(format!("a label is written key=value, not `{pair}`")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    pairs.iter().map(split).collect()
}

async fn import(file: &Path, client: &Client) -> Result<(), Failure> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file)
            .map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?
    };
    let hosts = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?
    } else {
        from_csv(&text)?
    };
    let added: Vec<Host> = client.post("/hosts:import", &hosts).await?;
    if client.json {
        return table::json(&added);
    }
    table::line(&format!("{} hosts added", added.len()));
    Ok(())
}

/// Reads the columns of [`HostCommand::Import`]; all problems are told together, nothing is sent unless there is none.
fn from_csv(text: &str) -> Result<Vec<NewHost>, Failure> {
    const COLUMNS: &str = "name,address,port,user,credential,jump,sudo,labels";
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header: Vec<&str> =
        lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
    if let Some(unknown) = header.iter().find(|name| !COLUMNS.split(',').any(|known| known == **name)) {
        return Err(Failure::usage(format!("line 1: unknown column `{unknown}`; the columns are {COLUMNS}")));
    }
    if !header.contains(&"name") {
        return Err(Failure::usage(format!("line 1: the first line names the columns: {COLUMNS}")));
    }
    let mut problems = Vec::new();
    let mut hosts = Vec::new();
    for (number, line) in lines {
        let cells: BTreeMap<&str, &str> =
            header.iter().copied().zip(line.split(',').map(str::trim)).collect();
        match row(&cells, line.split(',').count() > header.len()) {
            Ok(host) => hosts.push(host),
            Err(problem) => problems.push(format!("line {}: {problem}", number + 1)),
        }
    }
    if problems.is_empty() { Ok(hosts) } else { Err(Failure::usage(problems.join("\n  "))) }
}

fn row(cells: &BTreeMap<&str, &str>, too_many: bool) -> Result<NewHost, String> {
    let cell = |name: &str| cells.get(name).copied().filter(|text| !text.is_empty());
    if too_many {
        return Err("more cells than columns (labels are separated by `;`)".into());
    }
    let name = cell("name").ok_or("name is empty")?.to_owned();
    let port = cell("port")
        .map(|text| text.parse().map_err(|_| format!("port `{text}` is not a port")))
        .transpose()?;
    let sudo = match cell("sudo") {
        None | Some("none" | "no" | "false") => None,
        Some("sudo" | "yes" | "true") => Some(SudoMode::Sudo),
        Some(other) => return Err(format!("sudo is `sudo` or `none`, not `{other}`")),
    };
    let labels = cell("labels").into_iter().flat_map(|all| all.split(';')).map(|pair| {
        pair.trim()
            .split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .ok_or(format!("label `{pair}` is not key=value"))
    });
    Ok(NewHost {
        address: cell("address").unwrap_or(&name).to_owned(),
        port,
        user: cell("user").map(str::to_owned),
        sudo,
        credential: cell("credential").map(str::to_owned),
        jump: cell("jump").map(str::to_owned),
        labels: labels.collect::<Result<_, _>>()?,
        known_keys: Vec::new(),
        name,
    })
}

fn list(hosts: &[Host]) -> Result<(), Failure> {
    let mut table =
        table::new(&["host", "address", "state", "score", "answers", "last verified", "next scan"]);
    for host in hosts {
        table.add_row([
            host.name.clone(),
            format!("{}:{}", host.address, host.port),
            host.compliance.state.as_str().to_owned(),
            table::score(host.compliance.score),
            answers(host),
            table::moment_or(host.compliance.last_scanned_at, "never"),
            table::moment_or(host.compliance.next_scan_at, "-"),
        ]);
    }
    table::print(&table, "no hosts yet; `openwatch host add NAME --address A` registers one");
    Ok(())
}

/// Whether it answers, in a cell.
fn answers(host: &Host) -> String {
    match (&host.liveness, &host.jump) {
        (None, Some(jump)) => format!("behind {jump}"),
        (None, None) => "-".to_owned(),
        (Some(it), _) if it.missed > 0 && it.reachability != Reachability::Unreachable => {
            format!("{}, {} missed", it.reachability.as_str(), it.missed)
        }
        (Some(it), _) => it.reachability.as_str().to_owned(),
    }
}

/// Whether it answers, since when, and why not.
fn answering(host: &Host) {
    let Some(it) = &host.liveness else { return };
    let mut text = match it.reachability {
        Reachability::Reachable => "answers".to_owned(),
        Reachability::Unreachable => "does not answer".to_owned(),
        Reachability::Unknown => "has not answered yet".to_owned(),
    };
    if let Some(since) = it.since {
        text.push_str(&format!(" since {} UTC", table::moment(since)));
    }
    text.push_str(&format!("; last probe {}", table::moment_or(it.last_probed_at, "-")));
    match (it.error, it.response_time_ms) {
        (Some(error), _) => text.push_str(&format!(": {}, {} in a row", error.text(), it.missed)),
        (None, Some(ms)) => text.push_str(&format!(": banner after {ms:.1} ms")),
        (None, None) => {}
    }
    table::line(&text);
}

fn unmeasured(name: &str, rule: &str) -> Failure {
    Failure::usage(format!(
        "rule {rule} was not measured on {name} by then; `openwatch host show {name}` lists those that were"
    ))
}

/// That a rule was ever measured on a host: of one that was not, silence says nothing.
pub(super) async fn measured(
    client: &Client,
    name: &str,
    rule: &str,
    as_of: Option<OffsetDateTime>,
) -> Result<(), Failure> {
    let mut query: Vec<_> = as_of.iter().map(|at| ("as_of", moment(at))).collect();
    query.push(("rule", rule.to_owned()));
    let path = format!("/hosts/{}/rules", url_encode(name));
    match client.get::<Page<HostRule>>(&path, &query).await {
        Ok(rules) if rules.items.is_empty() => Err(unmeasured(name, rule)),
        // A host that was removed since has no rules any more.
        Err(failure) if failure.code != crate::exit::USAGE => Err(failure),
        _ => Ok(()),
    }
}

async fn show(name: &str, rule: Option<String>, evidence: bool, look: LookArgs) -> Result<(), Failure> {
    let client = Client::new(&look.client)?;
    let as_of: Vec<_> = look.as_of.iter().map(|at| ("as_of", moment(at))).collect();
    let path = format!("/hosts/{}", url_encode(name));
    let host: Host = client.get(&path, &as_of).await?;
    let mut query = as_of;
    if evidence || rule.is_some() {
        query.push(("evidence", "true".to_owned()));
    }
    query.extend(rule.iter().map(|rule| ("rule", rule.clone())));
    let rules: Page<HostRule> = client.get(&format!("{path}/rules"), &query).await?;
    if let Some(rule) = rule.as_ref().filter(|_| rules.items.is_empty()) {
        return Err(unmeasured(name, rule));
    }
    if client.json {
        return table::json(&serde_json::json!({ "host": host, "rules": rules.items }));
    }
    list(std::slice::from_ref(&host))?;
    answering(&host);
    next_scan(&host);
    verified(&host);
    let mut table = table::new(&["rule", "status", "severity", "since", "checked"]);
    for rule in &rules.items {
        table.add_row([
            rule.rule_id.clone(),
            rule.status.as_str().to_owned(),
            rule.severity.map_or("-", |s| s.as_str()).to_owned(),
            table::moment_or(rule.last_changed_at, "-"),
            table::moment_or(rule.last_checked_at, "-"),
        ]);
    }
    table::print(&table, "no rule has been measured on it yet");
    let asked = |it: &&HostRule| rule.is_some() || matches!(it.status, Status::Fail | Status::Error);
    rules.items.iter().filter(asked).try_for_each(proof)
}

/// A rule's evidence beneath its name, where it was asked for.
fn proof(rule: &HostRule) -> Result<(), Failure> {
    let Some(evidence) = &rule.evidence else { return Ok(()) };
    table::line(&format!("\n{} {}:", rule.rule_id, rule.status.as_str()));
    table::json(evidence)
}

/// When and why then.
fn next_scan(host: &Host) {
    let Some(schedule) = &host.schedule else { return };
    let when = match schedule.next_scan_at {
        Some(at) => format!("next scan about {} UTC", table::moment(at)),
        None => "next scan: not to be told yet".to_owned(),
    };
    let why: Vec<_> = schedule.why.iter().map(|cause| cause.text.as_str()).collect();
    table::line(&format!("{when}: {}", why.join("; ")));
}

async fn maintenance(
    host: &str,
    until: Option<OffsetDateTime>,
    off: bool,
    client: &Client,
) -> Result<(), Failure> {
    let path = format!("/hosts/{}/maintenance", url_encode(host));
    let shown: Host = if off {
        client.delete_for(&path).await?
    } else {
        client.post(&path, &MaintenanceWish { until }).await?
    };
    if client.json {
        return table::json(&shown);
    }
    table::line(&match shown.schedule.as_ref().map(|it| (it.maintenance, it.maintenance_until)) {
        Some((true, Some(until))) => format!("{host} is in maintenance until {} UTC", table::moment(until)),
        Some((true, None)) => {
            format!("{host} is in maintenance until `openwatch host maintenance {host} --off`")
        }
        _ => format!("{host} is not in maintenance by hand"),
    });
    next_scan(&shown);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_rows_become_hosts() {
        let hosts = from_csv(
            "name,address,port,sudo,labels\nweb-1,10.0.0.1,2222,yes,env=prod;tier=web\n\nweb-2,,,,\n",
        )
        .ok()
        .unwrap();
        assert_eq!(hosts.len(), 2);
        assert_eq!((hosts[0].port, hosts[0].sudo), (Some(2222), Some(SudoMode::Sudo)));
        assert_eq!(hosts[0].labels["tier"], "web");
        assert_eq!(hosts[1].address, "web-2");
    }

    #[test]
    fn every_bad_line_is_named_and_nothing_is_sent() {
        let failure = from_csv("name,port\nweb-1,99999\n,22\n").err().unwrap();
        let text = failure.error.to_string();
        assert!(text.contains("line 2: port `99999`") && text.contains("line 3: name is empty"), "{text}");
        assert!(from_csv("name,prot\n").err().unwrap().error.to_string().contains("unknown column `prot`"));
    }
}
