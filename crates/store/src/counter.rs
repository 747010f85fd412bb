//! Counters of what happened, over all processes and lives.

use openwatch_model::Timestamp;

use crate::{StoreError, Tx};

/// What is counted (SCH-33).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Passes of a scheduler over the due rows.
    Ticks,
    /// Due hosts at the newest tick: the only one that is set rather than moved.
    Due,
    /// Scheduled scans queued.
    Dispatched,
    /// Due hosts left alone because of maintenance, once for each tick.
    SkippedMaintenance,
    /// Due hosts left alone because of backoff, once for each tick.
    SkippedBackoff,
    /// Due hosts left alone because a scan of theirs is open, once for each tick.
    SkippedOpen,
    /// Hosts that could not be dispatched for a fault of their own.
    HostErrors,
    /// Rounds of a scheduler, over due hosts or over scans without a job, that failed; not those that wait for the database.
    TickErrors,
    /// Policies and revocation lists refused.
    Refused,
    /// Intervals of accepted policies that were out of bounds.
    Clamped,
    /// Jobs that were not what the scheduler signed.
    HmacRejected,
}

impl Counter {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Ticks,
        Self::Due,
        Self::Dispatched,
        Self::SkippedMaintenance,
        Self::SkippedBackoff,
        Self::SkippedOpen,
        Self::HostErrors,
        Self::TickErrors,
        Self::Refused,
        Self::Clamped,
        Self::HmacRejected,
    ];

    /// Its name in the table and in the snapshot.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ticks => "tick_count",
            Self::Due => "due_count",
            Self::Dispatched => "dispatched_count",
            Self::SkippedMaintenance => "skipped_maintenance_count",
            Self::SkippedBackoff => "skipped_backoff_count",
            Self::SkippedOpen => "skipped_open_count",
            Self::HostErrors => "host_error_count",
            Self::TickErrors => "tick_error_count",
            Self::Refused => "refuse_count",
            Self::Clamped => "policy_clamped_count",
            Self::HmacRejected => "hmac_reject_count",
        }
    }
}

/// Moves counters, in the transaction of what they count: best its last statement, for others wait for the rows until
/// it ends. Called by the scheduler and the writer.
///
/// # Errors
/// The database is away.
pub async fn add(tx: &mut Tx<'_>, moves: &[(Counter, u64)]) -> Result<(), StoreError> {
    let moves: Vec<_> = moves.iter().filter(|(counter, by)| *by > 0 || *counter == Counter::Due).collect();
    let names: Vec<String> = moves.iter().map(|(counter, _)| counter.as_str().to_owned()).collect();
    let by: Vec<i64> = moves.iter().map(|(_, by)| i64::try_from(*by).unwrap_or(i64::MAX)).collect();
    sqlx::query!(
        // Rows are locked in one order, so that two who count never wait for each other in a circle.
        "with moves as (
           select c.name, m.by from counter c join unnest($1::text[], $2::bigint[]) as m (name, by) using (name)
           order by c.name for update of c
         )
         update counter c
         set value = case when c.name = 'due_count' then m.by else c.value + m.by end, moved_at = $3
         from moves m where m.name = c.name",
        &names,
        &by,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Name, as [`Counter::as_str`].
    pub name: String,
    /// So far.
    pub value: u64,
    /// When it moved last.
    pub moved_at: Option<Timestamp>,
}

/// All counters, by name. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn all(tx: &mut Tx<'_>) -> Result<Vec<Counted>, StoreError> {
    let rows = sqlx::query!("select name, value, moved_at from counter order by name")
        .fetch_all(tx.connection())
        .await?;
    let counted = |r: i64| r.max(0).unsigned_abs();
    Ok(rows
        .into_iter()
        .map(|r| Counted { name: r.name, value: counted(r.value), moved_at: r.moved_at })
        .collect())
}
