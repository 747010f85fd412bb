//! Keys that hosts prove themselves with: what is on record, what was shown instead, and vouching for one.

use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openwatch_model::HostId;
use openwatch_model::audit::HostKeyAccepted;
use openwatch_store::known_key::{KnownKeyRow, ShownKey};
use openwatch_store::{Tx, host, known_key};
use sha2::{Digest, Sha256};

use super::known_host;
use crate::dto::{AcceptKey, AcceptedKey, HostKey, HostKeyView, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Asking, Shared};
use crate::{trail, validate};

/// Keys of a host: those on record, those revoked, and those that it showed and that were not believed.
#[utoipa::path(get, path = "/api/v1/hosts/{host}/keys", tag = "hosts", operation_id = "keys", params(("host" = String, Path, description = "name or id")), responses(
    (status = 200, description = "keys", body = Page<HostKeyView>),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Path(named): Path<String>,
) -> Result<axum::Json<Page<HostKeyView>>, Failure> {
    let mut tx = api.begin_read().await?;
    let (_, address, port) = place(&mut tx, &named).await?;
    let known = known_key::list(&mut tx, &address, port).await?;
    let shown = known_key::list_shown(&mut tx, &address, port).await?;
    let items = known.into_iter().map(recorded).chain(shown.into_iter().map(offered)).collect();
    Ok(axum::Json(Page { items, next_cursor: None }))
}

/// Puts a host key on record; from now on the host is held to it. By fingerprint only a key that a scan was shown.
#[utoipa::path(post, path = "/api/v1/hosts/{host}/accept-key", tag = "hosts", operation_id = "accept_key", params(("host" = String, Path, description = "name or id")), request_body = AcceptKey, responses(
    (status = 200, description = "on record", body = AcceptedKey),
    (status = 400, description = "not a host key", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "host.not_found or host_key.not_shown", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn accept(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(body): Json<AcceptKey>,
) -> Result<axum::Json<AcceptedKey>, Failure> {
    let mut tx = api.begin().await?;
    let (id, address, port) = place(&mut tx, &named).await?;
    let key = match (body.key, body.fingerprint) {
        (Some(key), None) => key,
        (None, Some(fingerprint)) => {
            let shown = known_key::list_shown(&mut tx, &address, port).await?;
            let same = |it: &ShownKey| it.fingerprint == fingerprint.trim_end_matches('=');
            let unknown = || {
                let detail = "GET .../keys lists what was shown; a key that no scan was shown is accepted whole, as `key`";
                Failure::field(Code::HostKeyNotShown, "/fingerprint", detail)
            };
            shown.into_iter().find(same).ok_or_else(unknown)?.key.into()
        }
        _ => {
            let detail = "give either the whole key or the fingerprint of one that was shown";
            return Err(Failure::field(Code::FieldRequired, "/fingerprint", detail));
        }
    };
    let accepted = put(&mut tx, &asking, (id, &address, port), "/key", key).await?;
    tx.commit().await?;
    Ok(axum::Json(accepted))
}

/// Puts a key on record on somebody's word.
pub(super) async fn put(
    tx: &mut Tx<'_>,
    asking: &Asking,
    (host_id, address, port): (HostId, &str, u16),
    pointer: &str,
    key: HostKey,
) -> Result<AcceptedKey, Failure> {
    let bytes = STANDARD.decode(&key.key).unwrap_or_default();
    validate::host_key(pointer, &key.algorithm, &bytes)?;
    let fingerprint = format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&bytes)));
    let algorithm = key.algorithm.clone();
    let known = known_key::list(tx, address, port).await?;
    let replaced = known
        .into_iter()
        .find(|it| it.key.algorithm == algorithm && it.revoked_at.is_none() && it.fingerprint != fingerprint)
        .map(|it| it.fingerprint);
    known_key::accept(tx, address, port, &key.into(), &fingerprint, &asking.caller.name).await?;
    let event = HostKeyAccepted {
        host_id,
        algorithm: algorithm.clone(),
        fingerprint: fingerprint.clone(),
        replaced: replaced.clone(),
        accepted_by: asking.caller.name.clone(),
    };
    trail::record(tx, asking, &event).await?;
    Ok(AcceptedKey { host_id: host_id.0, algorithm, fingerprint, replaced })
}

async fn place(tx: &mut Tx<'_>, named: &str) -> Result<(HostId, String, u16), Failure> {
    let id = known_host(tx, named).await?;
    let host = host::get(tx, id).await?;
    let host = host.ok_or_else(|| Failure::new(Code::HostNotFound, "it was removed just now"))?;
    Ok((id, host.address, host.port))
}

fn recorded(row: KnownKeyRow) -> HostKeyView {
    HostKeyView {
        state: if row.revoked_at.is_some() { "revoked" } else { "on_record" }.to_owned(),
        algorithm: row.key.algorithm,
        fingerprint: row.fingerprint,
        key: row.key.key,
        at: row.first_seen,
        accepted_by: Some(row.accepted_by),
        scan_id: None,
    }
}

fn offered(it: ShownKey) -> HostKeyView {
    HostKeyView {
        state: "shown".to_owned(),
        algorithm: it.key.algorithm,
        fingerprint: it.fingerprint,
        key: it.key.key,
        at: it.shown_at,
        accepted_by: None,
        scan_id: Some(it.scan.0),
    }
}
