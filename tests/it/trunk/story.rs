//! The story that the program is for: somebody changes a machine, and whoever should know learns of it, once.

use std::collections::BTreeSet;
use std::time::Duration;

use openwatch_tests::{Catcher, Program, Stack, eventually, sshd};
use serde_json::{Value, json};

use super::ground::{Ground, rule};
use super::rest::Rest;
use super::tables;

// @spec trunk
// @ac AC-01
#[tokio::test]
async fn a_change_on_the_target_is_told_once_by_everybody() {
    println!("@spec trunk");
    println!("@ac AC-01");
    let (ground, sshd, catcher) = (Ground::new(10), sshd::Options::new().start(), Catcher::start().await);
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    let rest = Rest::of(&stack.client());
    rest.post(
        "/channels",
        json!({ "name": "hook", "kind": "webhook", "url": catcher.url("hook"), "allow_private": true }),
    )
    .await;
    let mut tail = follow(&stack);
    stack.add_host("web-1", &sshd).await;
    let first = stack.ended_scans("web-1", 1).await;
    assert_eq!((first[0]["state"].as_str(), first[0]["score"].as_f64()), (Some("completed"), Some(100.0)));

    // Three of ten: the score falls by thirty points.
    let broken: Vec<_> = (2..5).map(rule).collect();
    (2..5).for_each(|number| ground.set(number, false));
    let scan = rest.scan("web-1").await;
    let ended = rest.scan_in(&scan, &["completed", "failed"]).await;
    assert_eq!(ended["scan"]["score"].as_f64(), Some(70.0), "{ended}");

    let transactions = rest.get("/transactions?host=web-1&limit=100").await;
    let of_scan: Vec<_> = items(&transactions).iter().filter(|t| t["scan_id"] == scan.as_str()).collect();
    let mut changed: Vec<_> = of_scan
        .iter()
        .map(|t| {
            assert_eq!(
                (t["prior_status"].as_str(), t["status"].as_str()),
                (Some("pass"), Some("fail")),
                "{t}"
            );
            t["rule_id"].as_str().unwrap().to_owned()
        })
        .collect();
    changed.sort();
    assert_eq!(changed, broken);

    let alert = eventually("an alert", || async {
        let alerts = rest.get("/alerts").await;
        items(&alerts).iter().find(|alert| alert["type"] == "drift_major").cloned()
    })
    .await;
    assert_eq!((&alert["state"], &alert["host"]), (&json!("active"), &json!("web-1")));
    assert_eq!(alert["tags"]["scan_id"], scan, "an alert names the scan that showed it: {alert}");
    let drift = rest.get("/drift?host=web-1").await;
    let of_scan: Vec<_> = items(&drift).iter().filter(|row| row["scan_id"] == scan.as_str()).collect();
    assert_eq!((of_scan.len(), &of_scan[0]["kind"]), (1, &json!("major_worsening")));

    // The same once more: nothing changes, nobody is told again.
    let again = rest.scan("web-1").await;
    let ended = rest.scan_in(&again, &["completed"]).await;
    assert_eq!(ended["changes"], json!([]), "{ended}");

    // And back.
    (2..5).for_each(|number| ground.set(number, true));
    let reverted = rest.scan("web-1").await;
    let ended = rest.scan_in(&reverted, &["completed"]).await;
    assert_eq!(
        (ended["scan"]["score"].as_f64(), ended["changes"].as_array().unwrap().len()),
        (Some(100.0), 3)
    );
    eventually("the end of the alert", || async {
        let alerts = rest.get("/alerts").await;
        items(&alerts).iter().any(|a| a["id"] == alert["id"] && a["state"] == "resolved").then_some(())
    })
    .await;

    let admin =
        tables::bus(&stack.client().nats_url, &stack.data_dir().join("keys"), openwatch_bus::User::Admin)
            .await;
    let url = tables::private_url(&stack.data_dir());
    tables::quiet(&url, &admin, Duration::from_secs(20)).await;
    assert_eq!(tables::dead_letters(&admin).await, Vec::<String>::new());
    let alerts = rest.get("/alerts").await;
    let major = items(&alerts).iter().filter(|a| a["type"] == "drift_major").count();
    assert_eq!(major, 1, "one change, one alert: {alerts}");

    webhooks_match(&stack, &catcher).await;
    let events = told(&mut tail, &reverted).await;
    the_same_story(&events, &scan, &again, &reverted, &alert);
}

/// Every transition of every alert reached the webhook exactly once.
async fn webhooks_match(stack: &Stack, catcher: &Catcher) {
    let mut db = tables::private_db(&stack.data_dir()).await;
    let expected =
        usize::try_from(tables::count(&mut db, "select count(*) from alert_transition").await).unwrap();
    let caught = catcher.at_least(expected).await;
    let ids: BTreeSet<_> = caught.iter().filter_map(|it| it.headers.get("webhook-id")).collect();
    assert_eq!((caught.len(), ids.len()), (expected, expected), "each transition once");
}

fn follow(stack: &Stack) -> openwatch_tests::Running {
    Program::new(["events", "tail", "--json", "--since", "1", "--data-dir"]).arg(stack.data_dir()).spawn()
}

/// Everything that `events tail` printed, once it has told the last chapter.
async fn told(tail: &mut openwatch_tests::Running, last_scan: &str) -> Vec<Value> {
    let read =
        |text: &str| -> Vec<Value> { text.lines().map(|line| serde_json::from_str(line).unwrap()).collect() };
    eventually("the last drift and alert among the events", || async {
        let events = read(&tail.stdout());
        let drift = events.iter().any(|e| is(e, "drift.detected") && e["data"]["scan_id"] == last_scan);
        let resolved = events.iter().any(|e| is(e, "alert.resolved"));
        (drift && resolved).then_some(events)
    })
    .await
}

fn the_same_story(events: &[Value], scan: &str, again: &str, reverted: &str, alert: &Value) {
    let of = |scan: &str, wanted: &str| {
        events.iter().filter(|e| is(e, wanted) && e["data"]["scan_id"] == scan).count()
    };
    for (scan, changes) in [(scan, 1), (again, 0), (reverted, 1)] {
        assert_eq!(of(scan, "scan.started"), 1, "{events:#?}");
        assert_eq!(of(scan, "scan.completed"), 1, "{events:#?}");
        assert_eq!(of(scan, "finding.changed"), changes, "{events:#?}");
        assert_eq!(of(scan, "drift.detected"), changes, "{events:#?}");
    }
    let about = |wanted: &str| {
        events.iter().filter(|e| is(e, wanted) && e["data"]["alert_id"] == alert["id"]).count()
    };
    assert_eq!((about("alert.opened"), about("alert.resolved")), (1, 1), "{events:#?}");
    let ids: BTreeSet<_> = events.iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), events.len(), "every event once");
    let position = |wanted: &str| events.iter().position(|e| is(e, wanted) && e["data"]["scan_id"] == scan);
    assert!(position("scan.started") < position("scan.completed"), "in order: {events:#?}");
    assert!(position("scan.completed") < position("drift.detected"), "in order: {events:#?}");
}

/// Whether it is an event of that kind, such as `drift.detected`; the version stands behind.
fn is(event: &Value, kind: &str) -> bool {
    let name = event["type"].as_str().unwrap().strip_prefix("openwatch.").unwrap();
    name.rsplit_once(".v").is_some_and(|(name, _)| name == kind)
}

pub(super) fn items(page: &Value) -> &[Value] {
    page["items"].as_array().unwrap()
}
