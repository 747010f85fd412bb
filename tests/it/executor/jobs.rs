//! Jobs that are not what the scheduler signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openwatch_app::run::Stage;
use openwatch_bus::message::{KEY_ID, MAC};
use openwatch_bus::{Outgoing, User, subject};
use openwatch_model::scan::Lane;
use openwatch_tests::Stages;
use openwatch_tests::stages::TOFU;

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
    let cases: [Case; 7] = [
        ("payload", 0, altered, "hmac_mismatch", true),
        ("lane", 0, |m| m.subject = m.subject.replace(".manual.", ".scheduled."), "hmac_mismatch", true),
        ("unknown-key", 0, |m| set(m, KEY_ID, "0102030405060708"), "unknown_key", true),
        ("old", 2 * DAY_NS, |_| (), "expired", true),
        ("future", -DAY_NS, |_| (), "expired", true),
        ("unsigned", 0, |m| m.headers.clear(), "payload_missing_hmac", false),
        ("forged", 0, |m| set(m, MAC, &"ab".repeat(32)), "hmac_mismatch", false),
    ];
    let mut callers = Vec::new();
    for (name, age, tamper, failure, own) in cases {
        let (port, calls) = counting().await;
        callers.push((name, calls));
        let host = stages.host(name, port).await;
        let (job, mut message) = stages.job(host, |job| job.enqueued_at_ns -= age).await;
        tamper(&mut message);
        let sequence = scheduler.publish(&message).await.unwrap().sequence;
        expected.push((job, sequence, failure, own));
    }
    let rejected = || async { (stages.audited("scheduler.job.hmac_rejected").await >= 7).then_some(()) };
    eventually("seven refusals", rejected).await;
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
    assert_eq!(letters.len(), 7);
    assert!(letters.iter().all(|filed| filed.letter.stage == "writer"));
    // One alert for each host; those that prove nothing about a host share one.
    let alerts = "select concat_ws(' ', severity, state, occurrences) from alert where alert_type = 'job_tampered' order by occurrences";
    let all = eventually("six alerts", || async {
        let all = stages.texts(alerts).await;
        (all.last().is_some_and(|last| last.ends_with('2')) && all.len() == 6).then_some(all)
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
            "critical active 2"
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
