//! How scans end: a scan's own row says whether it has, and the ledger's row comes in the same statement. Every way of ending
//! goes through `close` here, but for the one that happens all day, [`crate::apply::unchanged()`].

use std::collections::BTreeMap;

use openwatch_model::drift::Summary;
use openwatch_model::host::Platform;
use openwatch_model::outcome::Counts;
use openwatch_model::scan::{Failure, FailureReason, Lane, ScanState, Selection};
use openwatch_model::schedule::Backoff;
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId, Timestamp};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::finding::{self, Finding};
use crate::host::count;
use crate::words::{compliance_state, lane, scan_state};
use crate::{Moment, Store, StoreError, Tx};

/// Whether a scan may be ended now.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// It may. It and its host are locked until the transaction ends, unless it was only looked at ([`glance`]).
    Open(Box<OpenScan>),
    /// It has ended: the message is a replay.
    Ended,
    /// It is a scan of another host: the message is a conflict.
    OtherHost(HostId),
    /// There is no such scan.
    Unknown,
}

/// A scan that is being ended, with what deciding takes.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenScan {
    /// The scan.
    pub scan: ScanId,
    /// Its host.
    pub host: HostId,
    /// Place among the host's scans.
    pub number: i64,
    /// Newest of the host's scans that was applied: above `number`, this result is superseded.
    pub applied_number: i64,
    /// Queued or running.
    pub state: ScanState,
    /// Current attempt.
    pub attempt: u32,
    /// Attempts that were given up because nothing was heard of them.
    pub rescues: u32,
    /// MAC of the current attempt's job.
    pub tag: Option<Vec<u8>>,
    /// What was asked.
    pub selection: Selection,
    /// Lane.
    pub lane: Lane,
    /// Who asked.
    pub actor: String,
    /// See [`crate::scan::NewScan`].
    pub correlation: Option<String>,
    /// Policy of its job.
    pub policy_version: String,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When its job was issued.
    pub issued_at: Option<Timestamp>,
    /// When a worker began.
    pub started_at: Option<Timestamp>,
    /// Whole-scan limit of its job in seconds.
    pub timeout_sec: Option<u32>,
    /// State of the host before.
    pub host_state: ComplianceState,
    /// What the host's newest full scan found.
    pub found: Found,
    /// Its digest; absent when a filtered scan changed a rule since.
    pub(crate) full_digest: Option<Vec<u8>>,
    /// Full scans applied to the host so far.
    pub(crate) full_seq: i64,
    /// Newest full scan of the host: number, id, time.
    pub(crate) last_full: Option<(i64, ScanId, Timestamp)>,
}

/// How the rules of a scan ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How many each way.
    pub counts: Counts,
    /// Critical rules that fail.
    pub critical_failing: u32,
}

impl Found {
    /// Of findings.
    pub fn of(findings: &[Finding]) -> Self {
        Self { counts: finding::counts(findings), critical_failing: finding::critical_failing(findings) }
    }
}

impl OpenScan {
    /// This scan measures everything, and its digest is that of the host's newest full scan: it found [`Self::found`].
    pub fn found_before(&self, digest: &[u8; 32]) -> bool {
        self.selection.is_full() && self.full_digest.as_deref() == Some(&digest[..])
    }

    /// Nothing was heard of this attempt yet: it is as [`crate::scan::queued`] finds it.
    pub fn is_to_begin(&self, attempt: u32) -> bool {
        self.state == ScanState::Queued && self.attempt == attempt && self.tag.is_some()
    }

    /// Place of the host's newest full scan among its scans; 0 before the first.
    pub(crate) fn full_number(&self) -> i64 {
        self.last_full.map_or(0, |(number, ..)| number)
    }

    /// A newer scan of the host was applied already.
    pub fn is_superseded(&self) -> bool {
        self.number < self.applied_number
    }
}

/// What [`open`] and [`glance`] read, with `for update` or without.
macro_rules! facts {
    ($scan:expr, $lock:tt) => {
        sqlx::query_as!(
            Facts,
            r#"select now() as "now!", s.host_id, s.number, s.state, s.attempt, s.rescues, s.tag, s.framework, s.rules, s.lane,
                 s.actor, s.correlation, s.policy_version, s.queued_at, s.issued_at, s.started_at, s.timeout_sec,
                 hs.applied_number, hs.compliance_state, hs.full_digest, hs.full_seq, hs.full_number, hs.full_scan_id, hs.full_at,
                 hs.pass, hs.fail, hs.skipped, hs.error, hs.critical_failing
               from scan s join host_state hs on hs.host_id = s.host_id
               where s.id = $1 "# + $lock,
            $scan.0
        )
    };
}

/// Looks at a scan of a host without holding it. Called by the writer for every measured result: nearly all of them
/// [`crate::apply::unchanged()`] can end by what was seen, and a replay has nothing left to do.
///
/// # Errors
/// The database is away.
pub async fn glance(
    store: &Store,
    scan: ScanId,
    host: HostId,
) -> Result<Option<(Moment, Ending)>, StoreError> {
    let Some(row) = facts!(scan, "").fetch_optional(store.pool()).await? else { return Ok(None) };
    Ok(Some((Moment::at(row.now), row.ending(scan, Some(host))?)))
}

/// Begins a transaction in which a scan can be ended: [`open`], with a round trip less. Called by the writer for every
/// result that finds something new.
///
/// # Errors
/// The database is away.
pub async fn begin(store: &Store, scan: ScanId, host: HostId) -> Result<(Tx<'static>, Ending), StoreError> {
    let mut inner = store.pool().begin().await?;
    match locked(&mut inner, scan).await? {
        Some(row) => {
            let tx = store.begun(inner, row.now);
            Ok((tx, row.ending(scan, Some(host))?))
        }
        None => Ok((Tx::open(inner, Some(store.doorbell().clone())).await?, Ending::Unknown)),
    }
}

/// Locks a scan and its host so that it can be ended, and tells what deciding takes. Called by the writer and the
/// rescuer.
///
/// # Errors
/// The database is away.
pub async fn open(tx: &mut Tx<'_>, scan: ScanId, host: Option<HostId>) -> Result<Ending, StoreError> {
    match locked(tx.connection(), scan).await? {
        Some(row) => row.ending(scan, host),
        None => Ok(Ending::Unknown),
    }
}

struct Facts {
    now: Timestamp,
    host_id: Uuid,
    number: i64,
    state: String,
    attempt: i32,
    rescues: i32,
    tag: Option<Vec<u8>>,
    framework: String,
    rules: Vec<String>,
    lane: String,
    actor: String,
    correlation: Option<String>,
    policy_version: Option<String>,
    queued_at: Timestamp,
    issued_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    timeout_sec: Option<i32>,
    applied_number: i64,
    compliance_state: String,
    full_digest: Option<Vec<u8>>,
    full_seq: i64,
    full_number: Option<i64>,
    full_scan_id: Option<Uuid>,
    full_at: Option<Timestamp>,
    pass: i32,
    fail: i32,
    skipped: i32,
    error: i32,
    critical_failing: i32,
}

/// What is locked is read as it is after waiting for whoever held it: a scan that was ended meanwhile says so.
async fn locked(connection: &mut PgConnection, scan: ScanId) -> Result<Option<Facts>, StoreError> {
    Ok(facts!(scan, "for update").fetch_optional(connection).await?)
}

impl Facts {
    fn ending(self, scan: ScanId, host: Option<HostId>) -> Result<Ending, StoreError> {
        let row = self;
        if host.is_some_and(|claimed| claimed.0 != row.host_id) {
            return Ok(Ending::OtherHost(HostId(row.host_id)));
        }
        let state = scan_state(&row.state)?;
        if state.is_terminal() {
            return Ok(Ending::Ended);
        }
        Ok(Ending::Open(Box::new(OpenScan {
            scan,
            host: HostId(row.host_id),
            number: row.number,
            applied_number: row.applied_number,
            state,
            attempt: count(row.attempt),
            rescues: count(row.rescues),
            tag: row.tag,
            selection: Selection { framework: row.framework, rules: row.rules },
            lane: lane(&row.lane)?,
            actor: row.actor,
            correlation: row.correlation,
            policy_version: row.policy_version.unwrap_or_default(),
            queued_at: row.queued_at,
            issued_at: row.issued_at,
            started_at: row.started_at,
            timeout_sec: row.timeout_sec.map(count),
            host_state: compliance_state(&row.compliance_state)?,
            found: Found {
                counts: Counts {
                    pass: count(row.pass),
                    fail: count(row.fail),
                    skipped: count(row.skipped),
                    error: count(row.error),
                },
                critical_failing: count(row.critical_failing),
            },
            full_digest: row.full_digest,
            full_seq: row.full_seq,
            last_full: match (row.full_number, row.full_scan_id, row.full_at) {
                (Some(number), Some(scan), Some(at)) => Some((number, ScanId(scan), at)),
                _ => None,
            },
        })))
    }
}

/// How often a host failed so far, and its interval in minutes; a removed host has the longest.
///
/// # Errors
/// The database is away.
pub async fn failures(tx: &mut Tx<'_>, host: HostId) -> Result<(Backoff, u32), StoreError> {
    let row = sqlx::query!(
        r#"select b.consecutive_failures as "failures?", b.suppress_until as "suppress_until?",
             s.current_interval_minutes as "interval?"
           from host h
           left join host_backoff_state b on b.host_id = h.id and b.probe_type = 'scan'
           left join host_compliance_schedule s on s.host_id = h.id
           where h.id = $1"#,
        host.0
    )
    .fetch_one(tx.connection())
    .await?;
    let backoff =
        Backoff { consecutive_failures: row.failures.map_or(0, count), suppress_until: row.suppress_until };
    Ok((backoff, row.interval.map_or(openwatch_model::schedule::CAP_MINUTES, count)))
}

/// Who measured, as the ledger and the scan remember it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Attempt that ended the scan.
    pub attempt: u32,
    /// Name of the worker; absent when nobody measured.
    pub worker: Option<String>,
    /// Version of the engine.
    pub engine: Option<String>,
}

/// Ends a scan without outcomes, and notes the host's failures; `backoff` where they hold it back. Returns how many of its
/// scans have failed in a row, this one included. Called by the writer (a failure was reported, or a result was refused)
/// and by the rescuer (lost).
///
/// # Errors
/// `Conflict` when somebody else has ended it, which the locks of [`open`] rule out.
pub async fn fail(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    source: &Source,
    failure: &Failure,
    backoff: Option<Backoff>,
) -> Result<u32, StoreError> {
    let entry = Entry { outcome: "failed", failure: Some(failure), ..Entry::default() };
    close(tx, open, source, &entry).await?;
    note_failure(tx, open.host, backoff, failure.reason).await
}

/// Ends a scan whose result came after that of a newer one: it is on record and changes nothing else. Called by the writer.
///
/// # Errors
/// See [`fail`].
pub async fn supersede(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    source: &Source,
    counts: Counts,
) -> Result<(), StoreError> {
    close(tx, open, source, &Entry { outcome: "superseded", counts, ..Entry::default() }).await
}

/// One line of the ledger, beside what the scan itself tells.
#[derive(Default)]
pub(crate) struct Entry<'a> {
    pub(crate) outcome: &'static str,
    pub(crate) full_seq: Option<i64>,
    pub(crate) counts: Counts,
    pub(crate) critical_failing: u32,
    pub(crate) state: Option<ComplianceState>,
    pub(crate) changes: usize,
    pub(crate) unchanged: bool,
    pub(crate) digest: Option<&'a [u8; 32]>,
    pub(crate) summary: Option<&'a Summary>,
    pub(crate) rule_ids: Option<Vec<String>>,
    pub(crate) timings: Option<Value>,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) host: Option<Standing<'a>>,
}

/// What a full scan says of its host, beside what the ledger has of it.
pub(crate) struct Standing<'a> {
    pub(crate) platform: &'a Platform,
    pub(crate) capabilities: &'a BTreeMap<String, bool>,
}

/// Ends a scan: a line in the ledger, its own row, and its place among those under way. A full one that completed says how its
/// host stands, whose failures are over.
pub(crate) async fn close(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    source: &Source,
    entry: &Entry<'_>,
) -> Result<(), StoreError> {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let summary = entry.summary.map(crate::kept::summary);
    let failure = entry.failure;
    macro_rules! closed {
        ($also:tt $(, $value:expr)*) => {
            sqlx::query!(
                "with recorded as (
                   insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, skipped, error,
                     critical_failing, compliance_state, changes, unchanged, digest, summary, rule_ids, timings, worker, applied_at)
                   values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
                 ),
                 closed as (
                   delete from open_scan where host_id = $2 and scan_id = $1
                 )" + $also + " update scan
                 set state = case when $5 = 'failed' then 'failed' else 'completed' end, superseded = $5 = 'superseded',
                     finished_at = $21, worker = coalesce($20, worker), engine = coalesce($22, engine),
                     failure_reason = $23, failure_detail = left($24, 1024), failure_rule = $25
                 where id = $1",
                open.scan.0,
                open.host.0,
                open.number,
                number(source.attempt),
                entry.outcome,
                open.selection.is_full(),
                entry.full_seq.unwrap_or(open.full_seq),
                number(entry.counts.pass),
                number(entry.counts.fail),
                number(entry.counts.skipped),
                number(entry.counts.error),
                number(entry.critical_failing),
                entry.state.map(ComplianceState::as_str),
                i32::try_from(entry.changes).unwrap_or(i32::MAX),
                entry.unchanged,
                entry.digest.map(|d| d.as_slice()),
                summary,
                entry.rule_ids.as_deref(),
                entry.timings,
                source.worker,
                tx.now(),
                source.engine,
                failure.map(|f| f.reason.as_str()),
                failure.map(|f| f.detail.replace('\0', "\u{fffd}")),
                failure.and_then(|f| f.rule.as_deref()),
                $($value),*
            )
            .execute(tx.connection())
        };
    }
    // A statement of its own: the caretaker, who ends scans too, may not write what the other one does.
    let Some(host) = &entry.host else {
        closed!("").await?;
        return Ok(());
    };
    closed!(
        ", moved as (
           update host_state
           set full_seq = $7, applied_number = $3, full_number = $3, full_scan_id = $1, full_at = $21, full_digest = $16, pass = $8,
               fail = $9, skipped = $10, error = $11, critical_failing = $12, compliance_state = $13, platform = $26,
               capabilities = $27
           where host_id = $2
         ),
         recovered as (
           update host_backoff_state set consecutive_failures = 0, failed_scans = 0, suppress_until = null, updated_at = $21
           where host_id = $2 and probe_type = 'scan' and (failed_scans > 0 or consecutive_failures > 0 or suppress_until is not null)
         )",
        serde_json::json!(host.platform),
        serde_json::json!(host.capabilities)
    )
    .await?;
    Ok(())
}

/// Notes that one more scan of a host failed, and how long that holds it back, if it does. Returns how many have failed in
/// a row. That workers were stopped says nothing: such a scan is not counted.
async fn note_failure(
    tx: &mut Tx<'_>,
    host: HostId,
    backoff: Option<Backoff>,
    reason: FailureReason,
) -> Result<u32, StoreError> {
    let failed = sqlx::query_scalar!(
        r#"insert into host_backoff_state as b (host_id, probe_type, failed_scans, consecutive_failures, suppress_until,
             last_error_code, last_failure_at, updated_at)
           values ($1, 'scan', $2, coalesce($3::int, 0), $4, $5, $6, $6)
           on conflict (host_id, probe_type) do update
             set failed_scans = b.failed_scans + excluded.failed_scans,
                 consecutive_failures = coalesce($3, b.consecutive_failures),
                 suppress_until = case when $3 is null then b.suppress_until else excluded.suppress_until end,
                 last_error_code = excluded.last_error_code,
                 last_failure_at = excluded.last_failure_at,
                 updated_at = excluded.updated_at
           returning failed_scans"#,
        host.0,
        i32::from(reason != FailureReason::Cancelled),
        backoff.map(|it| i32::try_from(it.consecutive_failures).unwrap_or(i32::MAX)),
        backoff.and_then(|it| it.suppress_until),
        reason.as_str(),
        tx.now(),
    )
    .fetch_one(tx.connection())
    .await?;
    Ok(count(failed))
}
