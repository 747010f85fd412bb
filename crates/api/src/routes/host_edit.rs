//! Hosts: what changes of how one is reached.

use axum::extract::{Path, State};
use openwatch_model::audit::HostUpdated;
use openwatch_store::host;

use super::host_changes::{known_credential, known_jump};
use super::hosts::show_in;
use super::known_host;
use crate::dto::{Host, HostChange, Problem};
use crate::error::Failure;
use crate::extract::Json;
use crate::state::{Asking, Shared};
use crate::{trail, validate};

/// Changes how a host is reached and logged in to. Counts from its next scan on. Its address stays: what was recorded
/// under the name is of the machine that was there.
#[utoipa::path(patch, path = "/api/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "name or id")), request_body = HostChange, responses(
    (status = 200, description = "changed", body = Host),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "host.jump_refused", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn change(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(wanted): Json<HostChange>,
) -> Result<axum::Json<Host>, Failure> {
    wanted.user.as_deref().map_or(Ok(()), |user| validate::user("/user", user))?;
    wanted.labels.as_ref().map_or(Ok(()), |labels| validate::labels("/labels", labels))?;
    let mut tx = api.begin().await?;
    let id = known_host(&mut tx, &named).await?;
    let mut changed = Vec::new();
    if let Some(credential) = &wanted.credential {
        let credential = known_credential(&mut tx, "", credential.as_deref()).await?;
        host::set_credential(&mut tx, id, credential).await?;
        changed.push("credential");
    }
    if let Some(jump) = &wanted.jump {
        let jump = known_jump(&mut tx, "", jump.as_deref()).await?;
        host::set_jump(&mut tx, id, jump).await?;
        changed.push("jump");
    }
    if let Some(labels) = &wanted.labels {
        host::set_labels(&mut tx, id, labels).await?;
        changed.push("labels");
    }
    changed.extend(wanted.user.is_some().then_some("user"));
    changed.extend(wanted.sudo.is_some().then_some("sudo"));
    let rest = host::HostChange { username: wanted.user, sudo: wanted.sudo };
    host::change(&mut tx, id, &rest).await?;
    let made = show_in(&mut tx, id).await?;
    let changed = changed.into_iter().map(str::to_owned).collect();
    trail::record(&mut tx, &asking, &HostUpdated { host_id: id, name: made.name.clone(), changed }).await?;
    tx.commit().await?;
    Ok(axum::Json(made))
}
