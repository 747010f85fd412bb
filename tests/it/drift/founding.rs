//! What the founding documents ask of drift, behind a real writer.

use openwatch_model::scan::Selection;
use openwatch_model::{Outcome, Severity, Status};
use openwatch_tests::Program;
use serde_json::json;

use super::*;
use crate::writer::outcome;

/// Scans a host with so many of a hundred rules failing, twice. The second scan.
async fn moved(stages: &Stages, name: &str, before: usize, after: usize) -> (HostId, ScanId) {
    let host = stages.host(name, 22).await;
    stages.scanned(host, &outcomes(100, 100 - before)).await;
    (host, stages.scanned(host, &outcomes(100, 100 - after)).await)
}

// @spec drift-detector
// @ac AC-01
// @ac AC-02
// @ac AC-03
// @ac AC-04
// @ac AC-05
// @ac AC-11
// @ac AC-13
#[tokio::test(flavor = "multi_thread")]
async fn the_golden_cases() {
    proves("AC-01");
    println!("@ac AC-02\n@ac AC-03\n@ac AC-04\n@ac AC-05\n@ac AC-11\n@ac AC-13");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let cases = [
        (80, 70, "major_worsening", Some("major")),
        (80, 76, "stable", None),
        (80, 75, "minor_worsening", Some("minor")),
        (70, 78, "improvement", Some("improvement")),
        (80, 82, "stable", None),
    ];
    let mut hosts = Vec::new();
    for (before, after, kind, drift_type) in cases {
        let (host, scan) = moved(&stages, &format!("from-{before}-to-{after}"), before, after).await;
        assert_eq!(detected(&stages, scan).await.0, kind, "{before} to {after}");
        hosts.push((host, scan, drift_type, after as f64 - before as f64));
    }
    settled(&stages, "drift").await;
    for (host, scan, drift_type, points) in hosts {
        let audited = format!(
            "select concat_ws(' ', detail->>'drift_type', (detail->>'score_delta')::float8) from audit_event
             where action = 'compliance.drift.detected' and detail->>'scan_id' = '{scan}'"
        );
        let told: Vec<_> = drift_type.map(|it| format!("{it} {points}")).into_iter().collect();
        assert_eq!(stages.texts(&audited).await, told);
        assert_eq!(stages.events(Kind::DriftDetected, host).await.len(), told.len());
    }
    let kinds = "select distinct kind from drift order by kind";
    assert_eq!(stages.texts(kinds).await, ["improvement", "major_worsening", "minor_worsening", "stable"]);
    let mut connection = stages.world.database.connect().await;
    let fifth =
        sqlx::raw_sql("update drift set kind = 'sideways'").execute(&mut connection).await.unwrap_err();
    assert_eq!(fifth.as_database_error().unwrap().code().as_deref(), Some("23514"));
}

// @spec drift-detector
// @ac AC-06
// @ac AC-16
#[tokio::test(flavor = "multi_thread")]
async fn the_thresholds_are_those_of_the_scans_own_policy() {
    proves("AC-06");
    println!("@ac AC-16");
    let wide = "version: 1.0.0\nhost_key_policy: tofu\ndrift: { major: 20, minor: 10, improvement: 5 }\n";
    let stages = Stages::under(wide).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let (host, scan) = moved(&stages, "web", 80, 70).await;
    assert_eq!(detected(&stages, scan).await.0, "minor_worsening");

    // Signed under the first policy, measured and applied under the second.
    let (job, _) = stages.job(host, |_| ()).await;
    stages.policy(&wide.replace("1.0.0", "1.1.0").replace("20", "4").replace("10", "2")).await;
    stages.send(&stages.result(&job, &outcomes(100, 42))).await;
    let (kind, _) = detected(&stages, job.scan).await;
    assert_eq!(kind, "minor_worsening", "twelve points are minor from 10 to 20");
    let version = format!("select policy_version from drift where scan_id = '{}'", job.scan);
    assert_eq!(stages.texts(&version).await, ["1.0.0"]);

    let (job, _) = stages.job(host, |job| job.policy_version = "1.1.0".to_owned()).await;
    stages.send(&stages.result(&job, &outcomes(100, 46))).await;
    assert_eq!(detected(&stages, job.scan).await.0, "major_worsening", "four points are major from 4 on");
}

// @spec drift-detector
// @ac AC-07
#[tokio::test]
async fn thresholds_that_cannot_be_used_are_refused_by_name() {
    proves("AC-07");
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("policy.key");
    let (code, _, stderr) = Program::new(["policy", "keygen", "--out"]).arg(&key).run().await;
    assert_eq!(code, Some(0), "{stderr}");
    let file = dir.path().join("schedules.yaml");
    for (thresholds, named) in [
        ("major: 0, minor: 5, improvement: 5", "major"),
        ("major: 10, minor: -1, improvement: 5", "minor"),
        ("major: 10, minor: 5, improvement: 100.5", "improvement"),
        ("major: 4, minor: 5, improvement: 5", "major"),
    ] {
        std::fs::write(&file, format!("version: 1.0.0\nhost_key_policy: tofu\ndrift: {{ {thresholds} }}\n"))
            .unwrap();
        let sign = Program::new(["policy", "sign"]).arg(&file).arg("--key").arg(&key);
        let (code, _, stderr) = sign.run().await;
        assert_eq!(code, Some(64), "{thresholds}: {stderr}");
        assert!(stderr.contains(&format!("drift threshold `{named}`")), "{thresholds}: {stderr}");
    }
}

fn rated(rule: &str, status: Status, severity: Option<Severity>) -> Outcome {
    Outcome { severity, ..outcome(rule, status) }
}

// @spec drift-detector
// @ac AC-09
#[tokio::test(flavor = "multi_thread")]
async fn what_moved_is_counted_by_severity_and_new_rules_apart() {
    proves("AC-09");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let host = stages.host("web", 22).await;
    let (pass, fail) = (Status::Pass, Status::Fail);
    let (critical, high, medium) = (Some(Severity::Critical), Some(Severity::High), Some(Severity::Medium));
    let known = |first, m: Status, skipped: Status| {
        vec![
            rated("c1", first, critical),
            rated("h1", first, high),
            rated("h2", first, high),
            rated("m1", m, medium),
            rated("s1", skipped, None),
        ]
    };
    stages.scanned(host, &known(pass, fail, Status::Skipped)).await;
    let mut second = known(fail, pass, fail);
    second.push(rated("n1", fail, Some(Severity::Low)));
    second.push(rated("n2", pass, medium));
    let scan = stages.scanned(host, &second).await;
    let (kind, drift) = detected(&stages, scan).await;
    assert_eq!(kind, "major_worsening");
    // Three of four before; two of seven after.
    assert_eq!(
        (&drift["before"], &drift["after"]),
        (&json!({"pass": 3, "fail": 1}), &json!({"pass": 2, "fail": 5}))
    );
    let failing = json!({"critical": 1, "high": 2, "medium": 0, "low": 2});
    let passing = json!({"critical": 0, "high": 0, "medium": 1, "low": 0});
    assert_eq!((&drift["became_failing"], &drift["became_passing"]), (&failing, &passing));
    assert_eq!((&drift["newly_observed_failing"], &drift["rules_added"]), (&json!(1), &json!(2)));
    settled(&stages, "drift").await;
    let event: Value =
        serde_json::from_slice(&stages.events(Kind::DriftDetected, host).await[0].payload).unwrap();
    let audit =
        stages.texts("select detail::text from audit_event where action = 'compliance.drift.detected'").await;
    let audit: Value = serde_json::from_str(&audit[0]).unwrap();
    for field in ["prior_score", "current_score", "score_delta"] {
        assert_eq!(event[field], audit[field], "{field}");
    }
    assert_eq!((event["prior_score"].as_f64(), event["current_score"].as_f64()), (Some(75.0), Some(28.57)));
    for field in ["became_failing", "became_passing", "newly_observed_failing"] {
        assert_eq!((&event["drift"][field], &audit[field]), (&drift[field], &drift[field]), "{field}");
    }
}

// @spec drift-detector
// @ac AC-14
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_verdict_is_no_part_of_a_score() {
    proves("AC-14");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let host = stages.host("web", 22).await;
    let of = |last: Status, all: Option<Status>| -> Vec<Outcome> {
        let status = |n: usize| match n {
            0..8 => Status::Pass,
            8..10 => Status::Fail,
            10..14 => Status::Skipped,
            _ => last,
        };
        (0..20).map(|n| outcome(&format!("rule-{n:02}"), all.unwrap_or_else(|| status(n)))).collect()
    };
    stages.scanned(host, &of(Status::Error, None)).await;
    let score = "select concat_ws(' ', pass, fail, skipped, error) from host_state";
    assert_eq!(stages.texts(score).await, ["8 2 4 6"]);
    let skipped = stages.scanned(host, &of(Status::Skipped, None)).await;
    let (kind, drift) = detected(&stages, skipped).await;
    let eighty = json!({"pass": 8, "fail": 2});
    assert_eq!((kind.as_str(), &drift["before"], &drift["after"]), ("stable", &eighty, &eighty));
    // Nothing can be measured any more: that is no fall to nought.
    let lost = stages.scanned(host, &of(Status::Error, Some(Status::Error))).await;
    let (kind, drift) = detected(&stages, lost).await;
    assert_eq!((kind.as_str(), &drift["score_undefined"]), ("stable", &json!(true)));
    settled(&stages, "drift").await;
    assert_eq!(stages.events(Kind::DriftDetected, host).await.len(), 0);
    assert_eq!(stages.texts("select compliance_state from host_state").await, ["partial"], "as it was known");
}

// @spec drift-detector
// @ac AC-17
#[tokio::test(flavor = "multi_thread")]
async fn another_corpus_is_doubtful_and_wakes_nobody() {
    proves("AC-17");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    // One rule of thirty is an old one; on the other host all of them are.
    let (replaced, same) = (stages.host("replaced", 22).await, stages.host("same", 22).await);
    stages.scanned(replaced, &outcomes(1, 0)).await;
    stages.scanned(same, &outcomes(30, 0)).await;
    let mut scans = Vec::new();
    for host in [replaced, same] {
        let mut many = outcomes(30, 30);
        many[0] = outcome("rule-0000", Status::Pass);
        scans.push(stages.scanned(host, &many).await);
    }
    let (kind, drift) = detected(&stages, scans[0]).await;
    assert_eq!((kind.as_str(), &drift["low_overlap"]), ("major_worsening", &json!(true)));
    let (kind, drift) = detected(&stages, scans[1]).await;
    assert_eq!((kind.as_str(), &drift["low_overlap"]), ("major_worsening", &Value::Null));
    settled(&stages, "drift").await;
    settled(&stages, "alerts").await;
    let alerts =
        "select h.name from alert a join host h on h.id = a.host_id where a.alert_type = 'drift_major'";
    assert_eq!(stages.texts(alerts).await, ["same"]);
}

// @spec drift-detector
// @ac AC-19
#[tokio::test(flavor = "multi_thread")]
async fn lost_checks_wake_nobody_and_hide_no_fall() {
    proves("AC-19");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    // Of forty rules ten fail. On one host eight more do and one is lost, on the other ten are lost.
    for (name, failing, lost) in [("fell", 18, 39..40), ("lost", 10, 30..40)] {
        let host = stages.host(name, 22).await;
        stages.scanned(host, &outcomes(40, 10)).await;
        let (kind, drift) = losing(&stages, host, outcomes(40, failing), lost).await;
        assert_ne!(kind, "stable", "{name}");
        assert_eq!(drift["low_confidence"], json!(true), "{name}");
    }
    settled(&stages, "drift").await;
    settled(&stages, "alerts").await;
    let alerts = "select concat_ws(' ', h.name, a.alert_type) from alert a join host h on h.id = a.host_id";
    assert_eq!(stages.texts(alerts).await, ["fell drift_major"]);
    assert_eq!(
        stages.number("select count(*) from alert where body like '%some checks were lost%'").await,
        1
    );
}

/// Scans a host; checks of some of its rules are lost on the way. The drift of it.
async fn losing(
    stages: &Stages,
    host: HostId,
    mut found: Vec<Outcome>,
    lost: std::ops::Range<usize>,
) -> (String, serde_json::Value) {
    for rule in &mut found[lost.clone()] {
        rule.status = Status::Error;
    }
    let scan = stages.scanned_losing(host, Selection::full(), &found, lost.len() as u32).await;
    detected(stages, scan).await
}

// @spec drift-detector
// @ac AC-20
#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_again_is_no_change_and_what_fell_meanwhile_is_told() {
    proves("AC-20");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    // Of forty rules ten fail, the first ten; first these are lost, then the last ten, half of those twice.
    let before = json!({"pass": 30, "fail": 10});
    for (name, lost, again) in [("failing", 0..10, 0..0), ("passing", 30..40, 30..35)] {
        let host = stages.host(name, 22).await;
        stages.scanned(host, &outcomes(40, 10)).await;
        losing(&stages, host, outcomes(40, 10), lost).await;
        losing(&stages, host, outcomes(40, 10), again).await;
        let scan = stages.scanned(host, &outcomes(40, 10)).await;
        let (kind, drift) = detected(&stages, scan).await;
        assert_eq!((kind.as_str(), &drift["after"]), ("stable", &before), "{name}");
        // And nothing is told twice.
        let mut last = outcomes(40, 10);
        last[39].status = Status::Fail;
        let scan = stages.scanned(host, &last).await;
        let (kind, drift) = detected(&stages, scan).await;
        assert_eq!((kind.as_str(), &drift["before"]), ("stable", &before), "{name}");
    }
    // Behind lost checks five rules fall.
    let host = stages.host("fell", 22).await;
    stages.scanned(host, &outcomes(40, 10)).await;
    losing(&stages, host, outcomes(40, 10), 10..20).await;
    let scan = stages.scanned(host, &outcomes(40, 15)).await;
    let (kind, drift) = detected(&stages, scan).await;
    assert_eq!((kind.as_str(), &drift["before"]), ("major_worsening", &before));
    assert_eq!(drift["became_failing"]["medium"], json!(5), "{drift}");
    settled(&stages, "drift").await;
    settled(&stages, "alerts").await;
    let alerts = "select concat_ws(' ', h.name, a.alert_type) from alert a join host h on h.id = a.host_id";
    assert_eq!(stages.texts(alerts).await, ["fell drift_major"]);
}
