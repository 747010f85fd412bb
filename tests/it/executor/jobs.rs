//! Jobs that are not what the scheduler signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openwatch_app::run::Stage;
use openwatch_bus::message::{KEY_ID, MAC, job};
use openwatch_bus::{Outgoing, User, subject};
use openwatch_model::scan::{Job, Lane};
use openwatch_tests::Stages;
use openwatch_tests::stages::{TOFU, headers};

use super::crew::{listeners, metrics, metrics_address, value, worker};
use super::*;

/// A port that counts who calls.
async fn counting() -> (u16, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, calls) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            drop(caller);
        }
    });
    (port, calls)
}

fn set(message: &mut Outgoing, name: &str, value: &str) {
    message.headers.retain(|(header, _)| header != name);
    message.headers.push((name.to_owned(), value.to_owned()));
}

fn altered(message: &mut Outgoing) {
    message.payload = String::from_utf8_lossy(&message.payload).replace("127.0.0.1", "127.0.0.2").into();
}

fn later(message: &mut Outgoing) {
    let text = String::from_utf8_lossy(&message.payload).replacen("\"version\":1", "\"version\":99", 1);
    message.payload = text.into();
}

const DAY_NS: i64 = 24 * 3600 * 1_000_000_000;

// @spec kensa-executor
// @ac AC-17
#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_job_causes_no_dial_and_no_request() {
    proves("AC-17");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Vault, Stage::Writer, Stage::Alerts, Stage::Executor]).await;
    let scheduler = stages.world.bus(User::Scheduler).await;
    let mut expected = Vec::new();
    // What is done to the job, what the worker calls it, and whether it still is the scan's own current attempt.
    type Case = (&'static str, i64, fn(&mut Outgoing), &'static str, bool);
    let cases: [Case; 9] = [
        ("payload", 0, altered, "hmac_mismatch", true),
        ("lane", 0, |m| m.subject = m.subject.replace(".manual.", ".scheduled."), "hmac_mismatch", true),
        ("unknown-key", 0, |m| set(m, KEY_ID, "0102030405060708"), "unknown_key", true),
        ("old", 2 * DAY_NS, |_| (), "expired", true),
        ("future", -DAY_NS, |_| (), "expired", true),
        ("unsigned", 0, |m| m.headers.clear(), "payload_missing_hmac", false),
        ("forged", 0, |m| set(m, MAC, &"ab".repeat(32)), "hmac_mismatch", false),
        // Signed by the scheduler's key all the same: a newer scheduler, or one that is broken.
        ("signed-malformed", 0, |m| m.payload = r#"{"version":1}"#.into(), "malformed", false),
        ("signed-version-99", 0, later, "unsupported_version", false),
    ];
    let mut callers = Vec::new();
    for (name, age, tamper, failure, own) in cases {
        let (port, calls) = counting().await;
        callers.push((name, calls));
        let host = stages.host(name, port).await;
        let (job, mut message) = stages.job(host, |job| job.enqueued_at_ns -= age).await;
        tamper(&mut message);
        if name.starts_with("signed") {
            let signed = stages.keys().scheduler().unwrap().sign_job(job.lane.as_str(), &message.payload);
            message.headers = headers(&signed, "queue");
        }
        let sequence = scheduler.publish(&message).await.unwrap().sequence;
        expected.push((job, sequence, failure, own));
    }
    let rejected = || async { (stages.audited("scheduler.job.hmac_rejected").await >= 9).then_some(()) };
    eventually("nine refusals", rejected).await;
    for (job, sequence, failure, own) in &expected {
        let audited = format!(
            "select detail->>'failure' from audit_event where action = 'scheduler.job.hmac_rejected'
             and (detail->>'stream_sequence')::bigint = {sequence} and (detail->>'job_id' is not null) = {own}"
        );
        assert_eq!(stages.texts(&audited).await, [*failure], "{sequence}");
        let state =
            format!("select concat_ws(' ', state, failure_reason) from scan where id = '{}'", job.scan);
        let state = stages.texts(&state).await.remove(0);
        assert_eq!(state, if *own { "failed hmac_rejected" } else { "queued" });
    }
    stages.relayed().await;
    let letters = stages.admin.dead_letters(1, 100).await.unwrap();
    assert_eq!(letters.len(), 9);
    assert!(letters.iter().all(|filed| filed.letter.stage == "writer"));
    // One alert for each host; those that prove nothing about a host share one.
    let alerts = "select concat_ws(' ', severity, state, occurrences) from alert where alert_type = 'job_tampered' order by occurrences";
    let all = eventually("six alerts", || async {
        let all = stages.texts(alerts).await;
        (all.last().is_some_and(|last| last.ends_with('4')) && all.len() == 6).then_some(all)
    })
    .await;
    assert_eq!(
        all,
        [
            "critical active 1",
            "critical active 1",
            "critical active 1",
            "critical active 1",
            "critical active 1",
            "critical active 4"
        ]
    );
    assert_eq!(stages.admin.stream_info(subject::JOBS).await.unwrap().messages, 0);
    assert_eq!(stages.audited("credential.released").await + stages.audited("credential.refused").await, 0);
    for (name, calls) in &callers {
        assert_eq!(calls.load(Ordering::SeqCst), 0, "{name} was dialled");
    }
    // The same worker does dial for a job that is what it seems to be.
    stages.publish(&[("yes", "true")]).await;
    let digest = stages.texts("select digest from corpus").await.remove(0);
    let (port, calls) = counting().await;
    let host = stages.host("honest", port).await;
    let (_, message) = stages.job(host, |job| (job.corpus, job.lane) = (digest, Lane::Scheduled)).await;
    scheduler.publish(&message).await.unwrap();
    eventually("a call", || async { (calls.load(Ordering::SeqCst) > 0).then_some(()) }).await;
}

// @spec kensa-executor
// @ac AC-30
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_sent_again_gets_nothing() {
    proves("AC-30");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("yes", "true")]).await;
    let digest = stages.texts("select digest from corpus").await.remove(0);
    let control = listeners(&stages).await;
    let mut worker = worker(&stages, &control, "w1").with_metrics().start().await;
    let address = metrics_address(&mut worker).await;
    let host = stages.target("web", &sshd).await;
    let scheduler = stages.world.bus(User::Scheduler).await;
    let user = sshd.user().to_owned();
    let (job, mut message) =
        stages.job(host, |job| (job.corpus, job.user) = (digest.clone(), user.clone())).await;
    scheduler.publish(&message).await.unwrap();
    assert_eq!(stages.ended(job.scan).await, "completed");
    let logins = sshd.log().matches("Accepted").count();

    // Word for word, under an id that the stream has not seen.
    message.message_id = format!("{}.again", job.scan);
    scheduler.publish(&message).await.unwrap();
    // And one whose attempt was replaced before a worker took it.
    let (job, message) = stages.job(host, |job| (job.corpus, job.user) = (digest, user)).await;
    stages.meddle(&format!("update scan set attempt = 2 where id = '{}'", job.scan)).await;
    scheduler.publish(&message).await.unwrap();
    // And one for another account that a stolen worker key has signed: workers can check jobs, so they could sign some.
    let forged = Job { attempt: 2, user: "root".to_owned(), ..job.clone() };
    let payload = job::encode(&forged);
    let signed = stages.keys().scheduler().unwrap().sign_job(forged.lane.as_str(), &payload);
    let message_id = format!("{}.forged", job.scan);
    let headers = headers(&signed, "queue");
    scheduler.publish(&Outgoing { message_id, headers, payload, ..message }).await.unwrap();
    eventually("all let go", || async {
        let stale = value(&metrics(&address).await, "openwatch_jobs_stale_total");
        (stale == Some(3.0)).then_some(())
    })
    .await;
    let refused = "select detail->>'reason' from audit_event where action = 'credential.refused'
                   and detail->>'reason' <> 'bad_signature' order by 1";
    assert_eq!(stages.texts(refused).await, ["scan_closed", "stale_attempt", "tag_mismatch"]);
    assert_eq!(
        (stages.audited("credential.released").await, sshd.log().matches("Accepted").count()),
        (1, logins)
    );
    stages.relayed().await;
    assert_eq!(stages.admin.dead_letters(1, 10).await.unwrap().len(), 0);
    assert_eq!(stages.audited("scheduler.job.hmac_rejected").await, 0);
    assert_eq!(stages.number("select count(*) from alert").await, 0);
    assert_eq!(stages.number("select count(*) from scan where state = 'queued'").await, 1);
    let acked = || async {
        let stream = stages.admin.stream_info(subject::JOBS).await.ok()?;
        (stream.messages == 0).then_some(())
    };
    eventually("no job left", acked).await;
}
