//! Reading requests: bodies and queries into exact types, and what is said when they do not fit.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::request::Parts;
use axum::http::{Uri, header};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{Code, Failure};

/// Largest body that is read.
pub(crate) const BODY_LIMIT: usize = 1024 * 1024;
/// Page size when none is asked for.
pub(crate) const PAGE_DEFAULT: u32 = 50;

/// A JSON body. Bytes are wiped after decoding: some bodies carry secrets, and the code is the same for all.
pub(crate) struct Json<T>(pub T);

/// A query string; unknown and repeated parameters are refused.
pub(crate) struct Query<T>(pub T);

/// A path segment that is an id.
pub(crate) struct Id(pub Uuid);

/// The body as sent, with what an idempotency key must cover besides it.
pub(crate) struct Raw {
    /// The bytes.
    pub body: Zeroizing<Vec<u8>>,
    /// Path and query.
    pub target: String,
    /// The Idempotency-Key header, unchecked.
    pub key: Option<String>,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        check_content_type(&request)?;
        let body = read(request.into_body()).await?;
        decode(&body).map(Self)
    }
}

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> {
        check_content_type(&request)?;
        let header = request.headers().get("idempotency-key");
        let key = header.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let target = request.uri().path_and_query().map(|it| it.as_str().to_owned()).unwrap_or_default();
        Ok(Self { body: read(request.into_body()).await?, target, key })
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        query(&parts.uri).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let text = Path::<String>::from_request_parts(parts, state).await;
        let Path(text) = text.map_err(|_| Failure::field(Code::FieldFormat, "id", "must be UTF-8"))?;
        id("id", &text).map(Self)
    }
}

/// Reads an id.
///
/// # Errors
/// Not a UUID.
pub(crate) fn id(name: &str, text: &str) -> Result<Uuid, Failure> {
    text.parse().map_err(|_| Failure::field(Code::FieldFormat, name, "must be a UUID"))
}

/// Decodes a body. What is said about a misfit never repeats a value: it may be a secret.
///
/// # Errors
/// Not JSON, or not what the type asks for.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let at = format!("line {}, column {}", error.line(), error.column());
        if !error.is_data() {
            return Failure::new(Code::InvalidBody, format!("the body stops being JSON at {at}"));
        }
        misfit(&error.to_string(), &format!("the value before {at} is not of the expected kind"))
    })
}

/// A page size within bounds.
///
/// # Errors
/// Zero, or more than `max`.
pub(crate) fn limit(asked: Option<u32>, max: u32) -> Result<u32, Failure> {
    match asked.unwrap_or(PAGE_DEFAULT.min(max)) {
        limit if (1..=max).contains(&limit) => Ok(limit),
        _ => Err(Failure::field(Code::LimitExceeded, "limit", format!("must be 1 to {max}"))),
    }
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    axum::extract::Query::<T>::try_from_uri(uri).map(|query| query.0).map_err(|rejection| {
        let text = rejection.body_text();
        let why = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        misfit(why, &clip(why))
    })
}

/// Tells an unknown or missing member from a value that does not fit.
fn misfit(why: &str, otherwise: &str) -> Failure {
    let named =
        |opening: &str| why.split_once(opening).and_then(|(_, rest)| rest.split('`').next()).map(clip);
    if let Some(field) = named("unknown field `") {
        return Failure::field(Code::FieldUnknown, &field, "is not known here");
    }
    if let Some(field) = named("missing field `") {
        return Failure::field(Code::FieldRequired, &field, "is required");
    }
    Failure::new(Code::FieldFormat, otherwise)
}

fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(120).collect()
}

fn check_content_type(request: &Request) -> Result<(), Failure> {
    let Some(value) = request.headers().get(header::CONTENT_TYPE) else { return Ok(()) };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = kind.eq_ignore_ascii_case("application/json") || kind.to_ascii_lowercase().ends_with("+json");
    let wrong = || Failure::field(Code::InvalidBody, "content-type", "must be application/json");
    if json { Ok(()) } else { Err(wrong()) }
}

async fn read(body: Body) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut all = Zeroizing::new(Vec::with_capacity(4096));
    let mut frames = body.into_data_stream();
    while let Some(frame) = frames.next().await {
        let frame = frame.map_err(|_| Failure::new(Code::InvalidBody, "the body ended too early"))?;
        if all.len() + frame.len() > BODY_LIMIT {
            return Err(Failure::new(Code::BodyTooLarge, format!("at most {BODY_LIMIT} bytes are read")));
        }
        grow(&mut all, frame.len());
        all.extend_from_slice(&frame);
    }
    Ok(all)
}

/// Makes room without leaving an unwiped copy behind, as growing in place would.
fn grow(all: &mut Zeroizing<Vec<u8>>, more: usize) {
    if all.capacity() - all.len() < more {
        let mut larger = Zeroizing::new(Vec::with_capacity((all.len() + more).next_power_of_two()));
        larger.extend_from_slice(all);
        *all = larger;
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        name: String,
        #[serde(default)]
        port: u16,
    }

    fn said(body: &str) -> (&'static str, String) {
        let failure = decode::<Body>(body.as_bytes()).unwrap_err();
        let pointer = failure.fields.first().map(|field| field.pointer.clone()).unwrap_or_default();
        (failure.code.as_str(), pointer)
    }

    #[test]
    fn each_misfit_has_its_code() {
        assert_eq!(said(r#"{"name":"a","scan_id":"x"}"#), ("validation.field_unknown", "scan_id".into()));
        assert_eq!(said(r#"{"port":1}"#), ("validation.field_required", "name".into()));
        assert_eq!(said(r#"{"name":"a","port":70000}"#), ("validation.field_format", String::new()));
        assert_eq!(said(r#"{"name":"#), ("validation.invalid_body", String::new()));
        assert_eq!(said(""), ("validation.invalid_body", String::new()));
        let body = decode::<Body>(br#"{"name":"a","port":7}"#).unwrap();
        assert_eq!((body.name.as_str(), body.port), ("a", 7));
    }

    #[test]
    fn a_wrong_value_is_never_repeated() {
        let failure = decode::<Body>(br#"{"name":"a","port":"hunter2"}"#).unwrap_err();
        assert!(!format!("{failure:?}").contains("hunter2"));
    }

    #[test]
    fn queries_are_as_strict_as_bodies() {
        let ask = |text: &str| query::<Body>(&format!("/x?{text}").parse().unwrap());
        assert_eq!(ask("name=a%20b&port=3").unwrap().name, "a b");
        let code = |text: &str| ask(text).unwrap_err().code.as_str();
        assert_eq!(code("name=a&nope=1"), "validation.field_unknown");
        assert_eq!(code("port=1"), "validation.field_required");
        assert_eq!(code("name=a&port=x"), "validation.field_format");
        assert_eq!(code("name=a&name=b"), "validation.field_format");
    }

    #[test]
    fn page_sizes_are_bounded_on_both_sides() {
        assert_eq!(limit(None, 100).unwrap(), 50);
        assert_eq!(limit(Some(100), 100).unwrap(), 100);
        assert_eq!(limit(Some(0), 100).unwrap_err().code, Code::LimitExceeded);
        assert_eq!(limit(Some(101), 100).unwrap_err().code, Code::LimitExceeded);
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_no_further() {
        assert_eq!(read(axum::body::Body::from(vec![b'x'; BODY_LIMIT])).await.unwrap().len(), BODY_LIMIT);
        let refused = read(axum::body::Body::from(vec![b'x'; BODY_LIMIT + 1])).await.unwrap_err();
        assert_eq!(refused.code, Code::BodyTooLarge);
    }
}
