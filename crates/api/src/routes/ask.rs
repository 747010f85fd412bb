//! Asking for a scan by hand: one transaction holds the idempotency key, the scan and its audit row. The schedule is
//! not touched.

use axum::extract::{Path, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use openwatch_model::audit::ScanQueued;
use openwatch_model::scan::{Lane, ScanState, Selection};
use openwatch_model::{HostId, ScanId};
use openwatch_store::idempotency::{self, Claim};
use openwatch_store::scan::{self, Queued};
use openwatch_store::{StoreError, Tx, policy};
use serde_json::Value;
use uuid::Uuid;

use super::known_host;
use crate::dto::{NewHostScan, NewScan, Problem, QueuedScan};
use crate::error::{Code, Failure};
use crate::extract::{Raw, decode};
use crate::idempotency::{fingerprint, key};
use crate::state::{Api, Asking, Shared};
use crate::trail;

/// Rules in one filter: with ids of 256 characters these stay well below the size limit of a job.
const RULES_LIMIT: usize = 1000;
/// Tries when the scan in the way ends just then.
const TRIES: u32 = 3;
/// Says that the answer is an earlier one again.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Asks for a scan. If the host has one waiting, that one moves to the front and is returned; if one is running, the
/// answer is 409 and names it.
#[utoipa::path(post, path = "/api/v1/scans", tag = "scans", request_body = NewScan,
    params(("Idempotency-Key" = String, Header, description = "fresh for each scan that is wanted; the same again repeats the answer for 24 h")),
    responses(
        (status = 202, description = "queued", body = QueuedScan),
        (status = 400, description = "idempotency.key_required, or a field is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "conflict.scan_active, idempotency.key_reused or idempotency.in_progress", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create(State(api): Shared, asking: Asking, raw: Raw) -> Result<Response, Failure> {
    let body: NewScan = decode(&raw.body)?;
    let selection = select(body.framework, body.rules)?;
    ask(&api, &asking, &raw, &body.host, &selection).await
}

/// Asks for a scan of the host in the path.
#[utoipa::path(post, path = "/api/v1/hosts/{host}/scans", tag = "scans", request_body = NewHostScan,
    params(
        ("host" = String, Path, description = "name or id"),
        ("Idempotency-Key" = String, Header, description = "fresh for each scan that is wanted; the same again repeats the answer for 24 h"),
    ),
    responses(
        (status = 202, description = "queued", body = QueuedScan),
        (status = 400, description = "idempotency.key_required, or a field is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "conflict.scan_active, idempotency.key_reused or idempotency.in_progress", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn create_for_host(
    State(api): Shared,
    asking: Asking,
    Path(host): Path<String>,
    raw: Raw,
) -> Result<Response, Failure> {
    let body: NewHostScan = if raw.body.is_empty() { NewHostScan::default() } else { decode(&raw.body)? };
    let selection = select(body.framework, body.rules)?;
    ask(&api, &asking, &raw, &host, &selection).await
}

async fn ask(
    api: &Api,
    asking: &Asking,
    raw: &Raw,
    host: &str,
    selection: &Selection,
) -> Result<Response, Failure> {
    let key = key(raw)?;
    let print = fingerprint("POST", raw);
    for _ in 1..TRIES {
        match once(api, asking, (key, &print), host, selection).await? {
            Some(answer) => return Ok(answer),
            None => continue,
        }
    }
    let last = once(api, asking, (key, &print), host, selection).await?;
    last.ok_or_else(|| {
        Failure::new(Code::Unavailable, "the host's scans begin and end too quickly; try again")
    })
}

/// `None`: the scan in the way ended meanwhile, ask again.
async fn once(
    api: &Api,
    asking: &Asking,
    (key, print): (&str, &[u8; 32]),
    host: &str,
    selection: &Selection,
) -> Result<Option<Response>, Failure> {
    let mut tx = api.begin().await?;
    let actor = &asking.caller.name;
    match idempotency::claim(&mut tx, actor, key, print).await {
        Ok(Claim::New) => {}
        Ok(Claim::Replay { status, body }) => return Ok(Some(replay(status, body))),
        Ok(Claim::Reused) => {
            return Err(Failure::new(
                Code::IdempotencyKeyReused,
                "the first request under this key was another one",
            ));
        }
        Err(StoreError::Busy(_)) => {
            return Err(Failure::new(
                Code::IdempotencyInProgress,
                "ask again under the same key in a moment",
            ));
        }
        Err(error) => return Err(error.into()),
    }
    let host = known_host(&mut tx, host).await?;
    let Some(queued) = queue(&mut tx, asking, host, selection).await? else { return Ok(None) };
    let body = serde_json::to_value(&queued).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Failure::new(Code::Internal, "look for the correlation id in the server's log")
    })?;
    idempotency::complete(&mut tx, actor, key, StatusCode::ACCEPTED.as_u16(), &body).await?;
    tx.commit().await?;
    Ok(Some((StatusCode::ACCEPTED, axum::Json(body)).into_response()))
}

async fn queue(
    tx: &mut Tx<'_>,
    asking: &Asking,
    host: HostId,
    selection: &Selection,
) -> Result<Option<QueuedScan>, Failure> {
    let policy = policy::in_force(tx).await?;
    let new = scan::NewScan {
        scan: ScanId(Uuid::new_v4()),
        host,
        selection: selection.clone(),
        actor: &asking.caller.name,
        policy_version: policy.as_ref().map(|policy| policy.version.as_str()),
        correlation: Some(&asking.correlation),
    };
    let (scan_id, queued_at, promoted) = match scan::queue(tx, &new).await {
        Ok(Queued::New { .. }) => (new.scan, tx.now(), false),
        Ok(Queued::NoHost) => return Err(Failure::new(Code::HostNotFound, "it was removed just now")),
        Ok(Queued::AlreadyOpen { scan, state: ScanState::Queued, lane, queued_at }) => {
            // Not moved although it waited on the other lane: it has begun since.
            if !scan::promote(tx, scan).await? && lane == Lane::Scheduled {
                return Err(active(scan));
            }
            (scan, queued_at, true)
        }
        Ok(Queued::AlreadyOpen { scan, .. }) => return Err(active(scan)),
        Err(StoreError::Conflict { constraint }) if constraint == "open_scan_pkey" => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let trigger = if promoted { "promoted" } else { "manual" }.to_owned();
    trail::record(tx, asking, &ScanQueued { scan_id, host_id: host, trigger }).await?;
    Ok(Some(QueuedScan { scan_id: scan_id.0, status: ScanState::Queued, queued_at, promoted }))
}

fn active(scan: ScanId) -> Failure {
    Failure::new(Code::ScanActive, format!("scan {scan} is running; ask again when it has ended"))
        .with_scan(scan.0)
}

fn replay(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::ACCEPTED);
    (status, [(REPLAYED, "true")], axum::Json(body)).into_response()
}

fn select(framework: Option<String>, mut rules: Vec<String>) -> Result<Selection, Failure> {
    let plain = |text: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':');
        !text.is_empty() && text.len() <= 256 && text.chars().all(letters)
    };
    let framework = framework.unwrap_or_else(|| "*".into());
    if framework != "*" && !plain(&framework) {
        return Err(Failure::field(Code::FieldFormat, "/framework", "must be the id of a framework"));
    }
    if rules.len() > RULES_LIMIT {
        return Err(Failure::field(
            Code::FieldRange,
            "/rules",
            format!("must hold at most {RULES_LIMIT} rules"),
        ));
    }
    if let Some(i) = rules.iter().position(|rule| !plain(rule)) {
        return Err(Failure::field(Code::FieldFormat, &format!("/rules/{i}"), "must be the id of a rule"));
    }
    rules.sort_unstable();
    rules.dedup();
    Ok(Selection { framework, rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_is_everything() {
        assert!(select(None, vec![]).unwrap().is_full());
        let some = select(Some("cis_rhel9".into()), vec!["b".into(), "a".into(), "b".into()]).unwrap();
        assert_eq!(
            (some.framework.as_str(), some.rules),
            ("cis_rhel9", vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(select(Some(String::new()), vec![]).unwrap_err().code, Code::FieldFormat);
        assert_eq!(select(None, vec!["a b".into()]).unwrap_err().fields[0].pointer, "/rules/0");
        assert_eq!(select(None, vec!["a".into(); 2001]).unwrap_err().code, Code::FieldRange);
    }
}
