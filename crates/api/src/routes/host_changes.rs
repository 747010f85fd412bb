//! Hosts: register and remove.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::audit::{HostCreated, HostDeleted};
use openwatch_model::{CredentialId, HostId};
use openwatch_store::{StoreError, Tx, credential, host};

use super::hosts::show_in;
use super::{host_keys, known_host};
use crate::auth::Permission;
use crate::dto::{Host, NewHost, Problem};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::guard::insist;
use crate::state::{Api, Asking, Shared};
use crate::{trail, validate};

/// Hosts in one import.
const IMPORT_LIMIT: usize = 2000;

/// Registers a host; it is due for its first scan at once.
#[utoipa::path(post, path = "/api/v1/hosts", tag = "hosts", request_body = NewHost, responses(
    (status = 201, description = "registered", body = Host),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "host.duplicate", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): Shared,
    asking: Asking,
    Json(new): Json<NewHost>,
) -> Result<(StatusCode, axum::Json<Host>), Failure> {
    check(&api, &asking, "", &new).await?;
    let mut tx = api.begin().await?;
    let id = register(&mut tx, &asking, "", new).await?;
    let made = show_in(&mut tx, id).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// Registers many hosts, all or none.
#[utoipa::path(post, path = "/api/v1/hosts:import", tag = "hosts", request_body = Vec<NewHost>, responses(
    (status = 201, description = "registered", body = Vec<Host>),
    (status = 400, description = "a field is wrong; nothing was registered", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "host.duplicate; nothing was registered", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn import(
    State(api): Shared,
    asking: Asking,
    Json(all): Json<Vec<NewHost>>,
) -> Result<(StatusCode, axum::Json<Vec<Host>>), Failure> {
    if all.len() > IMPORT_LIMIT {
        let detail = format!("must hold at most {IMPORT_LIMIT} hosts; import the rest in another request");
        return Err(Failure::field(Code::FieldRange, "", detail));
    }
    for (i, new) in all.iter().enumerate() {
        check(&api, &asking, &format!("/{i}"), new).await?;
    }
    let mut tx = api.begin().await?;
    let mut ids = Vec::with_capacity(all.len());
    for (i, new) in all.into_iter().enumerate() {
        ids.push(register(&mut tx, &asking, &format!("/{i}"), new).await?);
    }
    let mut made = Vec::with_capacity(ids.len());
    for id in ids {
        made.push(show_in(&mut tx, id).await?);
    }
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// Removes a host: it is scanned, probed and alerted about no more; its history stays.
#[utoipa::path(delete, path = "/api/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "name or id")), responses(
    (status = 204, description = "removed"),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "host.in_use", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn remove(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
) -> Result<StatusCode, Failure> {
    let mut tx = api.begin().await?;
    let host_id = known_host(&mut tx, &named).await?;
    let gone = host::remove(&mut tx, host_id).await.map_err(|error| match error {
        StoreError::Refused { constraint, .. } if constraint == "host_jump_fkey" => {
            Failure::new(Code::HostInUse, "other hosts are reached through it; give them another way first")
        }
        error => error.into(),
    })?;
    let name = gone.ok_or_else(|| Failure::new(Code::HostNotFound, "it was removed just now"))?;
    trail::record(&mut tx, &asking, &HostDeleted { host_id, name }).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn check(api: &Api, asking: &Asking, at: &str, new: &NewHost) -> Result<(), Failure> {
    validate::name(&format!("{at}/name"), &new.name, 253)?;
    validate::address(&format!("{at}/address"), &new.address)?;
    new.port.map_or(Ok(()), |port| validate::port(&format!("{at}/port"), port))?;
    new.user.as_deref().map_or(Ok(()), |user| validate::user(&format!("{at}/user"), user))?;
    validate::labels(&format!("{at}/labels"), &new.labels)?;
    if !new.known_keys.is_empty() {
        insist(api, asking, Permission::HostKeyAccept).await?;
    }
    Ok(())
}

async fn register(tx: &mut Tx<'_>, asking: &Asking, at: &str, new: NewHost) -> Result<HostId, Failure> {
    let port = new.port.unwrap_or(22);
    let row = host::NewHost {
        name: new.name.clone(),
        address: new.address.clone(),
        port,
        username: new.user,
        sudo: new.sudo.unwrap_or_default(),
        credential: known_credential(tx, at, new.credential.as_deref()).await?,
        jump: known_jump(tx, at, new.jump.as_deref()).await?,
        labels: new.labels,
    };
    let host_id = host::add(tx, &row, &asking.caller.name).await.map_err(|error| {
        let mut failure = Failure::from(error);
        failure.fields.iter_mut().for_each(|field| field.pointer.insert_str(0, at));
        failure
    })?;
    trail::record(tx, asking, &HostCreated { host_id, name: new.name }).await?;
    for key in new.known_keys {
        host_keys::put(tx, asking, (host_id, &new.address, port), &format!("{at}/known_keys"), key).await?;
    }
    Ok(host_id)
}

pub(super) async fn known_credential(
    tx: &mut Tx<'_>,
    at: &str,
    named: Option<&str>,
) -> Result<Option<CredentialId>, Failure> {
    let Some(named) = named else { return Ok(None) };
    let found = credential::find(tx, named).await?;
    let unknown = || {
        let detail =
            "no credential has this name or id; add it first, or leave the field out to use the default one";
        Failure::field(Code::CredentialNotFound, &format!("{at}/credential"), detail)
    };
    found.map(Some).ok_or_else(unknown)
}

/// The host that a new one is to be reached through.
pub(super) async fn known_jump(
    tx: &mut Tx<'_>,
    at: &str,
    named: Option<&str>,
) -> Result<Option<HostId>, Failure> {
    let Some(named) = named else { return Ok(None) };
    let unknown = || {
        let detail = "no host has this name or id; add the jump host first";
        Failure::field(Code::HostNotFound, &format!("{at}/jump"), detail)
    };
    host::find(tx, named).await?.map(Some).ok_or_else(unknown)
}
