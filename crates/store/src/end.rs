//! How scans end. Every way of ending goes through `close` here: the ledger row first, whoever inserts it has ended the
//! scan, then the scan's own row.

use openwatch_model::drift::Summary;
use openwatch_model::outcome::Counts;
use openwatch_model::scan::{Failure, Lane, ScanState, Selection};
use openwatch_model::schedule::Backoff;
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId, Timestamp};
use serde_json::Value;

use crate::host::count;
use crate::words::{compliance_state, lane, scan_state};
use crate::{StoreError, Tx};

/// Whether a scan may be ended now.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// It may: it and its host are locked until the transaction ends.
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
    /// Name of the host.
    pub host_name: String,
    /// Address and port of the host, for its keys.
    pub address: String,
    /// See `address`.
    pub port: u16,
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
    /// Digest of the host's newest full scan: the same again means that nothing changed.
    pub full_digest: Option<Vec<u8>>,
    /// Full scans applied to the host so far.
    pub(crate) full_seq: i64,
    /// Newest full scan of the host: number, id, time.
    pub(crate) last_full: Option<(i64, ScanId, Timestamp)>,
    /// Failures of the host so far.
    pub backoff: Backoff,
    /// The host's interval in minutes; a removed host has the longest.
    pub interval_minutes: u32,
}

impl OpenScan {
    /// A newer scan of the host was applied already.
    pub fn is_superseded(&self) -> bool {
        self.number < self.applied_number
    }
}

/// Locks a scan and its host so that it can be ended, and tells what deciding takes. Called by the writer for every
/// result, and by the rescuer.
///
/// # Errors
/// The database is away.
pub async fn open(tx: &mut Tx<'_>, scan: ScanId, host: Option<HostId>) -> Result<Ending, StoreError> {
    let row = sqlx::query!(
        r#"select s.host_id, s.number, s.state, s.attempt, s.rescues, s.tag, s.framework, s.rules, s.lane, s.actor, s.correlation,
             s.policy_version, s.queued_at, s.issued_at, s.started_at, s.timeout_sec,
             hs.applied_number, hs.compliance_state, hs.full_digest, hs.full_seq, hs.full_number, hs.full_scan_id, hs.full_at
           from scan s join host_state hs on hs.host_id = s.host_id
           where s.id = $1
           for update"#,
        scan.0
    )
    .fetch_optional(tx.connection())
    .await?;
    let Some(row) = row else { return Ok(Ending::Unknown) };
    if host.is_some_and(|claimed| claimed.0 != row.host_id) {
        return Ok(Ending::OtherHost(HostId(row.host_id)));
    }
    // A statement of its own: the one before may have waited for the transaction that ended the scan.
    let facts = sqlx::query!(
        r#"select exists (select from scan_ledger l where l.scan_id = $1) as "ended!", h.name, h.address, h.port,
             b.consecutive_failures as "failures?", b.suppress_until as "suppress_until?",
             s.current_interval_minutes as "interval?"
           from host h
           left join host_backoff_state b on b.host_id = h.id and b.probe_type = 'scan'
           left join host_compliance_schedule s on s.host_id = h.id
           where h.id = $2"#,
        scan.0,
        row.host_id
    )
    .fetch_one(tx.connection())
    .await?;
    let state = scan_state(&row.state)?;
    if facts.ended || state.is_terminal() {
        return Ok(Ending::Ended);
    }
    Ok(Ending::Open(Box::new(OpenScan {
        scan,
        host: HostId(row.host_id),
        host_name: facts.name,
        address: facts.address,
        port: crate::host::port(facts.port),
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
        full_digest: row.full_digest,
        full_seq: row.full_seq,
        last_full: match (row.full_number, row.full_scan_id, row.full_at) {
            (Some(number), Some(scan), Some(at)) => Some((number, ScanId(scan), at)),
            _ => None,
        },
        backoff: Backoff {
            consecutive_failures: facts.failures.map_or(0, count),
            suppress_until: facts.suppress_until,
        },
        interval_minutes: facts.interval.map_or(openwatch_model::schedule::CAP_MINUTES, count),
    })))
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

/// Ends a scan without outcomes, and notes the host's failures when they count. Called by the writer (a failure was
/// reported, or a result was refused) and by the rescuer (lost).
///
/// # Errors
/// `Conflict` when somebody else has ended it, which the locks of [`open`] rule out.
pub async fn fail(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    source: &Source,
    failure: &Failure,
    backoff: Option<Backoff>,
) -> Result<(), StoreError> {
    close(tx, open, source, &Entry { outcome: "failed", ..Entry::default() }).await?;
    sqlx::query!(
        "update scan set state = 'failed', finished_at = $2, worker = coalesce($3, worker), failure_reason = $4,
           failure_detail = left($5, 1024), failure_rule = $6
         where id = $1",
        open.scan.0,
        tx.now(),
        source.worker,
        failure.reason.as_str(),
        failure.detail.replace('\0', "\u{fffd}"),
        failure.rule,
    )
    .execute(tx.connection())
    .await?;
    if let Some(backoff) = backoff {
        set_backoff(tx, open.host, backoff, Some(failure.reason.as_str())).await?;
    }
    Ok(())
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
    close(tx, open, source, &Entry { outcome: "superseded", counts, ..Entry::default() }).await?;
    sqlx::query!(
        "update scan set state = 'completed', superseded = true, finished_at = $2, worker = coalesce($3, worker),
           engine = coalesce($4, engine)
         where id = $1",
        open.scan.0,
        tx.now(),
        source.worker,
        source.engine,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
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
}

/// The one place where a scan ends.
pub(crate) async fn close(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    source: &Source,
    entry: &Entry<'_>,
) -> Result<(), StoreError> {
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    let summary = entry.summary.map(crate::kept::summary);
    let done = sqlx::query!(
        "insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, skipped, error,
           critical_failing, compliance_state, changes, unchanged, digest, summary, rule_ids, timings, worker, applied_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
         on conflict (scan_id) do nothing",
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
    )
    .execute(tx.connection())
    .await?;
    if done.rows_affected() == 0 {
        return Err(StoreError::Conflict { constraint: "scan_ledger_pkey".into() });
    }
    Ok(())
}

/// Notes a host's failures, or that they are over.
pub(crate) async fn set_backoff(
    tx: &mut Tx<'_>,
    host: HostId,
    backoff: Backoff,
    error: Option<&str>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into host_backoff_state (host_id, probe_type, consecutive_failures, suppress_until, last_error_code,
           last_failure_at, updated_at)
         values ($1, 'scan', $2, $3, $4, $5, $6)
         on conflict (host_id, probe_type) do update
           set consecutive_failures = excluded.consecutive_failures,
               suppress_until = excluded.suppress_until,
               last_error_code = coalesce(excluded.last_error_code, host_backoff_state.last_error_code),
               last_failure_at = coalesce(excluded.last_failure_at, host_backoff_state.last_failure_at),
               updated_at = excluded.updated_at",
        host.0,
        i32::try_from(backoff.consecutive_failures).unwrap_or(i32::MAX),
        backoff.suppress_until,
        error,
        error.map(|_| tx.now()),
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}
