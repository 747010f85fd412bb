//! What the vault needs to answer one request for a secret.

use openwatch_model::scan::ScanState;
use openwatch_model::{CredentialId, HostId, ScanId};

use crate::credential::{StoredCredential, StoredSecret};
use crate::host::count;
use crate::outbox::{Told, do_telling};
use crate::words::scan_state;
use crate::{Moment, Store, StoreError};

/// A scan's current attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// The scan.
    pub scan: ScanId,
    /// The host.
    pub host: HostId,
    /// Its current attempt: a request for another one is stale.
    pub attempt: u32,
    /// How far the scan is: a terminal one gets nothing.
    pub state: ScanState,
    /// MAC of its job; absent until it is issued.
    pub tag: Option<Vec<u8>>,
    /// Key of that MAC.
    pub key_id: Option<String>,
    /// Login user of the job: the host's own, else the credential's.
    pub user: Option<String>,
    /// Secrets released for the scan so far.
    pub grants: u32,
    /// The host's credential; absent when it has none.
    pub credential: Option<StoredCredential>,
    /// The host that it is reached through.
    pub jump: Option<HostId>,
}

/// Looks at a scan's current attempt and the credential of its host. The vault judges; this only tells. Called by the vault.
///
/// # Errors
/// The database is away.
pub async fn attempt(store: &Store, scan: ScanId) -> Result<Option<(Moment, Attempt)>, StoreError> {
    let row = sqlx::query!(
        r#"select now() as "now!", s.host_id, s.attempt, s.state, s.tag, s.key_id, s.grants, h.username, h.jump_id,
             c.id as "credential?", c.name as "name?", c.username as "login?", c.sealed, c.key_id as "encrypted_by", c.ciphertext
           from scan s join host h on h.id = s.host_id and h.deleted_at is null
           left join credential c on c.id = h.credential_id or (h.credential_id is null and c.is_default)
           where s.id = $1"#,
        scan.0
    )
    .fetch_optional(store.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let stored = row.credential.zip(row.name).zip(row.login);
    let credential = stored.and_then(|((id, name), username)| {
        let secret = StoredSecret::of(row.sealed, row.encrypted_by, row.ciphertext)?;
        Some(StoredCredential { id: CredentialId(id), name, username, secret })
    });
    let attempt = Attempt {
        scan,
        host: HostId(row.host_id),
        attempt: count(row.attempt),
        state: scan_state(&row.state)?,
        tag: row.tag,
        key_id: row.key_id,
        user: row.username.or_else(|| credential.as_ref().map(|c| c.username.clone())),
        grants: count(row.grants),
        credential,
        jump: row.jump_id.map(HostId),
    };
    Ok(Some((Moment::at(row.now), attempt)))
}

/// Counts a release, and tells of it, if everything it was judged by still holds: the attempt is open and current, its job and
/// its way are the same, and the secret is still that of `owner`, which is the scanned host or the one it is reached through.
/// Whether it does; should the statement wait for the scan, credential and way are those of its beginning. Called by the vault
/// before it answers.
///
/// # Errors
/// The database is away.
pub async fn release(
    store: &Store,
    moment: Moment,
    seen: &Attempt,
    (owner, secret): (HostId, &StoredCredential),
    told: &Told<'_>,
) -> Result<bool, StoreError> {
    let StoredSecret::Encrypted { ciphertext, .. } = &secret.secret else { return Ok(false) };
    do_telling!(
        "done as (
           update scan s set grants = s.grants + 1
           from host h
           where s.id = $21 and s.attempt = $22 and s.tag = $23 and s.state in ('queued', 'running')
             and h.id = s.host_id and h.deleted_at is null and h.jump_id is not distinct from $24
             and exists (
               select from host o join credential c on c.id = o.credential_id or (o.credential_id is null and c.is_default)
               where o.id = $25 and c.id = $26 and c.ciphertext = $27)
           returning s.id
         )",
        store,
        moment,
        told,
        seen.scan.0,
        i32::try_from(seen.attempt).unwrap_or(i32::MAX),
        seen.tag.as_deref() as Option<&[u8]>,
        seen.jump.map(|jump| jump.0),
        owner.0,
        secret.id.0,
        ciphertext,
    )
}
