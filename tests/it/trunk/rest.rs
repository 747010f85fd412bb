//! REST as a person with a token speaks it.

use std::time::{Duration, Instant};

use openwatch_app::place::ClientFile;
use openwatch_tests::eventually_within;
use reqwest::Method;
use serde_json::{Value, json};

/// How long a scan may take: a worker's death alone takes half a minute to notice.
const PATIENCE: Duration = Duration::from_secs(120);

/// One API and one token.
pub(crate) struct Rest {
    http: reqwest::Client,
    url: String,
    token: String,
}

impl Rest {
    /// That of an `openwatch up`.
    pub(crate) fn of(client: &ClientFile) -> Self {
        Self::new(&client.url, &std::fs::read_to_string(&client.token_file).unwrap())
    }

    pub(crate) fn new(url: &str, token: &str) -> Self {
        // Another test may have been quicker; one provider serves all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self { http, url: url.to_owned(), token: token.trim().to_owned() }
    }

    /// Status and body; nothing when nobody answers.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: Option<&Value>,
    ) -> Option<(u16, Value)> {
        let mut request =
            self.http.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.ok()?;
        Some((answer.status().as_u16(), answer.json().await.unwrap_or_default()))
    }

    /// `GET` that must succeed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, None, None).await.expect("the API answers");
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    /// `POST` that must succeed.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, body) = self.ask(Method::POST, path, None, Some(&body)).await.expect("the API answers");
        assert!((200..300).contains(&status), "POST {path}: {status} {body}");
        body
    }

    /// Asks for a scan of a host, until it is promised; the scan's id.
    pub(crate) async fn scan(&self, host: &str) -> String {
        let key = uuid::Uuid::new_v4().to_string();
        let body = json!({ "host": host });
        eventually_within(Duration::from_secs(60), "a promised scan", || async {
            match self.ask(Method::POST, "/scans", Some(&key), Some(&body)).await {
                Some((200..300, queued)) => Some(queued["scan_id"].as_str().unwrap().to_owned()),
                // A scan of the host runs already, or the API is on its way back.
                Some((409 | 429 | 500..600, _)) | None => None,
                Some((status, problem)) => panic!("POST /scans of {host}: {status} {problem}"),
            }
        })
        .await
    }

    /// Waits until a scan is in one of these states.
    pub(crate) async fn scan_in(&self, id: &str, states: &[&str]) -> Value {
        let path = format!("/scans/{id}");
        let since = Instant::now();
        loop {
            let seen = self.ask(Method::GET, &path, None, None).await;
            let state = seen.as_ref().and_then(|(_, body)| body["scan"]["state"].as_str());
            match (state, seen.as_ref()) {
                (Some(state), Some((_, body))) if states.contains(&state) => return body.clone(),
                (Some("completed" | "failed"), Some((_, body))) => panic!("not {states:?}: {body}"),
                _ => assert!(since.elapsed() < PATIENCE, "scan {id} is never {states:?}: {seen:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
