//! What is counted about a scan and its host beyond one attempt: failures in a row, lives, and refused jobs.

use openwatch_app::run::Stage;
use openwatch_bus::{Profile, User, topology};
use openwatch_model::ScanId;
use openwatch_model::scan::Job;
use openwatch_store::{Role, scan};
use openwatch_tests::Stages;
use openwatch_tests::stages::TOFU;

use super::crew::{listeners, worker};
use super::*;

/// Asks JetStream as its administrator.
async fn jetstream(stages: &Stages, what: &str) {
    let client = stages.world.nats.client(User::Admin).await;
    let answer = client.request(format!("$JS.API.{what}"), "".into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

// @spec kensa-executor
// @ac AC-16
#[tokio::test(flavor = "multi_thread")]
async fn the_third_failure_in_a_row_slows_a_host_down_and_a_success_forgives() {
    proves("AC-16");
    let stages = Stages::under(TOFU).await;
    let (good, bad) = (Options::new().start(), Options::new().config("MaxSessions 0").start());
    stages.publish(&[("yes", "true")]).await;
    let digest = stages.texts("select digest from corpus").await.remove(0);
    stages.credential("key", bad.user(), &bad.secret(), true).await;
    let host = stages.host("web", bad.port()).await;
    // So that twice and four times of it are below the ceiling of a day.
    stages.meddle("update host_compliance_schedule set current_interval_minutes = 60").await;
    let control = listeners(&stages).await;
    let _worker = worker(&stages, &control, "w1").start().await;
    let scheduler = stages.world.bus(User::Scheduler).await;
    let scan = async || {
        let change = |job: &mut Job| (job.corpus, job.user) = (digest.clone(), good.user().to_owned());
        let (job, message) = stages.job(host, change).await;
        scheduler.publish(&message).await.unwrap();
        stages.ended(job.scan).await
    };
    let state = "select concat_ws(' ', b.consecutive_failures, last_error_code,
                   round(extract(epoch from suppress_until - last_failure_at) / 60 / s.current_interval_minutes))
                 from host_backoff_state b join host_compliance_schedule s using (host_id) where probe_type = 'scan'";
    for expected in ["1 no_shell", "2 no_shell", "3 no_shell 2", "4 no_shell 4"] {
        assert_eq!(scan().await, "failed");
        assert_eq!(stages.texts(state).await, [expected]);
    }
    let failing = "select alert_type || ' ' || occurrences from alert";
    let counted = || async { (stages.texts(failing).await == ["scan_failing 2"]).then_some(()) };
    eventually("an alert that counts up", counted).await;
    stages.meddle(&format!("update host set port = {}", good.port())).await;
    stages.meddle("update credential set is_default = false").await;
    stages.credential("good", good.user(), &good.secret(), true).await;
    assert_eq!(scan().await, "completed");
    let state = "select concat_ws(' ', consecutive_failures, coalesce(suppress_until::text, 'free')) from host_backoff_state";
    assert_eq!(stages.texts(state).await, ["0 free"]);
}

// @spec kensa-executor
// @ac AC-28
#[tokio::test(flavor = "multi_thread")]
async fn a_job_stream_made_anew_hides_no_refusal() {
    proves("AC-28");
    let stages = Stages::under(TOFU).await;
    let control = listeners(&stages).await;
    let _worker = worker(&stages, &control, "w1").start().await;
    let scheduler = stages.world.bus(User::Scheduler).await;
    for number in 1..=2 {
        let host = stages.host(&format!("web-{number}"), 9).await;
        let (_, mut message) = stages.job(host, |_| ()).await;
        message.payload = String::from_utf8_lossy(&message.payload).replace("127.0.0.1", "127.0.0.2").into();
        let sequence = scheduler.publish(&message).await.unwrap().sequence;
        assert_eq!(sequence, 1);
        let refused =
            || async { (stages.audited("scheduler.job.hmac_rejected").await == number).then_some(()) };
        eventually(&format!("refusal {number}"), refused).await;
        jetstream(&stages, "STREAM.DELETE.OW_JOBS").await;
        topology::apply(&stages.admin, Profile::Small).await.unwrap();
    }
}

// @spec kensa-executor
// @ac AC-29
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_costs_no_life() {
    proves("AC-29");
    let stages = Stages::under(TOFU).await;
    stages.publish(&[("yes", "true")]).await;
    stages.host("web", 9).await;
    let _scheduler = stages.run(&[Stage::Scheduler, Stage::Writer]).await;
    let issued = "select id::text from scan where tag is not null and lane = 'scheduled'";
    let id: ScanId =
        eventually("its job", || async { stages.texts(issued).await.pop() }).await.parse().unwrap();
    let api = stages.store(Role::Api).await;
    let mut tx = api.begin().await.unwrap();
    assert!(scan::promote(&mut tx, id).await.unwrap());
    tx.commit().await.unwrap();
    for attempt in 2..=4 {
        let issued = format!("select lane from scan where tag is not null and attempt = {attempt}");
        let limit = Duration::from_secs(90);
        let lane =
            eventually_within(limit, "its next job", || async { stages.texts(&issued).await.pop() }).await;
        assert_eq!(lane, "manual");
        stages.relayed().await;
        jetstream(&stages, "STREAM.PURGE.OW_JOBS").await;
        stages
            .meddle("update scan set issued_at = now() - interval '1 minute' where finished_at is null")
            .await;
    }
    let ended = "select concat_ws(' ', failure_reason, attempt, rescues) from scan where state = 'failed'";
    let ended = eventually("its end", || async { stages.texts(ended).await.pop() }).await;
    assert_eq!(ended, "lost 4 2");
    assert_eq!(stages.number("select count(*) from scan").await, 1);
}
