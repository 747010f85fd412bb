//! The rate limit: one window for all schedulers, and the line in which a fleet that arrives at once is put.

use std::time::Duration;

use openwatch_model::HostId;
use openwatch_model::audit::ScheduleFacts;
use openwatch_model::schedule::DueReason;

use super::Moved;
use crate::{StoreError, Tx};

/// Rows put in line in one transaction.
const SPREAD_BATCH: i64 = 2000;

/// How full the last minute is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Scheduled scans queued within the last minute.
    pub minute: u32,
    /// Those of them queued within the last share of it.
    pub share: u32,
}

/// The last minute's scheduled scans, whoever queued them: the scan table is the window, so there is nothing that two
/// schedulers or a restart could see differently. Others who ask wait until this transaction ends. Called by the scheduler
/// before it claims, when the policy sets a limit; `share` is the part of the minute that the limit is spread over.
///
/// # Errors
/// The database is away.
pub async fn window(tx: &mut Tx<'_>, share: Duration) -> Result<Window, StoreError> {
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('openwatch-dispatch', 0)) as locked")
        .fetch_one(tx.connection())
        .await?;
    let row = sqlx::query!(
        r#"select count(*) as "minute!", count(*) filter (where queued_at > $2) as "share!"
           from scan where queued_at > $1 and trigger = 'scheduled'"#,
        tx.now() - Duration::from_secs(60),
        tx.now() - share,
    )
    .fetch_one(tx.connection())
    .await?;
    let number = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(Window { minute: number(row.minute), share: number(row.share) })
}

/// Puts due hosts that were never asked to be scanned in a line, `per_minute` to the minute, behind those in it already,
/// in an order that only their ids decide: neighbours in the inventory are no neighbours in time. Returns the rows moved,
/// each to be audited. The caller holds the lock of [`window`].
///
/// # Errors
/// The database is away.
pub async fn spread(tx: &mut Tx<'_>, per_minute: u32) -> Result<Vec<Moved>, StoreError> {
    let gap_sec = 60.0 / f64::from(per_minute.max(1));
    let rows = sqlx::query!(
        r#"with line as (
             select greatest($1, max(next_scheduled_scan) + make_interval(secs => $2)) as from_at
             from host_compliance_schedule where next_reason = 'spread'
           ),
           newcomers as (
             select s.host_id from host_compliance_schedule s join host h on h.id = s.host_id and h.deleted_at is null
             where s.next_reason = 'first_contact' and s.next_scheduled_scan <= $1 and not s.maintenance_mode
             order by md5(s.host_id::text) limit $3
             for update of s skip locked
           ),
           places as (
             select host_id, row_number() over (order by md5(host_id::text)) - 1 as place from newcomers
           ),
           prior as (
             select s.* from host_compliance_schedule s join places p on p.host_id = s.host_id
           ),
           moved as (
             update host_compliance_schedule s
             set next_scheduled_scan = l.from_at + make_interval(secs => p.place * $2),
                 claim_order = claim_order(s.compliance_state, l.from_at + make_interval(secs => p.place * $2)),
                 next_reason = 'spread', updated_at = $1
             from places p, line l where s.host_id = p.host_id
             returning s.host_id, s.next_scheduled_scan
           )
           select p.host_id, p.compliance_state, p.compliance_score::float8 as score, p.has_critical_findings,
             p.current_interval_minutes, p.next_scheduled_scan, p.next_reason, p.maintenance_mode, p.maintenance_until,
             p.policy_version_at_last_scan, m.next_scheduled_scan as next_at
           from prior p join moved m on m.host_id = p.host_id"#,
        tx.now(),
        gap_sec,
        SPREAD_BATCH,
    )
    .fetch_all(tx.connection())
    .await?;
    let moved = rows.into_iter().map(|r| {
        let prior = facts!(r);
        let new = ScheduleFacts {
            next_scheduled_scan: r.next_at,
            next_reason: DueReason::Spread.as_str().to_owned(),
            ..prior.clone()
        };
        (HostId(r.host_id), prior, new)
    });
    Ok(moved.collect())
}
