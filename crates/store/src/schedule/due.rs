//! Hosts that are due: counted, claimed, dispatched.

use std::collections::BTreeSet;

use openwatch_model::audit::ScheduleFacts;
use openwatch_model::policy::Maintenance;
use openwatch_model::schedule::DueReason;
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId, Timestamp};
use uuid::Uuid;

use crate::scan::Issued;
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
    /// Of those, with a scan under way.
    pub open: u64,
    /// Of those, free to be dispatched.
    pub free: u64,
}

/// A host whose scheduled scan is due, locked for this scheduler until the transaction ends.
#[derive(Clone, Debug, PartialEq)]
pub struct DueHost {
    /// The host.
    pub host: HostId,
    /// Tier to take the interval from.
    pub state: ComplianceState,
    /// Its schedule row.
    pub facts: ScheduleFacts,
}

/// One host to dispatch.
#[derive(Clone, Debug, PartialEq)]
pub struct Dispatch {
    /// A host of [`claim_due`], numbered by [`crate::scan::number`].
    pub due: DueHost,
    /// Id for its scan, a UUIDv4.
    pub scan: ScanId,
    /// Place of the scan among the host's scans.
    pub number: i64,
    /// The scan's first job; absent when it cannot be signed yet, and is issued later.
    pub job: Option<Issued>,
    /// When it is due again, counted from [`crate::Moment::now`], never from the old time.
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
        r#"select count(*) as "due!", count(*) filter (where maintenance) as "maintenance!",
             count(*) filter (where backoff) as "backoff!", count(*) filter (where open) as "open!",
             count(*) filter (where not (maintenance or backoff or open)) as "free!"
           from (
             select coalesce(m.maintenance, false) or $2 or h.name = any($3) as maintenance,
               coalesce(b.suppress_until > $1, false) as backoff, o.host_id is not null as open
             from host_compliance_schedule s
             join host h on h.id = s.host_id and h.deleted_at is null
             left join host_maintenance m on m.host_id = s.host_id
             left join host_backoff_state b on b.host_id = s.host_id and b.probe_type = 'scan'
             left join open_scan o on o.host_id = s.host_id
             where s.next_scheduled_scan <= $1
           ) due"#,
        tx.now(),
        maintenance.all,
        &maintenance.hosts,
    )
    .fetch_one(tx.connection())
    .await?;
    let number = |n: i64| n.max(0).unsigned_abs();
    Ok(DueCounts {
        due: number(row.due),
        maintenance: number(row.maintenance),
        backoff: number(row.backoff),
        open: number(row.open),
        free: number(row.free),
    })
}

/// Which of the due hosts: several who claim side by side would else look at one another's first, to find them locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    mask: i32,
    of: i32,
}

impl Part {
    /// All of them.
    pub const ALL: Self = Self { mask: 0, of: 0 };
    /// One half.
    pub const EVEN: Self = Self { mask: 1, of: 0 };
    /// The other half.
    pub const ODD: Self = Self { mask: 1, of: 1 };
}

/// Claims due hosts for this scheduler: worse states first, then the longest overdue; never one that somebody else
/// holds, that is in maintenance or backoff, that has an open scan, or is among `except`. Called by the scheduler, 100 at
/// a time.
///
/// # Errors
/// The database is away.
pub async fn claim_due(
    tx: &mut Tx<'_>,
    maintenance: &Maintenance,
    limit: u32,
    except: &[HostId],
    part: Part,
) -> Result<Vec<DueHost>, StoreError> {
    if maintenance.all {
        return Ok(Vec::new());
    }
    let except: Vec<Uuid> = except.iter().map(|host| host.0).collect();
    let rows = sqlx::query!(
        r#"select s.host_id, s.compliance_state, s.compliance_score::float8 as score, s.has_critical_findings,
             s.current_interval_minutes, s.next_scheduled_scan, s.next_reason, s.maintenance_mode, s.maintenance_until,
             s.policy_version_at_last_scan
           from host_compliance_schedule s
           join host h on h.id = s.host_id and h.deleted_at is null
           -- The order column is never later than the due time, so this bound only lets the index be used.
           where s.claim_order <= $1 and s.next_scheduled_scan <= $1 and not s.maintenance_mode
             and h.name <> all($2) and s.host_id <> all($4)
             -- Written so that the planner takes it for half of them: for a comparison it would expect next to none, and sort all.
             and case uuid_hash(s.host_id) & $5 when $6 then true else false end
             -- What is no flag yet; `host_maintenance` would say the same, but hide the index.
             and not exists (select from maintenance_request r where r.host_id = s.host_id and r.maintenance)
             and not exists (
               select from host_backoff_state b
               where b.host_id = s.host_id and b.probe_type = 'scan' and b.suppress_until > $1)
             and not exists (select from open_scan o where o.host_id = s.host_id)
           order by s.claim_order
           limit $3
           -- The host too, which is about to be numbered: nobody who holds one waits for the other.
           for update of s skip locked for no key update of h skip locked"#,
        tx.now(),
        &maintenance.hosts,
        i64::from(limit),
        &except,
        part.mask,
        part.of,
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            let state = compliance_state(&r.compliance_state)?;
            Ok(DueHost { host: HostId(r.host_id), state, facts: facts!(r) })
        })
        .collect()
}

/// How many due hosts go before this one: those that [`claim_due`] could take, in its order. Called by the API, to say
/// when a host that waits for its turn has it.
///
/// # Errors
/// The database is away.
pub async fn ahead(tx: &mut Tx<'_>, maintenance: &Maintenance, host: HostId) -> Result<u64, StoreError> {
    let ahead = sqlx::query_scalar!(
        r#"select count(*) as "ahead!"
           from host_compliance_schedule me
           join host_compliance_schedule s on s.claim_order < me.claim_order and s.next_scheduled_scan <= $1
           join host h on h.id = s.host_id and h.deleted_at is null
           left join host_maintenance m on m.host_id = s.host_id
           where me.host_id = $2 and m.maintenance is not true and h.name <> all($3)
             and not exists (
               select from host_backoff_state b
               where b.host_id = s.host_id and b.probe_type = 'scan' and b.suppress_until > $1)
             and not exists (select from open_scan o where o.host_id = s.host_id)"#,
        tx.now(),
        host.0,
        &maintenance.hosts,
    )
    .fetch_one(tx.connection())
    .await?;
    Ok(ahead.max(0).unsigned_abs())
}

/// Queues a full scan for each claimed host, its job noted, and moves its schedule on, all in one statement. A host for
/// which somebody queued a scan in this very moment is left out and stays due; its job must not be sent. Called by the
/// scheduler.
///
/// # Errors
/// The database is away.
pub async fn dispatch(
    tx: &mut Tx<'_>,
    hosts: Vec<Dispatch>,
    policy_version: &str,
) -> Result<Vec<Dispatched>, StoreError> {
    let ids: Vec<Uuid> = hosts.iter().map(|d| d.due.host.0).collect();
    let scans: Vec<Uuid> = hosts.iter().map(|d| d.scan.0).collect();
    let numbers: Vec<i64> = hosts.iter().map(|d| d.number).collect();
    let nexts: Vec<Timestamp> = hosts.iter().map(|d| d.next_at).collect();
    let intervals: Vec<i32> = hosts.iter().map(minutes).collect();
    let jobs = || hosts.iter().map(|d| d.job.as_ref());
    let tags: Vec<Option<Vec<u8>>> = jobs().map(|job| job.map(|job| job.tag.to_vec())).collect();
    let keys: Vec<Option<String>> = jobs().map(|job| job.map(|job| job.key_id.clone())).collect();
    let corpora: Vec<Option<String>> = jobs().map(|job| job.map(|job| job.corpus.clone())).collect();
    let timeouts: Vec<Option<i32>> =
        jobs().map(|job| job.map(|job| i32::try_from(job.timeout_sec).unwrap_or(i32::MAX))).collect();
    let moved = sqlx::query_scalar!(
        r#"with wanted as (
             select * from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::int[], $6::bytea[], $7::text[],
                 $8::text[], $9::int[])
               as w (host_id, scan_id, number, next_at, interval_minutes, tag, key_id, corpus, timeout_sec)
           ),
           opened as (
             insert into open_scan (host_id, scan_id, unissued) select host_id, scan_id, tag is null from wanted
             on conflict (host_id) do nothing
             returning host_id
           ),
           queued as (
             insert into scan (id, host_id, number, lane, trigger, actor, framework, policy_version, corpus, queued_at, tag,
               key_id, timeout_sec, issued_at)
             select w.scan_id, w.host_id, w.number, 'scheduled', 'scheduled', 'scheduler', '*', $10, corpus, $11, tag, key_id,
               timeout_sec, case when tag is not null then $11::timestamptz end
             from opened o join wanted w on w.host_id = o.host_id
           )
           update host_compliance_schedule s
           set next_scheduled_scan = w.next_at, next_reason = 'interval', claim_order = claim_order(s.compliance_state, w.next_at),
               current_interval_minutes = w.interval_minutes, updated_at = $11
           from opened o join wanted w on w.host_id = o.host_id
           where s.host_id = o.host_id
           returning s.host_id"#,
        &ids,
        &scans,
        &numbers,
        &nexts,
        &intervals,
        &tags as &[Option<Vec<u8>>],
        &keys as &[Option<String>],
        &corpora as &[Option<String>],
        &timeouts as &[Option<i32>],
        policy_version,
        tx.now(),
    )
    .fetch_all(tx.connection())
    .await?;
    let moved: BTreeSet<Uuid> = moved.into_iter().collect();
    let dispatched = hosts.into_iter().filter(|d| moved.contains(&d.due.host.0)).map(|d| {
        let prior = d.due.facts.clone();
        let new = ScheduleFacts {
            next_scheduled_scan: d.next_at,
            current_interval_minutes: minutes(&d),
            next_reason: DueReason::Interval.as_str().to_owned(),
            ..prior.clone()
        };
        Dispatched { host: d.due.host, scan: d.scan, prior, new }
    });
    Ok(dispatched.collect())
}

fn minutes(dispatch: &Dispatch) -> i32 {
    i32::try_from(dispatch.interval_minutes).unwrap_or(i32::MAX)
}
