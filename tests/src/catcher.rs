//! A web server that catches webhooks and answers as told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::wait::eventually;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Caught {
    /// Method, such as `POST`.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The exact bytes.
    pub body: Vec<u8>,
    /// When it had come whole.
    pub at: time::OffsetDateTime,
}

impl Caught {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the webhook's body is JSON")
    }
}

/// What is answered next, after a while, with these headers.
#[derive(Debug)]
struct Told {
    status: u16,
    after: Duration,
    headers: Vec<(&'static str, String)>,
}

#[derive(Debug, Default)]
struct Inner {
    caught: Vec<Caught>,
    answers: VecDeque<Told>,
}

/// The catcher. Ends with this value.
#[derive(Debug)]
pub struct Catcher {
    port: u16,
    inner: Arc<Mutex<Inner>>,
    task: JoinHandle<()>,
}

impl Catcher {
    /// Starts on a loopback port; answers 204 to everything until told otherwise.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a webhook catcher");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let inner = Arc::<Mutex<Inner>>::default();
        let app = Router::new().fallback(take).with_state(Arc::clone(&inner));
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { port, inner, task }
    }

    /// A URL that leads here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{}", self.port, path.trim_start_matches('/'))
    }

    /// Answers the next request with this status, after that time. Calls queue up.
    ///
    /// # Panics
    /// Never in practice: a handler would have to panic.
    pub fn answer_next(&self, status: u16, after: Duration) {
        self.answer_with(status, after, &[]);
    }

    /// The same with headers.
    ///
    /// # Panics
    /// Never in practice: a handler would have to panic.
    pub fn answer_with(&self, status: u16, after: Duration, headers: &[(&'static str, &str)]) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.inner.lock().expect("no handler panics").answers.push_back(Told { status, after, headers });
    }

    /// Everything caught so far, in order of arrival.
    ///
    /// # Panics
    /// Never in practice: a handler would have to panic.
    #[must_use]
    pub fn all(&self) -> Vec<Caught> {
        self.inner.lock().expect("no handler panics").caught.clone()
    }

    /// Waits until at least that many were caught.
    ///
    /// # Panics
    /// When they do not come in time.
    pub async fn at_least(&self, count: usize) -> Vec<Caught> {
        let enough = || async { Some(self.all()).filter(|all| all.len() >= count) };
        eventually(&format!("{count} webhooks"), enough).await
    }
}

impl Drop for Catcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(
    State(inner): State<Arc<Mutex<Inner>>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap) {
    let text = |value: &axum::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    let caught = Caught {
        method: method.to_string(),
        path: uri.to_string(),
        headers,
        body: body.to_vec(),
        at: time::OffsetDateTime::now_utc(),
    };
    let Told { status, after, headers } = {
        let mut inner = inner.lock().expect("no handler panics");
        inner.caught.push(caught);
        inner.answers.pop_front().unwrap_or(Told { status: 204, after: Duration::ZERO, headers: Vec::new() })
    };
    tokio::time::sleep(after).await;
    let told =
        headers.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)));
    (StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), told.collect())
}
