//! Somebody outside, with a stock NATS client and the read-only key.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use async_nats::{Event, ServerError};
use futures::StreamExt;
use openwatch_bus::User;
use openwatch_tests::{Stack, eventually, sshd};
use serde_json::Value;

use super::ground::Ground;
use super::tables;

/// What an outsider may not say, each a different way to do harm or to read what is not public.
const FORBIDDEN: &[&str] = &[
    "ow.v1.job.manual.h",
    "ow.v1.result.final.h.s",
    "ow.v1.evt.alert_resolved.h",
    "ow.v1.audit.x",
    "ow.v1.dlq.writer",
    "ow.v1.vault.release",
    "$JS.API.STREAM.MSG.GET.OW_JOBS",
    "$JS.API.STREAM.MSG.GET.OW_RESULTS",
    "$JS.API.STREAM.MSG.GET.OW_AUDIT",
    "$JS.API.DIRECT.GET.OW_JOBS",
    "$JS.API.STREAM.PURGE.OW_EVENTS_PUBLIC",
    "$JS.API.STREAM.DELETE.OW_EVENTS_PUBLIC",
    "$JS.API.STREAM.DELETE.OW_JOBS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.MSG.DELETE.OW_EVENTS_PUBLIC",
    "$JS.API.CONSUMER.CREATE.OW_JOBS.x",
    "$JS.API.CONSUMER.CREATE.OW_RESULTS.x",
    "$JS.API.CONSUMER.CREATE.OW_EVENTS.x",
    "$JS.API.CONSUMER.DELETE.OW_JOBS.executor-manual",
    "$JS.API.CONSUMER.MSG.NEXT.OW_JOBS.executor-manual",
    "$JS.ACK.OW_JOBS.executor-manual.1.1.1.1.1",
];

// @spec trunk
// @ac AC-08
#[tokio::test]
async fn may_follow_the_events_and_do_nothing_else() {
    println!("@spec trunk");
    println!("@ac AC-08");
    let (ground, sshd) = (Ground::new(3), sshd::Options::new().start());
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    let file = stack.client();
    let seed = std::fs::read_to_string(&file.reader_seed_file).unwrap().trim().to_owned();
    let refused = Arc::new(Mutex::new(BTreeSet::new()));
    let heard = Arc::clone(&refused);
    let client = async_nats::ConnectOptions::with_nkey(seed)
        .custom_inbox_prefix("_INBOX_reader")
        .event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = &event {
                heard.lock().unwrap().insert(text.to_lowercase());
            }
            async {}
        })
        .connect(&file.nats_url)
        .await
        .unwrap();

    let jetstream = jetstream::new(client.clone());
    let config = consumer::pull::OrderedConfig::default();
    let stream = jetstream.get_stream_no_info("OW_EVENTS_PUBLIC").await.unwrap();
    let mut events = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    stack.add_host("web-1", &sshd).await;
    stack.ended_scans("web-1", 1).await;
    let mut kinds = BTreeSet::new();
    while !kinds.contains("openwatch.scan.completed.v1") {
        let next =
            tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap().unwrap().unwrap();
        let header = |name: &str| next.headers.as_ref().unwrap().get(name).unwrap().as_str().to_owned();
        assert_eq!((header("ce-specversion"), header("ce-id")), ("1.0".into(), header("Nats-Msg-Id")));
        kinds.insert(header("ce-type"));
        let body: Value = serde_json::from_slice(&next.payload).unwrap();
        let text = body.to_string();
        for secret in ["127.0.0.1", &ground.rules_arg(), "evidence", "stdout"] {
            assert!(!text.contains(secret), "an event tells no {secret}: {text}");
        }
    }
    assert!(
        kinds.contains("openwatch.scan.started.v1") && kinds.contains("openwatch.finding.changed.v1"),
        "{kinds:?}"
    );

    let admin = tables::bus(&file.nats_url, &stack.data_dir().join("keys"), User::Admin).await;
    let mut before = Vec::new();
    for stream in ["OW_JOBS", "OW_RESULTS", "OW_AUDIT", "OW_DLQ"] {
        before.push(admin.stream_info(stream).await.unwrap());
    }
    for subject in FORBIDDEN {
        client.publish(*subject, "{}".into()).await.unwrap();
    }
    for subject in [">", "ow.v1.job.>", "ow.v1.evt.>", "_INBOX.>", "_INBOX_writer.>"] {
        let _unheard = client.subscribe(subject).await.unwrap();
    }
    client.flush().await.unwrap();
    let expected = FORBIDDEN.len() + 5;
    eventually("a refusal of everything", || async {
        let refused = refused.lock().unwrap().clone();
        let of = |subject: &str| refused.iter().any(|text| text.contains(&subject.to_lowercase()));
        let left: Vec<_> = FORBIDDEN.iter().filter(|subject| !of(subject)).collect();
        (left.is_empty() && refused.len() >= expected).then_some(())
    })
    .await;
    for (index, stream) in ["OW_JOBS", "OW_RESULTS", "OW_AUDIT", "OW_DLQ"].into_iter().enumerate() {
        let now = admin.stream_info(stream).await.unwrap();
        assert_eq!(now.messages, before[index].messages, "{stream} holds nothing of it");
    }
    // And the work goes on.
    let scan = super::rest::Rest::of(&file).scan("web-1").await;
    super::rest::Rest::of(&file).scan_in(&scan, &["completed"]).await;
}
