//! What every answer goes through: a correlation id, a limit in time, problem bodies, a log line and metrics.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::error::{Code, Failure};

/// Longest a request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);
/// Carries the correlation id, both ways.
pub(crate) const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-correlation-id");
/// Prefixes that clients may not use: they mark what the system itself began.
const RESERVED: [&str; 3] = ["cron-", "boot-", "test-"];

/// Finds one request in logs, audit rows and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CorrelationId(pub String);

impl CorrelationId {
    /// The client's, when it is well-formed and not reserved; otherwise a fresh one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(CORRELATION_HEADER).and_then(|value| value.to_str().ok());
        let letters = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        let usable = |text: &&str| {
            (1..=64).contains(&text.len())
                && text.bytes().all(letters)
                && !RESERVED.iter().any(|prefix| text.starts_with(prefix))
        };
        let fresh = || format!("req-{}", Uuid::now_v7().simple());
        Self(given.filter(usable).map_or_else(fresh, str::to_owned))
    }
}

/// The outermost layer.
pub(crate) async fn envelope(mut request: Request, next: Next) -> Response {
    let correlation = CorrelationId::of(request.headers());
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let began = Instant::now();
    request.extensions_mut().insert(correlation.clone());

    let answer = tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await;
    let late = |_| {
        Failure::new(Code::Timeout, format!("no answer within {REQUEST_LIMIT:?}; ask again")).into_response()
    };
    let mut response = with_problem(answer.unwrap_or_else(late), &correlation, &path);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&correlation.0) {
        headers.insert(CORRELATION_HEADER, value);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));

    let (status, took) = (response.status().as_u16(), began.elapsed());
    let duration_ms = took.as_secs_f64() * 1000.0;
    tracing::info!(target: "openwatch::api", %method, %path, status, duration_ms, correlation.id = %correlation.0, "answered");
    metrics::histogram!("openwatch_api_request_duration_seconds", "method" => method.to_string())
        .record(took.as_secs_f64());
    response
}

/// Counts answers by route: innermost of all, where the router has already chosen.
pub(crate) async fn count(path: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let route = path.map_or_else(|| "-".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().to_string();
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    metrics::counter!("openwatch_api_requests_total", "method" => method, "route" => route, "status" => status)
        .increment(1);
    response
}

/// Gives every unsuccessful answer its body; answers of the framework itself included.
fn with_problem(mut response: Response, correlation: &CorrelationId, path: &str) -> Response {
    let status = response.status();
    let failure = response.extensions_mut().remove::<Failure>().or_else(|| foreign(status, &response));
    let Some(failure) = failure else { return response };
    let body = Json(failure.problem(&correlation.0, path));
    let mut told = (failure.code.status(), body).into_response();
    for name in [header::ALLOW, header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            told.headers_mut().insert(name, value.clone());
        }
    }
    told.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if failure.code == Code::AuthRequired {
        told.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    told
}

fn foreign(status: StatusCode, response: &Response) -> Option<Failure> {
    let json =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|it| it.as_bytes().ends_with(b"json"));
    match status {
        _ if json => None,
        StatusCode::NOT_FOUND => {
            Some(Failure::new(Code::NotFound, "see /openapi.json for the paths there are"))
        }
        StatusCode::METHOD_NOT_ALLOWED => Some(Failure::new(Code::MethodNotAllowed, "see the Allow header")),
        StatusCode::PAYLOAD_TOO_LARGE => Some(Failure::new(Code::BodyTooLarge, "send less at a time")),
        status if status.is_server_error() => {
            Some(Failure::new(Code::Internal, "look for the correlation id in the server's log"))
        }
        status if status.is_client_error() => {
            Some(Failure::new(Code::InvalidBody, "the request could not be read"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_may_name_their_requests_but_not_pose_as_the_system() {
        let given = |text: &str| {
            let headers = HeaderMap::from_iter([(CORRELATION_HEADER, text.parse().unwrap())]);
            CorrelationId::of(&headers).0 == text
        };
        assert!(given("req-1") && given("a_B-9") && given(&"x".repeat(64)));
        for refused in ["", "cron-1", "boot-1", "test-1", "a b", "ä", &"x".repeat(65)] {
            assert!(!given(refused), "{refused}");
        }
        assert!(CorrelationId::of(&HeaderMap::new()).0.starts_with("req-"));
    }
}
