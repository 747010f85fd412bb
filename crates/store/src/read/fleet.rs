//! The fleet as a whole, now or at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::alert::AlertSeverity;
use openwatch_model::outcome::Counts;
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId, Timestamp};
use uuid::Uuid;

use crate::host::{Filter, count, counts};
use crate::words::{alert_severity, compliance_state};
use crate::{StoreError, Tx};

/// The fleet in numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    /// Hosts by state; every state is there.
    pub by_state: BTreeMap<ComplianceState, u64>,
    /// Rules of all hosts' newest full scans by status.
    pub rules: Counts,
    /// Hosts that answer, do not answer, and of which that is not known; of the present only.
    pub reachability: Option<(u64, u64, u64)>,
    /// Scans queued and running; of the present only.
    pub open_scans: Option<(u64, u64)>,
    /// Open alerts by severity.
    pub open_alerts: BTreeMap<AlertSeverity, u64>,
    /// Host whose newest full scan is the longest ago; one without any comes first.
    pub oldest: Option<Oldest>,
}

/// A host that waits for a full scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// Id.
    pub host: HostId,
    /// Name.
    pub name: String,
    /// When its newest full scan was applied; absent: never.
    pub verified_at: Option<Timestamp>,
}

impl Fleet {
    /// All hosts.
    pub fn hosts(&self) -> u64 {
        self.by_state.values().sum()
    }
}

/// A host as it was.
#[derive(Clone, Debug, PartialEq)]
pub struct HostAt {
    /// Id.
    pub host: HostId,
    /// Name.
    pub name: String,
    /// State by its newest full scan then.
    pub state: ComplianceState,
    /// Rules of that scan by status.
    pub counts: Counts,
    /// Critical rules that failed.
    pub critical_failing: u32,
    /// That scan; absent before the first one.
    pub verified: Option<(ScanId, Timestamp)>,
    /// It found nothing new.
    pub unchanged: bool,
}

/// Hosts as they were at a time, by name: those registered then and not removed. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn hosts_at(
    tx: &mut Tx<'_>,
    at: Timestamp,
    filter: &Filter,
    limit: u32,
) -> Result<Vec<HostAt>, StoreError> {
    let rows = sqlx::query!(
        r#"select h.id, h.name, l.scan_id as "scan_id?", l.applied_at as "applied_at?", l.compliance_state as "state?",
             l.pass as "pass?", l.fail as "fail?", l.skipped as "skipped?", l.error as "error?",
             l.critical_failing as "critical?", coalesce(l.unchanged, false) as "unchanged!"
           from (
             select * from host h
             where h.created_at <= $1 and (h.deleted_at is null or h.deleted_at > $1)
               and ($2::uuid is null or h.id = $2)
               and ($3::text is null or h.name > $3)
               -- Labels are as they are now: their past is not kept.
               and not exists (
                 select from jsonb_each_text($6::jsonb) wanted
                 where not exists (
                   select from host_label l where l.host_id = h.id and l.key = wanted.key and l.value = wanted.value))
             order by h.name
             -- What is not asked for by state is looked up for no more hosts than are wanted.
             limit case when $5::text is null then $4::bigint end
           ) h
           left join lateral (
             select * from scan_ledger l
             where l.host_id = h.id and l.outcome = 'completed' and l.is_full and l.applied_at <= $1
             order by l.applied_at desc limit 1) l on true
           where $5 is null or coalesce(l.compliance_state, 'unknown') = $5
           order by h.name
           limit $4"#,
        at,
        filter.id.map(|h| h.0),
        filter.after_name,
        i64::from(limit),
        filter.state.map(ComplianceState::as_str),
        serde_json::json!(filter.labels),
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(HostAt {
                host: HostId(r.id),
                name: r.name,
                state: r.state.as_deref().map_or(Ok(ComplianceState::Unknown), compliance_state)?,
                counts: counts(
                    r.pass.unwrap_or_default(),
                    r.fail.unwrap_or_default(),
                    r.skipped.unwrap_or_default(),
                    r.error.unwrap_or_default(),
                ),
                critical_failing: r.critical.map_or(0, count),
                verified: r.scan_id.map(ScanId).zip(r.applied_at),
                unchanged: r.unchanged,
            })
        })
        .collect()
}

/// The fleet, now or at a time. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn fleet(tx: &mut Tx<'_>, at: Option<Timestamp>) -> Result<Fleet, StoreError> {
    let mut fleet = Fleet { by_state: ComplianceState::ALL.map(|s| (s, 0)).into(), ..Fleet::default() };
    match at {
        Some(at) => states_then(tx, &mut fleet, at).await?,
        None => {
            states_now(tx, &mut fleet).await?;
            doings_now(tx, &mut fleet).await?;
        }
    }
    open_alerts(tx, &mut fleet, at).await?;
    Ok(fleet)
}

/// Hosts summed up by state, and on every row the one whose newest full scan is the longest ago; one without any comes first.
macro_rules! groups {
    ($posture:expr $(, $value:expr)*) => {
        sqlx::query_as!(
            Group,
            "with " + $posture + r#"
             select p.state as "state!", count(*) as "hosts!", coalesce(sum(p.pass), 0) as "pass!", coalesce(sum(p.fail), 0) as "fail!",
               coalesce(sum(p.skipped), 0) as "skipped!", coalesce(sum(p.error), 0) as "error!",
               o.id as "oldest_id!", o.name as "oldest_name!", o.at as oldest_at
             from posture p,
               (select id, name, at from posture order by at nulls first, created_at, name limit 1) o
             group by p.state, o.id, o.name, o.at"#
            $(, $value)*
        )
    };
}

struct Group {
    state: String,
    hosts: i64,
    pass: i64,
    fail: i64,
    skipped: i64,
    error: i64,
    oldest_id: Uuid,
    oldest_name: String,
    oldest_at: Option<Timestamp>,
}

async fn states_now(tx: &mut Tx<'_>, fleet: &mut Fleet) -> Result<(), StoreError> {
    let groups = groups!(
        "posture as materialized (
           select h.id, h.name, h.created_at, hs.compliance_state as state, hs.pass, hs.fail, hs.skipped, hs.error, hs.full_at as at
           from host h join host_state hs on hs.host_id = h.id
           where h.deleted_at is null
         )"
    );
    add(fleet, groups.fetch_all(tx.connection()).await?)
}

/// Most hosts had a scan lately, and what ended lately lies side by side: it is read as a whole. Who is not among it is looked
/// up alone. "Lately" is the time between two scans of a host at today's pace and a quarter more, which is a guess of what is
/// less work and decides nothing else.
async fn states_then(tx: &mut Tx<'_>, fleet: &mut Fleet, at: Timestamp) -> Result<(), StoreError> {
    // Asked apart: with a value in its place the server knows how much there is to read.
    let minutes = sqlx::query_scalar!(
        r#"select (1.25 * count(*) / sum(1.0 / current_interval_minutes))::integer from host_compliance_schedule"#
    )
    .fetch_one(tx.connection())
    .await?;
    let lately = at - Duration::from_mins(minutes.map_or(0, count).into());
    let groups = groups!(
        "lately as (
           select distinct on (l.host_id) l.host_id, l.compliance_state, l.pass, l.fail, l.skipped, l.error, l.applied_at
           from scan_ledger l
           where l.outcome = 'completed' and l.is_full and l.applied_at <= $1 and l.applied_at > $2
           order by l.host_id, l.applied_at desc
         ),
         posture as materialized (
           select h.id, h.name, h.created_at, coalesce(n.compliance_state, l.compliance_state, 'unknown') as state,
             coalesce(n.pass, l.pass) as pass, coalesce(n.fail, l.fail) as fail, coalesce(n.skipped, l.skipped) as skipped,
             coalesce(n.error, l.error) as error, coalesce(n.applied_at, l.applied_at) as at
           from host h
           left join lately n on n.host_id = h.id
           left join lateral (
             select * from scan_ledger l
             where n.host_id is null
               and l.host_id = h.id and l.outcome = 'completed' and l.is_full and l.applied_at <= $1
             order by l.applied_at desc limit 1) l on true
           where h.created_at <= $1 and (h.deleted_at is null or h.deleted_at > $1)
         )",
        at,
        lately
    );
    add(fleet, groups.fetch_all(tx.connection()).await?)
}

fn add(fleet: &mut Fleet, groups: Vec<Group>) -> Result<(), StoreError> {
    let rules = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    for group in groups {
        fleet.by_state.insert(compliance_state(&group.state)?, number(group.hosts));
        fleet.rules.pass = fleet.rules.pass.saturating_add(rules(group.pass));
        fleet.rules.fail = fleet.rules.fail.saturating_add(rules(group.fail));
        fleet.rules.skipped = fleet.rules.skipped.saturating_add(rules(group.skipped));
        fleet.rules.error = fleet.rules.error.saturating_add(rules(group.error));
        fleet.oldest = Some(Oldest {
            host: HostId(group.oldest_id),
            name: group.oldest_name,
            verified_at: group.oldest_at,
        });
    }
    Ok(())
}

async fn doings_now(tx: &mut Tx<'_>, fleet: &mut Fleet) -> Result<(), StoreError> {
    let row = sqlx::query!(
        r#"select
             count(*) filter (where l.reachability_status = 'reachable') as "up!",
             count(*) filter (where l.reachability_status = 'unreachable') as "down!",
             count(*) filter (where l.reachability_status = 'unknown') as "unknown!",
             (select count(*) from open_scan o join scan s on s.id = o.scan_id where s.state = 'queued') as "queued!",
             (select count(*) from open_scan o join scan s on s.id = o.scan_id where s.state = 'running') as "running!"
           from host h join host_liveness l on l.host_id = h.id where h.deleted_at is null"#
    )
    .fetch_one(tx.connection())
    .await?;
    fleet.reachability = Some((number(row.up), number(row.down), number(row.unknown)));
    fleet.open_scans = Some((number(row.queued), number(row.running)));
    Ok(())
}

async fn open_alerts(tx: &mut Tx<'_>, fleet: &mut Fleet, at: Option<Timestamp>) -> Result<(), StoreError> {
    let rows = sqlx::query!(
        r#"select coalesce(t.severity, a.severity) as "severity!", count(*) as "alerts!"
           from alert a
           left join lateral (
             select t.state, t.severity from alert_transition t
             where $1::timestamptz is not null and t.alert_id = a.id and t.changed_at <= $1
             order by t.number desc limit 1) t on true
           where case when $1::timestamptz is null then a.state else t.state end in ('active', 'acknowledged', 'silenced')
           group by 1"#,
        at
    )
    .fetch_all(tx.connection())
    .await?;
    for r in rows {
        fleet.open_alerts.insert(alert_severity(&r.severity)?, number(r.alerts));
    }
    Ok(())
}

fn number(n: i64) -> u64 {
    n.max(0).unsigned_abs()
}
