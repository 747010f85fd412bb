//! What a running system sends and stores, and what outsiders can do with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use openwatch_bus::stream::Stored;
use openwatch_bus::{Bus, Outgoing, User, subject};
use openwatch_tests::{Nats, Program, Proxy, Stack, eventually, sshd};
use serde_json::{Value, json};
use sqlx::Connection as _;

use super::proves;
use super::schemas::{closed, document, errors, messages, specs};
use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{self, texts};

/// Everything in a stream.
async fn all_of(admin: &Bus, stream: &str) -> Vec<Stored> {
    let info = admin.stream_info(stream).await.unwrap();
    let mut all = Vec::new();
    for sequence in info.first_sequence..=info.last_sequence {
        all.extend(admin.message_at(stream, sequence).await.unwrap());
    }
    all
}

/// Schemas of events, by CloudEvents type: headers, and the body with nothing undescribed.
fn described() -> BTreeMap<String, (Value, Value)> {
    let document = document();
    let events = messages(&document).into_iter().filter(|it| it.name.starts_with("event."));
    events
        .map(|it| {
            let schema = closed(&it.schema(&document));
            let golden =
                std::fs::read_to_string(specs().join(format!("messages/{}.json", it.examples[0]))).unwrap();
            let golden: Value = serde_json::from_str(&golden).unwrap();
            let kind = golden["headers"]["ce-type"].as_str().unwrap().to_owned();
            (kind, (it.headers.expect("events have headers"), schema))
        })
        .collect()
}

/// Holds one event against its description; its type.
fn as_described(
    all: &BTreeMap<String, (Value, Value)>,
    subject: &str,
    headers: &Value,
    payload: &Value,
) -> String {
    let header = |name: &str| headers[name].as_str().unwrap_or_default().to_owned();
    let kind = header("ce-type");
    let (headers_schema, schema) = all.get(&kind).unwrap_or_else(|| panic!("{kind} is not described"));
    let problems = [errors(headers_schema, headers), errors(schema, payload)].concat();
    assert_eq!(problems, Vec::<String>::new(), "{kind}: {headers} {payload}");
    assert_eq!(header("ce-id"), header("Nats-Msg-Id"), "{kind}");
    let trace: Vec<_> = header("traceparent").split('-').map(str::len).collect();
    assert_eq!(trace, [2, 32, 16, 2], "{kind}: {headers}");
    let host = headers["ce-subject"].as_str().unwrap_or("-");
    let token = kind.split('.').collect::<Vec<_>>()[1..3].join("_");
    assert_eq!(subject, format!("ow.v1.evt.{token}.{host}"));
    kind
}

fn headers(of: &[(String, String)]) -> Value {
    of.iter()
        .map(|(name, value)| (name.clone(), Value::from(value.clone())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

// @spec event-stream
// @ac AC-04
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn a_life_of_scans_drift_and_outages_is_told_and_kept_as_described() {
    proves("AC-04");
    proves("AC-08");
    let (ground, sshd) = (Ground::new(4), sshd::Options::new().start());
    ground.rule("long", "method: command\n      run: seq 1 40000");
    ground.rule("nul", "method: command\n      run: \"printf 'a\\\\000b'; echo oh >&2; exit 3\"");
    let proxy = Proxy::to(sshd.port()).await;
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host_at("web-1", &sshd, proxy.port()).await;
    stack.ended_scans("web-1", 1).await;
    let rest = Rest::of(&stack.client());
    for there in [false, true] {
        (0..3).for_each(|file| ground.set(file, there));
        let scan = rest.scan("web-1").await;
        rest.scan_in(&scan, &["completed"]).await;
    }
    let mut db = tables::private_db(&stack.data_dir()).await;
    let admin = tables::bus(&stack.client().nats_url, &stack.data_dir().join("keys"), User::Admin).await;
    proxy.cut();
    let wanted: BTreeSet<String> = [
        "scan.started",
        "scan.completed",
        "finding.changed",
        "schedule.updated",
        "drift.detected",
        "host.connectivity",
        "alert.opened",
        "alert.resolved",
    ]
    .iter()
    .map(|kind| format!("openwatch.{kind}.v1"))
    .collect();
    let described = described();
    let silent = "select reachability_status from host_liveness";
    for _ in 0..300 {
        let hurry = "update host_liveness set next_probe_at = now() where next_probe_at > now() + interval '31 seconds'";
        sqlx::query(hurry).execute(&mut db).await.unwrap();
        if texts(&mut db, silent).await == ["unreachable"] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    proxy.restore();
    let kinds = eventually("events of every kind", || async {
        let kinds: BTreeSet<_> = all_of(&admin, subject::EVENTS)
            .await
            .iter()
            .map(|it| {
                as_described(
                    &described,
                    &it.subject,
                    &headers(&it.headers),
                    &serde_json::from_slice(&it.payload).unwrap(),
                )
            })
            .collect();
        kinds.is_superset(&wanted).then_some(kinds)
    })
    .await;
    println!("as described: {kinds:?}");

    let schema: Value =
        serde_json::from_str(&std::fs::read_to_string(specs().join("schemas/evidence.json")).unwrap())
            .unwrap();
    let schema = closed(&schema);
    let stored = texts(&mut db, "select body::text from evidence").await;
    let stored: Vec<Value> = stored.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    for evidence in &stored {
        assert_eq!(errors(&schema, evidence), Vec::<String>::new(), "{evidence}");
    }
    let some = |what: &dyn Fn(&Value) -> bool| stored.iter().any(what);
    assert!(
        some(&|it| it["checks"][0]["truncated"]["original_bytes"].as_u64() > Some(65_536)),
        "one was clipped"
    );
    let odd = json!({ "exit_code": 3, "stdout": "a\u{fffd}b", "stderr": "oh" });
    let odd = odd.as_object().unwrap();
    assert!(some(&|it| odd.iter().all(|(name, value)| it["checks"][0][name] == *value)), "one held a NUL");
    let mut more = stored[0].clone();
    more["started_at"] = "2026-01-01T00:00:00Z".into();
    assert_ne!(errors(&schema, &more), Vec::<String>::new(), "what is not described is seen");
    db.close().await.unwrap();
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// What PYTHONPATH must be for nats-py; nothing when it is not to be had.
async fn nats_py() -> Option<PathBuf> {
    let fetched = root().join(".local/clients/nats-py");
    let path = if fetched.is_dir() { fetched } else { PathBuf::new() };
    sshd::find("python3")?;
    let import = Program::other("python3", ["-c", "import nats, nkeys"]).env("PYTHONPATH", &path);
    (import.run().await.0 == Some(0)).then_some(path)
}

// @spec event-stream
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn nats_py_reads_the_events_and_goes_on_where_it_was() {
    proves("AC-05");
    let Some(path) = nats_py().await else {
        println!("skipped: python3 with nats-py and nkeys is not here; scripts/provide-nats-py fetches them");
        return;
    };
    let (ground, sshd) = (Ground::new(3), sshd::Options::new().start());
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web-1", &sshd).await;
    stack.ended_scans("web-1", 1).await;
    let client = stack.client();
    let admin = tables::bus(&client.nats_url, &stack.data_dir().join("keys"), User::Admin).await;
    let stored = eventually("some events", || async {
        let all = all_of(&admin, subject::EVENTS).await;
        (all.len() >= 4).then_some(all)
    })
    .await;
    let follow = |from: usize, count: usize| {
        let script = root().join("tests/clients/follow.py");
        let args =
            [script.into_os_string(), client.nats_url.clone().into(), client.reader_seed_file.clone().into()];
        let program = Program::other("python3", args).arg(from.to_string()).arg(count.to_string());
        let program = program.env("PYTHONPATH", &path);
        async move {
            let (code, stdout, stderr) = program.run().await;
            assert_eq!(code, Some(0), "{stderr}");
            stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
        }
    };
    let mut seen = follow(1, 2).await;
    let last = seen.last().unwrap()["sequence"].as_u64().unwrap();
    assert_eq!(last, 2);
    seen.extend(follow(3, stored.len() - 2).await);
    assert_eq!(seen.len(), stored.len());
    let described = described();
    for (sequence, (seen, stored)) in (1..).zip(seen.iter().zip(&stored)) {
        assert_eq!(seen["sequence"], sequence);
        assert_eq!(seen["subject"].as_str(), Some(stored.subject.as_str()));
        assert_eq!(seen["headers"], headers(&stored.headers));
        as_described(&described, &stored.subject, &seen["headers"], &seen["payload"]);
    }
}

fn message(subject: &str, id: String) -> Outgoing {
    Outgoing { subject: subject.to_owned(), payload: id.clone().into(), message_id: id, headers: Vec::new() }
}

/// Asks for a consumer that the server pushes from.
async fn push(
    client: &async_nats::Client,
    stream: &str,
    name: usize,
    target: &str,
    group: Option<&str>,
) -> Value {
    let mut config = json!({ "durable_name": format!("p{name}"), "deliver_subject": target, "ack_policy": "none",
        "deliver_policy": "all", "replay_policy": "instant" });
    if let Some(group) = group {
        config["deliver_group"] = group.into();
    }
    let body = json!({ "stream_name": stream, "config": config, "action": "create" });
    let answer =
        client.request(format!("$JS.API.CONSUMER.CREATE.{stream}.p{name}"), body.to_string().into()).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

// @spec event-stream
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn what_a_reader_has_the_server_push_reaches_nobody_inside() {
    proves("AC-06");
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    // Everything inside that listens to a subject of its own.
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut listeners = Vec::new();
    let vault = nats.client(User::Vault).await;
    let writer = nats.client(User::Writer).await;
    for (client, mut subscriber) in [
        (vault.clone(), vault.queue_subscribe(subject::VAULT_RELEASE, "vault".to_owned()).await.unwrap()),
        (vault.clone(), vault.subscribe("_INBOX_vault.one").await.unwrap()),
        (writer.clone(), writer.subscribe("_INBOX_writer.one").await.unwrap()),
    ] {
        client.flush().await.unwrap();
        let heard = Arc::clone(&heard);
        listeners.push(tokio::spawn(async move {
            while let Some(message) = subscriber.next().await {
                heard.lock().unwrap().push(message.subject.to_string());
            }
        }));
    }
    let targets = [
        (subject::VAULT_RELEASE, Some("vault")),
        (subject::VAULT_RELEASE, None),
        ("_INBOX_vault.one", None),
        ("_INBOX_writer.one", None),
        ("ow.v1.job.manual.h", None),
        ("ow.v1.result.final.h.s", None),
        ("ow.v1.evt.scan_failed.forged", None),
        ("ow.v1.audit.x", None),
        ("ow.v1.dlq.writer", None),
        ("$JS.API.STREAM.PURGE.OW_DLQ", None),
        ("$JS.API.STREAM.DELETE.OW_EVENTS_PUBLIC", None),
        ("INSIDE.API.CONSUMER.CREATE.OW_EVENTS", None),
        ("ow.mirror.x", None),
    ];
    admin.publish(&message("ow.v1.dlq.writer", "kept".to_owned())).await.unwrap();
    let reader = nats.client(User::Reader).await;
    let mut made = 0;
    for (name, (target, group)) in targets.into_iter().enumerate() {
        made += usize::from(push(&reader, "OW_EVENTS_PUBLIC", name, target, group).await["error"].is_null());
    }
    assert!(made >= 10, "the server lets a reader ask for it: {made}");
    for i in 0..20 {
        admin.publish(&message("ow.v1.evt.scan_failed.h", format!("e{i}"))).await.unwrap();
    }
    let mirrored =
        || async { (admin.stream_info("OW_EVENTS_PUBLIC").await.ok()?.messages == 20).then_some(()) };
    eventually("the mirror has them", mirrored).await;
    // One that does reach its target comes after all that could have.
    let mut own = reader.subscribe("_INBOX_reader.own").await.unwrap();
    push(&reader, "OW_EVENTS_PUBLIC", 99, "_INBOX_reader.own", None).await;
    for _ in 0..20 {
        tokio::time::timeout(Duration::from_secs(20), own.next()).await.unwrap().unwrap();
    }
    assert_eq!(*heard.lock().unwrap(), Vec::<String>::new());
    for (stream, messages) in
        [("OW_JOBS", 0), ("OW_RESULTS", 0), ("OW_AUDIT", 0), ("OW_DLQ", 1), ("OW_EVENTS", 20)]
    {
        assert_eq!(admin.stream_info(stream).await.unwrap().messages, messages, "{stream}");
    }
    // The same inside would be heard: that is why readers are elsewhere.
    let insider = nats.client(User::Admin).await;
    push(&insider, "OW_EVENTS", 0, subject::VAULT_RELEASE, Some("vault")).await;
    eventually("the vault is disturbed", || async { (heard.lock().unwrap().len() == 20).then_some(()) })
        .await;
    listeners.iter().for_each(tokio::task::JoinHandle::abort);
}
