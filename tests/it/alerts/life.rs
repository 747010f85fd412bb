//! The life of an alert in people's hands, through the program.

use std::time::Duration;

use openwatch_app::keydir::KeyDir;
use openwatch_bus::{Bus, BusOptions, Outgoing, User};
use openwatch_tests::{Catcher, Stack, eventually};
use serde_json::{Value, json};

fn proves(criterion: &str) {
    println!("@spec alerts\n@ac {criterion}");
}

/// Sends a job that nobody signed.
async fn tamper(stack: &Stack, id: &str) {
    let seed = KeyDir::new(stack.data_dir().join("keys")).seed(User::Scheduler).unwrap();
    let bus =
        Bus::connect(BusOptions::new([stack.client().nats_url], User::Scheduler).seed(seed)).await.unwrap();
    let job = Outgoing {
        subject: format!("ow.v1.job.manual.{}", uuid::Uuid::new_v4()),
        message_id: id.to_owned(),
        headers: Vec::new(),
        payload: "{}".into(),
    };
    bus.publish(&job).await.unwrap();
}

/// A running system with one alert: somebody sent a job that nobody signed.
async fn alarmed() -> (Stack, Value) {
    let stack = Stack::start().await;
    let alert = alarm(&stack).await;
    (stack, alert)
}

async fn alarm(stack: &Stack) -> Value {
    tamper(stack, "nobody.1").await;
    let alert =
        eventually("an alert", || async { stack.json(&["alerts"]).await.as_array()?.first().cloned() }).await;
    assert_eq!((&alert["type"], &alert["state"]), (&"job_tampered".into(), &"active".into()), "{alert}");
    alert
}

// @spec alerts
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_acknowledge_at_once_one_is_told_why_not() {
    proves("AC-01");
    let (stack, alert) = alarmed().await;
    let client = stack.client();
    let token = std::fs::read_to_string(&client.token_file).unwrap();
    // Another test may have been quicker; one provider serves all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/api/v1/alerts/{}:acknowledge", client.url, alert["id"].as_str().unwrap());
    let ask = async || {
        let request = http.post(&url).bearer_auth(token.trim()).json(&json!({"reason": "mine"}));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    let (one, other) = tokio::join!(ask(), ask());
    let mut answers = vec![one, other];
    answers.sort_by_key(|(status, _)| *status);
    assert_eq!((answers[0].0, answers[1].0), (200, 409), "{answers:?}");
    assert_eq!(answers[0].1["state"], "acknowledged");
    assert_eq!(answers[1].1["code"], "alerts.invalid_transition", "{answers:?}");
    let audit =
        http.get(format!("{}/api/v1/audit?code=alert.acknowledged", client.url)).bearer_auth(token.trim());
    let audit: Value = audit.send().await.unwrap().json().await.unwrap();
    assert_eq!(audit["items"].as_array().unwrap().len(), 1, "{audit}");
}

// @spec alerts
// @ac AC-03
// @ac AC-11
#[tokio::test(flavor = "multi_thread")]
async fn a_silence_keeps_quiet_and_what_is_still_open_after_it_is_told_as_it_stands() {
    proves("AC-03");
    println!("@ac AC-11");
    let (stack, catcher) = (Stack::start().await, Catcher::start().await);
    let url = catcher.url("/hook");
    stack.json(&["channel", "add", "webhook", "hook", "--address", &url, "--allow-private"]).await;
    let alert = alarm(&stack).await;
    let id = alert["id"].as_str().unwrap();
    let (code, _, stderr) = stack.cli(&["alerts", "silence", id, "--until", "2020-01-01T00:00:00Z"]).await;
    assert!(code == Some(64) && stderr.contains("future"), "{code:?} {stderr}");
    let until = openwatch_model::Timestamp::now_utc() + Duration::from_secs(5);
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let silenced = stack.json(&["alerts", "silence", id, "--until", &until, "--reason", "known"]).await;
    assert_eq!(silenced["state"], "silenced", "{silenced}");
    let open = stack.json(&["alerts", "--open", "--severity", "critical", "--since", "1h"]).await;
    assert_eq!(open[0]["id"], alert["id"], "{open}");
    assert_eq!(stack.json(&["alerts", "--open", "--until", "1h"]).await, Value::Array(Vec::new()));
    // It happens again meanwhile: counted, and nobody is told.
    tamper(&stack, "nobody.2").await;
    eventually("a repeat", || async { (stack.json(&["alerts"]).await[0]["occurrences"] == 2).then_some(()) })
        .await;
    eventually("the end of the silence", || async {
        let alerts = stack.json(&["alerts"]).await;
        (alerts[0]["id"] == alert["id"] && alerts[0]["state"] == "active").then_some(())
    })
    .await;
    let told: Vec<_> =
        catcher.at_least(3).await.iter().map(|it| it.json()["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(told, ["alert.opened", "alert.silenced", "alert.unsilenced"]);

    // Acknowledged is not silenced: waking it is not allowed, and says so.
    stack.json(&["alerts", "ack", id]).await;
    let (code, _, stderr) = stack.cli(&["alerts", "unsilence", id]).await;
    assert!(code != Some(0) && stderr.contains("acknowledged"), "{code:?} {stderr}");
    stack.json(&["alerts", "resolve", id, "--reason", "done"]).await;
    assert_eq!(stack.json(&["alerts", "--open"]).await, Value::Array(Vec::new()));
    stack.json(&["alerts", "dismiss", id]).await;
    catcher.at_least(6).await;
    // All of it can be read: the life, who was told, every try.
    let shown = eventually("a full ledger", || async {
        let shown = stack.json(&["alerts", "show", id]).await;
        let all = shown["deliveries"].as_array()?.iter().all(|it| it["state"] == "delivered");
        (all && shown["deliveries"].as_array()?.len() == 6).then_some(shown)
    })
    .await;
    let states: Vec<_> =
        shown["history"].as_array().unwrap().iter().map(|it| it["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["active", "silenced", "active", "acknowledged", "resolved", "dismissed"]);
    assert!(
        shown["deliveries"].as_array().unwrap().iter().all(|it| it["tries"][0]["status"] == 204),
        "{shown}"
    );
    let (code, stdout, _) = stack.cli(&["alerts", "show", id]).await;
    assert!(code == Some(0) && stdout.contains("alert.unsilenced") && stdout.contains("done"), "{stdout}");
}
