//! Asking for scans by hand.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use super::{Served, told};

/// The rows that speak of scans: state, lane, trigger, framework, attempt.
async fn rows(api: &Served) -> Vec<(String, String, String, String, i32)> {
    let mut database = api.database.connect().await;
    let rows =
        sqlx::query("select state, lane, trigger, framework, attempt from scan order by queued_at, number")
            .fetch_all(&mut database)
            .await
            .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))).collect()
}

async fn run(api: &Served, statement: &'static str) {
    sqlx::query(statement).execute(&mut api.database.connect().await).await.unwrap();
}

#[tokio::test]
async fn a_scan_is_queued_once_however_often_it_is_asked_for() {
    let api = Served::new().await;
    let id = api.host("web-1").await;
    let before = schedule(&api).await;
    let first = api.scan("k1", json!({"host": "web-1"})).await;
    assert_eq!((first.status, first.body["status"].as_str()), (202, Some("queued")), "{first:?}");
    assert!(first.body["queued_at"].is_string() && first.body.get("promoted").is_none());
    let scan = uuid::Uuid::parse_str(first.body["scan_id"].as_str().unwrap()).unwrap();
    assert_eq!(scan.get_version_num(), 4);

    let again = api.scan("k1", json!({"host": "web-1"})).await;
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let reused = api.scan("k1", json!({"host": "web-1", "framework": "cis_rhel9"})).await;
    assert_eq!((reused.status, reused.code()), (409, "idempotency.key_reused"));
    let stranger = api.request(Method::POST, "/api/v1/scans").bearer_auth(api.token("admin"));
    let stranger =
        told(stranger.header("idempotency-key", "k1").json(&json!({"host": "web-1", "framework": "x"})))
            .await;
    assert_eq!(stranger.status, 202, "another caller's key is another key: {stranger:?}");

    assert_eq!(rows(&api).await, [("queued".into(), "manual".into(), "manual".into(), "*".into(), 1)]);
    assert_eq!(schedule(&api).await, before, "the schedule is the scheduler's");
    let audited = api.audited("scan.queued").await;
    assert_eq!(audited.iter().filter(|row| row["detail"]["trigger"] == "manual").count(), 1);
    assert_eq!(
        (&audited[0]["detail"]["host_id"], &audited[0]["detail"]["scan_id"]),
        (&json!(id), &json!(scan))
    );
}

async fn schedule(api: &Served) -> Vec<(String, String)> {
    let mut database = api.database.connect().await;
    let rows = sqlx::query("select s::text, s.xmin::text from host_compliance_schedule s")
        .fetch_all(&mut database)
        .await;
    rows.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_waiting_scan_is_promoted_and_a_running_one_is_named() {
    let api = Served::new().await;
    api.host("web-1").await;
    let first = api.scan("k1", json!({"host": "web-1"})).await;
    let scan = first.body["scan_id"].clone();
    // As the scheduler would have queued and issued it.
    run(&api, "update scan set lane = 'scheduled', trigger = 'scheduled', tag = sha256('x'), key_id = 'k', timeout_sec = 9, issued_at = now()").await;
    run(&api, "update open_scan set unissued = false").await;
    let promoted = api.scan("k2", json!({"host": "web-1"})).await;
    assert_eq!(
        (promoted.status, &promoted.body["scan_id"], &promoted.body["promoted"]),
        (202, &scan, &json!(true))
    );
    assert_eq!(rows(&api).await, [("queued".into(), "manual".into(), "scheduled".into(), "*".into(), 2)]);

    run(&api, "update scan set state = 'running', started_at = now()").await;
    let refused = api.scan("k3", json!({"host": "web-1"})).await;
    assert_eq!(
        (refused.status, refused.code(), &refused.body["scan_id"]),
        (409, "conflict.scan_active", &scan)
    );
    run(&api, "update scan set state = 'failed', failure_reason = 'timeout', finished_at = now()").await;
    run(&api, "delete from open_scan").await;
    let after = api.scan("k3", json!({"host": "web-1"})).await;
    assert_eq!(after.status, 202, "a refusal is not remembered under its key: {after:?}");
    assert_ne!(after.body["scan_id"], scan);
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_before_anything_is_done() {
    let api = Served::new().await;
    api.host("web-1").await;
    let code = async |key: &str, body: Value| api.scan(key, body).await.code().to_owned();
    assert_eq!(code("k", json!({"host": "nobody"})).await, "host.not_found");
    assert_eq!(
        code("k", json!({"host": "web-1", "scan_id": "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"})).await,
        "validation.field_unknown"
    );
    assert_eq!(code("k", json!({})).await, "validation.field_required");
    assert_eq!(code("k", json!({"host": "web-1", "rules": ["a b"]})).await, "validation.field_format");
    assert_eq!(code("a b", json!({"host": "web-1"})).await, "validation.field_format");
    let keyless = api.ask("operator", Method::POST, "/scans", Some(json!({"host": "web-1"}))).await;
    assert_eq!((keyless.status, keyless.code()), (400, "idempotency.key_required"));
    assert!(rows(&api).await.is_empty());

    assert_eq!(api.delete("/hosts/web-1").await.status, 204);
    assert_eq!(code("k", json!({"host": "web-1"})).await, "host.not_found");
}

#[tokio::test]
async fn the_path_may_name_the_host_and_filters_are_kept() {
    let api = Served::new().await;
    api.host("web-1").await;
    let request = api.request(Method::POST, "/api/v1/hosts/web-1/scans").bearer_auth(api.token("operator"));
    let body = json!({"framework": "cis_rhel9", "rules": ["b", "a", "a"]});
    let answer = told(request.header("idempotency-key", "k").json(&body)).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let shown = api.get(&format!("/scans/{}", answer.body["scan_id"].as_str().unwrap())).await;
    assert_eq!(
        shown.body["scan"]["selection"],
        json!({"framework": "cis_rhel9", "rules": ["a", "b"]}),
        "{shown:?}"
    );
    assert_eq!(shown.body["scan"]["initiator"], json!({"kind": "manual", "actor": "the-operator"}));

    api.host("web-2").await;
    let bare = api.request(Method::POST, "/api/v1/hosts/web-2/scans").bearer_auth(api.token("operator"));
    assert_eq!(
        told(bare.header("idempotency-key", "k")).await.code(),
        "idempotency.key_reused",
        "the path counts"
    );
    let bare = api.request(Method::POST, "/api/v1/hosts/web-2/scans").bearer_auth(api.token("operator"));
    assert_eq!(told(bare.header("idempotency-key", "k2")).await.status, 202, "no body asks for everything");
}

#[tokio::test]
async fn of_many_who_ask_at_once_one_makes_the_scan() {
    let api = Served::new().await;
    api.host("web-1").await;
    let asked = futures::future::join_all((0..8).map(|i| {
        let key = if i < 4 { "same".to_owned() } else { format!("k{i}") };
        let api = &api;
        async move { api.scan(&key, json!({"host": "web-1"})).await }
    }))
    .await;
    let scan = &asked[0].body["scan_id"];
    assert!(scan.is_string());
    for answer in &asked {
        assert_eq!((answer.status, &answer.body["scan_id"]), (202, scan), "{answer:?}");
    }
    assert!(asked[..4].iter().all(|answer| answer.body == asked[0].body), "one key, one answer");
    assert_eq!(rows(&api).await.len(), 1);
}

#[test]
fn nothing_here_names_the_schedule_table() {
    let mut folders =
        vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/api/src"))];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            read += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(!text.contains("host_compliance_schedule"), "{}", path.display());
        }
    }
    assert!(read > 20);
}
