//! The schedule of each host. The scheduler is the only writer of this table (SCH-26).

use openwatch_model::audit::ScheduleFacts;
use openwatch_model::policy::Maintenance;
use openwatch_model::score::{ComplianceState, Score};
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

/// A change of one host's row.
pub type Moved = (HostId, ScheduleFacts, ScheduleFacts);

/// Ends maintenance whose time is up and forgets the schedules of removed hosts. Returns the rows changed, each to be
/// audited as `maintenance_cleared`. Called by the scheduler before each pass.
///
/// # Errors
/// The database is away.
pub async fn sweep(tx: &mut Tx<'_>) -> Result<Vec<Moved>, StoreError> {
    sqlx::query!(
        "delete from host_compliance_schedule s using host h where h.id = s.host_id and h.deleted_at is not null"
    )
    .execute(tx.connection())
    .await?;
    let rows = sqlx::query_as!(
        FactsRow,
        r#"update host_compliance_schedule set maintenance_mode = false, maintenance_until = null, updated_at = $1
           where maintenance_mode and maintenance_until <= $1
           returning host_id, compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, policy_version_at_last_scan"#,
        tx.now()
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(rows.into_iter().map(|row| (HostId(row.host_id), row.facts(), row.facts())).collect())
}

/// Puts a host in maintenance, or takes it out. Called by the scheduler.
///
/// # Errors
/// The database is away.
pub async fn set_maintenance(
    tx: &mut Tx<'_>,
    host: HostId,
    on: bool,
    until: Option<Timestamp>,
) -> Result<Option<Moved>, StoreError> {
    let row = sqlx::query_as!(
        FactsRow,
        r#"update host_compliance_schedule set maintenance_mode = $2, maintenance_until = $3, updated_at = $4
           where host_id = $1
           returning host_id, compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, policy_version_at_last_scan"#,
        host.0,
        on,
        until.filter(|_| on),
        tx.now()
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|row| (host, row.facts(), row.facts())))
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
    /// When the scan completed; absent after a failure.
    pub completed_at: Option<Timestamp>,
    /// Policy of the scan.
    pub policy_version: &'a str,
}

/// State, interval and due time of a host, locked: what the scheduler decides from. Called by the scheduler before
/// [`update_after_scan`].
///
/// # Errors
/// The database is away.
pub async fn lock(tx: &mut Tx<'_>, host: HostId) -> Result<Option<ScheduleFacts>, StoreError> {
    let row = sqlx::query_as!(
        FactsRow,
        r#"select host_id, compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, policy_version_at_last_scan
           from host_compliance_schedule where host_id = $1 for update"#,
        host.0
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.as_ref().map(FactsRow::facts))
}

/// Moves a host's schedule after a scan, unless a newer scan has moved it already. Returns the row before and after.
/// Called by the scheduler on `scan.completed` and `scan.failed`.
///
/// # Errors
/// The database is away.
pub async fn update_after_scan(
    tx: &mut Tx<'_>,
    change: &Reschedule<'_>,
) -> Result<Option<(ScheduleFacts, ScheduleFacts)>, StoreError> {
    let Some(prior) = lock(tx, change.host).await? else { return Ok(None) };
    let (state, score, critical) = match change.outcome {
        Some((state, score, critical)) => (Some(state.as_str()), score.percent(), Some(critical)),
        None => (None, None, None),
    };
    let row = sqlx::query_as!(
        FactsRow,
        r#"update host_compliance_schedule
           set compliance_state = coalesce($3, compliance_state),
               -- An undefined score is stored as such; a failed scan leaves the score alone.
               compliance_score = case when $3::text is null then compliance_score else $4::float8::numeric(5, 2) end,
               has_critical_findings = coalesce($5, has_critical_findings),
               current_interval_minutes = $6,
               next_scheduled_scan = $7,
               claim_order = claim_order(coalesce($3, compliance_state), $7),
               last_scan_completed_at = coalesce($8, last_scan_completed_at),
               policy_version_at_last_scan = $9,
               scan_number = $2,
               updated_at = $10
           where host_id = $1 and scan_number < $2
           returning host_id, compliance_state, compliance_score::float8 as score, has_critical_findings,
             current_interval_minutes, next_scheduled_scan, policy_version_at_last_scan"#,
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
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|row| (prior, row.facts())))
}

struct FactsRow {
    host_id: Uuid,
    compliance_state: String,
    score: Option<f64>,
    has_critical_findings: bool,
    current_interval_minutes: i32,
    next_scheduled_scan: Timestamp,
    policy_version_at_last_scan: Option<String>,
}

impl FactsRow {
    fn facts(&self) -> ScheduleFacts {
        ScheduleFacts {
            compliance_state: self.compliance_state.clone(),
            compliance_score: self.score,
            has_critical_findings: self.has_critical_findings,
            current_interval_minutes: self.current_interval_minutes,
            next_scheduled_scan: self.next_scheduled_scan,
            policy_version_at_last_scan: self.policy_version_at_last_scan.clone(),
        }
    }
}
