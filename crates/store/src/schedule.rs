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
use openwatch_model::{HostId, Timestamp};
use sqlx::PgConnection;

use crate::outbox::{Told, do_telling};
use crate::{Moment, Store, StoreError};

pub use due::{Dispatch, Dispatched, DueCounts, DueHost, Part, ahead, claim_due, counts, dispatch};
pub use maintenance::{Granted, Wish, ask, grant, sweep};
pub use rate::{Window, spread, window};

/// A change of one host's row.
pub type Moved = (HostId, ScheduleFacts, ScheduleFacts);

/// What a finished scan means for its host's schedule.
#[derive(Clone, Debug)]
pub struct Reschedule {
    /// The host.
    pub host: HostId,
    /// Place of the scan among the host's scans: an older one than the row has seen moves nothing.
    pub number: i64,
    /// The row as it was when this was decided.
    pub seen: Seen,
    /// And as it is to be.
    pub new: ScheduleFacts,
    /// When the scan completed; absent after a failure.
    pub completed_at: Option<Timestamp>,
}

/// A version of a host's row, of which there is no other: whoever changes it makes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen(String);

/// Looks at a host's state, interval and due time, unless this scan or a newer one has moved them already: what the scheduler
/// decides from. Called by the scheduler on `scan.completed` and `scan.failed`, before [`update_after_scan`].
///
/// # Errors
/// The database is away.
pub async fn look(
    store: &Store,
    host: HostId,
    number: i64,
) -> Result<Option<(Moment, Seen, ScheduleFacts)>, StoreError> {
    let row = sqlx::query!(
        r#"select now() as "now!", xmin::text as "seen!", compliance_state, compliance_score::float8 as score,
             has_critical_findings, current_interval_minutes, next_scheduled_scan, next_reason, maintenance_mode,
             maintenance_until, policy_version_at_last_scan
           from host_compliance_schedule where host_id = $1 and scan_number < $2"#,
        host.0,
        number,
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(row.map(|row| (Moment::at(row.now), Seen(row.seen), facts!(row))))
}

async fn lock(connection: &mut PgConnection, host: HostId) -> Result<Option<ScheduleFacts>, StoreError> {
    let row = sqlx::query!(
        r#"select compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, next_reason, maintenance_mode, maintenance_until,
             policy_version_at_last_scan
           from host_compliance_schedule where host_id = $1 for update"#,
        host.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| facts!(row)))
}

/// Moves a host's schedule after a scan, and tells of it, if the row still is as it was seen; a message that comes twice finds
/// that it is not. Whether it was. Called by the scheduler after [`look`].
///
/// # Errors
/// The database is away.
pub async fn update_after_scan(
    store: &Store,
    moment: Moment,
    change: &Reschedule,
    told: &Told<'_>,
) -> Result<bool, StoreError> {
    let new = &change.new;
    do_telling!(
        "done as (
           update host_compliance_schedule
           set compliance_state = $24, compliance_score = $25::float8::numeric(5, 2), has_critical_findings = $26,
               current_interval_minutes = $27, next_scheduled_scan = $28, next_reason = $29,
               claim_order = claim_order($24, $28), last_scan_completed_at = coalesce($30, last_scan_completed_at),
               policy_version_at_last_scan = $31, scan_number = $22, updated_at = $2
           where host_id = $21 and scan_number < $22 and xmin::text = $23
           returning host_id
         )",
        store,
        moment,
        told,
        change.host.0,
        change.number,
        change.seen.0,
        new.compliance_state,
        new.compliance_score,
        new.has_critical_findings,
        new.current_interval_minutes,
        new.next_scheduled_scan,
        new.next_reason,
        change.completed_at,
        new.policy_version_at_last_scan,
    )
}
