//! A channel that leads elsewhere, what was given up and is tried again, and a policy that was put right.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use openwatch_app::run::Stage;
use openwatch_bus::message::event::{JobRejected, PolicyAccepted};
use openwatch_model::Timestamp;
use openwatch_model::scan::Rejection;
use openwatch_tests::stages::{TOFU, WEBHOOK_SECRET};
use openwatch_tests::{Catcher, Stack, Stages, eventually};
use openwatch_trust::webhook::WebhookSecret;
use serde_json::Value;

use super::{become_alerts, tell};
use crate::drift::settled;

/// How many rows of a code the audit log has.
async fn audited(stack: &Stack, code: &str) -> usize {
    stack.json(&["audit", "--code", code]).await.as_array().unwrap().len()
}

// @spec alerts
// @ac AC-14
// @ac AC-15
// @spec alert-router
// @ac AC-09
#[tokio::test(flavor = "multi_thread")]
async fn a_channel_moves_what_it_missed_is_sent_again_and_a_sound_policy_ends_the_alarm() {
    println!("@spec alerts\n@ac AC-14\n@ac AC-15\n@spec alert-router\n@ac AC-09");
    let stack = Stack::start().await;
    let catcher = Catcher::start().await;
    let (old, new) = (catcher.url("/old"), catcher.url("/new"));
    let made = stack.json(&["channel", "add", "webhook", "hook", "--address", &old, "--allow-private"]).await;
    catcher.answer_next(410, Duration::ZERO);

    // Signed by nobody: the scheduler stays with what it has, and an alert says so.
    let policy = stack.data_dir().join("policy/schedules.yaml");
    let sound = std::fs::read_to_string(&policy).unwrap();
    std::fs::write(&policy, format!("{sound}# not signed\n")).unwrap();
    stack.cli(&["policy", "reload"]).await;
    let failed = ["channel", "deliveries", "--failed"];
    let given_up = || async {
        let all = stack.json(&failed).await;
        (all.as_array()?.len() == 1).then_some(all)
    };
    let given_up = eventually("a delivery that is given up", given_up).await;
    assert_eq!((&given_up[0]["channel"], &given_up[0]["event"]), (&"hook".into(), &"alert.opened".into()));

    let file = stack.data_dir().join("hook.secret");
    std::fs::write(&file, WEBHOOK_SECRET).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.display().to_string();
    let (code, _, stderr) = stack.cli(&["channel", "set", "hook", "--secret-file", &file]).await;
    assert!(code == Some(64) && stderr.contains("--address"), "{code:?} {stderr}");
    let (code, _, stderr) = stack.cli(&["channel", "set", "hook"]).await;
    assert!(code == Some(64) && stderr.contains("what to change"), "{code:?} {stderr}");
    let (code, _, stderr) = stack.cli(&["channel", "set", "hook", "--subject", "ops"]).await;
    assert!(code == Some(64) && stderr.contains("/subject"), "of another kind: {code:?} {stderr}");
    let mut set =
        vec!["channel", "set", "hook", "--address", &new, "--secret-file", &file, "--allow-private"];
    set.extend(["--min-severity", "high", "--tag", "alert_type=policy_rejected"]);
    let changed = stack.json(&set).await["channel"].take();
    let was = &made["channel"];
    assert_eq!((&changed["id"], &changed["created_at"]), (&was["id"], &was["created_at"]));
    assert_eq!((&changed["min_severity"], &changed["enabled"]), (&"high".into(), &Value::Bool(false)));
    stack.json(&["channel", "enable", "hook"]).await;
    assert_eq!(stack.json(&["channel", "replay", "hook"]).await["replayed"], 1);

    let caught = catcher.at_least(2).await;
    assert_eq!([&caught[0].path, &caught[1].path], ["/old", "/new"]);
    let (id, at) = (&caught[1].headers["webhook-id"], &caught[1].headers["webhook-timestamp"]);
    assert_eq!(id, &caught[0].headers["webhook-id"], "the same transition");
    let secret = WebhookSecret::parse(WEBHOOK_SECRET).unwrap();
    assert_eq!(caught[1].headers["webhook-signature"], secret.sign(id, at.parse().unwrap(), &caught[1].body));
    let arrived = || async {
        let it = stack.json(&["channel", "deliveries", "hook"]).await[0].take();
        (it["state"] == "delivered").then_some(it)
    };
    let arrived = eventually("the delivery's end", arrived).await;
    let codes: Vec<_> = arrived["tries"].as_array().unwrap().iter().map(|it| it["status"].as_u64()).collect();
    assert_eq!(codes, [Some(410), Some(204)]);
    assert_eq!(stack.json(&["channel", "replay", "hook"]).await["replayed"], 0);
    let one = ["channel", "replay", "hook", "--delivery", arrived["id"].as_str().unwrap()];
    let (code, _, stderr) = stack.cli(&one).await;
    assert!(code == Some(64) && stderr.contains("given up"), "it arrived: {code:?} {stderr}");

    // Taking the change back is enough. The receiver wants to hear of it later; who has mended it need not wait.
    catcher.answer_with(429, Duration::ZERO, &[("retry-after", "600")]);
    std::fs::write(&policy, sound).unwrap();
    stack.cli(&["policy", "reload"]).await;
    catcher.at_least(3).await;
    let waits =
        || async { (stack.json(&["channel", "replay", "hook"]).await["replayed"] == 1).then_some(()) };
    eventually("a try that is noted, and due at once", waits).await;
    let caught = catcher.at_least(4).await;
    assert_eq!(caught[2].headers["webhook-id"], caught[3].headers["webhook-id"]);
    let over = caught[3].json();
    assert_eq!((&over["event"], &over["type"]), (&"alert.resolved".into(), &"policy_rejected".into()));
    let codes = ["notification.channel.updated", "notification.delivery.replayed", "alert.resolved"];
    let mut rows = Vec::new();
    for code in codes {
        rows.push(audited(&stack, code).await);
    }
    assert_eq!(rows, [2, 2, 1]);
}

// @spec alert-router
// @ac AC-09
#[tokio::test(flavor = "multi_thread")]
async fn who_meddled_with_a_job_is_for_people_to_find_out() {
    println!("@spec alert-router\n@ac AC-09");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let rejected = JobRejected {
        scan_id: None,
        host_id: None,
        failure: Rejection::HmacMismatch,
        stream_sequence: 7,
        worker: "w1".to_owned(),
    };
    tell(&stages, None, Timestamp::now_utc(), rejected).await;
    become_alerts(&stages, &["job_tampered active 1"]).await;
    let accepted = PolicyAccepted { version: "1.0.0".to_owned(), previous_version: None };
    tell(&stages, None, Timestamp::now_utc(), accepted).await;
    settled(&stages, "alerts").await;
    become_alerts(&stages, &["job_tampered active 1"]).await;
}
