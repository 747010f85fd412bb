//! Looking: the fleet, scans, rules, transactions, drift, now and as it was.

use serde_json::json;
use sqlx::Executor as _;
use uuid::Uuid;

use super::Served;

/// One host with two applied full scans: at 01:00 `a` passed and `b` passed, at 02:00 `b` failed.
async fn history(api: &Served) -> (String, Uuid, Uuid) {
    let host = api.host("web-1").await;
    let (one, two) = (Uuid::new_v4(), Uuid::new_v4());
    let mut database = api.database.connect().await;
    let text =
        SEED.replace("$HOST", &host).replace("$ONE", &one.to_string()).replace("$TWO", &two.to_string());
    database.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(text))).await.unwrap();
    (host, one, two)
}

const SEED: &str = r#"
update host set created_at = '2025-12-31' where id = '$HOST';
insert into evidence (hash, body, bytes) values (sha256('e'), '{"checks": [{"method": "command", "exit_code": 0}]}', 40);
insert into scan (id, host_id, number, state, lane, trigger, actor, framework, policy_version, corpus, engine, tag, key_id,
  timeout_sec, queued_at, issued_at, started_at, finished_at)
select v.id::uuid, '$HOST', v.n, 'completed', 'scheduled', 'scheduled', 'scheduler', '*', '1.0.0', repeat('a', 64), '0.1.0',
  sha256('t'), 'k', 600, v.at - interval '2 min', v.at - interval '2 min', v.at - interval '1 min', v.at
from (values ('$ONE', 1, timestamptz '2026-01-01 01:00Z'), ('$TWO', 2, timestamptz '2026-01-01 02:00Z')) v (id, n, at);
insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, critical_failing,
  compliance_state, changes, summary, timings, applied_at)
values ('$ONE', '$HOST', 1, 1, 'completed', true, 1, 2, 0, 0, 'compliant', 2,
    '{"before": {"pass": 0, "fail": 0}, "after": {"pass": 2, "fail": 0}, "became_failing": {"critical": 0, "high": 0, "medium": 0, "low": 0}, "became_passing": {"critical": 0, "high": 0, "medium": 0, "low": 0}, "newly_observed_failing": 0, "rules_added": 2, "rules_removed": 0, "low_confidence": false}',
    '[]', '2026-01-01 01:00Z'),
  ('$TWO', '$HOST', 2, 1, 'completed', true, 2, 1, 1, 0, 'non_compliant', 1,
    '{"before": {"pass": 2, "fail": 0}, "after": {"pass": 1, "fail": 1}, "became_failing": {"critical": 0, "high": 1, "medium": 0, "low": 0}, "became_passing": {"critical": 0, "high": 0, "medium": 0, "low": 0}, "newly_observed_failing": 0, "rules_added": 0, "rules_removed": 0, "low_confidence": false}',
    '[{"rule": "a", "start_ms": 0, "duration_ms": 7, "lane": 0}, {"rule": "b", "start_ms": 7, "duration_ms": 9, "lane": 0}]', '2026-01-01 02:00Z');
update host_state set full_seq = 2, applied_number = 2, full_number = 2, full_scan_id = '$TWO', full_at = '2026-01-01 02:00Z',
  pass = 1, fail = 1, compliance_state = 'non_compliant' where host_id = '$HOST';
insert into rule_state (host_id, rule_id, status, severity, framework_refs, evidence_hash, digest, first_seen_at,
  last_changed_at, first_seq, present_since)
values ('$HOST', 'a', 'pass', 'low', '{"cis_rhel9": ["1.1"]}', sha256('e'), sha256('a'), '2026-01-01 01:00Z', '2026-01-01 01:00Z', 1, 1),
  ('$HOST', 'b', 'fail', 'high', '{}', sha256('e'), sha256('b'), '2026-01-01 01:00Z', '2026-01-01 02:00Z', 1, 1);
insert into transactions (id, host_id, rule_id, scan_id, host_number, change_kind, status, severity, prior_status,
  prior_severity, framework_refs, evidence_hash, occurred_at)
values ('01900000-0000-7000-8000-000000000001', '$HOST', 'a', '$ONE', 1, 'first_seen', 'pass', 'low', null, null, '{"cis_rhel9": ["1.1"]}', sha256('e'), '2026-01-01 01:00Z'),
  ('01900000-0000-7000-8000-000000000002', '$HOST', 'b', '$ONE', 1, 'first_seen', 'pass', 'high', null, null, '{}', sha256('e'), '2026-01-01 01:00Z'),
  ('01900000-0000-7000-8000-000000000003', '$HOST', 'b', '$TWO', 2, 'state_changed', 'fail', 'high', 'pass', 'high', '{}', sha256('e'), '2026-01-01 02:00Z');
insert into drift (scan_id, host_id, kind, drift, policy_version, detected_at)
select '$TWO', '$HOST', 'major_worsening', l.summary || '{"kind": "major_worsening", "has_prior_baseline": true, "score_undefined": false}', '1.0.0', '2026-01-01 02:00Z'
from scan_ledger l where l.scan_id = '$TWO';
"#;

#[tokio::test]
async fn a_scan_shows_who_asked_what_came_of_it_and_where_the_time_went() {
    let api = Served::new().await;
    let (host, _, two) = history(&api).await;
    let shown = api.get(&format!("/scans/{two}")).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let scan = &shown.body["scan"];
    assert_eq!(
        (&scan["host"], &scan["state"], &scan["policy_version"]),
        (&json!("web-1"), &json!("completed"), &json!("1.0.0"))
    );
    assert_eq!(scan["initiator"], json!({"kind": "scheduled", "actor": "scheduler"}));
    assert_eq!(
        (&scan["counts"], &scan["score"]),
        (&json!({"pass": 1, "fail": 1, "skipped": 0, "error": 0}), &json!(50.0))
    );
    assert_eq!(
        shown.body["changes"],
        json!([{"rule_id": "b", "status": "fail", "severity": "high", "prior_status": "pass"}])
    );
    assert_eq!(shown.body["timings"]["rules"][0]["rule"], "b", "the slowest first: {shown:?}");

    let list = api.get("/scans?host=web-1&limit=1").await;
    assert_eq!(
        (&list.body["items"][0]["id"], list.body["next_cursor"].is_string()),
        (&json!(two), true),
        "{list:?}"
    );
    assert_eq!(api.get(&format!("/scans?host={host}")).await.body["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/scans?limit=101").await.code(), "pagination.limit_exceeded");
    assert_eq!(api.get(&format!("/scans/{}", Uuid::new_v4())).await.code(), "scan.not_found");
    assert_eq!(api.get("/scans/x").await.code(), "validation.field_format");

    let evidence = api.get(&format!("/scans/{two}/rules/b/evidence")).await;
    assert_eq!(evidence.body["evidence"]["checks"][0]["method"], "command", "{evidence:?}");
    let kept = api.get(&format!("/scans/{two}/rules/a/evidence")).await;
    assert_eq!(kept.status, 200, "unchanged evidence is found where it was first seen: {kept:?}");
    assert_eq!(api.get(&format!("/scans/{two}/rules/z/evidence")).await.code(), "scan.evidence_not_found");
}

#[tokio::test]
async fn rules_and_transactions_read_now_and_as_they_were() {
    let api = Served::new().await;
    history(&api).await;
    let status = async |query: &str| {
        let page = api.get(&format!("/hosts/web-1/rules{query}")).await;
        let items = page.body["items"].as_array().unwrap_or_else(|| panic!("{page:?}")).clone();
        items
            .iter()
            .map(|it| format!("{}={}", it["rule_id"].as_str().unwrap(), it["status"].as_str().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(status("").await, ["a=pass", "b=fail"]);
    assert_eq!(status("?as_of=2026-01-01T01:30:00Z").await, ["a=pass", "b=pass"]);
    assert_eq!(status("?as_of=2026-01-01T00:30:00Z").await, Vec::<String>::new());
    assert_eq!(
        api.get("/hosts/web-1/rules?as_of=2999-01-01T00:00:00Z").await.code(),
        "validation.field_range"
    );
    assert_eq!(api.get("/hosts/nobody/rules").await.code(), "host.not_found");
    let now = api.get("/hosts/web-1/rules").await;
    assert_eq!(
        (&now.body["items"][0]["check_count"], &now.body["items"][0]["last_checked_at"]),
        (&json!(2), &json!("2026-01-01T02:00:00Z"))
    );

    let count = async |query: &str| {
        api.get(&format!("/transactions?{query}")).await.body["items"].as_array().map(Vec::len)
    };
    assert_eq!(count("host=web-1").await, Some(3));
    assert_eq!(count("rule=b").await, Some(2));
    assert_eq!(count("since=2026-01-01T02:00:00Z").await, Some(1), "since is inclusive");
    assert_eq!(count("until=2026-01-01T02:00:00Z").await, Some(2), "until is exclusive");
    assert_eq!(count("as_of=2026-01-01T01:00:00Z").await, Some(2), "as of includes its moment");
    let page = api.get("/transactions?limit=2").await;
    let next = page.body["next_cursor"].as_str().unwrap();
    assert_eq!(count(&format!("limit=2&cursor={next}")).await, Some(1));
}

#[tokio::test]
async fn the_fleet_fits_on_a_page() {
    let api = Served::new().await;
    history(&api).await;
    api.host("web-2").await;
    let now = api.get("/status").await;
    assert_eq!(
        (&now.body["hosts"], &now.body["hosts_scored"], &now.body["score"]),
        (&json!(2), &json!(1), &json!(50.0)),
        "{now:?}"
    );
    let by_state = |body: &serde_json::Value, state: &str| {
        body["by_state"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["state"] == state)
            .map(|it| it["hosts"].clone())
    };
    assert_eq!(by_state(&now.body, "non_compliant"), Some(json!(1)));
    assert_eq!(by_state(&now.body, "unknown"), Some(json!(1)));
    assert_eq!(now.body["oldest_unscanned"]["name"], "web-2", "never scanned is oldest");
    assert_eq!(now.body["queue"], json!({"queued": 0, "running": 0}));
    assert_eq!(now.body["unreachable"], json!(0));
    let then = api.get("/status?as_of=2026-01-01T01:30:00Z").await;
    assert!(then.body["queue"].is_null() && then.body["unreachable"].is_null(), "nobody kept that: {then:?}");
    assert_eq!(by_state(&then.body, "compliant"), Some(json!(1)), "{then:?}");

    let drift = api.get("/drift?host=web-1").await;
    assert_eq!(
        (&drift.body["items"][0]["kind"], &drift.body["items"][0]["score_before"]),
        (&json!("major_worsening"), &json!(100.0)),
        "{drift:?}"
    );
    assert_eq!(drift.body["items"][0]["became_failing"]["high"], 1);
    assert_eq!(api.get("/drift?kind=improvement").await.body["items"], json!([]));
    let shown = api.get("/hosts/web-1").await;
    assert_eq!(
        (&shown.body["compliance"]["state"], &shown.body["compliance"]["score"]),
        (&json!("non_compliant"), &json!(50.0))
    );
}
