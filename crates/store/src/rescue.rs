//! Scans that nobody speaks of any more.

use std::time::Duration;

use openwatch_model::scan::{Lane, ScanState};
use openwatch_model::{HostId, ScanId, Timestamp};

use crate::end::OpenScan;
use crate::host::count;
use crate::words::{lane, scan_state};
use crate::{StoreError, Tx};

/// A scan that should have been heard of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// The scan.
    pub scan: ScanId,
    /// Its host.
    pub host: HostId,
    /// Its attempt.
    pub attempt: u32,
    /// Queued or running.
    pub state: ScanState,
    /// Lane of its job.
    pub lane: Lane,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When its job was issued.
    pub issued_at: Timestamp,
}

/// When a scan is overdue.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Queued: so long after its job was issued, the rescuer looks whether the job still exists.
    pub queued: Duration,
    /// Running: so long after its time limit.
    pub running: Duration,
}

/// Scans that are overdue, running ones first. Nothing is locked: the rescuer asks the bus about queued ones and then comes
/// back with [`crate::end::open`]. Called by the rescuer.
///
/// # Errors
/// The database is away.
pub async fn overdue(tx: &mut Tx<'_>, patience: Patience, limit: u32) -> Result<Vec<Overdue>, StoreError> {
    let rows = sqlx::query!(
        r#"select s.id, s.host_id, s.attempt, s.state, s.lane, s.queued_at, s.issued_at as "issued_at!"
           from open_scan o join scan s on s.id = o.scan_id
           where (s.state = 'queued' and s.issued_at <= $1)
              or (s.state = 'running' and s.issued_at is not null
                  and s.started_at + make_interval(secs => s.timeout_sec) <= $2)
           -- Running ones first; of the queued ones any, so that a long line of jobs that rightly wait hides nobody for ever.
           order by s.state = 'queued', random()
           limit $3"#,
        tx.now() - patience.queued,
        tx.now() - patience.running,
        i64::from(limit),
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Overdue {
                scan: ScanId(r.id),
                host: HostId(r.host_id),
                attempt: count(r.attempt),
                state: scan_state(&r.state)?,
                lane: lane(&r.lane)?,
                queued_at: r.queued_at,
                issued_at: r.issued_at,
            })
        })
        .collect()
}

/// Gives an attempt up and makes room for the next: the scan is queued again without a job, and the scheduler signs a
/// new one. Returns the new attempt. Called by the rescuer under the locks of [`crate::end::open`], after it saw that the
/// attempt is still the one it found overdue.
///
/// # Errors
/// The database is away.
pub async fn retry(tx: &mut Tx<'_>, open: &OpenScan) -> Result<u32, StoreError> {
    let attempt = sqlx::query_scalar!(
        "with waiting as (update open_scan set unissued = true where host_id = $3 and scan_id = $1)
         update scan set state = 'queued', attempt = attempt + 1, rescues = rescues + 1, tag = null, key_id = null, issued_at = null,
           started_at = null, worker = null
         where id = $1 and attempt = $2 returning attempt",
        open.scan.0,
        i32::try_from(open.attempt).unwrap_or(i32::MAX),
        open.host.0,
    )
    .fetch_one(tx.connection())
    .await?;
    Ok(count(attempt))
}
