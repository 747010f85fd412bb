//! The command line as a client of the REST API.

pub mod audit;
pub mod channels;
pub mod credentials;
pub mod host_keys;
pub mod hosts;
pub mod look;
pub mod scan;
pub mod table;

use std::path::Path;

use openwatch_api::dto::{Page, Problem};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use zeroize::Zeroizing;

use crate::cli::ClientArgs;
use crate::config::read_secret;
use crate::exit::{Failure, INTERNAL, TRY_AGAIN, UNAVAILABLE, USAGE};
use crate::links::{self, LinkTls};
use crate::place;

/// Rows asked for at once: every list gives so many.
const PAGE: u32 = 100;

/// A connection to the API.
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: Zeroizing<String>,
    /// Print JSON instead of tables.
    pub json: bool,
}

impl Client {
    /// Finds the API: flags and environment first, then what `openwatch up` left in its data directory.
    ///
    /// # Errors
    /// Exit 64 when there is neither, with what to give.
    pub fn new(args: &ClientArgs) -> Result<Self, Failure> {
        let (url, token_file) = match (&args.url, &args.token_file) {
            (Some(url), Some(file)) => (url.clone(), file.clone()),
            (url, token_file) => {
                let dir = args.data_dir.clone().unwrap_or_else(place::default_data_dir);
                let found = place::ClientFile::read(&dir).map_err(|problem| {
                    Failure::usage(format!(
                        "{problem}; name the API with --url and --token-file, or the directory of `openwatch up` with --data-dir"
                    ))
                })?;
                (url.clone().unwrap_or(found.url), token_file.clone().unwrap_or(found.token_file))
            }
        };
        let http = http(args, &url)?;
        let token = read_token(&token_file)?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token, json: args.json })
    }

    /// `GET`, with query pairs.
    ///
    /// # Errors
    /// Exit 69 when nobody answers, 64 for a client's mistake, 75 for what may work later, 70 otherwise.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Failure> {
        self.send(Method::GET, path, query, None::<&()>, None).await
    }

    /// `GET` of a list, page by page, up to so many rows. Says on standard error when there are more: what is printed is for
    /// programs too.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&'static str, String)],
        wanted: u32,
    ) -> Result<Vec<T>, Failure> {
        let (mut rows, mut cursor, mut left) = (Vec::new(), None::<String>, wanted);
        loop {
            let mut query = query.to_vec();
            query.push(("limit", left.min(PAGE).to_string()));
            query.extend(cursor.map(|cursor| ("cursor", cursor)));
            let page: Page<T> = self.get(path, &query).await?;
            left = left.saturating_sub(u32::try_from(page.items.len()).unwrap_or(u32::MAX));
            rows.extend(page.items);
            cursor = page.next_cursor;
            if cursor.is_some() && left == 0 {
                eprintln!(
                    "openwatch: these are {} rows, and there are more; say how many with --limit",
                    rows.len()
                );
            }
            if cursor.is_none() || left == 0 {
                return Ok(rows);
            }
        }
    }

    /// A health report, which says no with 503 and is a report all the same.
    ///
    /// # Errors
    /// 69 when nobody answers.
    pub async fn health(&self, path: &str) -> Result<openwatch_api::dto::HealthReport, Failure> {
        let url = format!("{}{path}", self.url);
        let unavailable = |error: reqwest::Error| {
            Failure::unavailable(format!("the API at {} does not answer: {}", self.url, root_cause(&error)))
        };
        let answer = self.http.get(url).send().await.map_err(unavailable)?;
        answer.json().await.map_err(unavailable)
    }

    /// `POST` of a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::POST, path, &[], Some(body), None).await
    }

    /// `POST` that may be repeated: the key makes a second one answer like the first.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_once<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        key: &str,
    ) -> Result<T, Failure> {
        self.send(Method::POST, path, &[], Some(body), Some(key)).await
    }

    /// `PATCH` with a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::PATCH, path, &[], Some(body), None).await
    }

    /// `PUT` with a body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.send(Method::PUT, path, &[], Some(body), None).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send::<serde::de::IgnoredAny>(Method::DELETE, path, &[], None::<&()>, None).await.map(|_| ())
    }

    /// `GET` of a table, and whether it was cut off.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn csv(&self, path: &str, query: &[(&str, String)]) -> Result<(String, bool), Failure> {
        let answer = self.answer(Method::GET, path, query, None::<&()>, None).await?;
        let truncated = answer.headers().get("openwatch-truncated").is_some_and(|value| value == "true");
        let bytes = body(answer).await?;
        Ok((String::from_utf8_lossy(&bytes).into_owned(), truncated))
    }

    /// `DELETE` that answers with what is left.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::DELETE, path, &[], None::<&()>, None).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        content: Option<&impl Serialize>,
        key: Option<&str>,
    ) -> Result<T, Failure> {
        let bytes = body(self.answer(method, path, query, content, key).await?).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
        serde_json::from_slice(bytes).map_err(|e| Failure::new(INTERNAL, e))
    }

    async fn answer(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<&impl Serialize>,
        key: Option<&str>,
    ) -> Result<reqwest::Response, Failure> {
        let mut url = format!("{}/api/v1{path}", self.url);
        for (i, (name, value)) in query.iter().enumerate() {
            url.push(if i == 0 { '?' } else { '&' });
            url.push_str(&format!("{name}={}", place::url_encode(value)));
        }
        let mut request = self.http.request(method, &url).bearer_auth(&*self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        request.send().await.map_err(|error| {
            Failure::unavailable(format!("the API at {} does not answer: {}", self.url, root_cause(&error)))
        })
    }
}

/// The HTTP client: over TLS with the files that were given, in the clear on this machine only.
fn http(args: &ClientArgs, url: &str) -> Result<reqwest::Client, Failure> {
    let mut problems: Vec<String> = links::api(url, args.plain).into_iter().collect();
    let files = [args.ca.clone(), args.client_certificate.clone(), args.client_key.clone()];
    let tls = LinkTls::check(["--ca", "--client-certificate", "--client-key"], files, &mut problems);
    if !problems.is_empty() {
        return Err(Failure::usage(problems.join("; ")));
    }
    let mut http = reqwest::Client::builder().timeout(std::time::Duration::from_secs(60));
    let cannot = |e: reqwest::Error| Failure::usage(format!("cannot use the TLS files: {}", root_cause(&e)));
    if let Some(ca) = &tls.ca {
        let certificates = reqwest::Certificate::from_pem_bundle(&std::fs::read(ca)?).map_err(cannot)?;
        http = http.tls_certs_only(certificates);
    }
    if let Some((certificate, key)) = &tls.identity {
        let mut both = Zeroizing::new(std::fs::read(key)?);
        both.push(b'\n');
        both.extend(std::fs::read(certificate)?);
        http = http.identity(reqwest::Identity::from_pem(&both).map_err(cannot)?);
    }
    http.build().map_err(|e| Failure::new(INTERNAL, e))
}

/// What a good answer carries.
async fn body(answer: reqwest::Response) -> Result<Vec<u8>, Failure> {
    let status = answer.status();
    let bytes = answer.bytes().await.map_err(|e| Failure::new(UNAVAILABLE, e))?;
    if status.is_success() { Ok(bytes.into()) } else { Err(refused(status, &bytes)) }
}

/// A moment as the API reads it. A year that RFC 3339 does not know is for the API to refuse.
pub(crate) fn moment(at: &OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_else(|_| at.to_string())
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, Failure> {
    read_secret(path).map_err(Failure::usage)
}

fn refused(status: StatusCode, body: &[u8]) -> Failure {
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        return Failure::new(INTERNAL, anyhow::anyhow!("the API answered {status} without a reason"));
    };
    let code = match (problem.retryable, status.is_client_error()) {
        (true, _) => TRY_AGAIN,
        (false, true) => USAGE,
        (false, false) => INTERNAL,
    };
    let mut text = format!("{} [{}]", problem.detail, problem.code);
    for field in &problem.errors {
        text.push_str(&format!("\n  {}: {}", field.pointer, field.detail));
    }
    Failure::new(code, anyhow::anyhow!(text))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
