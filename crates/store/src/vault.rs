//! What the vault needs to answer one request for a secret.

use openwatch_model::scan::ScanState;
use openwatch_model::{HostId, ScanId};

use crate::credential::{self, StoredCredential};
use crate::host::count;
use crate::words::scan_state;
use crate::{Store, StoreError, Tx};

/// A scan's current attempt, locked until the transaction ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
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

/// Begins a transaction with a scan's current attempt and the credential of its host, under a lock that keeps the scan from
/// ending meanwhile. The vault judges; this only tells. Called by the vault.
///
/// # Errors
/// The database is away.
pub async fn open_attempt(store: &Store, scan: ScanId) -> Result<Option<(Tx<'static>, Attempt)>, StoreError> {
    let mut inner = store.pool().begin().await?;
    let row = sqlx::query!(
        r#"select now() as "now!", s.host_id, s.attempt, s.state, s.tag, s.key_id, s.grants, h.username, h.jump_id
           from scan s join host h on h.id = s.host_id and h.deleted_at is null
           where s.id = $1 for update of s"#,
        scan.0
    )
    .fetch_optional(&mut *inner)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let mut tx = store.begun(inner, row.now);
    // Not before the lock is held: what became of the credential while we waited for it counts.
    let credential = credential::resolve(&mut tx, HostId(row.host_id)).await?;
    let attempt = Attempt {
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
    Ok(Some((tx, attempt)))
}

/// Counts a release. Called by the vault in the transaction of [`open_attempt`], before it answers.
///
/// # Errors
/// The database is away.
pub async fn granted(tx: &mut Tx<'_>, scan: ScanId) -> Result<(), StoreError> {
    sqlx::query!("update scan set grants = grants + 1 where id = $1", scan.0)
        .execute(tx.connection())
        .await?;
    Ok(())
}
