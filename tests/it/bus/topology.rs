//! Applying the topology.

use openwatch_bus::User;
use openwatch_bus::topology::{Profile, apply, check, wanted};
use serde_json::json;

use super::*;

// @spec bus
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn applying_twice_changes_nothing() {
    proves("AC-05");
    let nats = Nats::start().await;
    let admin = nats.bus(User::Admin).await;
    let missing = check(&admin, Profile::Small).await.unwrap();
    assert_eq!(missing.len(), wanted(Profile::Small).len());
    assert!(missing.iter().all(|difference| difference.field.is_none()));
    let first = apply(&admin, Profile::Small).await.unwrap();
    assert_eq!((first.created.len(), first.unchanged.len()), (wanted(Profile::Small).len(), 0));
    let second = apply(&admin, Profile::Small).await.unwrap();
    assert_eq!((second.created.len(), second.unchanged.len()), (0, first.created.len()));
    assert_eq!((second.tuned, check(&admin, Profile::Small).await.unwrap()), (vec![], vec![]));
    // Sizes and replicas are the operator's: seen, not refused.
    let tuned = apply(&admin, Profile::Production).await.unwrap().tuned;
    assert!(!tuned.is_empty() && tuned.iter().all(|difference| difference.tunable), "{tuned:?}");
}

// @spec bus
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_an_earlier_version_hears_what_is_new() {
    proves("AC-05");
    let nats = Nats::start().await;
    let admin = nats.bus(User::Admin).await;
    apply(&admin, Profile::Small).await.unwrap();
    let client = nats.client(User::Admin).await;
    // As it was before policies were accepted, and tuned.
    let ask = async |subject: &str, body: serde_json::Value| {
        let answer = client.request(subject.to_owned(), body.to_string().into()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer["error"].is_null(), "{answer}");
        answer
    };
    let mut config = ask("$JS.API.CONSUMER.INFO.OW_EVENTS.alerts", json!({})).await["config"].take();
    let all = config["filter_subjects"].as_array().unwrap().clone();
    config["filter_subjects"] = json!(all[..all.len() - 1]);
    config["max_ack_pending"] = json!(77);
    let update = json!({ "stream_name": "OW_EVENTS", "action": "update", "config": config });
    ask("$JS.API.CONSUMER.CREATE.OW_EVENTS.alerts", update).await;

    let found = check(&admin, Profile::Small).await.unwrap();
    assert_eq!(
        found.iter().map(|it| (it.narrow, it.tunable)).collect::<Vec<_>>(),
        [(true, false), (false, true)]
    );
    let report = apply(&admin, Profile::Small).await.unwrap();
    assert_eq!((report.widened, report.created), (vec!["consumer OW_EVENTS/alerts".to_owned()], vec![]));
    let mut now = ask("$JS.API.CONSUMER.INFO.OW_EVENTS.alerts", json!({})).await["config"].take();
    assert_eq!((now["filter_subjects"].take(), now["max_ack_pending"].take()), (json!(all), json!(77)));
    let left = check(&admin, Profile::Small).await.unwrap();
    assert!(left.iter().all(|it| it.tunable), "{left:?}");

    // One that hears something else is nobody's earlier version.
    config["filter_subjects"] = json!([all[0], "ow.v1.evt.alert_opened.*"]);
    let update = json!({ "stream_name": "OW_EVENTS", "action": "update", "config": config });
    ask("$JS.API.CONSUMER.CREATE.OW_EVENTS.alerts", update).await;
    assert!(matches!(apply(&admin, Profile::Small).await, Err(BusError::Incompatible(_))));
}

// @spec bus
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn an_incompatible_stream_or_consumer_is_refused_and_named() {
    proves("AC-05");
    let nats = Nats::start().await;
    let admin = nats.bus(User::Admin).await;
    let client = nats.client(User::Admin).await;
    let ask = |subject: &'static str, body: serde_json::Value| {
        let client = client.clone();
        async move {
            let answer = client.request(subject, body.to_string().into()).await.unwrap();
            let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
            assert!(answer["error"].is_null(), "{answer}");
        }
    };
    let stream =
        json!({ "name": "OW_JOBS", "subjects": ["ow.v1.job.*.*"], "retention": "limits", "storage": "file" });
    ask("$JS.API.STREAM.CREATE.OW_JOBS", stream).await;
    let error = apply(&admin, Profile::Small).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("stream OW_JOBS: retention is \"limits\", wanted \"workqueue\""), "{text}");
    assert!(admin.stream_info("OW_EVENTS").await.unwrap_err().is_not_found(), "nothing was made");

    ask("$JS.API.STREAM.DELETE.OW_JOBS", json!({})).await;
    apply(&admin, Profile::Small).await.unwrap();
    let consumer = json!({ "stream_name": "OW_EVENTS", "action": "update", "config": {
        "durable_name": "drift", "ack_policy": "explicit", "deliver_policy": "all", "replay_policy": "instant",
        "ack_wait": 5_000_000_000u64, "max_deliver": -1, "max_ack_pending": 100, "max_waiting": 4096,
        "filter_subject": "ow.v1.evt.scan_failed.*" } });
    ask("$JS.API.CONSUMER.CREATE.OW_EVENTS.drift.ow.v1.evt.scan_failed.*", consumer).await;
    let BusError::Incompatible(differences) = apply(&admin, Profile::Small).await.unwrap_err() else {
        panic!()
    };
    let fields: Vec<_> = differences.iter().map(|d| (d.what.as_str(), d.field.as_deref().unwrap())).collect();
    let what = "consumer OW_EVENTS/drift";
    assert_eq!(fields, [(what, "ack_wait"), (what, "filter_subject")]);
}
