//! The life of an alert, by hand.

use serde_json::{Value, json};
use sqlx::Row as _;
use uuid::Uuid;

use super::Served;

/// An open alert, as the alerts stage would have stored it.
async fn open(api: &Served, key: &str, severity: &str, minute: u32) -> String {
    let id = Uuid::now_v7();
    let statement = "insert into alert (id, dedup_key, alert_type, severity, host_id, title, occurred_at, last_occurred_at,
            last_notified_at, created_at, updated_at)
        select $1, $2, 'drift_major', $3, (select id from host limit 1), 'score fell', t, t, t, t, t
        from (select timestamptz '2026-01-01 00:00Z' + $4 * interval '1 minute' as t) at";
    let mut database = api.database.connect().await;
    let query = sqlx::query(statement).bind(id).bind(key).bind(severity).bind(f64::from(minute));
    query.execute(&mut database).await.unwrap();
    let first = "insert into alert_transition (alert_id, number, state, actor, changed_at) values ($1, 1, 'active', 'alerts', now())";
    sqlx::query(first).bind(id).execute(&mut database).await.unwrap();
    id.to_string()
}

/// Waiting messages of the API, by subject.
async fn sent(api: &Served, subject: &str) -> Vec<Value> {
    let statement = "select payload from outbox where sender = 'api' and subject like $1 order by id";
    let rows =
        sqlx::query(statement).bind(subject).fetch_all(&mut api.database.connect().await).await.unwrap();
    rows.iter().map(|row| serde_json::from_slice(&row.get::<Vec<u8>, _>(0)).unwrap()).collect()
}

#[tokio::test]
async fn an_alert_goes_where_it_may_and_nowhere_else() {
    let api = Served::new().await;
    api.host("web-1").await;
    let id = open(&api, "k1", "high", 1).await;
    let act = async |verb: &str, body: Value| api.post(&format!("/alerts/{id}:{verb}"), body).await;

    let silenced = act("silence", json!({"until": "2999-01-01T00:00:00Z", "reason": "patch night"})).await;
    assert_eq!((silenced.status, silenced.body["state"].as_str()), (200, Some("silenced")), "{silenced:?}");
    assert_eq!(silenced.body["silenced_until"], "2999-01-01T00:00:00Z");
    assert_eq!(
        (&silenced.body["changed_by"], &silenced.body["reason"]),
        (&json!("the-admin"), &json!("patch night"))
    );
    assert_eq!(act("acknowledge", json!({})).await.code(), "alerts.invalid_transition");
    assert_eq!(act("unsilence", json!({})).await.body["state"], "active");
    let acknowledged = act("acknowledge", json!({"reason": "mine"})).await;
    assert_eq!(acknowledged.body["state"], "acknowledged");
    let forbidden = act("silence", json!({})).await;
    assert_eq!((forbidden.status, forbidden.code()), (409, "alerts.invalid_transition"));
    assert_eq!(
        act("unsilence", json!({})).await.code(),
        "alerts.invalid_transition",
        "that would lose who has it"
    );
    assert_eq!(act("resolve", json!({})).await.body["state"], "resolved");
    assert_eq!(act("resolve", json!({})).await.code(), "alerts.invalid_transition");
    assert_eq!(act("dismiss", json!({})).await.body["state"], "dismissed");
    assert_eq!(api.get(&format!("/alerts/{id}")).await.body["state"], "dismissed", "it stays readable");

    for code in ["silenced", "unsilenced", "acknowledged", "resolved", "dismissed"] {
        let audited = api.audited(&format!("alert.{code}")).await;
        assert_eq!((audited.len(), &audited[0]["detail"]["alert_id"]), (1, &json!(id)), "{code}");
    }
    assert_eq!(api.audited("alert.acknowledged").await[0]["detail"]["prior_state"], "active");
    assert_eq!(sent(&api, "ow.v1.evt.alert_updated.%").await.len(), 3);
    let over = sent(&api, "ow.v1.evt.alert_resolved.%").await;
    assert_eq!(
        (over.len(), &over[0]["state"], &over[0]["automatic"]),
        (2, &json!("resolved"), &json!(false))
    );
    assert_eq!(sent(&api, "ow.v1.audit.alert_acknowledged").await.len(), 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_move_is_said_and_changes_nothing() {
    let api = Served::new().await;
    api.host("web-1").await;
    let id = open(&api, "k1", "high", 1).await;
    let code = async |path: String, body: Value| api.post(&path, body).await.code().to_owned();
    assert_eq!(
        code(format!("/alerts/{id}:silence"), json!({"until": "2020-01-01T00:00:00Z"})).await,
        "validation.field_range"
    );
    assert_eq!(
        code(format!("/alerts/{id}:resolve"), json!({"reason": "x".repeat(257)})).await,
        "validation.field_range"
    );
    assert_eq!(
        code(format!("/alerts/{id}:resolve"), json!({"until": null})).await,
        "validation.field_unknown"
    );
    assert_eq!(code(format!("/alerts/{id}:explode"), json!({})).await, "resource.not_found");
    let woken = api.post(&format!("/alerts/{id}:unsilence"), json!({})).await;
    let detail = "an alert that is active cannot become active; it can become acknowledged, silenced, resolved or dismissed";
    assert_eq!((woken.code(), &woken.body["detail"]), ("alerts.invalid_transition", &json!(detail)));
    assert_eq!(code(format!("/alerts/{}:resolve", Uuid::nil()), json!({})).await, "alerts.not_found");
    assert_eq!(code("/alerts/x:resolve".into(), json!({})).await, "validation.field_format");
    assert_eq!(api.get(&format!("/alerts/{}", Uuid::nil())).await.code(), "alerts.not_found");
    assert_eq!(api.get(&format!("/alerts/{id}")).await.body["state"], "active");
    assert_eq!(
        api.ask("viewer", reqwest::Method::POST, &format!("/alerts/{id}:resolve"), Some(json!({})))
            .await
            .status,
        403
    );
}

#[tokio::test]
async fn of_two_who_take_an_alert_one_gets_it() {
    let api = Served::new().await;
    api.host("web-1").await;
    let id = open(&api, "k1", "high", 1).await;
    let path = format!("/alerts/{id}:acknowledge");
    let (one, two) = tokio::join!(api.post(&path, json!({})), api.post(&path, json!({})));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    assert_eq!(api.audited("alert.acknowledged").await.len(), 1);
}

#[tokio::test]
async fn alerts_are_listed_newest_first_whole_and_filtered() {
    let api = Served::new().await;
    let host = api.host("web-1").await;
    // Ten at the same minute: only the id tells them apart.
    for i in 0..10 {
        open(&api, &format!("k{i}"), if i < 3 { "critical" } else { "low" }, 5).await;
    }
    let newest = open(&api, "new", "high", 6).await;
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/alerts?limit=3{cursor}")).await;
        seen.extend(
            page.body["items"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!((seen.len(), &seen[0]), (11, &newest));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 11, "no row twice, none lost");

    let count =
        async |query: &str| api.get(&format!("/alerts?{query}")).await.body["items"].as_array().map(Vec::len);
    assert_eq!(count("severity=critical").await, Some(3));
    assert_eq!(count("state=resolved").await, Some(0));
    assert_eq!(count(&format!("host={host}&severity=high")).await, Some(1));
    assert_eq!(api.get("/alerts?host=nobody").await.code(), "host.not_found");
    let sleepy = api.get("/alerts?state=sleepy").await;
    assert_eq!(sleepy.code(), "validation.field_format");
    let detail = "`sleepy` is none of active, acknowledged, silenced, resolved, dismissed";
    assert_eq!(sleepy.body["errors"][0]["detail"], detail);
    let lists = [
        ("alerts", "as_of"),
        ("alerts", "until"),
        ("transactions", "as_of"),
        ("transactions", "until"),
        ("drift", "as_of"),
    ];
    for (list, end) in lists {
        let backwards = format!("/{list}?since=2026-01-02T00:00:00Z&{end}=2026-01-01T00:00:00Z");
        assert_eq!(api.get(&backwards).await.code(), "validation.field_range", "{backwards}");
    }
    assert_eq!(api.get("/alerts?limit=201").await.code(), "pagination.limit_exceeded");
    assert_eq!(api.get("/alerts?cursor=x").await.code(), "pagination.cursor_invalid");
    assert_eq!(api.get("/alerts?sort=up").await.code(), "validation.field_unknown");
}
