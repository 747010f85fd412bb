//! Channels of every kind: what arrives, when it is tried again, and what is written down of it.

use std::time::Duration;

use futures::StreamExt as _;
use openwatch_app::run::Stage;
use openwatch_bus::User;
use openwatch_bus::message::event::PolicyRejected;
use openwatch_model::Timestamp;
use openwatch_model::alert::AlertSeverity;
use openwatch_model::channel::{MailSecurity, Mailbox, Target};
use openwatch_store::Role;
use openwatch_tests::stages::{TOFU, WEBHOOK_SECRET};
use openwatch_tests::{Catcher, MailServer, Stages, eventually};
use openwatch_trust::webhook::WebhookSecret;
use serde_json::Value;
use tokio::net::TcpListener;

use super::{become_alerts, tell};
use crate::drift::settled;
use crate::writer::outcomes;

fn proves(criterion: &str) {
    println!("@spec alerts\n@ac {criterion}");
}

/// Makes one alert of severity high about no host; each version is another alert only after the one before has ended.
async fn alarm(stages: &Stages) {
    let rejected = PolicyRejected {
        reason: "bad_signature".to_owned(),
        attempted_version: None,
        active_version: Some("1.0.0".to_owned()),
    };
    tell(stages, None, Timestamp::now_utc(), rejected).await;
}

/// Ends the open alerts as a person does.
async fn resolve_all(stages: &Stages) {
    stages.meddle("update alert set state = 'resolved' where state = 'active'").await;
}

/// Lets what waits be tried now.
async fn hurry(stages: &Stages) {
    let due = "update alert_delivery set next_try_at = now() where state = 'pending' and next_try_at < now() + interval '30 seconds'";
    stages.meddle(due).await;
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
    stages.webhook("a-dead", format!("http://{}/hook", dead.local_addr().unwrap())).await;
    stages.webhook("b-good", catcher.url("/hook")).await;
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

// @spec alerts
// @ac AC-04
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_is_signed_and_named_by_its_transition_at_every_try() {
    proves("AC-04");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    catcher.answer_next(503, Duration::ZERO);
    stages.webhook("hook", catcher.url("/hook")).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    alarm(&stages).await;
    catcher.at_least(1).await;
    eventually("another try", || async {
        hurry(&stages).await;
        (catcher.all().len() >= 2).then_some(())
    })
    .await;
    let id = stages.texts("select id || '-1' from alert").await.remove(0);
    let secret = WebhookSecret::parse(WEBHOOK_SECRET).unwrap();
    for hook in catcher.all() {
        assert_eq!((&hook.headers["webhook-id"], hook.method.as_str()), (&id, "POST"));
        let at: i64 = hook.headers["webhook-timestamp"].parse().unwrap();
        assert!((Timestamp::now_utc().unix_timestamp() - at).abs() < 60, "of the try, not of the alert");
        assert_eq!(hook.headers["webhook-signature"], secret.sign(&id, at, &hook.body));
    }
    let ledger =
        "select attempt || ' ' || delivered || ' ' || status from alert_delivery_attempt order by attempt";
    eventually("the ledger", || async {
        (stages.texts(ledger).await == ["1 false 503", "2 true 204"]).then_some(())
    })
    .await;
}

fn mail_to(server: &MailServer) -> Target {
    Target::Email(Mailbox {
        server: "127.0.0.1".to_owned(),
        port: server.port(),
        security: MailSecurity::None,
        username: None,
        password: None,
        from: "OpenWatch <openwatch@example.org>".to_owned(),
        to: vec!["ops@example.org".to_owned()],
    })
}

// @spec alerts
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_channel_is_told_in_its_own_words() {
    proves("AC-05");
    let stages = Stages::under(TOFU).await;
    let (slack, duty, mail) = (Catcher::start().await, Catcher::start().await, MailServer::start().await);
    stages.channel("slack", Target::Slack { url: slack.url("/T0/B0/x") }).await;
    let key = "0123456789abcdef0123456789abcdef".to_owned();
    stages
        .channel("duty", Target::Pagerduty { url: duty.url("/v2/enqueue"), routing_key: key.clone() })
        .await;
    stages.channel("mail", mail_to(&mail)).await;
    let subject = "ow.v1.notify.ops.test".to_owned();
    stages.channel("nats", Target::Nats { subject: subject.clone() }).await;
    stages.channel("out", Target::Stdout {}).await;
    let reader = stages.world.nats.client(User::Reader).await;
    let mut heard = reader.subscribe("ow.v1.notify.>").await.unwrap();
    reader.flush().await.unwrap();
    let _running = stages.run(&[Stage::Alerts]).await;
    alarm(&stages).await;
    become_alerts(&stages, &["policy_rejected active 1"]).await;
    let all = "select count(*) from alert_delivery where state = 'delivered'";
    eventually("five deliveries", || async { (stages.number(all).await == 5).then_some(()) }).await;

    let told = slack.all()[0].json();
    assert!(told["text"].as_str().unwrap().starts_with("[high] a policy was refused"), "{told}");
    let opened = duty.all()[0].json();
    let id = stages.texts("select id::text from alert").await.remove(0);
    assert_eq!(
        (
            &opened["event_action"],
            &opened["dedup_key"],
            &opened["routing_key"],
            &opened["payload"]["severity"]
        ),
        (&"trigger".into(), &Value::from(id), &Value::from(key), &"error".into())
    );
    let mails = mail.mails();
    assert!(
        mails.len() == 1
            && mails[0].contains("RCPT TO:<ops@example.org>")
            && mails[0].contains("Subject: [high]"),
        "{mails:?}"
    );
    let message = tokio::time::timeout(Duration::from_secs(5), heard.next()).await.unwrap().unwrap();
    let body: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!((message.subject.as_str(), &body["event"]), (subject.as_str(), &"alert.opened".into()));
    let codes = "select coalesce(a.status::text, '-') from alert_delivery_attempt a
        join alert_delivery d on d.id = a.delivery_id join channel c on c.id = d.channel_id order by c.name";
    assert_eq!(stages.texts(codes).await, ["204", "250", "-", "-", "204"], "duty, mail, nats, out, slack");
}

// @spec alerts
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn channels_hear_what_they_asked_for() {
    proves("AC-06");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    let hook = |path: &str| Target::Webhook { url: catcher.url(path), secret: WEBHOOK_SECRET.to_owned() };
    stages.channel_with("critical", hook("/critical"), |it| it.min_severity = AlertSeverity::Critical).await;
    let tag = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    stages.channel_with("prod", hook("/prod"), |it| it.tags = tag("label.env", "prod")).await;
    stages.channel_with("lab", hook("/lab"), |it| it.tags = tag("label.env", "lab")).await;
    stages.channel_with("drift", hook("/drift"), |it| it.tags = tag("alert_type", "drift_major")).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    stages.meddle("insert into host_label (host_id, key, value) select id, 'env', 'prod' from host").await;
    stages.scanned(host, &outcomes(10, 0)).await;
    stages.scanned(host, &outcomes(10, 5)).await;
    become_alerts(&stages, &["drift_major active 1"]).await;
    settled(&stages, "alerts").await;
    let mut paths: Vec<_> = catcher.at_least(2).await.into_iter().map(|it| it.path).collect();
    paths.sort();
    assert_eq!(paths, ["/drift", "/prod"]);
    assert_eq!(stages.number("select count(*) from alert_delivery").await, 2);
}

// @spec alerts
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_says_when_to_come_again_and_that_it_is_gone() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    catcher.answer_with(429, Duration::ZERO, &[("retry-after", "7200")]);
    catcher.answer_next(302, Duration::ZERO);
    catcher.answer_next(410, Duration::ZERO);
    stages.webhook("hook", catcher.url("/hook")).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    alarm(&stages).await;
    let noted = |tries: i64| {
        let stages = &stages;
        async move {
            let tried = "select count(*) from alert_delivery_attempt";
            eventually("a try", || async { (stages.number(tried).await == tries).then_some(()) }).await;
        }
    };
    noted(1).await;
    let wait = "select extract(epoch from next_try_at - now())::bigint from alert_delivery";
    let wait = stages.number(wait).await;
    assert!((7_000..=7_200).contains(&wait), "not before it was asked to: {wait}");
    stages.meddle("update alert_delivery set next_try_at = now()").await;
    noted(2).await;
    stages.meddle("update alert_delivery set next_try_at = now()").await;
    noted(3).await;
    let ledger = "select attempt || ' ' || status || ' ' || coalesce(error, '') from alert_delivery_attempt order by attempt";
    assert_eq!(
        stages.texts(ledger).await,
        [
            "1 429 the receiver answered 429 Too Many Requests",
            "2 302 the receiver answered 302 Found",
            "3 410 the receiver answered 410 Gone",
        ]
    );
    assert_eq!(catcher.all().len(), 3, "nobody was followed anywhere");
    assert_eq!(stages.texts("select state from alert_delivery").await, ["failed"]);
    let off = "select enabled || ' ' || disabled_reason from channel";
    assert_eq!(stages.texts(off).await, ["false the receiver answered 410 Gone"]);
    let audited = (
        stages.audited("notification.channel.disabled").await,
        stages.audited("notification.delivery.failed").await,
    );
    assert_eq!(audited, (1, 1));
    resolve_all(&stages).await;
    alarm(&stages).await;
    settled(&stages, "alerts").await;
    assert_eq!(stages.number("select count(*) from alert_delivery").await, 1, "nothing more goes there");
}

// @spec alerts
// @ac AC-09
#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_a_channel_is_read_by_the_alerts_stage_alone() {
    proves("AC-09");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    stages.webhook("hook", catcher.url("/s3cret-path")).await;
    let dump = "select channel::text from channel";
    let row = stages.texts(dump).await.remove(0);
    assert!(!row.contains("s3cret") && !row.contains(&hex::encode("s3cret")), "{row}");
    for role in Role::ALL {
        let read = format!(
            "begin; set local role openwatch_{}; select sealed from channel; rollback",
            role.as_str()
        );
        let mut connection = stages.world.database.connect().await;
        let answer = sqlx::raw_sql(sqlx::AssertSqlSafe(read)).execute(&mut connection).await;
        assert_eq!(answer.is_ok(), role == Role::Alerts, "{role:?}");
    }
    // Keys rotate under a running stage; then the old one is taken away.
    let _running = stages.run(&[Stage::Alerts]).await;
    let keys = stages.keys();
    let step = |what: Result<(), String>| what.unwrap();
    step(keys.deks().begin().map(drop).map_err(|e| e.to_string()));
    keys.reissue().unwrap_or_else(|failure| panic!("{:#}", failure.error));
    step(keys.deks().switch().map_err(|e| e.to_string()));
    keys.reissue().unwrap_or_else(|failure| panic!("{:#}", failure.error));
    let current = keys.deks().load().unwrap().current().to_string();
    let moved = format!("select count(*) from channel where key_id = '{current}'");
    eventually("a channel sealed again", || async { (stages.number(&moved).await == 1).then_some(()) }).await;
    step(keys.deks().retire().map_err(|e| e.to_string()));
    keys.reissue().unwrap_or_else(|failure| panic!("{:#}", failure.error));
    alarm(&stages).await;
    assert_eq!(catcher.at_least(1).await[0].path, "/s3cret-path");
}
