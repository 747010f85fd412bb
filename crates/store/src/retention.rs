//! What has had its day. History is never swept: transactions, evidence, ledger, drift, alerts and the audit log stay.

use std::time::Duration;

use openwatch_model::retention::{DELIVERY_HOURS, INBOX_HOURS};

use crate::{StoreError, Tx};

/// How long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Ids of messages heard: longer than any stream keeps a message.
    pub inbox: Duration,
    /// Deliveries that ended, and their tries.
    pub deliveries: Duration,
}

impl Default for Keep {
    /// As the registry says.
    fn default() -> Self {
        let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
        Self { inbox: hours(INBOX_HOURS), deliveries: hours(DELIVERY_HOURS) }
    }
}

/// How much was swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Idempotency keys.
    pub idempotency_keys: u64,
    /// Inbox rows.
    pub inbox: u64,
    /// Deliveries.
    pub deliveries: u64,
}

/// Most rows per table and call: short transactions, repeated until nothing is left.
const BATCH: i64 = 10_000;

/// Sweeps one batch of everything that has had its day. Called by the retention caretaker until it returns nothing.
///
/// # Errors
/// The database is away.
pub async fn sweep(tx: &mut Tx<'_>, keep: Keep) -> Result<Swept, StoreError> {
    let now = tx.now();
    let keys = sqlx::query!(
        "delete from idempotency_key where (actor, key) in (
           select actor, key from idempotency_key where expires_at <= $1 limit $2)",
        now,
        BATCH
    )
    .execute(tx.connection())
    .await?;
    let inbox = sqlx::query!(
        "delete from inbox where (consumer, message_id) in (
           select consumer, message_id from inbox where received_at <= $1 limit $2)",
        now - keep.inbox,
        BATCH
    )
    .execute(tx.connection())
    .await?;
    let deliveries = sqlx::query!(
        "delete from alert_delivery where id in (
           select id from alert_delivery where finished_at <= $1 limit $2)",
        now - keep.deliveries,
        BATCH
    )
    .execute(tx.connection())
    .await?;
    Ok(Swept {
        idempotency_keys: keys.rows_affected(),
        inbox: inbox.rows_affected(),
        deliveries: deliveries.rows_affected(),
    })
}
