//! The policy in force and the scheduler's counters. Nothing is verified here: whoever follows the policy does that.

use axum::extract::State;
use axum::http::StatusCode;
use openwatch_model::audit::PolicyReloadAsked;
use openwatch_store::counter::{self, Counter};
use openwatch_store::policy::{self, PolicyRow};

use crate::dto::{PolicyInForce, Problem, ReloadAsked, SchedulerSnapshot};
use crate::error::{Code, Failure};
use crate::state::{Asking, Shared};
use crate::trail;

/// The policy that every stage follows.
#[utoipa::path(get, path = "/api/v1/policy", tag = "policy", responses(
    (status = 200, description = "the policy in force", body = PolicyInForce),
    (status = 404, description = "none was ever accepted", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): Shared) -> Result<axum::Json<PolicyInForce>, Failure> {
    let row = policy::in_force(&mut api.begin_read().await?).await?;
    let row =
        row.ok_or_else(|| Failure::new(Code::NotFound, "no policy was ever accepted; start a scheduler"))?;
    let PolicyRow { version, document, key_fingerprint, loaded_by, loaded_at, .. } = row;
    let document = String::from_utf8_lossy(&document).into_owned();
    Ok(axum::Json(PolicyInForce { version, key_fingerprint, loaded_by, loaded_at, document }))
}

/// Tells every scheduler to read its policy file and its keys again, as SIGHUP does. They verify and decide; the answer
/// does not wait for them.
#[utoipa::path(post, path = "/api/v1/policy/reload", tag = "policy", responses(
    (status = 202, description = "told", body = ReloadAsked),
))]
pub(crate) async fn reload(
    State(api): Shared,
    asking: Asking,
) -> Result<(StatusCode, axum::Json<ReloadAsked>), Failure> {
    let mut tx = api.begin().await?;
    let active = policy::in_force(&mut tx).await?.map(|row| row.version);
    policy::call_reload(&mut tx).await?;
    trail::record(&mut tx, &asking, &PolicyReloadAsked { policy_version_active: active.clone() }).await?;
    let asked_at = tx.now();
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(ReloadAsked { version: active.unwrap_or_default(), asked_at })))
}

/// What all schedulers did so far.
#[utoipa::path(get, path = "/api/v1/scheduler", tag = "scheduler", responses(
    (status = 200, description = "counters", body = SchedulerSnapshot),
))]
pub(crate) async fn snapshot(State(api): Shared) -> Result<axum::Json<SchedulerSnapshot>, Failure> {
    let all = counter::all(&mut api.begin_read().await?).await?;
    let last_tick_at = all.iter().find(|it| it.name == Counter::Ticks.as_str()).and_then(|it| it.moved_at);
    let counters = all.into_iter().map(|it| (it.name, it.value)).collect();
    Ok(axum::Json(SchedulerSnapshot { last_tick_at, counters }))
}
