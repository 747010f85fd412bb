//! Corpora that were published.

use openwatch_model::Timestamp;

use crate::{StoreError, Tx};

/// A published corpus.
#[derive(Clone, Debug, PartialEq)]
pub struct CorpusRow {
    /// SHA-256, hex.
    pub digest: String,
    /// Rules in it.
    pub rules: u32,
    /// Size of its bundle.
    pub bytes: u64,
    /// Key that signed it.
    pub key_fingerprint: String,
    /// Who published it.
    pub published_by: String,
    /// When, last.
    pub published_at: Timestamp,
}

/// Notes a publication; publishing the same corpus again makes it the newest. Called by `rules publish`.
///
/// # Errors
/// The digest is malformed.
pub async fn publish(tx: &mut Tx<'_>, corpus: &CorpusRow) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into corpus (digest, rules, bytes, key_fingerprint, published_by, published_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (digest) do update set published_at = excluded.published_at, published_by = excluded.published_by,
           key_fingerprint = excluded.key_fingerprint",
        corpus.digest,
        i32::try_from(corpus.rules).unwrap_or(i32::MAX),
        i64::try_from(corpus.bytes).unwrap_or(i64::MAX),
        corpus.key_fingerprint,
        corpus.published_by,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Publications, newest first. Called by the API, and by the scheduler with a limit of one when the policy names no
/// corpus.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<CorpusRow>, StoreError> {
    let rows = sqlx::query!(
        "select digest, rules, bytes, key_fingerprint, published_by, published_at from corpus
         order by published_at desc, digest limit $1",
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows.into_iter().map(|r| CorpusRow {
        digest: r.digest,
        rules: u32::try_from(r.rules).unwrap_or(0),
        bytes: r.bytes.max(0).unsigned_abs(),
        key_fingerprint: r.key_fingerprint,
        published_by: r.published_by,
        published_at: r.published_at,
    });
    Ok(rows.collect())
}

/// The newest publication. Called by the scheduler when the policy names no corpus.
///
/// # Errors
/// The database is away.
pub async fn newest(tx: &mut Tx<'_>) -> Result<Option<CorpusRow>, StoreError> {
    Ok(list(tx, 1).await?.pop())
}

/// Publications that nobody needs any more: published before `before`, not the newest, and named by no open scan.
/// `keep` is the one that the policy names. Called by the retention caretaker, which removes the bundle first.
///
/// # Errors
/// The database is away.
pub async fn unused(
    tx: &mut Tx<'_>,
    before: Timestamp,
    keep: Option<&str>,
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select c.digest from corpus c
         where c.published_at < $1
           and c.digest is distinct from $2
           and c.published_at < (select max(published_at) from corpus)
           and not exists (select from open_scan o join scan s on s.id = o.scan_id where s.corpus = c.digest)
         order by c.digest",
        before,
        keep
    )
    .fetch_all(tx.connection())
    .await?)
}

/// Forgets a publication. Called by the retention caretaker after its bundle is gone.
///
/// # Errors
/// The database is away.
pub async fn remove(tx: &mut Tx<'_>, digest: &str) -> Result<(), StoreError> {
    sqlx::query!("delete from corpus where digest = $1", digest).execute(tx.connection()).await?;
    Ok(())
}
