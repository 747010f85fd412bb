//! What was found: a table for people, one object for machines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openwatch_model::outcome::Counts;
use openwatch_model::scan::Measurement;
use openwatch_model::score::Score;
use openwatch_model::{Outcome, Status, Timestamp};
use openwatch_remote::Target;
use serde_json::json;

use crate::cli::CheckArgs;
use crate::client::table;
use crate::exit::Failure;

/// Characters of a detail that a table shows; `--json` has all of it.
const DETAIL: usize = 120;
/// Rules named as the slowest.
const SLOWEST: usize = 5;

pub(super) fn show(
    args: &CheckArgs,
    target: &Target,
    measured: &Measurement,
    started_at: Timestamp,
    took: Duration,
) -> Result<u8, Failure> {
    let counts = Counts::of(measured.outcomes.iter().map(|o| &o.status));
    if args.json {
        as_json(target, measured, counts, started_at, took)?;
    } else {
        as_table(args, measured, counts, took);
    }
    Ok(match counts {
        Counts { error, .. } if error > 0 => 2,
        Counts { fail, .. } if fail > 0 => 1,
        _ => 0,
    })
}

fn as_json(
    target: &Target,
    measured: &Measurement,
    counts: Counts,
    started_at: Timestamp,
    took: Duration,
) -> Result<(), Failure> {
    let timing: BTreeMap<&str, u64> =
        measured.timings.iter().map(|t| (t.rule.as_str(), t.duration_ms)).collect();
    let outcome = |o: &Outcome| {
        json!({
            "rule": o.rule, "status": o.status, "severity": o.severity, "detail": o.detail,
            "skip_reason": o.skip_reason, "framework_refs": o.framework_refs, "evidence": o.evidence,
            "duration_ms": timing.get(o.rule.as_str()).copied().unwrap_or(0),
        })
    };
    table::json(&json!({
        "host": target.address,
        "platform": measured.platform,
        "capabilities": measured.capabilities,
        "started_at": started_at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
        "duration_ms": took.as_millis() as u64,
        "counts": counts,
        "executions": measured.executions,
        "lanes": lanes(measured),
        "fallback": measured.fallback,
        "outcomes": measured.outcomes.iter().map(outcome).collect::<Vec<_>>(),
    }))
}

fn as_table(args: &CheckArgs, measured: &Measurement, counts: Counts, took: Duration) {
    let mut rows = table::new(&["rule", "status", "severity", "what was found"]);
    let asked_for = |o: &&Outcome| args.rule_ids.contains(&o.rule);
    let is_shown = |o: &&Outcome| !is_for_others(o) || asked_for(o);
    let mut outcomes: Vec<_> = measured.outcomes.iter().filter(is_shown).collect();
    outcomes.sort_by_key(|o| (order(o.status), std::cmp::Reverse(o.severity), o.rule.clone()));
    for o in outcomes {
        let severity = o.severity.map_or("-", |s| s.as_str());
        rows.add_row([o.rule.as_str(), o.status.as_str(), severity, &table::short(&o.detail, DETAIL)]);
    }
    table::print(&rows, "no rule is for this host");
    let others = measured.outcomes.iter().filter(|o| !is_shown(o)).count();
    if others > 0 {
        table::line(&format!("not shown: {others} for other platforms"));
    }
    if let Some(why) = &measured.fallback {
        table::line(&format!("one execution per check, slower than usual: {why}"));
    }
    table::line(&format!(
        "{}: score {}, {} pass, {} fail, {} skipped, {} error",
        if measured.platform.name.is_empty() { "unknown system" } else { &measured.platform.name },
        table::score(Score::of(counts).percent()),
        counts.pass,
        counts.fail,
        counts.skipped,
        counts.error,
    ));
    let mut slow: Vec<_> = measured.timings.iter().map(|t| (t.duration_ms, t.rule.as_str())).collect();
    slow.sort_unstable_by(|a, b| b.cmp(a));
    let slow: Vec<_> = slow.iter().filter(|(ms, _)| *ms > 0).take(SLOWEST).collect();
    let slow: Vec<_> = slow.iter().map(|(ms, rule)| format!("{rule} {ms} ms")).collect();
    table::line(&format!(
        "{:.2} s, {} on {}{}{}",
        took.as_secs_f64(),
        table::count(measured.executions as usize, "execution"),
        table::count(lanes(measured), "lane"),
        if slow.is_empty() { "" } else { "; slowest: " },
        slow.join(", ")
    ));
}

/// Lanes that answered something.
fn lanes(measured: &Measurement) -> usize {
    measured.timings.iter().map(|t| t.lane).collect::<BTreeSet<_>>().len()
}

fn is_for_others(outcome: &Outcome) -> bool {
    outcome.status == Status::Skipped && outcome.detail.starts_with("not for this platform")
}

/// Errors first, then failures.
fn order(status: Status) -> u8 {
    match status {
        Status::Error => 0,
        Status::Fail => 1,
        Status::Skipped => 2,
        Status::Pass => 3,
    }
}
