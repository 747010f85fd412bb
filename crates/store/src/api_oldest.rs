//! The host that has waited longest for a full scan.

use openwatch_model::{HostId, Timestamp};

use crate::{StoreError, Tx};

/// A host that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// Id.
    pub host: HostId,
    /// Name.
    pub name: String,
    /// When its newest full scan was applied; absent: never.
    pub verified_at: Option<Timestamp>,
}

/// The host whose newest full scan is the longest ago, now or at a time; one without any comes first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn oldest(tx: &mut Tx<'_>, at: Option<Timestamp>) -> Result<Option<Oldest>, StoreError> {
    let row = sqlx::query!(
        "select h.id, h.name,
           case when $1::timestamptz is null then hs.full_at
                else (select max(l.applied_at) from scan_ledger l
                      where l.host_id = h.id and l.outcome = 'completed' and l.is_full and l.applied_at <= $1) end as verified_at
         from host h join host_state hs on hs.host_id = h.id
         where (h.deleted_at is null or h.deleted_at > $1) and ($1 is null or h.created_at <= $1)
         order by verified_at nulls first, h.created_at, h.name
         limit 1",
        at
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|r| Oldest { host: HostId(r.id), name: r.name, verified_at: r.verified_at }))
}
