//! `scan`: ask, wait, show.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use openwatch_api::dto::{HostRule, NewScan, Page, QueuedScan, Scan, ScanDetail};
use openwatch_model::Status;
use openwatch_model::scan::ScanState;

use super::{Client, table};
use crate::cli::{ClientArgs, ScanArgs};
use crate::exit::{Failure, TRY_AGAIN, UNAVAILABLE};
use crate::place::url_encode;

/// How often a waiting client asks.
const POLL: Duration = Duration::from_millis(200);

/// Asks for the scans; with `--wait`, ends in 1 when a rule failed, 2 when one is in error, 69 when a scan failed.
///
/// # Errors
/// As the API's answer; 75 when waiting ran out.
pub async fn run(args: ScanArgs) -> Result<u8, Failure> {
    let client = Client::new(&args.client)?;
    let mut asked = Vec::new();
    for host in &args.hosts {
        let body =
            NewScan { host: host.clone(), framework: args.framework.clone(), rules: args.rules.clone() };
        let key = uuid::Uuid::new_v4().to_string();
        let queued: QueuedScan = client.post_once("/scans", &body, &key).await?;
        asked.push((host.clone(), queued));
    }
    if !args.wait {
        if client.json {
            let scans: Vec<_> = asked.iter().map(|(_, queued)| queued).collect();
            table::json(&scans)?;
        } else {
            for (host, queued) in &asked {
                table::line(&format!("scan {} of {host} is {}", queued.scan_id, queued.status.as_str()));
            }
        }
        return Ok(0);
    }
    let deadline = Instant::now() + Duration::from_secs(args.wait_sec);
    let bar = progress(asked.len());
    let mut ended = Vec::new();
    for (_, queued) in &asked {
        ended.push(wait(&client, queued, deadline).await?);
        bar.inc(1);
    }
    bar.finish_and_clear();
    show(&client, &ended).await?;
    Ok(exit_code(ended.iter().map(|detail| &detail.scan)))
}

/// `scans ID`.
///
/// # Errors
/// As the API's answer.
pub async fn show_scan(args: &ClientArgs, id: uuid::Uuid) -> Result<(), Failure> {
    let client = Client::new(args)?;
    let detail: ScanDetail = client.get(&format!("/scans/{id}"), &[]).await?;
    show(&client, &[detail]).await
}

fn progress(scans: usize) -> ProgressBar {
    let bar = ProgressBar::new(scans as u64);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} scans, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

async fn wait(client: &Client, queued: &QueuedScan, deadline: Instant) -> Result<ScanDetail, Failure> {
    loop {
        match client.get::<ScanDetail>(&format!("/scans/{}", queued.scan_id), &[]).await {
            Ok(detail) if detail.scan.state.is_terminal() => return Ok(detail),
            Err(failure) if failure.code != UNAVAILABLE && failure.code != TRY_AGAIN => return Err(failure),
            Ok(_) | Err(_) => {}
        }
        if Instant::now() >= deadline {
            let text = format!("scan {} has not ended yet; it goes on", queued.scan_id);
            return Err(Failure::new(TRY_AGAIN, anyhow::anyhow!(text)));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn show(client: &Client, ended: &[ScanDetail]) -> Result<(), Failure> {
    if client.json {
        return table::json(&ended);
    }
    let mut scans = table::new(&["host", "state", "score", "pass", "fail", "skipped", "error", "why"]);
    for ScanDetail { scan, .. } in ended {
        let count = |pick: fn(openwatch_api::dto::CountsView) -> u32| {
            scan.counts.map_or("-".into(), |c| pick(c).to_string())
        };
        scans.add_row([
            scan.host.clone(),
            scan.state.as_str().to_owned(),
            table::score(scan.score),
            count(|c| c.pass),
            count(|c| c.fail),
            count(|c| c.skipped),
            count(|c| c.error),
            scan.failure.map_or("", |f| f.as_str()).to_owned(),
        ]);
    }
    table::print(&scans, "nothing was scanned");
    for detail in ended {
        show_one(client, detail).await?;
    }
    Ok(())
}

async fn show_one(client: &Client, detail: &ScanDetail) -> Result<(), Failure> {
    if detail.scan.state != ScanState::Completed {
        return Ok(());
    }
    let path = format!("/hosts/{}/rules", url_encode(&detail.scan.host));
    let rules: Page<HostRule> = client.get(&path, &[]).await?;
    let mut table = table::new(&["rule", "status", "severity"]);
    let mut attention: Vec<_> =
        rules.items.iter().filter(|r| matches!(r.status, Status::Fail | Status::Error)).collect();
    attention.sort_by_key(|r| (std::cmp::Reverse(r.severity), r.rule_id.clone()));
    for rule in attention.iter().take(15) {
        table.add_row([
            rule.rule_id.as_str(),
            rule.status.as_str(),
            rule.severity.map_or("-", |s| s.as_str()),
        ]);
    }
    table::line(&format!("\n{}: {} rules fail or have no verdict", detail.scan.host, attention.len()));
    if !attention.is_empty() {
        table::print(&table, "");
    }
    slowest(detail);
    Ok(())
}

/// Shows the rules that took longest, as the worker timed them.
fn slowest(detail: &ScanDetail) {
    let rules = detail.timings.as_ref().and_then(|t| t.get("rules")).and_then(|r| r.as_array());
    let mut timed: Vec<(u64, &str)> = rules
        .into_iter()
        .flatten()
        .filter_map(|r| Some((r.get("duration_ms")?.as_u64()?, r.get("rule")?.as_str()?)))
        .collect();
    timed.sort_unstable_by(|a, b| b.cmp(a));
    let slowest: Vec<_> = timed.iter().take(5).map(|(ms, rule)| format!("{rule} {ms} ms")).collect();
    if !slowest.is_empty() {
        table::line(&format!("slowest: {}", slowest.join(", ")));
    }
}

fn exit_code<'a>(scans: impl Iterator<Item = &'a Scan>) -> u8 {
    let code = |scan: &Scan| match (scan.state, scan.counts) {
        (ScanState::Failed, _) => UNAVAILABLE,
        (_, Some(counts)) if counts.error > 0 => 2,
        (_, Some(counts)) if counts.fail > 0 => 1,
        _ => 0,
    };
    scans.map(code).max().unwrap_or(0)
}
