//! Hosts that are due: counted, claimed, dispatched.

use openwatch_model::audit::ScheduleFacts;
use openwatch_model::policy::Maintenance;
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId, Timestamp};
use uuid::Uuid;

use crate::words::compliance_state;
use crate::{StoreError, Tx};

/// What is due, and why some of it is left alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DueCounts {
    /// Due hosts, whatever else holds for them.
    pub due: u64,
    /// Of those, in maintenance by their own flag or by policy.
    pub maintenance: u64,
    /// Of those, in backoff after failures.
    pub backoff: u64,
}

/// A host whose scheduled scan is due, locked for this scheduler until the transaction ends.
#[derive(Clone, Debug, PartialEq)]
pub struct DueHost {
    /// The host.
    pub host: HostId,
    /// Its name.
    pub name: String,
    /// Tier to take the interval from.
    pub state: ComplianceState,
    /// Since when it has been due.
    pub due_since: Timestamp,
    /// Whether it is known not to answer.
    pub unreachable: bool,
}

/// One host to dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// A host of [`claim_due`].
    pub host: HostId,
    /// Id for its scan, a UUIDv4.
    pub scan: ScanId,
    /// When it is due again, counted from [`Tx::now`], never from the old time.
    pub next_at: Timestamp,
    /// Interval in minutes.
    pub interval_minutes: u32,
}

/// A host that was dispatched.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatched {
    /// The host.
    pub host: HostId,
    /// Its scan, queued.
    pub scan: ScanId,
    /// Its place among the host's scans.
    pub number: i64,
    /// Schedule row before.
    pub prior: ScheduleFacts,
    /// Schedule row now.
    pub new: ScheduleFacts,
}

/// Counts what is due and what of it is left alone. Called by the scheduler once per pass.
///
/// # Errors
/// The database is away.
pub async fn counts(tx: &mut Tx<'_>, maintenance: &Maintenance) -> Result<DueCounts, StoreError> {
    let row = sqlx::query!(
        r#"select count(*) as "due!",
             count(*) filter (where s.maintenance_mode or $2 or h.name = any($3)) as "maintenance!",
             count(*) filter (where b.suppress_until > $1) as "backoff!"
           from host_compliance_schedule s
           join host h on h.id = s.host_id and h.deleted_at is null
           left join host_backoff_state b on b.host_id = s.host_id and b.probe_type = 'scan'
           where s.next_scheduled_scan <= $1"#,
        tx.now(),
        maintenance.all,
        &maintenance.hosts,
    )
    .fetch_one(tx.connection())
    .await?;
    let number = |n: i64| n.max(0).unsigned_abs();
    Ok(DueCounts { due: number(row.due), maintenance: number(row.maintenance), backoff: number(row.backoff) })
}

/// Claims due hosts for this scheduler: worse states first, then the longest overdue; never one that another scheduler
/// holds, that is in maintenance or backoff, or that has an open scan. Called by the scheduler, 100 at a time.
///
/// # Errors
/// The database is away.
pub async fn claim_due(
    tx: &mut Tx<'_>,
    maintenance: &Maintenance,
    limit: u32,
) -> Result<Vec<DueHost>, StoreError> {
    if maintenance.all {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"select s.host_id, h.name, s.compliance_state, s.next_scheduled_scan,
             coalesce(l.reachability_status = 'unreachable', false) as "unreachable!"
           from host_compliance_schedule s
           join host h on h.id = s.host_id and h.deleted_at is null
           left join host_liveness l on l.host_id = s.host_id
           -- The order column is never later than the due time, so this bound only lets the index be used.
           where s.claim_order <= $1 and s.next_scheduled_scan <= $1 and not s.maintenance_mode
             and h.name <> all($2)
             and not exists (
               select from host_backoff_state b
               where b.host_id = s.host_id and b.probe_type = 'scan' and b.suppress_until > $1)
             and not exists (select from scan o where o.host_id = s.host_id and o.state in ('queued', 'running'))
           order by s.claim_order
           limit $3
           for update of s skip locked"#,
        tx.now(),
        &maintenance.hosts,
        i64::from(limit),
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(DueHost {
                host: HostId(r.host_id),
                name: r.name,
                state: compliance_state(&r.compliance_state)?,
                due_since: r.next_scheduled_scan,
                unreachable: r.unreachable,
            })
        })
        .collect()
}

/// Queues a full scan for each claimed host and moves its schedule on, all in one statement. A host for which somebody
/// queued a scan in this very moment is left out and stays due. Called by the scheduler.
///
/// # Errors
/// The database is away.
pub async fn dispatch(
    tx: &mut Tx<'_>,
    hosts: &[Dispatch],
    policy_version: &str,
    corpus: Option<&str>,
) -> Result<Vec<Dispatched>, StoreError> {
    let ids: Vec<Uuid> = hosts.iter().map(|d| d.host.0).collect();
    let scans: Vec<Uuid> = hosts.iter().map(|d| d.scan.0).collect();
    let nexts: Vec<Timestamp> = hosts.iter().map(|d| d.next_at).collect();
    let intervals: Vec<i32> =
        hosts.iter().map(|d| i32::try_from(d.interval_minutes).unwrap_or(i32::MAX)).collect();
    let rows = sqlx::query!(
        r#"with wanted as (
             select * from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::int[])
               as w (host_id, scan_id, next_at, interval_minutes)
           ),
           -- Hosts in one order, so that two who number hosts never wait for each other in a circle.
           locked as materialized (
             select h.id from host h join wanted w on w.host_id = h.id where h.deleted_at is null order by h.id for no key update of h
           ),
           numbered as (
             update host h set last_number = h.last_number + 1 from locked where h.id = locked.id
             returning h.id, h.last_number
           ),
           queued as (
             insert into scan (id, host_id, number, lane, trigger, actor, framework, policy_version, corpus, queued_at)
             select w.scan_id, n.id, n.last_number, 'scheduled', 'scheduled', 'scheduler', '*', $5, $6, $7
             from numbered n join wanted w on w.host_id = n.id
             on conflict (host_id) where state in ('queued', 'running') do nothing
             returning id, host_id, number
           ),
           prior as (
             select s.* from host_compliance_schedule s join queued q on q.host_id = s.host_id
           ),
           moved as (
             update host_compliance_schedule s
             set next_scheduled_scan = w.next_at, claim_order = claim_order(s.compliance_state, w.next_at),
                 current_interval_minutes = w.interval_minutes, updated_at = $7
             from queued q join wanted w on w.host_id = q.host_id
             where s.host_id = q.host_id
             returning s.host_id, s.next_scheduled_scan, s.current_interval_minutes
           )
           select q.host_id, q.id as scan_id, q.number, p.compliance_state, p.compliance_score::float8 as score,
             p.has_critical_findings, p.current_interval_minutes, p.next_scheduled_scan, p.policy_version_at_last_scan,
             m.next_scheduled_scan as next_at, m.current_interval_minutes as next_interval
           from queued q join prior p on p.host_id = q.host_id join moved m on m.host_id = q.host_id"#,
        &ids,
        &scans,
        &nexts,
        &intervals,
        policy_version,
        corpus,
        tx.now(),
    )
    .fetch_all(tx.connection())
    .await?;
    let dispatched = rows.into_iter().map(|r| {
        let prior = ScheduleFacts {
            compliance_state: r.compliance_state,
            compliance_score: r.score,
            has_critical_findings: r.has_critical_findings,
            current_interval_minutes: r.current_interval_minutes,
            next_scheduled_scan: r.next_scheduled_scan,
            policy_version_at_last_scan: r.policy_version_at_last_scan,
        };
        let new = ScheduleFacts {
            next_scheduled_scan: r.next_at,
            current_interval_minutes: r.next_interval,
            ..prior.clone()
        };
        Dispatched { host: HostId(r.host_id), scan: ScanId(r.scan_id), number: r.number, prior, new }
    });
    Ok(dispatched.collect())
}
