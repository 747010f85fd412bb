//! Where a rotation of the data-encryption key is, and which process holds which keys.

use std::time::Duration;

use openwatch_model::Timestamp;
use openwatch_model::rotation::{Holder, Phase};

use crate::{StoreError, Tx};

/// How long a process that says nothing still counts as running.
const SILENCE: Duration = Duration::from_secs(90);

/// One rotation.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Its number.
    pub id: i64,
    /// How far it is.
    pub phase: Phase,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: Timestamp,
    /// How long the old key is kept after the switch.
    pub retire_after: Duration,
    /// The key that goes, once that is known.
    pub old: Option<String>,
    /// The key that comes.
    pub next: Option<String>,
    /// When new things were first made with it.
    pub switched_at: Option<Timestamp>,
}

/// Asks for a rotation; `false` while another one is under way. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn request(tx: &mut Tx<'_>, actor: &str, retire_after: Duration) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into key_rotation (requested_by, requested_at, retire_after_sec) values ($1, $2, $3)
         on conflict ((true)) where phase <> 'done' do nothing",
        actor,
        tx.now(),
        i32::try_from(retire_after.as_secs()).unwrap_or(i32::MAX),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The newest rotation. Called by the API and the vault.
///
/// # Errors
/// The database is away.
pub async fn newest(tx: &mut Tx<'_>) -> Result<Option<Rotation>, StoreError> {
    let row = sqlx::query!(
        "select id, phase, requested_by, requested_at, retire_after_sec, old_key_id, next_key_id, switched_at
         from key_rotation order by id desc limit 1"
    )
    .fetch_optional(tx.connection())
    .await?;
    row.map(|r| {
        Ok(Rotation {
            id: r.id,
            phase: Phase::parse(&r.phase)
                .ok_or_else(|| StoreError::unknown_word("rotation phase", &r.phase))?,
            requested_by: r.requested_by,
            requested_at: r.requested_at,
            retire_after: Duration::from_secs(u64::from(crate::host::count(r.retire_after_sec))),
            old: r.old_key_id,
            next: r.next_key_id,
            switched_at: r.switched_at,
        })
    })
    .transpose()
}

/// Notes how far a rotation is; `false` when it was that far already. Called by the vault.
///
/// # Errors
/// The database is away.
pub async fn advance(
    tx: &mut Tx<'_>,
    id: i64,
    to: Phase,
    (old, next): (&str, &str),
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update key_rotation
         set phase = $2, old_key_id = $3, next_key_id = $4,
             switched_at = case when $2 = 'issued' then null else coalesce(switched_at, $5) end,
             done_at = case when $2 = 'done' then $5 end
         where id = $1 and phase <> $2 and phase <> 'done'",
        id,
        to.as_str(),
        old,
        next,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Credentials that are not encrypted with this key, those that still wait sealed included, and channels that are not
/// sealed to it. Called by the vault and the API.
///
/// # Errors
/// The database is away.
pub async fn left(tx: &mut Tx<'_>, key_id: &str) -> Result<u64, StoreError> {
    let left = sqlx::query_scalar!(
        r#"select (select count(*) from credential where key_id is distinct from $1)
             + (select count(*) from channel where key_id <> $1) as "n!""#,
        key_id
    )
    .fetch_one(tx.connection())
    .await?;
    Ok(left.unsigned_abs())
}

/// A process says which keys it holds. Called by every process that holds some; by the vault for workers, who have no
/// database.
///
/// # Errors
/// The database is away.
pub async fn hold(tx: &mut Tx<'_>, holder: &Holder) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into key_holder (role, process, current_key_id, key_ids, seen_at) values ($1, $2, $3, $4, $5)
         on conflict (role, process) do update
           set current_key_id = excluded.current_key_id, key_ids = excluded.key_ids, seen_at = excluded.seen_at",
        holder.role,
        holder.process,
        holder.current,
        &holder.key_ids,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Processes heard of lately. Called by the API and the vault.
///
/// # Errors
/// The database is away.
pub async fn holders(tx: &mut Tx<'_>) -> Result<Vec<Holder>, StoreError> {
    let rows = sqlx::query!(
        "select role, process, current_key_id, key_ids from key_holder where seen_at > $1 order by role, process",
        tx.now() - SILENCE
    )
    .fetch_all(tx.connection())
    .await?;
    let holders = rows.into_iter().map(|r| Holder {
        role: r.role,
        process: r.process,
        current: r.current_key_id,
        key_ids: r.key_ids,
    });
    Ok(holders.collect())
}

/// Forgets processes that have long been silent. Called by the vault.
///
/// # Errors
/// The database is away.
pub async fn forget_silent(tx: &mut Tx<'_>) -> Result<(), StoreError> {
    sqlx::query!("delete from key_holder where seen_at < $1", tx.now() - SILENCE * 10)
        .execute(tx.connection())
        .await?;
    Ok(())
}
