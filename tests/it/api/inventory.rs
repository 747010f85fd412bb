//! Hosts, credentials and channels.

use openwatch_model::CredentialId;
use openwatch_model::alert::TAGS;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use super::{Served, told};

const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";

#[tokio::test]
async fn a_host_lives_and_leaves() {
    let api = Served::new().await;
    let new = json!({"name": "web-1", "address": "192.0.2.1", "port": 2222, "sudo": "sudo", "labels": {"env": "prod"}});
    let made = api.post("/hosts", new.clone()).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(
        (&made.body["port"], &made.body["sudo"], &made.body["labels"]["env"]),
        (&json!(2222), &json!("sudo"), &json!("prod"))
    );
    assert_eq!(made.body["compliance"]["state"], "unknown");
    assert!(made.body["compliance"]["next_scan_at"].is_string(), "it is due at once");
    assert_eq!(made.body.get("liveness"), None, "nothing is claimed before the first probe");

    assert_eq!(api.post("/hosts", new).await.code(), "host.duplicate");
    let id = made.body["id"].as_str().unwrap();
    for named in ["web-1", id] {
        assert_eq!(api.get(&format!("/hosts/{named}")).await.body["id"], made.body["id"]);
    }
    assert_eq!(
        api.get("/hosts?label=env=prod&state=unknown").await.body["items"].as_array().unwrap().len(),
        1
    );
    assert_eq!(api.get("/hosts?label=env=test").await.body["items"].as_array().unwrap().len(), 0);

    assert_eq!(api.delete("/hosts/web-1").await.status, 204);
    assert_eq!(api.get("/hosts/web-1").await.code(), "host.not_found");
    assert_eq!(api.delete("/hosts/web-1").await.code(), "host.not_found");
    assert_eq!(api.audited("host.created").await.len(), 1);
    assert_eq!(api.audited("host.deleted").await[0]["actor"], "the-admin");
    api.host("web-1").await;
}

#[tokio::test]
async fn what_is_wrong_with_a_host_is_named() {
    let api = Served::new().await;
    let valid = json!({"name": "web-1", "address": "192.0.2.1"});
    let cases = [
        ("name", json!("a b"), "validation.field_format", "/name"),
        ("name", json!("6f9619ff-8b86-4d01-b42d-00cf4fc964ff"), "validation.field_format", "/name"),
        ("address", json!("10.0.0.256"), "validation.field_format", "/address"),
        ("port", json!(0), "validation.field_range", "/port"),
        ("user", json!("ro ot"), "validation.field_format", "/user"),
        ("labels", json!({"a=b": "c"}), "validation.field_format", "/labels"),
        ("credential", json!("nobody"), "credential.not_found", "/credential"),
        ("id", json!("6f9619ff-8b86-4d01-b42d-00cf4fc964ff"), "validation.field_unknown", "id"),
        (
            "known_keys",
            json!([{"algorithm": "ssh-dss", "key": KEY}]),
            "validation.field_format",
            "/known_keys",
        ),
    ];
    for (field, value, code, pointer) in cases {
        let mut body = valid.clone();
        body[field] = value;
        let answer = api.post("/hosts", body).await;
        assert_eq!(
            (answer.code(), answer.body["errors"][0]["pointer"].as_str()),
            (code, Some(pointer)),
            "{answer:?}"
        );
    }
    assert_eq!(api.post("/hosts", json!({"name": "x"})).await.code(), "validation.field_required");
    assert_eq!(api.get("/hosts").await.body["items"], json!([]));
}

#[tokio::test]
async fn an_import_is_all_or_nothing() {
    let api = Served::new().await;
    let host = |name: &str| json!({"name": name, "address": "192.0.2.1"});
    let refused = api.post("/hosts:import", json!([host("a"), host("b"), host("a")])).await;
    assert_eq!(
        (refused.code(), refused.body["errors"][0]["pointer"].as_str()),
        ("host.duplicate", Some("/2/name"))
    );
    assert_eq!(api.get("/hosts").await.body["items"], json!([]));

    let all: Vec<Value> = (0..25).map(|i| host(&format!("n{i:02}"))).collect();
    assert_eq!(api.post("/hosts:import", json!(all)).await.status, 201);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = api.get(&format!("/hosts?limit=10{cursor}")).await;
        seen.extend(
            page.body["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, (0..25).map(|i| format!("n{i:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn vouching_for_a_key_is_audited_and_only_for_admins() {
    let api = Served::new().await;
    let id = api.host("web-1").await;
    let body = json!({"key": {"algorithm": "ssh-ed25519", "key": KEY}});
    let accepted = api.post("/hosts/web-1/accept-key", body.clone()).await;
    assert_eq!(accepted.status, 200, "{accepted:?}");
    let fingerprint = accepted.body["fingerprint"].as_str().unwrap();
    assert!(fingerprint.starts_with("SHA256:") && fingerprint.len() == 50, "{fingerprint}");
    let audited = api.audited("host_key.accepted").await;
    assert_eq!(
        (&audited[0]["detail"]["host_id"], &audited[0]["detail"]["accepted_by"]),
        (&json!(id), &json!("the-admin"))
    );

    let with_key = json!({"name": "web-2", "address": "192.0.2.2", "known_keys": [body["key"].clone()]});
    let operator = api.ask("operator", Method::POST, "/hosts", Some(with_key.clone())).await;
    assert_eq!(operator.code(), "authz.permission_denied");
    assert_eq!(api.post("/hosts", with_key).await.status, 201);
    assert_eq!(api.post("/hosts/nobody/accept-key", body).await.code(), "host.not_found");
}

#[tokio::test]
async fn a_credential_is_sealed_to_the_vault_and_never_shown() {
    let api = Served::new().await;
    let body = json!({"name": "ops", "username": "root", "default": true, "password": "canary-hunter2", "sudo_password": "canary-s"});
    let made = api.post("/credentials", body.clone()).await;
    assert_eq!((made.status, made.body["auth_method"].as_str()), (201, Some("password")), "{made:?}");
    let again = api.post("/credentials", body).await;
    assert_eq!(again.code(), "credential.duplicate");
    let listed = api.get("/credentials").await;
    assert_eq!(listed.body["items"][0]["stored"], false, "it waits for the vault");
    for told in [&made.body, &again.body, &listed.body, &json!(api.audited("credential.created").await)] {
        assert!(!told.to_string().contains("canary"), "{told}");
    }

    let mut database = api.database.connect().await;
    let row = sqlx::query("select id, sealed from credential").fetch_one(&mut database).await.unwrap();
    let (id, sealed): (uuid::Uuid, Vec<u8>) = (row.get(0), row.get(1));
    let secret = api.vault.open_credential(&sealed, CredentialId(id)).unwrap();
    assert_eq!(secret.password.as_deref(), Some("canary-hunter2"));
    assert!(
        api.vault.open_credential(&sealed, CredentialId(uuid::Uuid::new_v4())).is_err(),
        "it is bound to its row"
    );

    let none = api.post("/credentials", json!({"name": "x", "username": "root"})).await;
    assert_eq!(none.code(), "validation.field_required");
    let text = "{\"name\":\"x\",\"username\":\"root\",\"password\":[\"canary-hunter2\"]}";
    let request = api.request(Method::POST, "/api/v1/credentials").bearer_auth(api.token("admin"));
    let misfit = told(request.header("content-type", "application/json").body(text)).await;
    assert!(misfit.status == 400 && !misfit.body.to_string().contains("canary"), "{misfit:?}");

    let host = json!({"name": "web-1", "address": "192.0.2.1", "credential": "ops"});
    assert_eq!(api.post("/hosts", host).await.body["credential"], "ops");
    assert_eq!(api.delete("/credentials/ops").await.code(), "credential.in_use");
    assert_eq!(api.delete("/hosts/web-1").await.status, 204);
    assert_eq!(api.delete("/credentials/ops").await.status, 204);
    assert_eq!(api.delete("/credentials/ops").await.code(), "credential.not_found");
}

// @spec alerts
// @ac AC-16
#[tokio::test]
async fn a_channel_that_could_never_hear_is_refused() {
    println!("@spec alerts");
    println!("@ac AC-16");
    let api = Served::new().await;
    let narrowed = |key: &str, value: &str| json!({"name": "out", "kind": "stdout", "tags": {key: value}});
    for (key, value, said) in [
        ("nosuch", "1", "alert_type, severity, host,"),
        ("alert_type", "drift_majr", "drift_major"),
        ("severity", "grave", "critical"),
    ] {
        let refused = api.post("/channels", narrowed(key, value)).await;
        let detail = refused.body["errors"][0]["detail"].as_str().unwrap_or_default();
        assert_eq!((refused.code(), detail.contains(said)), ("validation.field_format", true), "{refused:?}");
    }
    assert_eq!(api.post("/channels", narrowed("alert_type", "drift_major")).await.status, 201);
    let change = |tags: Value| api.ask("admin", Method::PATCH, "/channels/out", Some(json!({"tags": tags})));
    assert_eq!(change(json!({"nosuch": "1"})).await.code(), "validation.field_format");
    // Everything that an alert may carry can be listened to.
    for tag in TAGS {
        let value = match tag {
            "alert_type" => "host_unreachable",
            "severity" => "high",
            _ => "anything",
        };
        assert_eq!(change(json!({tag: value})).await.status, 200, "{tag}");
    }
    assert_eq!(change(json!({"label.env": "prod"})).await.status, 200);
}

#[tokio::test]
async fn a_channel_never_points_inside() {
    let api = Served::new().await;
    let hook = |url: &str| json!({"name": "ops", "kind": "webhook", "url": url, "min_severity": "high"});
    for inside in ["http://hooks.example.org/", "https://127.0.0.1/", "https://169.254.169.254/"] {
        assert_eq!(api.post("/channels", hook(inside)).await.code(), "validation.field_format", "{inside}");
    }
    let made = api.post("/channels", hook("https://hooks.example.org/T0/canary")).await;
    let target = made.body["channel"]["target"].as_str();
    assert_eq!((made.status, target), (201, Some("hooks.example.org")), "{made:?}");
    assert!(made.body["secret"].as_str().unwrap().starts_with("whsec_"), "shown this once: {made:?}");
    assert_eq!(api.post("/channels", hook("https://hooks.example.org/")).await.code(), "channel.duplicate");
    assert_eq!(api.post("/channels", json!({"name": "out", "kind": "stdout"})).await.status, 201);
    assert_eq!(
        api.post("/channels", json!({"name": "o2", "kind": "stdout", "url": "https://x.example/"}))
            .await
            .status,
        400
    );
    assert_eq!(
        api.post("/channels", json!({"name": "o3", "kind": "webhook"})).await.code(),
        "validation.field_required"
    );
    let listed = api.get("/channels").await;
    assert_eq!(listed.body["items"].as_array().unwrap().len(), 2);
    let text = listed.body.to_string();
    assert!(!text.contains("canary") && !text.contains("whsec_"), "an address may hold a secret");
    let test = api.post("/channels/ops/test", json!({})).await;
    assert_eq!(test.status, 202, "{test:?}");
    let delivery = test.body["delivery_id"].as_str().unwrap();
    let waits = api.get(&format!("/channels/ops/deliveries/{delivery}")).await;
    assert_eq!((&waits.body["state"], &waits.body["event"]), (&"pending".into(), &"channel.test".into()));
    assert_eq!(
        api.get("/channels/ops/deliveries?state=pending").await.body["items"].as_array().unwrap().len(),
        1
    );
    assert_eq!(api.get("/channels/out/deliveries").await.body["items"].as_array().unwrap().len(), 0);
    let other = format!("/channels/out/deliveries/{delivery}");
    assert_eq!(api.get(&other).await.code(), "delivery.not_found");
    let turn =
        |enabled: bool| api.ask("admin", Method::PATCH, "/channels/ops", Some(json!({"enabled": enabled})));
    assert_eq!(turn(false).await.body["enabled"], false);
    assert_eq!(api.post("/channels/ops/test", json!({})).await.code(), "channel.disabled");
    assert_eq!(turn(true).await.body["enabled"], true);
    assert_eq!(api.audited("notification.channel.changed").await.len(), 2);
    assert_eq!(api.delete("/channels/ops").await.status, 204);
    assert_eq!(api.delete("/channels/ops").await.code(), "channel.not_found");
    assert_eq!(api.audited("notification.channel.created").await.len(), 2);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let api = Served::new().await;
    let ask = async |bytes: usize| {
        let request = api.request(Method::POST, "/api/v1/hosts").bearer_auth(api.token("admin"));
        told(request.header("content-type", "application/json").body(vec![b' '; bytes])).await
    };
    let large = ask(1024 * 1024 + 1).await;
    assert_eq!((large.status, large.code()), (413, "validation.body_too_large"));
    assert_eq!(ask(1024 * 1024).await.code(), "validation.invalid_body");
    let request = api.request(Method::POST, "/api/v1/hosts").bearer_auth(api.token("admin"));
    let form = told(request.header("content-type", "text/plain").body("{}")).await;
    assert_eq!((form.status, form.code()), (400, "validation.invalid_body"));
}
