//! The REST API over HTTP, on a database of its own.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod alerts;
mod auth;
mod document;
mod health;
mod inventory;
mod live;
mod look;
mod scans;
mod side_by_side;
mod tls;

use std::collections::BTreeMap;
use std::sync::Arc;

use openwatch_api::auth::Role as TokenRole;
use openwatch_api::{ApiConfig, ApiDeps, Health};
use openwatch_bus::User;
use openwatch_store::token::{self, NewToken};
use openwatch_store::{Role, Store, StoreOptions};
use openwatch_tests::{Database, Nats};
use openwatch_trust::token::ApiToken;
use openwatch_trust::{Dek, Deks, VaultKeys, keyring};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// A running API, a token for each role, and the vault that credentials are sealed to.
pub(crate) struct Served {
    pub(crate) database: Database,
    pub(crate) nats: Nats,
    pub(crate) vault: VaultKeys,
    pub(crate) health: Health,
    pub(crate) url: String,
    tokens: BTreeMap<&'static str, String>,
    http: reqwest::Client,
    stop: CancellationToken,
    serving: AbortOnDropHandle<Result<(), openwatch_api::ApiError>>,
}

/// What it said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The problem's code; empty when it is none.
    pub(crate) fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

impl Served {
    pub(crate) async fn new() -> Self {
        let database = Database::new().await;
        let store = database.store(Role::Api).await;
        Self::over(database, store).await
    }

    /// The same, with a database address that can fail.
    pub(crate) async fn through(port: impl FnOnce(u16) -> u16) -> Self {
        let database = Database::new().await;
        let url = database.url_through(port(database.port()));
        let options =
            StoreOptions { url, role: Role::Api, max_connections: 4, application_name: "test-api".into() };
        let store = Store::connect(&options).await.unwrap();
        Self::over(database, store).await
    }

    async fn over(database: Database, store: Store) -> Self {
        let mut tokens = BTreeMap::new();
        let mut tx = store.begin().await.unwrap();
        for role in TokenRole::ALL {
            let secret = ApiToken::generate();
            let row = NewToken {
                name: format!("the-{}", role.as_str()),
                hash: secret.hash(),
                prefix: secret.expose()[..10].to_owned(),
                role: role.as_str().to_owned(),
                expires_at: None,
            };
            token::insert(&mut tx, &row, "test").await.unwrap();
            tokens.insert(role.as_str(), secret.expose().to_owned());
        }
        tx.commit().await.unwrap();

        let deks = Deks::single(Dek::generate());
        let (_, keys) = watch::channel(Arc::new(keyring::issue_api(&deks)));
        let health = Health::new();
        let asked = store.clone();
        health.require("database", move || {
            let store = asked.clone();
            async move { store.ping().await.map_err(|error| error.to_string()) }
        });
        let nats = Nats::with_topology().await;
        let deps = ApiDeps {
            store,
            bus: nats.bus(User::Api).await,
            keys,
            health: health.clone(),
            metrics: None,
            inspect_key: openwatch_app::run::stages::inspect_key,
        };
        let config =
            ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), tls: None, plain_beyond_loopback: false };
        let (told, address) = oneshot::channel();
        let stop = CancellationToken::new();
        let bound = move |address| told.send(address).expect("the test waits for the address");
        let serving = tokio::spawn(openwatch_api::run(deps, config, bound, stop.clone()));
        let url = format!("http://{}", address.await.unwrap());
        // Another test may have been quicker; one provider serves all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let (vault, serving) = (VaultKeys::new(&deks), AbortOnDropHandle::new(serving));
        Self { database, nats, vault, health, url, tokens, http, stop, serving }
    }

    /// A token of that role.
    pub(crate) fn token(&self, role: &str) -> &str {
        &self.tokens[role]
    }

    /// A request, as it is built.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    /// Asks as a role (`""`: without a token).
    pub(crate) async fn ask(&self, role: &str, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, &format!("/api/v1{path}"));
        if !role.is_empty() {
            request = request.bearer_auth(self.token(role));
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        told(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask("admin", Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("admin", Method::POST, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.ask("admin", Method::DELETE, path, None).await
    }

    /// Asks for a scan under a key.
    pub(crate) async fn scan(&self, key: &str, body: Value) -> Answer {
        let request = self.request(Method::POST, "/api/v1/scans").bearer_auth(self.token("operator"));
        told(request.header("Idempotency-Key", key).json(&body)).await
    }

    /// Registers a host and returns its id.
    pub(crate) async fn host(&self, name: &str) -> String {
        let made = self.post("/hosts", json!({"name": name, "address": "192.0.2.1"})).await;
        assert_eq!(made.status, 201, "{made:?}");
        made.body["id"].as_str().unwrap().to_owned()
    }

    /// Codes of the audit log, newest first.
    pub(crate) async fn audited(&self, code: &str) -> Vec<Value> {
        let page = self.get(&format!("/audit?code={code}")).await;
        page.body["items"].as_array().unwrap().clone()
    }

    /// Stops it and waits until it has.
    pub(crate) async fn stop(self) -> Result<(), openwatch_api::ApiError> {
        self.stop.cancel();
        self.serving.await.unwrap()
    }
}

/// Sends a request.
pub(crate) async fn told(request: reqwest::RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.unwrap();
    let (method, path) = (request.method().to_string(), request.url().path().to_owned());
    let answer = client.execute(request).await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = answer.bytes().await.unwrap();
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !bytes.is_empty() {
        document::holds(&method, &path, status, kind, &bytes);
    }
    let body =
        serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into()));
    Answer { status, headers, body }
}
