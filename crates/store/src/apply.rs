//! Applying a result: what differs is written, and nothing else (design section 5).
//!
//! [`unchanged()`] when the digest is the one of the scan before; else [`compare`], ask the model about each
//! difference, and [`write()`], under the locks of [`crate::end::open`].

mod rows;
mod unchanged;

use std::collections::BTreeMap;

use openwatch_model::drift::Summary;
use openwatch_model::host::Platform;
use openwatch_model::scan::RuleTiming;
use openwatch_model::score::ComplianceState;
use openwatch_model::transaction::{Change, RuleState};

pub use self::unchanged::unchanged;

use crate::end::{self, Entry, Found, OpenScan, Source};
use crate::finding::Finding;
use crate::{StoreError, Tx, kept, words};

/// A measured scan, as it goes on record.
#[derive(Clone, Debug)]
pub struct Completion<'a> {
    /// Who measured.
    pub source: Source,
    /// How its rules ended.
    pub found: Found,
    /// From [`crate::finding::digest`].
    pub digest: [u8; 32],
    /// Scores before and after, and what moved.
    pub summary: &'a Summary,
    /// State of the host by this scan; a filtered scan leaves the host's state alone.
    pub state: ComplianceState,
    /// Operating system found.
    pub platform: &'a Platform,
    /// Capability probes.
    pub capabilities: &'a BTreeMap<String, bool>,
    /// How long each rule took; the slowest are kept.
    pub timings: &'a [RuleTiming],
}

/// What differs between a result and what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Findings that are new or differ in anything; of a filtered scan all.
    pub differences: Vec<Difference>,
    /// Rules that the full scan before had and this one has not.
    pub dropped: Vec<String>,
}

impl Comparison {
    /// Nothing at all differs: no rule came, went, or says or proves anything else.
    pub fn is_silent(&self) -> bool {
        self.dropped.is_empty() && !self.differences.iter().any(|d| d.differs || d.returned)
    }
}

/// One finding that differs from what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Place among the findings.
    pub index: usize,
    /// What is stored; absent on first sight.
    pub prior: Option<RuleState>,
    returned: bool,
    differs: bool,
}

/// Compares a result with what is stored, in one statement that returns only what differs. Called by the writer.
///
/// # Errors
/// The database is away.
pub async fn compare(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    findings: &[Finding<'_>],
) -> Result<Comparison, StoreError> {
    let rules: Vec<&str> = findings.iter().map(|f| f.rule()).collect();
    let digests: Vec<&[u8]> = findings.iter().map(|f| f.digest.as_slice()).collect();
    let rows = sqlx::query!(
        r#"select n.place as "place?", r.rule_id as "rule_id?", r.status as "status?", r.severity as "severity?",
             coalesce(r.gone_after is not null, false) as "gone!",
             r.digest is distinct from n.digest as "differs!"
           from unnest($2::text[], $3::bytea[]) with ordinality as n (rule_id, digest, place)
           full join (select * from rule_state where host_id = $1) r on r.rule_id = n.rule_id
           where case
             when r.rule_id is null then true
             when n.rule_id is null then $4 and r.present_since is not null and r.gone_after is null
             -- A filtered scan counts its checks on each of its rules.
             else not $4 or r.digest <> n.digest or r.gone_after is not null or r.present_since is null
           end"#,
        open.host.0,
        &rules as &[&str],
        &digests as &[&[u8]],
        open.selection.is_full(),
    )
    .fetch_all(tx.connection())
    .await?;
    let mut comparison = Comparison::default();
    for row in rows {
        match (row.place, row.rule_id) {
            (Some(place), _) => comparison.differences.push(Difference {
                index: usize::try_from(place - 1).unwrap_or_default(),
                prior: row.status.map(|status| RuleState {
                    status: words::status(&status),
                    severity: words::severity(row.severity.as_deref()),
                }),
                returned: row.gone && open.selection.is_full(),
                differs: row.differs,
            }),
            (None, Some(rule)) => comparison.dropped.push(rule),
            (None, None) => {}
        }
    }
    comparison.differences.sort_by_key(|d| d.index);
    comparison.dropped.sort();
    Ok(comparison)
}

/// Ends a scan and writes what differs: evidence, rule state, the transactions that the model made of the
/// differences, drop-outs and returns. Called by the writer.
///
/// # Errors
/// See [`end::fail`]; anything refused undoes all of it.
pub async fn write(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    done: &Completion<'_>,
    findings: &[Finding<'_>],
    comparison: &Comparison,
    changes: &[Change],
) -> Result<(), StoreError> {
    let filtered =
        (!open.selection.is_full()).then(|| findings.iter().map(|f| f.rule().to_owned()).collect());
    ledger(tx, open, done, changes.len(), comparison.is_silent(), filtered).await?;
    let differing = comparison.differences.iter().filter_map(|d| Some((d.prior, findings.get(d.index)?)));
    let (known, new): (Vec<_>, Vec<_>) = differing.partition(|(prior, _)| prior.is_some());
    let [known, new] = [known, new].map(|all| all.into_iter().map(|(_, f)| f).collect::<Vec<_>>());
    rows::store_evidence(tx, &[known.as_slice(), &new].concat()).await?;
    rows::add_rules(tx, open, &new).await?;
    rows::move_rules(tx, open, &known).await?;
    rows::append_transactions(tx, open, findings, changes).await?;
    rows::append_revisions(tx, open, &revised(findings, comparison, changes)).await?;
    if open.selection.is_full() {
        let returned: Vec<String> = comparison
            .differences
            .iter()
            .filter(|d| d.returned)
            .filter_map(|d| findings.get(d.index).map(|f| f.rule().to_owned()))
            .collect();
        rows::close_gaps(tx, open, &returned).await?;
        rows::drop_out(tx, open, &comparison.dropped).await?;
        move_host(tx, open, done).await
    } else {
        note_filtered(tx, open, comparison).await
    }
}

/// Findings that say something else under the same verdict: other evidence, another reason to skip, other references.
fn revised<'a>(
    findings: &'a [Finding<'a>],
    comparison: &Comparison,
    changes: &[Change],
) -> Vec<&'a Finding<'a>> {
    let moved =
        |finding: &&Finding<'_>| changes.binary_search_by(|c| c.rule.as_str().cmp(finding.rule())).is_err();
    let differing = comparison.differences.iter().filter(|d| d.differs);
    differing.filter_map(|d| findings.get(d.index)).filter(moved).collect()
}

async fn ledger(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    done: &Completion<'_>,
    changes: usize,
    unchanged: bool,
    rule_ids: Option<Vec<String>>,
) -> Result<(), StoreError> {
    let entry = Entry {
        outcome: "completed",
        full_seq: Some(open.full_seq + i64::from(open.selection.is_full())),
        counts: done.found.counts,
        critical_failing: done.found.critical_failing,
        state: Some(done.state),
        changes,
        unchanged,
        digest: Some(&done.digest),
        summary: Some(done.summary),
        rule_ids,
        timings: Some(kept::timings(done.timings)),
        failure: None,
    };
    end::close(tx, open, &done.source, &entry).await
}

/// The host as this full scan found it; its failures are over.
async fn move_host(tx: &mut Tx<'_>, open: &OpenScan, done: &Completion<'_>) -> Result<(), StoreError> {
    let Found { counts, critical_failing } = done.found;
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query!(
        "with recovered as (
           update host_backoff_state set consecutive_failures = 0, suppress_until = null, updated_at = $4
           where host_id = $1 and probe_type = 'scan' and (consecutive_failures > 0 or suppress_until is not null)
         )
         update host_state
         set full_seq = full_seq + 1, applied_number = $2, full_number = $2, full_scan_id = $3, full_at = $4,
             full_digest = $5, pass = $6, fail = $7, skipped = $8, error = $9, critical_failing = $10,
             compliance_state = $11, platform = $12, capabilities = $13
         where host_id = $1",
        open.host.0,
        open.number,
        open.scan.0,
        tx.now(),
        &done.digest,
        number(counts.pass),
        number(counts.fail),
        number(counts.skipped),
        number(counts.error),
        number(critical_failing),
        done.state.as_str(),
        serde_json::json!(done.platform),
        serde_json::json!(done.capabilities),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A filtered scan leaves the full scan's digest alone, unless it changed a rule: then the digest no longer says what is
/// stored, and the next full scan must compare. The host's failures are over.
async fn note_filtered(tx: &mut Tx<'_>, open: &OpenScan, comparison: &Comparison) -> Result<(), StoreError> {
    sqlx::query!(
        "with recovered as (
           update host_backoff_state set consecutive_failures = 0, suppress_until = null, updated_at = $4
           where host_id = $1 and probe_type = 'scan' and (consecutive_failures > 0 or suppress_until is not null)
         )
         update host_state set applied_number = $2, full_digest = case when $3 then null else full_digest end
         where host_id = $1",
        open.host.0,
        open.number,
        comparison.differences.iter().any(|d| d.differs),
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}
