//! All that a run leaves behind, without what differs between any two runs: ids, times and names of processes.

use openwatch_bus::subject;
use openwatch_model::HostId;
use openwatch_tests::Stages;
use serde_json::Value;

/// One query for each table, each row as one text.
const TABLES: &[(&str, &str)] = &[
    ("scan", "concat_ws(' ', number, state, attempt, superseded, engine, failure_reason)"),
    ("open_scan", "concat_ws(' ', unissued)"),
    (
        "scan_ledger",
        "concat_ws(' ', number, attempt, outcome, is_full, full_seq, pass, fail, skipped, error, critical_failing, compliance_state,
           changes, unchanged, encode(digest, 'hex'), summary, timings)",
    ),
    (
        "host_state",
        "concat_ws(' ', full_seq, applied_number, full_number, encode(full_digest, 'hex'), pass, fail, compliance_state)",
    ),
    (
        "rule_state",
        "concat_ws(' ', rule_id, status, severity, encode(evidence_hash, 'hex'), encode(digest, 'hex'), first_seq, present_since,
           checks_before, gone_after, filtered_checks)",
    ),
    ("host_rule_state", "concat_ws(' ', rule_id, current_status, check_count, in_corpus)"),
    (
        "transactions",
        "concat_ws(' ', host_number, rule_id, change_kind, status, severity, prior_status, encode(evidence_hash, 'hex'))",
    ),
    ("rule_revision", "concat_ws(' ', host_number, rule_id)"),
    ("rule_gap", "concat_ws(' ', rule_id, after_seq, before_seq)"),
    ("evidence", "concat_ws(' ', encode(hash, 'hex'), body, bytes)"),
    ("drift", "concat_ws(' ', kind, policy_version, drift)"),
    ("host_backoff_state", "concat_ws(' ', probe_type, consecutive_failures)"),
    ("audit_event", "concat_ws(' ', action, severity, actor_type, detail - 'host_id' - 'scan_id')"),
    ("outbox", "concat_ws(' ', sender, message_id)"),
];

/// Events that both stages send, and the records that go beside them.
const KEPT: [&str; 2] = [subject::EVENTS, subject::AUDIT];

/// What to leave out of messages, however deep.
const DIFFERENT: [&str; 7] = ["scan_id", "host_id", "id", "finished_at", "at", "occurred_at", "cause"];

/// Audit codes that speak of scans. What starting a process leaves, it leaves for each start.
const CODES: [&str; 5] = ["scan", "finding", "compliance", "writer", "message"];

fn masked(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            fields.retain(|name, _| !DIFFERENT.contains(&name.as_str()));
            for field in fields.values_mut() {
                *field = masked(field.take());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| *item = masked(item.take())),
        _ => {}
    }
    value
}

/// Everything, one text for each row and message, in an order that does not depend on who was first.
pub(super) async fn dump(stages: &Stages, host: HostId) -> Vec<String> {
    let mut all = Vec::new();
    for (table, row) in TABLES {
        let kept = match *table {
            "audit_event" => format!("where split_part(action, '.', 1) = any('{{{}}}')", CODES.join(",")),
            _ => String::new(),
        };
        let rows = stages.texts(&format!("select {row} from {table} {kept} order by 1")).await;
        all.push(format!("{table}: {} rows", rows.len()));
        all.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    for stream in KEPT {
        let (mut from, mut told) = (1, Vec::new());
        while let Some(stored) = stages.admin.next_message(stream, from, ">").await.unwrap() {
            from = stored.sequence + 1;
            let body: Value = serde_json::from_slice(&stored.payload).unwrap();
            let about = stored.subject.replace(&host.to_string(), "HOST");
            let code = about.strip_prefix("ow.v1.audit.");
            if code.is_none_or(|code| CODES.iter().any(|kept| code.starts_with(&format!("{kept}.")))) {
                told.push(format!("{stream}: {about} {}", masked(body)));
            }
        }
        told.sort();
        all.push(format!("{stream}: {} messages", told.len()));
        all.extend(told);
    }
    let letters = stages.admin.dead_letters(1, 100).await.unwrap();
    all.extend(letters.into_iter().map(|filed| format!("dead letter: {}", filed.letter.reason)));
    all
}
