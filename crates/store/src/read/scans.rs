//! Scans.

use openwatch_model::drift::Summary;
use openwatch_model::outcome::Counts;
use openwatch_model::scan::{Failure, Lane, RuleTiming, ScanState, Selection};
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId, Timestamp};

use crate::host::{count, counts};
use crate::page::{Page, Paged};
use crate::words::{compliance_state, failure_reason, lane, scan_state};
use crate::{StoreError, Tx, kept};

/// A scan, as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanRow {
    /// Id.
    pub id: ScanId,
    /// Its host.
    pub host: HostId,
    /// Name of the host.
    pub host_name: String,
    /// Place among the host's scans.
    pub number: i64,
    /// How far it is.
    pub state: ScanState,
    /// Lane it waits or waited in.
    pub lane: Lane,
    /// Whether the schedule asked for it.
    pub scheduled: bool,
    /// Who asked: `scheduler`, or the name of a token.
    pub actor: String,
    /// See [`crate::scan::NewScan`].
    pub correlation: Option<String>,
    /// What is measured.
    pub selection: Selection,
    /// Policy in force when it was asked for.
    pub policy_version: Option<String>,
    /// Corpus measured.
    pub corpus: Option<String>,
    /// Engine that judged.
    pub engine: Option<String>,
    /// Current or last attempt.
    pub attempt: u32,
    /// Worker that has or had it.
    pub worker: Option<String>,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When a worker began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its result came after that of a newer scan and changed nothing.
    pub superseded: bool,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// What it found; absent until it completed.
    pub found: Option<Ledger>,
}

/// What the ledger says of a completed scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Ledger {
    /// Rules by status.
    pub counts: Counts,
    /// Critical rules that failed.
    pub critical_failing: u32,
    /// State of the host by this scan.
    pub state: Option<ComplianceState>,
    /// Transactions it made.
    pub changes: u32,
    /// Nothing at all differed from the scan before.
    pub unchanged: bool,
    /// Scores before and after, and what moved; absent when superseded.
    pub summary: Option<Summary>,
}

/// Which scans to list.
#[derive(Clone, Debug, Default)]
pub struct ScanFilter {
    /// Only this one.
    pub id: Option<ScanId>,
    /// Only of this host.
    pub host: Option<HostId>,
    /// Only this far.
    pub state: Option<ScanState>,
    /// Asked for at that time or before.
    pub as_of: Option<Timestamp>,
}

/// One scan. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn scan(tx: &mut Tx<'_>, id: ScanId) -> Result<Option<ScanRow>, StoreError> {
    let filter = ScanFilter { id: Some(id), ..ScanFilter::default() };
    Ok(scans(tx, &filter, &Page::first(1)).await?.rows.pop())
}

/// Scans, newest first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn scans(tx: &mut Tx<'_>, filter: &ScanFilter, page: &Page) -> Result<Paged<ScanRow>, StoreError> {
    let (after, after_id) = page.after();
    let rows = sqlx::query!(
        r#"select s.id, s.host_id, h.name, s.number, s.state, s.lane, s.trigger, s.actor, s.correlation, s.framework, s.rules,
             s.policy_version, s.corpus, s.engine, s.attempt, s.worker, s.queued_at, s.started_at, s.finished_at,
             s.superseded, s.failure_reason, s.failure_detail, s.failure_rule,
             l.pass as "pass?", l.fail as "fail?", l.skipped as "skipped?", l.error as "error?",
             l.critical_failing as "critical_failing?", l.compliance_state as "compliance_state?", l.changes as "changes?",
             l.unchanged as "unchanged?", l.summary as "summary?"
           from scan s
           join host h on h.id = s.host_id
           left join scan_ledger l on l.scan_id = s.id and l.outcome <> 'failed'
           where ($1::uuid is null or s.id = $1)
             and ($2::uuid is null or s.host_id = $2)
             and ($3::text is null or s.state = $3)
             -- What is under way is found without a look at all that ended.
             and ($8 or s.id = any(array(select o.scan_id from open_scan o)))
             and ($4::timestamptz is null or s.queued_at <= $4)
             and ($5::timestamptz is null or (s.queued_at, s.id) < ($5, $6))
           order by s.queued_at desc, s.id desc
           limit $7"#,
        filter.id.map(|s| s.0),
        filter.host.map(|h| h.0),
        filter.state.map(ScanState::as_str),
        filter.as_of,
        after,
        after_id,
        page.fetch(),
        filter.state.is_none_or(ScanState::is_terminal),
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows
        .into_iter()
        .map(|r| {
            let failure = match r.failure_reason {
                None => None,
                Some(reason) => Some(Failure {
                    reason: failure_reason(&reason)?,
                    detail: r.failure_detail.unwrap_or_default(),
                    rule: r.failure_rule,
                }),
            };
            let found = match (r.pass, r.fail, r.skipped, r.error) {
                (Some(pass), Some(fail), Some(skipped), Some(error)) => Some(Ledger {
                    counts: counts(pass, fail, skipped, error),
                    critical_failing: r.critical_failing.map_or(0, count),
                    state: r.compliance_state.as_deref().map(compliance_state).transpose()?,
                    changes: r.changes.map_or(0, count),
                    unchanged: r.unchanged.unwrap_or(false),
                    summary: r.summary.and_then(|s| kept::read_summary(s, pass, fail)),
                }),
                _ => None,
            };
            Ok(ScanRow {
                id: ScanId(r.id),
                host: HostId(r.host_id),
                host_name: r.name,
                number: r.number,
                state: scan_state(&r.state)?,
                lane: lane(&r.lane)?,
                scheduled: r.trigger == "scheduled",
                actor: r.actor,
                correlation: r.correlation,
                selection: Selection { framework: r.framework, rules: r.rules },
                policy_version: r.policy_version,
                corpus: r.corpus,
                engine: r.engine,
                attempt: count(r.attempt),
                worker: r.worker,
                queued_at: r.queued_at,
                started_at: r.started_at,
                finished_at: r.finished_at,
                superseded: r.superseded,
                failure,
                found,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(page.cut(rows, |row| (row.queued_at, row.id.0)))
}

/// How long each rule of a scan took. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn timings(tx: &mut Tx<'_>, scan: ScanId) -> Result<Vec<RuleTiming>, StoreError> {
    let stored = sqlx::query_scalar!("select timings from scan_ledger where scan_id = $1", scan.0)
        .fetch_optional(tx.connection())
        .await?
        .flatten();
    Ok(stored.map(kept::read_timings).unwrap_or_default())
}
