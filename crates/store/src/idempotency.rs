//! Idempotency keys: asking twice is answered twice and done once (API-07, API-08).

use std::time::Duration;

use serde_json::Value;

use crate::{StoreError, Tx};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// Whether a request is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// Do it, then [`complete`] in the same transaction.
    New,
    /// It was done; this was the answer.
    Replay {
        /// HTTP status.
        status: u16,
        /// Body.
        body: Value,
    },
    /// The key belongs to another request of the same caller.
    Reused,
}

/// Takes a key for a request, before anything else is done. While another transaction holds the same key this waits for
/// its end, at most the lock timeout (then `Busy`: in progress). Called by the API.
///
/// # Errors
/// `Busy` while the first request is still being worked on.
pub async fn claim(
    tx: &mut Tx<'_>,
    actor: &str,
    key: &str,
    request_hash: &[u8; 32],
) -> Result<Claim, StoreError> {
    // Keys are swept now and then; one past its day counts as gone already.
    sqlx::query!(
        "delete from idempotency_key where actor = $1 and key = $2 and expires_at <= $3",
        actor,
        key,
        tx.now()
    )
    .execute(tx.connection())
    .await?;
    let inserted = sqlx::query!(
        "insert into idempotency_key (actor, key, request_hash, created_at, expires_at) values ($1, $2, $3, $4, $5)
         on conflict do nothing",
        actor,
        key,
        request_hash,
        tx.now(),
        tx.now() + KEPT,
    )
    .execute(tx.connection())
    .await?;
    if inserted.rows_affected() == 1 {
        return Ok(Claim::New);
    }
    let row = sqlx::query!(
        "select request_hash, response_status, response_body from idempotency_key where actor = $1 and key = $2",
        actor,
        key
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(match row {
        Some(row) if row.request_hash == request_hash => match (row.response_status, row.response_body) {
            (Some(status), Some(body)) => {
                Claim::Replay { status: u16::try_from(status).unwrap_or(200), body }
            }
            // Committed without an answer: nothing was done under it.
            _ => Claim::New,
        },
        Some(_) => Claim::Reused,
        None => Claim::New,
    })
}

/// Keeps the answer of a request. Called by the API in the transaction that did the work; answers other than 2xx are
/// never kept: roll back instead.
///
/// # Errors
/// `Refused` for a status outside 200 to 299.
pub async fn complete(
    tx: &mut Tx<'_>,
    actor: &str,
    key: &str,
    status: u16,
    body: &Value,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update idempotency_key set response_status = $3, response_body = $4 where actor = $1 and key = $2",
        actor,
        key,
        i32::from(status),
        body
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}
