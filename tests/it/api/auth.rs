//! Who may do what.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Served, told};

/// Every operation of the document, with a path that is well-formed.
fn operations() -> Vec<(Method, String)> {
    let document: Value = serde_json::from_str(openwatch_api::document()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let path = path.replace("{id}", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff");
            let path = ["{host}", "{credential}", "{channel}", "{token}", "{rule}"]
                .into_iter()
                .fold(path, |path, hole| path.replace(hole, "nobody"));
            all.push((method.to_uppercase().parse().unwrap(), path));
        }
    }
    all
}

#[tokio::test]
async fn every_promised_operation_exists_and_refuses_strangers() {
    let api = Served::new().await;
    let mut guarded = 0;
    for (method, path) in operations() {
        let answer = told(api.request(method.clone(), &path)).await;
        if !path.starts_with("/api/") {
            assert!(answer.status == 200 || path == "/metrics", "{method} {path}: {answer:?}");
            continue;
        }
        guarded += 1;
        assert_eq!((answer.status, answer.code()), (401, "auth.required"), "{method} {path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    assert!(guarded >= 30, "{guarded}");
}

#[tokio::test]
async fn each_role_may_do_its_part_and_refusals_are_audited() {
    let api = Served::new().await;
    // Path, method, and the least role that is let in.
    let doors = [
        ("/hosts", Method::GET, "viewer"),
        ("/status", Method::GET, "viewer"),
        ("/scans", Method::GET, "viewer"),
        ("/transactions", Method::GET, "viewer"),
        ("/drift", Method::GET, "viewer"),
        ("/alerts", Method::GET, "viewer"),
        ("/hosts", Method::POST, "operator"),
        ("/hosts/nobody", Method::DELETE, "operator"),
        ("/scans", Method::POST, "operator"),
        ("/credentials", Method::GET, "operator"),
        ("/channels", Method::GET, "operator"),
        ("/audit", Method::GET, "operator"),
        ("/hosts/nobody/accept-key", Method::POST, "admin"),
        ("/credentials", Method::POST, "admin"),
        ("/channels", Method::POST, "admin"),
        ("/tokens", Method::GET, "admin"),
        ("/tokens", Method::POST, "admin"),
    ];
    let rank = |role: &str| ["viewer", "operator", "admin"].iter().position(|it| *it == role).unwrap();
    let mut refusals = 0;
    for (path, method, least) in doors {
        for role in ["viewer", "operator", "admin"] {
            let body = (method == Method::POST).then(|| json!({}));
            let answer = api.ask(role, method.clone(), path, body).await;
            let refused = answer.code() == "authz.permission_denied";
            assert_eq!(refused, rank(role) < rank(least), "{role} {method} {path}: {answer:?}");
            assert_eq!(refused, answer.status == 403, "{role} {method} {path}: {answer:?}");
            refusals += usize::from(refused);
        }
    }
    let audited = api.audited("authz.permission.denied").await;
    assert_eq!(audited.len(), refusals);
    assert!(
        audited
            .iter()
            .any(|row| row["detail"] == json!({"token_name": "the-viewer", "permission": "token:write"}))
    );
}

#[tokio::test]
async fn tokens_are_shown_once_and_die_when_revoked_or_expired() {
    let api = Served::new().await;
    let minted = api.post("/tokens", json!({"name": "ci", "role": "viewer"})).await;
    assert_eq!(minted.status, 201, "{minted:?}");
    let secret = minted.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(api.post("/tokens", json!({"name": "ci", "role": "viewer"})).await.code(), "token.duplicate");

    let listed = api.get("/tokens").await;
    assert!(!listed.body.to_string().contains(&secret));
    let shown =
        listed.body["items"].as_array().unwrap().iter().find(|row| row["name"] == "ci").unwrap().clone();
    assert!(secret.starts_with(shown["prefix"].as_str().unwrap()));

    let with = |secret: &str| told(api.request(Method::GET, "/api/v1/hosts").bearer_auth(secret));
    assert_eq!(with(&secret).await.status, 200);
    assert_eq!(api.delete("/tokens/ci").await.status, 204);
    assert_eq!(with(&secret).await.code(), "auth.required");
    assert_eq!(api.delete("/tokens/ci").await.status, 204, "revoking again changes nothing");
    assert_eq!(api.delete("/tokens/nobody").await.code(), "token.not_found");
    assert_eq!(api.audited("auth.api_key.revoked").await.len(), 1);
    assert_eq!(api.audited("auth.api_key.created").await.len(), 1);

    let past = api
        .post("/tokens", json!({"name": "old", "role": "viewer", "expires_at": "2020-01-01T00:00:00Z"}))
        .await;
    assert_eq!(past.code(), "validation.field_range");
}

#[tokio::test]
async fn answers_carry_a_correlation_id_that_audit_rows_share() {
    let api = Served::new().await;
    let request = api.request(Method::POST, "/api/v1/hosts").bearer_auth(api.token("admin"));
    let answer = told(
        request.header("x-correlation-id", "mine-1").json(&json!({"name": "a", "address": "192.0.2.1"})),
    )
    .await;
    assert_eq!(answer.headers["x-correlation-id"], "mine-1");
    assert_eq!(api.audited("host.created").await[0]["correlation_id"], "mine-1");

    let refused =
        told(api.request(Method::GET, "/api/v1/nowhere").header("x-correlation-id", "boot-1")).await;
    assert_eq!((refused.status, refused.code()), (404, "resource.not_found"));
    let fresh = refused.body["correlation_id"].as_str().unwrap();
    assert!(fresh.starts_with("req-"));
    assert_eq!(refused.headers["x-correlation-id"], fresh);

    let method = told(api.request(Method::PUT, "/api/v1/hosts").bearer_auth(api.token("admin"))).await;
    assert_eq!((method.status, method.code()), (405, "request.method_not_allowed"));
}
