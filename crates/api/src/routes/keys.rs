//! The data-encryption key: who holds which, and asking for another one. Ids only; no key is ever here.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use openwatch_model::audit::KeyRotationRequested;
use openwatch_model::rotation::{Phase, behind};
use openwatch_store::{Tx, rotation};

use crate::dto::{KeyHolder, KeyRotation, KeysView, Problem, RotateKey};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Asking, Shared};
use crate::trail;

/// Longest that an old key may be kept.
const RETIRE_MOST: u32 = 30 * 24 * 3600;
/// As long as a job signed with it may be fresh.
const RETIRE_USUAL: u32 = 24 * 3600;

/// Which process holds which keys, and how far a rotation is.
#[utoipa::path(get, path = "/api/v1/keys", tag = "keys", responses(
    (status = 200, description = "holders and rotation", body = KeysView),
))]
pub(crate) async fn show(State(api): Shared) -> Result<axum::Json<KeysView>, Failure> {
    let mut tx = api.begin_read().await?;
    Ok(axum::Json(view(&mut tx).await?))
}

/// Asks for a new data-encryption key. Credentials are encrypted again with it while scans go on.
#[utoipa::path(post, path = "/api/v1/keys:rotate", tag = "keys", request_body = RotateKey, responses(
    (status = 202, description = "asked for", body = KeysView),
    (status = 409, description = "keys.rotation_active", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn rotate(
    State(api): Shared,
    asking: Asking,
    Json(wanted): Json<RotateKey>,
) -> Result<(StatusCode, axum::Json<KeysView>), Failure> {
    let seconds = wanted.retire_after_sec.unwrap_or(RETIRE_USUAL);
    if seconds > RETIRE_MOST {
        let detail = format!("must be at most {RETIRE_MOST} (30 days)");
        return Err(Failure::field(Code::FieldRange, "/retire_after_sec", detail));
    }
    let mut tx = api.begin().await?;
    let after = Duration::from_secs(u64::from(seconds));
    if !rotation::request(&mut tx, &asking.caller.name, after).await? {
        let detail = "GET /api/v1/keys says how far it is and who is waited for";
        return Err(Failure::new(Code::RotationActive, detail));
    }
    trail::record(&mut tx, &asking, &KeyRotationRequested { retire_after_sec: seconds }).await?;
    let state = view(&mut tx).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(state)))
}

async fn view(tx: &mut Tx<'_>) -> Result<KeysView, Failure> {
    let holders = rotation::holders(tx).await?;
    let newest = rotation::newest(tx).await?;
    let rotation = match newest {
        None => None,
        Some(it) => {
            let next = it.next.clone().unwrap_or_default();
            let waiting_for = match it.phase {
                Phase::Issued => behind(&holders, |holder| holder.key_ids.contains(&next)),
                Phase::Switched => behind(&holders, |holder| holder.current == next),
                Phase::Requested | Phase::Done => Vec::new(),
            };
            let left = if it.phase == Phase::Switched { rotation::left(tx, &next).await? } else { 0 };
            Some(KeyRotation {
                phase: it.phase.as_str().to_owned(),
                requested_by: it.requested_by,
                requested_at: it.requested_at,
                old_key_id: it.old,
                next_key_id: it.next,
                retire_at: it.switched_at.map(|at| at + it.retire_after),
                credentials_left: left,
                waiting_for,
            })
        }
    };
    let holders = holders
        .into_iter()
        .map(|it| KeyHolder { role: it.role, process: it.process, current: it.current, key_ids: it.key_ids })
        .collect();
    Ok(KeysView { holders, rotation })
}
