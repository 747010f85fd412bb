//! Applying a result: what differs is written, and nothing else (design section 5).
//!
//! [`unchanged()`] when the digest is the one of the scan before; else [`compare()`] with what is [`known`], ask the model about
//! each difference, and [`write()`], under the locks of [`crate::end::open`].

mod compare;
mod rows;
mod unchanged;

use std::collections::BTreeMap;

use openwatch_model::drift::Summary;
use openwatch_model::host::Platform;
use openwatch_model::scan::RuleTiming;
use openwatch_model::score::ComplianceState;
use openwatch_model::transaction::Change;
use tokio::join;

pub use self::compare::{Comparison, Difference, Known, before_filtered, before_lost, compare, known};
use self::rows::{Bodies, Log, Rules};
pub use self::unchanged::unchanged;
use crate::end::{self, Entry, Found, OpenScan, Source, Standing};
use crate::finding::Finding;
use crate::{StoreError, Tx, kept};

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

/// Ends a scan and writes what differs: evidence, rule state, the transactions that the model made of the
/// differences, drop-outs and returns. Called by the writer.
///
/// # Errors
/// See [`end::fail`]; anything refused undoes all of it.
pub async fn write(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    done: &Completion<'_>,
    findings: &[Finding],
    comparison: &Comparison,
    changes: &[Change],
) -> Result<(), StoreError> {
    let filtered =
        (!open.selection.is_full()).then(|| findings.iter().map(|f| f.rule().to_owned()).collect());
    let differing = comparison.differences.iter().filter_map(|d| Some((d.prior, findings.get(d.index)?)));
    let (known, new): (Vec<_>, Vec<_>) = differing.partition(|(prior, _)| prior.is_some());
    let [known, new] = [known, new].map(|all| all.into_iter().map(|(_, f)| f).collect::<Vec<_>>());
    // While the server works, the next statement is put together.
    let moment = **tx;
    let (ended, made) = join!(
        ledger(tx, open, done, changes.len(), comparison.is_silent(), filtered),
        ready(|| {
            let bodies = Bodies::of(known.iter().chain(&new).copied())?;
            let revised = Rules::of(&revised(findings, comparison, changes));
            Ok::<_, StoreError>((bodies, Rules::of(&known), Log::of(&moment, findings, changes)?, revised))
        }),
    );
    ended?;
    let (bodies, known, log, revised) = made?;
    let (moved, new) =
        join!(rows::move_rules(tx, open, &bodies, &known, &log, &revised), ready(|| Rules::of(&new)));
    moved?;
    rows::add_rules(tx, open, &new).await?;
    if open.selection.is_full() {
        let returned: Vec<String> = comparison
            .differences
            .iter()
            .filter(|d| d.returned)
            .filter_map(|d| findings.get(d.index).map(|f| f.rule().to_owned()))
            .collect();
        rows::close_gaps(tx, open, &returned).await?;
        rows::drop_out(tx, open, &comparison.dropped).await
    } else {
        note_filtered(tx, open, comparison).await
    }
}

/// Done when it is first looked at, and not before.
async fn ready<T>(make: impl FnOnce() -> T) -> T {
    make()
}

/// Findings that say something else under the same verdict: other evidence, another reason to skip, other references.
fn revised<'a>(findings: &'a [Finding], comparison: &Comparison, changes: &[Change]) -> Vec<&'a Finding> {
    let moved =
        |finding: &&Finding| changes.binary_search_by(|c| c.rule.as_str().cmp(finding.rule())).is_err();
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
    let full = open.selection.is_full();
    let entry = Entry {
        outcome: "completed",
        full_seq: Some(open.full_seq + i64::from(full)),
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
        host: full.then_some(Standing { platform: done.platform, capabilities: done.capabilities }),
    };
    end::close(tx, open, &done.source, &entry).await
}

/// A filtered scan leaves the full scan's digest alone, unless it changed a rule: then the digest no longer says what is
/// stored, and the next full scan must compare. The host's failures are over.
async fn note_filtered(tx: &mut Tx<'_>, open: &OpenScan, comparison: &Comparison) -> Result<(), StoreError> {
    sqlx::query!(
        "with recovered as (
           update host_backoff_state set consecutive_failures = 0, failed_scans = 0, suppress_until = null, updated_at = $4
           where host_id = $1 and probe_type = 'scan' and (failed_scans > 0 or consecutive_failures > 0 or suppress_until is not null)
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
