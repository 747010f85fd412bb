//! Host keys on record, by address, port and algorithm (HKV-07).

use openwatch_model::host::KnownKey;
use openwatch_model::{HostId, ScanId, Timestamp};

use crate::{StoreError, Tx};

/// A key on record, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownKeyRow {
    /// The key.
    pub key: KnownKey,
    /// Its fingerprint, `SHA256:...`.
    pub fingerprint: String,
    /// When it was put on record.
    pub first_seen: Timestamp,
    /// `first contact`, or who accepted it.
    pub accepted_by: String,
    /// No longer believed since.
    pub revoked_at: Option<Timestamp>,
}

/// What became of a key seen on first contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It is on record now.
    New,
    /// It was on record already.
    Same,
    /// Another key of this algorithm is on record, or this very key was revoked. Nothing was stored.
    Different,
}

/// Keys that a host at this address and port may show. Called when a job is made, and by the API.
///
/// # Errors
/// The database is away: that is never the same as knowing none (HKV-06).
pub async fn list(tx: &mut Tx<'_>, address: &str, port: u16) -> Result<Vec<KnownKeyRow>, StoreError> {
    let rows = sqlx::query!(
        "select algorithm, public_key, fingerprint, first_seen, accepted_by, revoked_at from known_host_key
         where address = lower($1) and port = $2 order by algorithm",
        address,
        i32::from(port)
    )
    .fetch_all(tx.connection())
    .await?;
    let keys = rows.into_iter().map(|r| KnownKeyRow {
        key: KnownKey { algorithm: r.algorithm, key: r.public_key },
        fingerprint: r.fingerprint,
        first_seen: r.first_seen,
        accepted_by: r.accepted_by,
        revoked_at: r.revoked_at,
    });
    Ok(keys.collect())
}

/// Puts a key seen on first contact on record, or compares it with the one that is there, in one statement: of two
/// different keys that arrive at once, one wins (HKV-05). Called by the writer.
///
/// # Errors
/// The database is away.
pub async fn learn(
    tx: &mut Tx<'_>,
    address: &str,
    port: u16,
    key: &KnownKey,
    fingerprint: &str,
) -> Result<Learned, StoreError> {
    let row = sqlx::query!(
        r#"insert into known_host_key as k (address, port, algorithm, public_key, fingerprint, first_seen, last_seen, accepted_by)
           values (lower($1), $2, $3, $4, $5, $6, $6, 'first contact')
           on conflict (address, port, algorithm) do update
             set public_key = excluded.public_key,
                 fingerprint = excluded.fingerprint,
                 last_seen = excluded.last_seen,
                 first_seen = case when k.revoked_at is null then k.first_seen else excluded.first_seen end,
                 accepted_by = case when k.revoked_at is null then k.accepted_by else excluded.accepted_by end,
                 revoked_at = null
             -- The same key again, or a new one in place of one that was revoked.
             where (k.public_key = excluded.public_key) = (k.revoked_at is null)
           returning first_seen = $6 as "new!""#,
        address,
        i32::from(port),
        key.algorithm,
        key.key,
        fingerprint,
        tx.now(),
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(match row {
        Some(row) if row.new => Learned::New,
        Some(_) => Learned::Same,
        None => Learned::Different,
    })
}

/// Puts a key on record because somebody says so, in place of whatever was there. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn accept(
    tx: &mut Tx<'_>,
    address: &str,
    port: u16,
    key: &KnownKey,
    fingerprint: &str,
    actor: &str,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into known_host_key (address, port, algorithm, public_key, fingerprint, first_seen, last_seen, accepted_by)
         values (lower($1), $2, $3, $4, $5, $6, $6, $7)
         on conflict (address, port, algorithm) do update
           set public_key = excluded.public_key, fingerprint = excluded.fingerprint, first_seen = excluded.first_seen,
               last_seen = excluded.last_seen, accepted_by = excluded.accepted_by, revoked_at = null",
        address,
        i32::from(port),
        key.algorithm,
        key.key,
        fingerprint,
        tx.now(),
        actor,
    )
    .execute(tx.connection())
    .await?;
    sqlx::query!(
        "delete from shown_host_key where address = lower($1) and port = $2 and algorithm = $3",
        address,
        i32::from(port),
        key.algorithm
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Notes a key that a host showed and that was not believed, for a person to judge. Called by the writer.
///
/// # Errors
/// The database is away.
pub async fn shown(
    tx: &mut Tx<'_>,
    (address, port): (&str, u16),
    key: &KnownKey,
    fingerprint: &str,
    scan: ScanId,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into shown_host_key (address, port, algorithm, public_key, fingerprint, scan_id, shown_at)
         values (lower($1), $2, $3, $4, $5, $6, $7)
         on conflict (address, port, algorithm) do update
           set public_key = excluded.public_key, fingerprint = excluded.fingerprint, scan_id = excluded.scan_id,
               shown_at = excluded.shown_at",
        address,
        i32::from(port),
        key.algorithm,
        key.key,
        fingerprint,
        scan.0,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A key that was shown and not believed.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownKey {
    /// The key.
    pub key: KnownKey,
    /// Its fingerprint, `SHA256:...`.
    pub fingerprint: String,
    /// The scan that saw it last.
    pub scan: ScanId,
    /// When.
    pub shown_at: Timestamp,
}

/// Keys that were shown at this address and port and not believed. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list_shown(tx: &mut Tx<'_>, address: &str, port: u16) -> Result<Vec<ShownKey>, StoreError> {
    let rows = sqlx::query!(
        "select algorithm, public_key, fingerprint, scan_id, shown_at from shown_host_key
         where address = lower($1) and port = $2 order by algorithm",
        address,
        i32::from(port)
    )
    .fetch_all(tx.connection())
    .await?;
    let keys = rows.into_iter().map(|r| ShownKey {
        key: KnownKey { algorithm: r.algorithm, key: r.public_key },
        fingerprint: r.fingerprint,
        scan: ScanId(r.scan_id),
        shown_at: r.shown_at,
    });
    Ok(keys.collect())
}

/// Where a host is dialled: its address and port; nothing when it was removed. Called by the writer.
///
/// # Errors
/// The database is away.
pub async fn place(tx: &mut Tx<'_>, host: HostId) -> Result<Option<(String, u16)>, StoreError> {
    let row = sqlx::query!("select address, port from host where id = $1 and deleted_at is null", host.0)
        .fetch_optional(tx.connection())
        .await?;
    Ok(row.map(|r| (r.address, crate::host::port(r.port))))
}

/// No longer believes the keys of an address, or the one of an algorithm. Returns how many. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn revoke(
    tx: &mut Tx<'_>,
    address: &str,
    port: u16,
    algorithm: Option<&str>,
) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update known_host_key set revoked_at = $4
         where address = lower($1) and port = $2 and ($3::text is null or algorithm = $3) and revoked_at is null",
        address,
        i32::from(port),
        algorithm,
        tx.now()
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected())
}
