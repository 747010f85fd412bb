//! Events over HTTP, and what administrators look at.

use std::time::Duration;

use openwatch_bus::User;
use openwatch_bus::dead_letter::DeadLetter;
use openwatch_bus::message::event::{Event, PolicyRejected};
use openwatch_tests::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Served, told};

/// What has come over an open answer so far, until it holds `wanted`.
async fn heard(answer: &mut reqwest::Response, so_far: &mut String, wanted: &str) {
    let reading = async {
        while !so_far.contains(wanted) {
            let chunk = answer.chunk().await.unwrap().expect("the answer goes on");
            so_far.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reading)
        .await
        .unwrap_or_else(|_| panic!("{wanted} in {so_far}"));
}

async fn rejected(api: &Served, reason: &str) {
    let body = PolicyRejected { reason: reason.to_owned(), attempted_version: None, active_version: None };
    let event = Event {
        id: Uuid::now_v7(),
        host: None,
        at: time::OffsetDateTime::now_utc(),
        cause: None,
        body: body.into(),
    };
    api.nats.bus(User::Scheduler).await.publish(&event.encode(None)).await.unwrap();
}

fn follow(api: &Served, query: &str) -> reqwest::RequestBuilder {
    api.request(Method::GET, &format!("/api/v1/events{query}")).bearer_auth(api.token("viewer"))
}

// @spec api
// @ac AC-01
#[tokio::test]
async fn events_are_followed_from_any_place_and_the_answer_ends_with_the_server() {
    println!("@spec api");
    println!("@ac AC-01");
    let api = Served::new().await;
    let mut now = follow(&api, "?topics=policy.rejected").send().await.unwrap();
    assert_eq!(now.headers()["content-type"], "text/event-stream");
    rejected(&api, "first").await;
    let mut text = String::new();
    heard(&mut now, &mut text, "first").await;
    assert!(text.contains("id:1") || text.contains("id: 1"), "{text}");
    assert!(text.contains("event: policy.rejected") || text.contains("event:policy.rejected"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix("data:")).unwrap();
    let event: Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!((&event["sequence"], &event["data"]["reason"]), (&json!(1), &json!("first")));
    rejected(&api, "second").await;
    // Whoever comes back says what was read last; nothing is repeated and nothing is missing.
    let mut back = follow(&api, "").header("Last-Event-ID", "1").send().await.unwrap();
    let mut text = String::new();
    heard(&mut back, &mut text, "second").await;
    assert!(!text.contains("first"), "{text}");
    // Another kind is not for this one.
    let mut other = follow(&api, "?topics=drift.detected&since=0").send().await.unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(1), other.chunk()).await.is_err());

    for (query, code) in [
        ("?topics=nope", "validation.field_format"),
        ("?host=nobody", "host.not_found"),
        ("?nope=1", "validation.field_unknown"),
    ] {
        assert_eq!(told(follow(&api, query)).await.code(), code, "{query}");
    }
    let refused = told(follow(&api, "").header("Last-Event-ID", "x")).await;
    assert_eq!(refused.code(), "validation.field_format");
    // The end of the server is an orderly end of the answer.
    api.stop().await.unwrap();
    let rest = async { while back.chunk().await.unwrap().is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), rest).await.expect("an end");
}

// @spec api
// @ac AC-02
#[tokio::test]
async fn events_that_are_gone_leave_a_gap_that_is_told() {
    println!("@spec api");
    println!("@ac AC-02");
    let api = Served::new().await;
    for n in 0..3 {
        rejected(&api, &format!("number {n}")).await;
    }
    let context = async_nats::jetstream::new(api.nats.client(User::Admin).await);
    context.get_stream("OW_EVENTS").await.unwrap().purge().sequence(3).await.unwrap();
    let mut answer = follow(&api, "?since=0").send().await.unwrap();
    let mut text = String::new();
    heard(&mut answer, &mut text, "number 2").await;
    assert!(text.contains("gap") && text.contains(r#"{"from":1,"to":2}"#), "{text}");
    // A place of the stream before this one: what there is comes, from its beginning.
    let mut answer = follow(&api, "").header("Last-Event-ID", "70000").send().await.unwrap();
    let mut text = String::new();
    heard(&mut answer, &mut text, "number 2").await;
    assert!(text.contains("gap") && text.contains(r#"{"anew":true,"from":70001,"to":2}"#), "{text}");
}

// @spec api
// @ac AC-03
#[tokio::test]
async fn dead_letters_are_listed_replayed_and_dropped_on_record() {
    println!("@spec api");
    println!("@ac AC-03");
    let api = Served::new().await;
    let bus = api.nats.bus(User::Admin).await;
    let host = openwatch_model::HostId(Uuid::new_v4());
    let lost = openwatch_bus::Outgoing {
        subject: format!("ow.v1.evt.schedule_updated.{host}"),
        message_id: "lost".to_owned(),
        headers: vec![("ce-id".to_owned(), "lost".to_owned())],
        payload: b"{}".as_slice().into(),
    };
    for place in [7, 8] {
        bus.publish(&DeadLetter::of_unsent("scheduler", place, lost.clone(), "refused").encode())
            .await
            .unwrap();
    }
    let listed = api.get("/admin/dead-letters?limit=1").await;
    assert_eq!(listed.status, 200, "{listed:?}");
    let letter = &listed.body["items"][0];
    assert_eq!(
        (&letter["stage"], &letter["stream"], &letter["whole"]),
        (&json!("scheduler"), &json!("outbox"), &json!(true))
    );
    assert_eq!(listed.body["next_cursor"], "2");
    let act = |role: &'static str, what: &'static str| api.ask(role, Method::POST, what, None);
    assert_eq!(act("operator", "/admin/dead-letters/1:replay").await.status, 403);
    assert_eq!(act("admin", "/admin/dead-letters/9:replay").await.code(), "dead_letter.not_found");
    assert_eq!(act("admin", "/admin/dead-letters/x:drop").await.code(), "validation.field_format");
    for _ in 0..2 {
        assert_eq!(act("admin", "/admin/dead-letters/1:replay").await.status, 202);
    }
    assert_eq!(act("admin", "/admin/dead-letters/2:drop").await.status, 202);
    assert_eq!(api.get("/admin/dead-letters").await.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.audited("message.replayed").await.len(), 2);
    assert_eq!(api.audited("message.dropped").await.len(), 1);

    // The caretaker's relay publishes it, once.
    let (store, bus) =
        (api.database.store(openwatch_store::Role::Caretaker).await, api.nats.bus(User::Caretaker).await);
    let stop = tokio_util::sync::CancellationToken::new();
    let relaying =
        tokio::spawn(openwatch_pipeline::caretakers::relay::run(store, bus, "caretaker", stop.clone()));
    let admin = api.nats.bus(User::Admin).await;
    let there =
        || async { admin.next_message("OW_EVENTS", 1, "ow.v1.evt.schedule_updated.*").await.unwrap() };
    let again = eventually("the event once more", there).await;
    assert_eq!(again.header("ce-id"), Some("lost"));
    stop.cancel();
    relaying.await.unwrap().unwrap();
    assert!(admin.next_message("OW_EVENTS", again.sequence + 1, "ow.v1.evt.>").await.unwrap().is_none());
}

// @spec api
// @ac AC-04
#[tokio::test]
async fn the_numbers_are_told_as_data() {
    println!("@spec api");
    println!("@ac AC-04");
    let api = Served::new().await;
    api.host("web-1").await;
    let shown = api.get("/admin/metrics").await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let names: Vec<_> =
        shown.body["streams"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert!(names.contains(&"OW_EVENTS") && names.contains(&"OW_DLQ"), "{names:?}");
    assert_eq!(shown.body["consumers"].as_array().unwrap().len(), 7);
    let outbox = &shown.body["outbox"][0];
    assert_eq!(
        (&outbox["sender"], outbox["rows"].as_u64().is_some_and(|rows| rows > 0)),
        (&json!("api"), true)
    );
    assert_eq!(api.ask("viewer", Method::GET, "/admin/metrics", None).await.status, 403);
}

// @spec api
// @ac AC-05
#[tokio::test]
async fn a_host_changes_but_never_its_name_and_the_past_stays_as_it_was() {
    println!("@spec api");
    println!("@ac AC-05");
    let api = Served::new().await;
    let id = api.host("web-1").await;
    api.host("web-2").await;
    let before =
        time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap();
    let change = |body: Value| api.ask("operator", Method::PATCH, "/hosts/web-1", Some(body));
    let changed = change(json!({"user": "audit", "labels": {"env": "prod"}})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    assert_eq!((&changed.body["user"], &changed.body["labels"]), (&json!("audit"), &json!({"env": "prod"})));
    for field in ["name", "id", "address", "created_at"] {
        assert_eq!(change(json!({field: "x"})).await.code(), "validation.field_unknown", "{field}");
    }
    assert_eq!(change(json!({"credential": "nope"})).await.code(), "credential.not_found");
    let rows = api.audited("host.updated").await;
    assert_eq!((rows.len(), &rows[0]["resource_id"]), (1, &json!(id)));

    assert_eq!(api.delete("/hosts/web-2").await.status, 204);
    let names = |path: String| {
        let api = &api;
        async move {
            let page = api.get(&path).await;
            assert_eq!(page.status, 200, "{page:?}");
            let rows = page.body["items"].as_array().unwrap().clone();
            rows.iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(names("/hosts".into()).await, ["web-1"]);
    assert_eq!(names(format!("/hosts?as_of={before}")).await, ["web-1", "web-2"]);
    assert_eq!(names(format!("/hosts?as_of={before}&state=unknown&limit=1")).await, ["web-1"]);
    assert_eq!(names("/hosts?as_of=2020-01-01T00:00:00Z".into()).await, Vec::<String>::new());
    assert_eq!(api.get("/hosts?as_of=2999-01-01T00:00:00Z").await.code(), "validation.field_range");
}

// @spec api
// @ac AC-06
#[tokio::test]
async fn who_guesses_tokens_has_to_wait() {
    println!("@spec api");
    println!("@ac AC-06");
    let api = Served::new().await;
    let guess = || {
        let secret = openwatch_trust::token::ApiToken::generate();
        told(api.request(Method::GET, "/api/v1/hosts").bearer_auth(secret.expose()))
    };
    let mut codes = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..25 {
        *codes.entry(guess().await.status).or_default() += 1;
    }
    assert_eq!(codes, [(401, 20), (429, 5)].into());
    let limited = guess().await;
    assert_eq!((limited.code(), &limited.body["retryable"]), ("rate_limit.exceeded", &json!(true)));
}
