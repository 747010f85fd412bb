//! Alerts behind real stages: one for each transition, and a life that people control.

use std::time::Duration;

use openwatch_app::keydir::KeyDir;
use openwatch_app::run::Stage;
use openwatch_bus::message::event::Kind;
use openwatch_bus::{Bus, BusOptions, Outgoing, User};
use openwatch_model::alert::AlertSeverity;
use openwatch_store::Role;
use openwatch_store::channel::{self, ChannelKind, NewChannel};
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Catcher, Stack, Stages, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::drift::{again, settled};
use crate::writer::outcomes;

fn proves(criterion: &str) {
    println!("@spec alerts\n@ac {criterion}");
}

/// Every alert with its state and the number of its transitions, oldest first.
async fn alerts(stages: &Stages) -> Vec<String> {
    stages
        .texts(
            "select concat_ws(' ', alert_type, state, transition) from alert order by created_at, alert_type",
        )
        .await
}

// @spec alerts
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn a_drift_opens_one_alert_and_its_repair_resolves_it() {
    proves("AC-01");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    stages.scanned(host, &outcomes(10, 1)).await;
    stages.scanned(host, &outcomes(10, 3)).await;
    let opened = || async { Some(alerts(&stages).await).filter(|all| !all.is_empty()) };
    assert_eq!(eventually("an alert", opened).await, ["drift_major active 1"]);
    assert_eq!(again(&stages, Kind::DriftDetected, host).await, 1);
    settled(&stages, "alerts").await;
    assert_eq!(alerts(&stages).await, ["drift_major active 1"]);
    assert_eq!(stages.number("select sum(occurrences)::bigint from alert").await, 1);
    assert_eq!(
        (stages.audited("alert.created").await, stages.events(Kind::AlertOpened, host).await.len()),
        (1, 1)
    );

    stages.scanned(host, &outcomes(10, 0)).await;
    let resolved = || async { Some(alerts(&stages).await).filter(|all| all[0] != "drift_major active 1") };
    assert_eq!(eventually("the end of it", resolved).await[0], "drift_major resolved 2");
    settled(&stages, "alerts").await;
    assert_eq!(
        (stages.audited("alert.resolved").await, stages.events(Kind::AlertResolved, host).await.len()),
        (1, 1)
    );
}

async fn channel(stages: &Stages, name: &str, url: String) {
    let store = stages.store(Role::Api).await;
    let mut tx = store.begin().await.unwrap();
    let kind = ChannelKind::Webhook { url, secret_ref: None };
    let new = NewChannel { name: name.to_owned(), kind, min_severity: AlertSeverity::Low, tags: [].into() };
    channel::add(&mut tx, &new, "tester").await.unwrap();
    tx.commit().await.unwrap();
}

// @spec alerts
// @ac AC-02
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_channel_delays_nobody() {
    proves("AC-02");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    // Takes connections and answers nothing.
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    channel(&stages, "a-dead", format!("http://{}/hook", dead.local_addr().unwrap())).await;
    channel(&stages, "b-good", catcher.url("/hook")).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    for number in 0..3 {
        let host = stages.host(&format!("web-{number}"), 22).await;
        stages.scanned(host, &outcomes(10, 0)).await;
        stages.scanned(host, &outcomes(10, 5)).await;
    }
    catcher.at_least(3).await;
    // The dead one is still at its first try, or was cut off there.
    let delivered = "select count(*) from alert_delivery d join channel c on c.id = d.channel_id
        where c.name = 'b-good' and d.state = 'delivered' and d.attempts = 1";
    eventually("three deliveries", || async { (stages.number(delivered).await == 3).then_some(()) }).await;
    let waits = "select count(*) from alert_delivery d join channel c on c.id = d.channel_id
        where c.name = 'a-dead' and d.state = 'pending'";
    assert_eq!(stages.number(waits).await, 3);
    let took = "select max(extract(epoch from finished_at - created_at) * 1000)::bigint from alert_delivery";
    let took = stages.number(took).await;
    assert!(took < 5_000, "{took} ms");
    settled(&stages, "alerts").await;
    let caught = catcher.all();
    let mut ids: Vec<_> = caught.iter().map(|hook| hook.headers["webhook-id"].clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((caught.len(), ids.len()), (3, 3));
    assert!(
        caught
            .iter()
            .all(|hook| hook.json()["event"] == "alert.opened" && hook.json()["type"] == "drift_major")
    );
    let text = String::from_utf8_lossy(&caught[0].body).into_owned();
    assert!(!text.contains("127.0.0.1"), "no addresses outside: {text}");
}

/// A running system with one alert: somebody sent a job that nobody signed.
async fn alarmed() -> (Stack, Value) {
    let stack = Stack::start().await;
    let seed = KeyDir::new(stack.data_dir().join("keys")).seed(User::Scheduler).unwrap();
    let bus =
        Bus::connect(BusOptions::new([stack.client().nats_url], User::Scheduler).seed(seed)).await.unwrap();
    let job = Outgoing {
        subject: format!("ow.v1.job.manual.{}", uuid::Uuid::new_v4()),
        message_id: "nobody.1".to_owned(),
        headers: Vec::new(),
        payload: "{}".into(),
    };
    bus.publish(&job).await.unwrap();
    let alert =
        eventually("an alert", || async { stack.json(&["alerts"]).await.as_array()?.first().cloned() }).await;
    assert_eq!((&alert["type"], &alert["state"]), (&"job_tampered".into(), &"active".into()), "{alert}");
    (stack, alert)
}

// @spec alerts
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_acknowledge_at_once_one_is_told_why_not() {
    proves("AC-03");
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
#[tokio::test(flavor = "multi_thread")]
async fn a_silence_that_runs_out_rearms_its_alert() {
    proves("AC-03");
    let (stack, alert) = alarmed().await;
    let id = alert["id"].as_str().unwrap();
    let until = openwatch_model::Timestamp::now_utc() + Duration::from_secs(2);
    let until = until.format(&time::format_description::well_known::Rfc3339).unwrap();
    let silenced = stack.json(&["alerts", "silence", id, "--until", &until, "--reason", "known"]).await;
    assert_eq!(silenced["state"], "silenced", "{silenced}");
    eventually("the end of the silence", || async {
        let alerts = stack.json(&["alerts"]).await;
        (alerts[0]["id"] == alert["id"] && alerts[0]["state"] == "active").then_some(())
    })
    .await;
    // Acknowledged is not silenced: waking it is not allowed, and says so.
    stack.json(&["alerts", "ack", id]).await;
    let (code, _, stderr) = stack.cli(&["alerts", "unsilence", id]).await;
    assert!(code != Some(0) && stderr.contains("acknowledged"), "{code:?} {stderr}");
}
