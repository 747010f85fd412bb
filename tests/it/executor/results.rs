//! Results on their way: what they hold, large ones, and a stream that has no room.

use openwatch_bus::subject;
use openwatch_rules::ENGINE_VERSION;
use openwatch_tests::Stages;
use openwatch_tests::stages::TOFU;
use serde_json::json;

use super::crew::{control, metrics, metrics_address, value, worker};
use super::*;

// @spec kensa-executor
// @ac AC-01
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn a_job_becomes_a_result_that_says_everything() {
    proves("AC-01");
    proves("AC-10");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("a-yes", "echo fine"), ("b-no", "false")]).await;
    let control = control(&stages).await;
    let _worker = worker(&stages, &control, "w1").start().await;
    stages.target("web", &sshd).await;
    let ended = "select concat_ws(' ', state, framework, policy_version, engine, worker,
                   started_at <= finished_at and queued_at <= started_at) from scan where finished_at is not null";
    let ended = eventually("the scan's end", || async { stages.texts(ended).await.pop() }).await;
    assert_eq!(ended, format!("completed * 1.0.0 {ENGINE_VERSION} w1 t"));
    let rules = "select concat_ws(' ', rule_id, status, severity, jsonb_typeof(framework_refs)) from transactions order by 1";
    assert_eq!(stages.texts(rules).await, ["a-yes pass medium object", "b-no fail medium object"]);
    let said = "select e.body->'checks'->0->>'stdout' from evidence e where e.body::text like '%fine%'";
    assert_eq!(stages.texts(said).await, ["fine"]);
    // One engine in the program, and its pin is its major version.
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.lock")).unwrap();
    assert_eq!(lock.matches("name = \"openwatch-rules\"").count(), 1);
    assert!(ENGINE_VERSION.starts_with("openwatch-rules/"), "{ENGINE_VERSION}");
}

/// Changes one setting of a stream.
async fn limit(stages: &Stages, stream: &str, max_bytes: i64) {
    let client = stages.world.nats.client(openwatch_bus::User::Admin).await;
    let info = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let mut config = info["config"].clone();
    config["max_bytes"] = json!(max_bytes);
    let answer =
        client.request(format!("$JS.API.STREAM.UPDATE.{stream}"), config.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

// @spec kensa-executor
// @ac AC-24
#[tokio::test(flavor = "multi_thread")]
async fn a_large_result_goes_through_the_bucket() {
    proves("AC-24");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    // What does not compress, and more of it than a stream of evidence keeps.
    let noise = "head -c 100000 /dev/urandom | base64";
    let names: Vec<String> = (0..30).map(|n| format!("rule-{n:02}")).collect();
    let rules: Vec<_> = names.iter().map(|name| (name.as_str(), noise)).collect();
    // Not one command for all: each rule has its own.
    let own: Vec<String> = (0..rules.len()).map(|n| format!("{noise} # {n}")).collect();
    let rules: Vec<_> = rules.iter().zip(&own).map(|((name, _), run)| (*name, run.as_str())).collect();
    stages.publish(&rules).await;
    let control = control(&stages).await;
    let _worker = worker(&stages, &control, "w1").start().await;
    stages.target("web", &sshd).await;
    let ended = "select state from scan where finished_at is not null";
    let ended = eventually("the scan's end", || async { stages.texts(ended).await.pop() }).await;
    assert_eq!(ended, "completed");
    let names = stages.admin.list_objects(subject::BUCKET_RESULTS).await.unwrap();
    let scan = stages.texts("select id::text from scan").await.remove(0);
    assert!(names.len() == 1 && names[0].starts_with(&format!("{scan}.1.")), "{names:?}");
    assert_eq!(stages.number("select count(*) from transactions where status = 'pass'").await, 30);
    let clipped = "select count(*) from evidence where length(body->'checks'->0->>'stdout') <= 65536
                   and (body->'checks'->0->'truncated'->>'original_bytes')::bigint > 130000
                   and length(body->'checks'->0->'truncated'->>'sha256') = 64";
    assert_eq!(stages.number(clipped).await, 30);
}

// @spec kensa-executor
// @ac AC-25
// @ac AC-26
#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_is_loud_and_costs_nothing() {
    proves("AC-25");
    proves("AC-26");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("gate", &super::stops::gate(&sshd)), ("no", "false")]).await;
    let control = control(&stages).await;
    let mut worker = worker(&stages, &control, "w1").slots(3).with_metrics().start().await;
    let address = metrics_address(&mut worker).await;
    stages.target("web", &sshd).await;
    let begun = "select state from scan where state = 'running'";
    eventually("the scan has begun", || async { stages.texts(begun).await.pop() }).await;
    let text = metrics(&address).await;
    assert_eq!(value(&text, "openwatch_executor_slots"), Some(3.0), "{text}");
    assert_eq!(value(&text, "openwatch_in_hand{stage=\"executor\"}"), Some(1.0), "{text}");
    assert_eq!(value(&text, "openwatch_results_held"), Some(0.0), "{text}");
    limit(&stages, subject::RESULTS, 1).await;
    super::stops::open(&sshd);
    worker.line("the result is held until the bus takes it").await;
    let text = metrics(&address).await;
    assert_eq!(value(&text, "openwatch_results_held"), Some(1.0), "{text}");
    assert_eq!(stages.number("select count(*) from scan_ledger").await, 0);
    limit(&stages, subject::RESULTS, 1 << 30).await;
    let ended = "select outcome from scan_ledger";
    let ended = eventually("its result", || async { stages.texts(ended).await.pop() }).await;
    assert_eq!(ended, "completed");
    // A host that fails is counted by its reason.
    stages.host("nobody", 9).await;
    let series = "openwatch_scans_measured_total{outcome=\"completed\"}";
    eventually("a count", || async { (value(&metrics(&address).await, series)? == 1.0).then_some(()) }).await;
    let series = "openwatch_scans_measured_total{outcome=\"connect_refused\"}";
    eventually("the failed host's", || async {
        (value(&metrics(&address).await, series)? >= 1.0).then_some(())
    })
    .await;
    let text = metrics(&address).await;
    assert!(
        value(&text, "openwatch_jobs_given_back_total{reason=\"connect_refused\"}") >= Some(2.0),
        "{text}"
    );
    assert_eq!(value(&text, "openwatch_results_held"), Some(0.0), "{text}");
}
