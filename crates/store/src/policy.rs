//! Policies that were accepted. The one in force is the highest version ever accepted, whoever loaded it.

use openwatch_model::Timestamp;
use openwatch_model::policy::parse_version;
use sha2::{Digest, Sha256};

use crate::{StoreError, Tx};

/// An accepted policy, with everything needed to verify it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRow {
    /// Version.
    pub version: String,
    /// The document's exact bytes.
    pub document: Vec<u8>,
    /// The signature file's exact bytes.
    pub signature: Vec<u8>,
    /// Key that verified it.
    pub key_fingerprint: String,
    /// Who loaded it: a stage or a person.
    pub loaded_by: String,
    /// When.
    pub loaded_at: Timestamp,
    /// When a higher one came.
    pub superseded_at: Option<Timestamp>,
}

/// What became of a verified policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is in force now; that was in force before.
    InForce {
        /// Version before.
        previous: Option<String>,
    },
    /// It was in force already, byte for byte.
    Unchanged,
    /// A higher one is in force, or one of the same version with other bytes (POL-07).
    Regression {
        /// Version in force.
        active: String,
    },
}

/// Puts a verified policy in force if its version is above every other. Whoever comes second with the same one finds
/// it unchanged. Called by the scheduler at start and on reload.
///
/// # Errors
/// The version is malformed, or the database is away.
pub async fn accept(tx: &mut Tx<'_>, policy: &PolicyRow) -> Result<Accepted, StoreError> {
    let (major, minor, patch) = parse_version(&policy.version)
        .ok_or_else(|| StoreError::unknown_word("policy version", &policy.version))?;
    let ordinal: Vec<i64> =
        [major, minor, patch].into_iter().map(|n| i64::try_from(n).unwrap_or(i64::MAX)).collect();
    let hash: [u8; 32] = Sha256::digest(&policy.document).into();
    // Two loaders must not both find themselves the highest.
    lock(tx).await?;
    let active = sqlx::query!(
        r#"select version, source_hash, ordinal >= $1 as "not_below!" from policy_history where superseded_at is null"#,
        &ordinal
    )
    .fetch_optional(tx.connection())
    .await?;
    if let Some(active) = &active {
        if active.version == policy.version && active.source_hash == hash {
            return Ok(Accepted::Unchanged);
        }
        if active.not_below {
            return Ok(Accepted::Regression { active: active.version.clone() });
        }
    }
    sqlx::query!("update policy_history set superseded_at = $1 where superseded_at is null", tx.now())
        .execute(tx.connection())
        .await?;
    sqlx::query!(
        "insert into policy_history (version, ordinal, document, signature, source_hash, key_fingerprint, loaded_by, loaded_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        policy.version,
        &ordinal,
        policy.document,
        policy.signature,
        &hash,
        policy.key_fingerprint,
        policy.loaded_by,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(Accepted::InForce { previous: active.map(|a| a.version) })
}

/// Keeps another key's signature of the document in force. Called by the scheduler.
///
/// # Errors
/// The database is away.
pub async fn sign_anew(tx: &mut Tx<'_>, policy: &PolicyRow) -> Result<(), StoreError> {
    sqlx::query!(
        "update policy_history set signature = $2, key_fingerprint = $3 where version = $1 and superseded_at is null",
        policy.version,
        policy.signature,
        policy.key_fingerprint,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The policy in force, to be verified again by whoever reads it. Called by every stage at start and on
/// [`crate::listen::POLICY`].
///
/// # Errors
/// The database is away.
pub async fn in_force(tx: &mut Tx<'_>) -> Result<Option<PolicyRow>, StoreError> {
    by_version(tx, None).await
}

/// A policy of that version, in force or not: a scan keeps the thresholds it was queued under. Called by drift.
///
/// # Errors
/// The database is away.
pub async fn get(tx: &mut Tx<'_>, version: &str) -> Result<Option<PolicyRow>, StoreError> {
    by_version(tx, Some(version)).await
}

async fn by_version(tx: &mut Tx<'_>, version: Option<&str>) -> Result<Option<PolicyRow>, StoreError> {
    let row = sqlx::query_as!(
        PolicyRow,
        "select version, document, signature, key_fingerprint, loaded_by, loaded_at, superseded_at from policy_history
         where version = $1 or ($1::text is null and superseded_at is null)",
        version
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row)
}

/// A list of revoked signing keys that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationRow {
    /// Its place: lists only grow.
    pub sequence: u64,
    /// The list's exact bytes.
    pub document: Vec<u8>,
    /// The signature file's exact bytes.
    pub signature: Vec<u8>,
}

/// One loader at a time, until the transaction ends: nobody decides beside somebody else's decision. Called by the
/// scheduler before it reads what is in force.
///
/// # Errors
/// The database is away.
pub async fn lock(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('openwatch-policy', 0)) as locked")
        .fetch_one(tx.connection())
        .await?;
    Ok(())
}

/// The newest list of revoked keys. Called by whoever verifies a policy.
///
/// # Errors
/// The database is away.
pub async fn revocations(tx: &mut Tx<'_>) -> Result<Option<RevocationRow>, StoreError> {
    let row = sqlx::query!(
        "select sequence, document, signature from policy_revocation order by sequence desc limit 1"
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|r| RevocationRow {
        sequence: r.sequence.max(0).unsigned_abs(),
        document: r.document,
        signature: r.signature,
    }))
}

/// Keeps a verified list that follows the newest; the same again changes nothing. Called by the scheduler, under [`lock`].
///
/// # Errors
/// The database is away.
pub async fn revoke(tx: &mut Tx<'_>, list: &RevocationRow, loaded_by: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into policy_revocation (sequence, document, signature, loaded_by, loaded_at) values ($1, $2, $3, $4, $5)
         on conflict (sequence) do nothing",
        i64::try_from(list.sequence).unwrap_or(i64::MAX),
        list.document,
        list.signature,
        loaded_by,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Asks every scheduler to read its policy file and its keys again, when this transaction commits. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn call_reload(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    sqlx::query!("select pg_notify($1, '') as called", crate::listen::RELOAD)
        .fetch_one(tx.connection())
        .await?;
    Ok(())
}

/// Policies by version, highest first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<PolicyRow>, StoreError> {
    Ok(sqlx::query_as!(
        PolicyRow,
        "select version, document, signature, key_fingerprint, loaded_by, loaded_at, superseded_at from policy_history
         order by ordinal desc limit $1",
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?)
}
