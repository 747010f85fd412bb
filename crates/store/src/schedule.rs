//! The schedule of each host. The scheduler is the only writer of this table (SCH-26).

/// The facts of a row that has their columns: the one place that reads them, whatever else a statement returns.
macro_rules! facts {
    ($row:expr) => {
        openwatch_model::audit::ScheduleFacts {
            compliance_state: $row.compliance_state,
            compliance_score: $row.score,
            has_critical_findings: $row.has_critical_findings,
            current_interval_minutes: $row.current_interval_minutes,
            next_scheduled_scan: $row.next_scheduled_scan,
            next_reason: $row.next_reason,
            maintenance_mode: $row.maintenance_mode,
            maintenance_until: $row.maintenance_until,
            policy_version_at_last_scan: $row.policy_version_at_last_scan,
        }
    };
}

mod due;
mod maintenance;
mod rate;

use openwatch_model::audit::ScheduleFacts;
use openwatch_model::schedule::DueReason;
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::{HostId, Timestamp};
use sqlx::PgConnection;

use crate::{Store, StoreError, Tx};

pub use due::{Dispatch, Dispatched, DueCounts, DueHost, Part, ahead, claim_due, counts, dispatch};
pub use maintenance::{Granted, Wish, ask, grant, sweep};
pub use rate::{Window, spread, window};

/// A change of one host's row.
pub type Moved = (HostId, ScheduleFacts, ScheduleFacts);

/// What a finished scan means for its host's schedule.
#[derive(Clone, Debug)]
pub struct Reschedule<'a> {
    /// The host.
    pub host: HostId,
    /// Place of the scan among the host's scans: an older one than the row has seen moves nothing.
    pub number: i64,
    /// New state and score; absent after a failure, which leaves them.
    pub outcome: Option<(ComplianceState, Score, bool)>,
    /// Interval in minutes.
    pub interval_minutes: u32,
    /// When the host is due again.
    pub next_at: Timestamp,
    /// Why then.
    pub reason: DueReason,
    /// When the scan completed; absent after a failure.
    pub completed_at: Option<Timestamp>,
    /// Policy of the scan.
    pub policy_version: &'a str,
}

/// Begins a transaction that holds a host's state, interval and due time: what the scheduler decides from. Called by the
/// scheduler before [`update_after_scan`].
///
/// # Errors
/// The database is away.
pub async fn hold(store: &Store, host: HostId) -> Result<Option<(Tx<'static>, ScheduleFacts)>, StoreError> {
    let mut inner = store.pool().begin().await?;
    let held = lock(&mut inner, host).await?;
    Ok(held.map(|(now, facts)| (store.begun(inner, now), facts)))
}

async fn lock(
    connection: &mut PgConnection,
    host: HostId,
) -> Result<Option<(Timestamp, ScheduleFacts)>, StoreError> {
    let row = sqlx::query!(
        r#"select now() as "now!", compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, next_reason, maintenance_mode, maintenance_until,
             policy_version_at_last_scan
           from host_compliance_schedule where host_id = $1 for update"#,
        host.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.now, facts!(row))))
}

/// Moves a host's schedule after a scan, unless this or a newer scan has moved it already: a message that comes twice
/// moves it once. Returns the row as it is then. Called by the scheduler on `scan.completed` and `scan.failed`.
///
/// # Errors
/// The database is away.
pub async fn update_after_scan(
    tx: &mut Tx<'_>,
    change: &Reschedule<'_>,
) -> Result<Option<ScheduleFacts>, StoreError> {
    let (state, score, critical) = match change.outcome {
        Some((state, score, critical)) => (Some(state.as_str()), score.percent(), Some(critical)),
        None => (None, None, None),
    };
    let row = sqlx::query!(
        r#"update host_compliance_schedule
           set compliance_state = coalesce($3, compliance_state),
               -- An undefined score is stored as such; a failed scan leaves the score alone.
               compliance_score = case when $3::text is null then compliance_score else $4::float8::numeric(5, 2) end,
               has_critical_findings = coalesce($5, has_critical_findings),
               current_interval_minutes = $6,
               next_scheduled_scan = $7,
               next_reason = $11,
               claim_order = claim_order(coalesce($3, compliance_state), $7),
               last_scan_completed_at = coalesce($8, last_scan_completed_at),
               policy_version_at_last_scan = $9,
               scan_number = $2,
               updated_at = $10
           where host_id = $1 and scan_number < $2
           returning compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, next_reason, maintenance_mode, maintenance_until,
             policy_version_at_last_scan"#,
        change.host.0,
        change.number,
        state,
        score,
        critical,
        i32::try_from(change.interval_minutes).unwrap_or(i32::MAX),
        change.next_at,
        change.completed_at,
        change.policy_version,
        tx.now(),
        change.reason.as_str(),
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|row| facts!(row)))
}
