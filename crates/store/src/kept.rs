//! What the ledger keeps of a scan beside its counts: the summary without what the row says already, the slowest rules
//! in a line each. Nearly every scan finds nothing new, and its row is nearly all that it writes.

use openwatch_model::drift::Summary;
use openwatch_model::scan::{RuleTiming, slowest};
use openwatch_model::score::Score;
use serde::Deserialize;
use serde_json::Value;

/// A summary without noughts, without its score (the row counts it), and without the score before where that is the same.
pub(crate) fn summary(of: &Summary) -> Value {
    let mut kept = serde_json::to_value(of).unwrap_or_default();
    if let Value::Object(fields) = &mut kept {
        if of.before == of.after {
            fields.remove("before");
        }
        fields.remove("after");
        fields.retain(|name, value| name == "before" || says_something(value));
    }
    kept
}

fn says_something(value: &mut Value) -> bool {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| says_something(value));
            !fields.is_empty()
        }
        Value::Number(number) => number.as_u64() != Some(0),
        other => *other != Value::Bool(false),
    }
}

/// The summary that was kept, of a row that counts this many. Rows of older builds have all of it.
pub(crate) fn read_summary(kept: Value, pass: i32, fail: i32) -> Option<Summary> {
    let (before, after) = (kept.get("before").is_some(), kept.get("after").is_some());
    let mut summary: Summary = serde_json::from_value(kept).ok()?;
    if !after {
        summary.after = Score { pass: crate::host::count(pass), fail: crate::host::count(fail) };
    }
    if !before {
        summary.before = summary.after;
    }
    Some(summary)
}

/// `rule milliseconds lane`, the slowest first.
pub(crate) fn timings(all: &[RuleTiming]) -> Value {
    slowest(all.to_vec()).into_iter().map(|t| format!("{} {} {}", t.rule, t.duration_ms, t.lane)).collect()
}

/// The timings that were kept. Rows of older builds have objects.
pub(crate) fn read_timings(kept: Value) -> Vec<RuleTiming> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Row {
        Line(String),
        Object { rule: String, duration_ms: u64, lane: u8 },
    }
    let rows: Vec<Row> = serde_json::from_value(kept).unwrap_or_default();
    let timing = |row| match row {
        Row::Object { rule, duration_ms, lane } => Some(RuleTiming { rule, duration_ms, lane }),
        Row::Line(line) => {
            let mut words = line.rsplitn(3, ' ');
            let (lane, duration_ms) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(RuleTiming { rule: words.next()?.to_owned(), duration_ms, lane })
        }
    };
    rows.into_iter().filter_map(timing).collect()
}

#[cfg(test)]
mod tests {
    use openwatch_model::drift::SeverityCounts;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_summary_that_was_kept_reads_as_it_was() {
        let score = |pass, fail| Score { pass, fail };
        let quiet = Summary { before: score(9, 1), after: score(9, 1), ..Summary::default() };
        assert_eq!(summary(&quiet), json!({}));
        let first = Summary { after: score(0, 1), newly_observed_failing: 1, ..Summary::default() };
        assert_eq!(summary(&first), json!({"before": {"pass": 0, "fail": 0}, "newly_observed_failing": 1}));
        let loud = Summary {
            before: score(10, 0),
            after: score(8, 2),
            became_failing: SeverityCounts { high: 2, ..SeverityCounts::default() },
            rules_removed: 1,
            low_confidence: true,
            low_overlap: true,
            ..Summary::default()
        };
        for it in [quiet, first, loud] {
            let Score { pass, fail } = it.after;
            assert_eq!(read_summary(summary(&it), pass as i32, fail as i32), Some(it.clone()));
            let whole = serde_json::to_value(&it).unwrap();
            assert_eq!(read_summary(whole, 0, 0), Some(it), "as older builds kept it");
        }
    }

    #[test]
    fn the_slowest_timings_are_kept() {
        let timing = |n: u64| RuleTiming { rule: format!("r {n}"), duration_ms: n, lane: 2 };
        let all: Vec<_> = (0..20).map(timing).collect();
        let slowest: Vec<_> = (15..20).rev().map(timing).collect();
        assert_eq!(read_timings(timings(&all)), slowest);
        let older = json!([{"rule": "r 19", "duration_ms": 19, "lane": 2}]);
        assert_eq!(read_timings(older), slowest[..1]);
        assert_eq!(read_timings(json!(["no", 1])), []);
    }
}
