//! Workers that stop: asked to, and killed.

use openwatch_bus::consume::Consumer;
use openwatch_bus::message::event::Kind;
use openwatch_tests::Stages;
use openwatch_tests::stages::TOFU;

use super::crew::{control, worker};
use super::*;
use crate::bus::set_ack_wait;

/// A command that waits for a file, which [`open`] makes.
pub(super) fn gate(sshd: &openwatch_tests::sshd::Sshd) -> String {
    // Looks like a command that walks a file system, which may take longer than others.
    format!("du /dev/null; while ! test -e {}; do sleep 0.1; done", sshd.dir().join("gate").display())
}

pub(super) fn open(sshd: &openwatch_tests::sshd::Sshd) {
    std::fs::write(sshd.dir().join("gate"), "").unwrap();
}

// @spec kensa-executor
// @ac AC-21
#[tokio::test(flavor = "multi_thread")]
async fn another_worker_finishes_what_a_killed_one_began() {
    proves("AC-21");
    let stages = Stages::under(TOFU).await;
    // Longer than the beat of a live worker, so that only a dead one loses its job.
    for consumer in [Consumer::EXECUTOR_MANUAL, Consumer::EXECUTOR_SCHEDULED] {
        set_ack_wait(&stages.world.nats, consumer, Duration::from_secs(12)).await;
    }
    let sshd = Options::new().start();
    stages.publish(&[("a-yes", "true"), ("b-gate", &gate(&sshd)), ("c-no", "false")]).await;
    let control = control(&stages).await;
    let mut workers = Vec::new();
    for name in ["w1", "w2"] {
        workers.push((name, worker(&stages, &control, name).start().await));
    }
    stages.target("web", &sshd).await;
    let begun = "select worker from scan where state = 'running' and worker is not null";
    let first = eventually("a worker has begun", || async { stages.texts(begun).await.pop() }).await;
    let (_, worker) = workers.iter_mut().find(|(name, _)| *name == first).unwrap();
    worker.kill();
    open(&sshd);
    let by = eventually_within(Duration::from_secs(60), "the other worker's result", || async {
        stages.texts("select worker || ' ' || outcome from scan_ledger").await.pop()
    })
    .await;
    let other = if first == "w1" { "w2" } else { "w1" };
    assert_eq!(by, format!("{other} completed"));
    let rules = "select rule_id || ' ' || status from transactions order by rule_id";
    assert_eq!(stages.texts(rules).await, ["a-yes pass", "b-gate pass", "c-no fail"]);
    assert_eq!(stages.number("select count(*) from scan_ledger").await, 1);
    assert_eq!(
        stages.number("select max(attempt)::bigint from scan").await,
        1,
        "the same attempt, delivered again"
    );
    stages.relayed().await;
    assert_eq!(stages.admin.dead_letters(1, 10).await.unwrap().len(), 0);
    // It began twice, and is said to have begun once.
    assert_eq!((stages.audited("scan.started").await, stages.audited("scan.completed").await), (1, 1));
}

// @spec kensa-executor
// @ac AC-05
// @ac AC-23
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_asked_to_stop_finishes_what_it_has() {
    proves("AC-05");
    proves("AC-23");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("gate", &gate(&sshd))]).await;
    let control = control(&stages).await;
    let mut first = worker(&stages, &control, "w1").start().await;
    let host = stages.target("web", &sshd).await;
    let begun = "select id::text from scan where state = 'running'";
    let scan = eventually("the scan has begun", || async { stages.texts(begun).await.pop() }).await;
    first.signal(Signal::TERM);
    first.line("stopping").await;
    open(&sshd);
    assert_eq!(first.wait().await.code(), Some(0), "{}", first.stderr());
    let by = eventually("its result", || async {
        stages.texts("select worker || ' ' || outcome from scan_ledger").await.pop()
    })
    .await;
    assert_eq!(by, "w1 completed");
    stages.relayed().await;
    for kind in [Kind::ScanStarted, Kind::ScanCompleted] {
        let events = stages.events(kind, host).await;
        assert_eq!(events.len(), 1, "{kind:?}");
        let body: Value = serde_json::from_slice(&events[0].payload).unwrap();
        assert_eq!((&body["scan_id"], &body["host_id"]), (&scan.as_str().into(), &host.to_string().into()));
        assert_eq!(
            (&body["framework_id"], &body["policy_version"]),
            (&"*".into(), &"1.0.0".into()),
            "{body}"
        );
    }
    assert_eq!(stages.events(Kind::ScanFailed, host).await.len(), 0);
    let order = "select string_agg(action, ' ' order by occurred_at, id) from audit_event where action in
                 ('scan.started', 'credential.released', 'scan.completed')";
    assert_eq!(stages.texts(order).await, ["credential.released scan.started scan.completed"]);
}
