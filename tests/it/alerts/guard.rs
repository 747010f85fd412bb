//! What a channel may dial, through the program: refused when it is added, and again when it is dialled.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use openwatch_app::run::Stage;
use openwatch_bus::message::event::PolicyRejected;
use openwatch_model::Timestamp;
use openwatch_model::channel::Target;
use openwatch_tests::stages::{TOFU, WEBHOOK_SECRET};
use openwatch_tests::{Catcher, Stack, Stages, eventually};

use super::tell;

fn proves(criterion: &str) {
    println!("@spec alerts\n@ac {criterion}");
}

// @spec alerts
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn what_lies_inside_is_not_dialled_unless_it_was_allowed() {
    proves("AC-07");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    let port = catcher.url("/").rsplit_once(':').unwrap().1.trim_end_matches('/').to_owned();
    // As a name that leads inside, as somebody's own name server could say, and as an address.
    for (name, host) in [("by-name", "localhost"), ("by-address", "127.0.0.1")] {
        let url = format!("https://{host}:{port}/x");
        let target = Target::Webhook { url, secret: WEBHOOK_SECRET.to_owned() };
        stages.channel_with(name, target, |it| it.allow_private = false).await;
    }
    stages.webhook("allowed", format!("http://localhost:{port}/allowed")).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let rejected =
        PolicyRejected { reason: "bad_signature".to_owned(), attempted_version: None, active_version: None };
    tell(&stages, None, Timestamp::now_utc(), rejected).await;
    let tries = "select c.name || ': ' || coalesce(a.error, 'arrived') from alert_delivery_attempt a
        join alert_delivery d on d.id = a.delivery_id join channel c on c.id = d.channel_id where a.attempt = 1 order by c.name";
    let all = || async { Some(stages.texts(tries).await).filter(|all| all.len() == 3) };
    let all = eventually("three tries", all).await;
    assert_eq!(all[0], "allowed: arrived");
    assert!(all[1..].iter().all(|it| it.contains("lies inside the network")), "{all:?}");
    assert!(catcher.all().iter().all(|it| it.path == "/allowed"));
}

// @spec alerts
// @ac AC-07
// @ac AC-12
#[tokio::test(flavor = "multi_thread")]
async fn channels_are_added_tested_and_removed_on_the_command_line() {
    proves("AC-07");
    println!("@ac AC-12");
    let stack = Stack::start().await;
    let catcher = Catcher::start().await;
    let url = catcher.url("/s3cret");
    let add = ["channel", "add", "webhook", "hook", "--address", &url];
    let (code, _, stderr) = stack.cli(&add).await;
    assert!(code == Some(64) && stderr.contains("/url") && !stderr.contains("s3cret"), "{code:?} {stderr}");
    let mut allowed = add.to_vec();
    allowed.extend(["--allow-private", "--min-severity", "high", "--label", "env=prod"]);
    let made = stack.json(&allowed).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && made["channel"]["target"] == "127.0.0.1", "{made}");
    let tested = stack.json(&["channel", "test", "hook"]).await;
    assert_eq!(
        (&tested["state"], &tested["event"]),
        (&"delivered".into(), &"channel.test".into()),
        "{tested}"
    );
    assert_eq!(catcher.all()[0].json()["event"], "channel.test");

    catcher.answer_next(500, Duration::ZERO);
    let (code, _, stderr) = stack.cli(&["channel", "test", "hook"]).await;
    assert!(code == Some(75) && stderr.contains("500"), "{code:?} {stderr}");
    let deliveries = stack.json(&["channel", "deliveries", "hook", "--state", "failed"]).await;
    assert_eq!(
        (deliveries.as_array().unwrap().len(), &deliveries[0]["tries"][0]["status"]),
        (1, &500.into())
    );

    let listed = stack.json(&["channel", "list"]).await.to_string();
    assert!(
        listed.contains("label.env") && !listed.contains("s3cret") && !listed.contains(secret),
        "{listed}"
    );
    stack.json(&["channel", "disable", "hook"]).await;
    let (code, _, stderr) = stack.cli(&["channel", "test", "hook"]).await;
    assert!(code == Some(64) && stderr.contains("turn it on"), "{code:?} {stderr}");
    stack.json(&["channel", "enable", "hook"]).await;
    let (code, stdout, _) = stack.cli(&["channel", "rm", "hook"]).await;
    assert!(code == Some(0) && stdout.contains("removed"), "{code:?} {stdout}");
    assert_eq!(stack.json(&["channel", "list"]).await.as_array().unwrap().len(), 0);

    // Of the other kinds, the secrets come from files.
    let file = stack.data_dir().join("routing.key");
    std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = file.display().to_string();
    stack.json(&["channel", "add", "pagerduty", "duty", "--routing-key-file", &file]).await;
    stack
        .json(&[
            "channel",
            "add",
            "email",
            "mail",
            "--server",
            "mail.example.org",
            "--from",
            "a@example.org",
            "--to",
            "b@example.org",
        ])
        .await;
    stack.json(&["channel", "add", "nats", "bus", "--subject", "ops"]).await;
    stack.json(&["channel", "add", "stdout", "out"]).await;
    let (code, _, stderr) = stack.cli(&["channel", "test", "bus"]).await;
    assert!(code == Some(75) && stderr.contains("nobody listens"), "{code:?} {stderr}");
    let kinds = stack.json(&["channel", "list"]).await;
    let kinds: Vec<_> = kinds.as_array().unwrap().iter().map(|it| it["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["nats", "pagerduty", "email", "stdout"]);
}
