//! Messages heard already.

use crate::{StoreError, Tx};

/// Notes that a consumer handles a message; `false` when it has done so before. Called first by every handler that
/// has no key of its own to be idempotent on.
///
/// # Errors
/// The database is away.
pub async fn first_time(tx: &mut Tx<'_>, consumer: &str, message_id: &str) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into inbox (consumer, message_id, received_at) values ($1, $2, $3) on conflict do nothing",
        consumer,
        message_id,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}
