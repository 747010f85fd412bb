//! Results that are odd: each scan ends once, in one state, and the others go on.

use openwatch_bus::message::result::encode_final;
use openwatch_model::outcome::EVIDENCE_RULE_CAP;
use openwatch_model::scan::{Job, Selection, Verdict};
use openwatch_store::host;
use openwatch_tests::stages::measured;
use serde_json::Value;

use super::*;

/// A result whose JSON says something else.
fn with_version(stages: &Stages, job: &Job, version: u64) -> openwatch_bus::Outgoing {
    let whole = zstd::decode_all(&encode_final(&measured(job, &outcomes(3, 0)))[..]).unwrap();
    let mut json: Value = serde_json::from_slice(&whole).unwrap();
    json["version"] = version.into();
    stages.signed(job, zstd::encode_all(json.to_string().as_bytes(), 3).unwrap().into())
}

/// Everything but the odd part: three rules, the first of which fails.
fn with_output(output: String) -> Vec<Outcome> {
    let mut all = outcomes(3, 1);
    all[1].evidence.checks[0].stdout = output;
    all
}

/// What became of a scan: its state and why, how many transactions, and how many dead letters speak of it.
async fn became(stages: &Stages, scan: ScanId) -> String {
    let query = format!(
        "select concat_ws(' ', s.state, s.failure_reason, l.outcome,
           (select count(*) from transactions t where t.scan_id = s.id),
           (select count(*) from audit_event a where a.action in ('scan.completed', 'scan.failed')
             and a.detail->>'scan_id' = s.id::text))
         from scan s join scan_ledger l on l.scan_id = s.id where s.id = '{scan}'"
    );
    stages.texts(&query).await.remove(0)
}

/// What the scan found is what the one before found; what else it says, the database does not take.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_new_that_cannot_be_stored_ends_its_scan() {
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("odd", 22).await;
    let found = outcomes(3, 1);
    stages.scanned(host, &found).await;
    let (job, _) = stages.job(host, |_| ()).await;
    let mut result = measured(&job, &found);
    let Verdict::Completed(it) = &mut result.verdict else { panic!("it is completed") };
    it.platform.name = "a\0b".to_owned();
    stages.send(&stages.signed(&job, encode_final(&result))).await;
    stages.ended(job.scan).await;
    assert_eq!(became(&stages, job.scan).await, "failed invalid_result failed 0 1");
    let silent = stages.scanned(host, &found).await;
    let text = format!("select unchanged::text from scan_ledger where scan_id = '{silent}'");
    assert_eq!(stages.texts(&text).await, ["true"], "its host goes on");
}

// @spec transaction-log-writer
// @ac AC-20
#[tokio::test(flavor = "multi_thread")]
async fn each_odd_result_ends_its_scan_once_and_the_others_go_on() {
    proves("AC-20");
    let stages = Stages::under(TOFU).await;
    let exactly = {
        let empty = serde_json::to_string(&with_output(String::new())[1].evidence).unwrap().len();
        EVIDENCE_RULE_CAP - empty - r#","stdout":"""#.len()
    };
    type Make = Box<dyn Fn(&Stages, &Job) -> openwatch_bus::Outgoing>;
    let around = |output: String| -> Make {
        Box::new(move |stages, job| stages.result(job, &with_output(output.clone())))
    };
    let bytes =
        |bytes: &'static [u8]| -> Make { Box::new(move |stages, job| stages.signed(job, bytes.into())) };
    let cases: Vec<(&str, Make, &str)> = vec![
        ("in order", around("fine".into()), "completed completed 3 1"),
        ("NUL in evidence", around("a\0b".into()), "completed completed 3 1"),
        ("256 KiB of evidence", around("x".repeat(exactly)), "completed completed 3 1"),
        ("a byte more", around("x".repeat(exactly + 1)), "failed evidence_oversize failed 0 1"),
        ("300 KiB of evidence", around("x".repeat(300 << 10)), "failed evidence_oversize failed 0 1"),
        ("no JSON", bytes(b"{ nonsense"), "failed invalid_result failed 0 1"),
        ("no compression", bytes(b"nonsense"), "failed invalid_result failed 0 1"),
        ("nothing", bytes(b""), "failed invalid_result failed 0 1"),
        (
            "a later version",
            Box::new(|stages, job| with_version(stages, job, 9)),
            "failed invalid_result failed 0 1",
        ),
        ("an empty result", Box::new(|stages, job| stages.result(job, &[])), "completed completed 0 1"),
        ("after all that", around("still fine".into()), "completed completed 3 1"),
    ];
    let mut jobs = Vec::new();
    for (number, (what, make, ends)) in cases.iter().enumerate() {
        let host = stages.host(&format!("host-{number}"), 22).await;
        let (job, _) = stages.job(host, |_| ()).await;
        let mut message = make(&stages, &job);
        // Twice, as a worker that was in doubt would.
        for delivery in 1..=2 {
            message.message_id = format!("{}.1.{delivery}.final", job.scan);
            stages.send(&message).await;
        }
        jobs.push((*what, job, *ends));
    }
    // A host that was removed while it was measured: it is scanned to its end and stays removed.
    let removed = stages.host("removed", 22).await;
    let (job, _) = stages.job(removed, |_| ()).await;
    let api = stages.store(Role::Api).await;
    let mut tx = api.begin().await.unwrap();
    host::remove(&mut tx, removed).await.unwrap();
    tx.commit().await.unwrap();
    stages.send(&stages.result(&job, &outcomes(3, 1))).await;
    jobs.push(("a removed host", job, "completed completed 3 1"));

    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    for (what, job, ends) in &jobs {
        stages.ended(job.scan).await;
        assert_eq!(became(&stages, job.scan).await, *ends, "{what}");
    }
    crate::drift::settled(&stages, "drift").await;
    let info = stages.admin.consumer_info("OW_RESULTS", "writer").await.unwrap();
    assert_eq!((info.pending, info.unacked), (0, 0));
    for (what, job, ends) in &jobs {
        assert_eq!(became(&stages, job.scan).await, *ends, "{what}, once more");
        let (kind, other) = match ends.starts_with("completed") {
            true => (Kind::ScanCompleted, Kind::ScanFailed),
            false => (Kind::ScanFailed, Kind::ScanCompleted),
        };
        let told = (stages.events(kind, job.host).await.len(), stages.events(other, job.host).await.len());
        assert_eq!(told, (1, 0), "{what}");
    }
    let refused = jobs.iter().filter(|(_, _, ends)| ends.starts_with("failed")).count();
    let failed = i64::try_from(refused).unwrap();
    assert_eq!(stages.number("select count(distinct detail->>'scan_id') from audit_event where action = 'writer.apply.failed'").await, failed);
    let flagged = "select count(*) from evidence where body->'nul_replaced' = 'true' and body->'checks'->0->>'stdout' = E'a\\uFFFDb'";
    assert_eq!(stages.number(flagged).await, 1);
    assert_eq!(
        stages.number("select count(*) from host where name = 'removed' and deleted_at is not null").await,
        1
    );
}

// @spec transaction-log-writer
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn of_two_results_of_one_scan_the_first_counts() {
    proves("AC-05");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    stages.scanned(host, &outcomes(20, 2)).await;
    // Unchanged, so that no transaction names the scan: only the ledger knows it.
    let (job, _) = stages.job(host, |_| ()).await;
    let mut message = stages.result(&job, &outcomes(20, 2));
    stages.send(&message).await;
    stages.ended(job.scan).await;
    let before = stages
        .texts("select rule_id || check_count || last_checked_at from host_rule_state order by 1")
        .await;
    for (delivery, failing) in [(2, 2), (3, 15), (4, 2)] {
        message = stages.result(&job, &outcomes(20, failing));
        message.message_id = format!("{}.1.{delivery}.final", job.scan);
        stages.send(&message).await;
    }
    let info = || async { stages.admin.consumer_info("OW_RESULTS", "writer").await.ok() };
    eventually("all decided", || async {
        let info = info().await?;
        (info.pending == 0 && info.unacked == 0).then_some(())
    })
    .await;
    let after = stages
        .texts("select rule_id || check_count || last_checked_at from host_rule_state order by 1")
        .await;
    assert_eq!(before, after);
    assert_eq!(checks(&stages, host).await, (2, 2));
    assert_eq!(stages.number("select count(*) from transactions").await, 20);
    stages.relayed().await;
    assert_eq!(stages.events(Kind::ScanCompleted, host).await.len(), 2);
}

// @spec transaction-log-writer
// @ac AC-21
// @spec drift-detector
// @ac AC-18
#[tokio::test(flavor = "multi_thread")]
async fn filtered_scans_and_rules_that_come_back() {
    proves("AC-21");
    println!("@spec drift-detector\n@ac AC-18");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let host = stages.host("web", 22).await;
    let rules = |rules: &[(&str, Status)]| -> Vec<Outcome> {
        rules.iter().map(|(rule, status)| outcome(rule, *status)).collect()
    };
    let (pass, fail) = (Status::Pass, Status::Fail);
    stages.scanned(host, &rules(&[("a", pass), ("b", pass), ("c", pass)])).await;
    let only_a = Selection { framework: "*".to_owned(), rules: vec!["a".to_owned()] };
    let filtered = stages.scanned_of(host, only_a, &rules(&[("a", fail)])).await;
    // The host's score is of its full scans.
    let score = "select concat_ws(' ', pass, fail, compliance_state, full_seq) from host_state";
    assert_eq!(stages.texts(score).await, ["3 0 compliant 1"]);
    assert_eq!(transactions(&stages, filtered).await, 1);
    let summary = format!(
        "select concat_ws(' ', pass, fail, cardinality(rule_ids)) from scan_ledger where scan_id = '{filtered}'"
    );
    assert_eq!(stages.texts(&summary).await, ["0 1 1"]);

    // `c` leaves the corpus, and comes back failing.
    let without = stages.scanned(host, &rules(&[("a", fail), ("b", pass)])).await;
    stages.scanned(host, &rules(&[("a", fail), ("b", pass)])).await;
    let back = stages.scanned(host, &rules(&[("a", fail), ("b", pass), ("c", fail)])).await;
    let kinds =
        "select concat_ws(' ', host_number, rule_id, change_kind, coalesce(prior_status, '-'), status)
                 from transactions order by host_number, rule_id";
    assert_eq!(
        stages.texts(kinds).await,
        [
            "1 a first_seen - pass",
            "1 b first_seen - pass",
            "1 c first_seen - pass",
            "2 a state_changed pass fail",
            "5 c state_changed pass fail"
        ]
    );
    let counted = "select concat_ws(' ', rule_id, current_status, check_count, in_corpus) from host_rule_state order by rule_id";
    assert_eq!(stages.texts(counted).await, ["a fail 5 t", "b pass 4 t", "c fail 2 t"]);
    let gap = "select concat_ws(' ', rule_id, after_seq, before_seq) from rule_gap";
    assert_eq!(stages.texts(gap).await, ["c 1 4"]);
    // The score before is that of the rules that this scan has, as they were known.
    let scores = |scan| {
        format!(
        "select concat_ws(' ', coalesce(summary->'before'->>'pass', pass::text), coalesce(summary->'before'->>'fail', fail::text), pass,
           fail, coalesce(summary->>'rules_removed', '0')) from scan_ledger where scan_id = '{scan}'"
    )
    };
    // What the filtered scan found is the drift of the full scan after it.
    assert_eq!(stages.texts(&scores(without)).await, ["2 0 1 1 1"]);
    assert_eq!(stages.texts(&scores(back)).await, ["2 1 1 2 0"]);
    crate::drift::settled(&stages, "drift").await;
    assert_eq!(stages.number(&format!("select count(*) from drift where scan_id = '{filtered}'")).await, 0);
    let drifts = "select concat_ws(' ', l.number, d.kind, d.drift->'became_failing'->>'medium')
                  from drift d join scan_ledger l using (scan_id) order by l.number";
    assert_eq!(
        stages.texts(drifts).await,
        ["1 stable 0", "3 major_worsening 1", "4 stable 0", "5 major_worsening 1"]
    );

    // One of an older scan, out of a repaired database, changes nothing and drifts nowhere.
    stages.meddle("update host set last_number = 3; update scan set number = number + 100; update scan_ledger set number = number + 100; update host_state set applied_number = applied_number + 100").await;
    let late = stages.scanned(host, &rules(&[("a", pass)])).await;
    assert_eq!(stages.ended(late).await, "superseded");
    crate::drift::settled(&stages, "drift").await;
    assert_eq!(stages.number("select count(*) from drift").await, 4);
}
