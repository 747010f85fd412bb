//! A final result becomes ledger, transactions and events: all of it in one `tx`, or none.

use std::collections::BTreeMap;

use openwatch_bus::Message;
use openwatch_bus::message::event::{FindingChanged, ScanCompleted as ScanCompletedEvent};
use openwatch_model::audit::{Actor, FindingPersisted, ScanCompleted};
use openwatch_model::drift::{Summary, summarise};
use openwatch_model::scan::{Failure, FailureReason, Measurement, ScanResult, Verdict};
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::transaction::{Change, change};
use openwatch_store::apply::{self, Completion};
use openwatch_store::end::{self, Ending, OpenScan, Source};
use openwatch_store::finding::{self, Finding};
use openwatch_store::{StoreError, Tx};

use super::{STAGE, Trouble, Writer, keys, refuse};
use crate::ending;
use crate::out::Out;

/// Applies a verified result. A replay is acked and counted.
/// `proven`: signed with the key of its attempt, not with one that every worker has.
pub(super) async fn result(
    writer: &Writer,
    message: &Message,
    result: ScanResult,
    proven: bool,
) -> Result<(), Trouble> {
    let (tx, ending) = end::begin(&writer.store, result.scan, result.host).await?;
    let open = match ending {
        Ending::Open(open) => *open,
        Ending::Ended => {
            metrics::counter!("openwatch_results_replayed_total").increment(1);
            return Ok(());
        }
        Ending::OtherHost(_) | Ending::Unknown => {
            drop(tx);
            return refuse::conflict(writer, message, &result).await;
        }
    };
    let source = source_of(&result);
    let out = Out::new(STAGE, result.scan.to_string())
        .by(Actor::Worker(result.worker.clone()))
        .under(&open.policy_version)
        .traced(message.trace);
    match &result.verdict {
        Verdict::Failed(failure) => failed(tx, out, message, &open, &result, failure, proven).await,
        Verdict::Completed(measured) => {
            let findings = match finding::prepare(&measured.outcomes) {
                Ok(findings) => findings,
                Err(unacceptable) => {
                    drop(tx);
                    let reason = match unacceptable {
                        finding::Unacceptable::EvidenceOversize { .. } => FailureReason::EvidenceOversize,
                        _ => FailureReason::InvalidResult,
                    };
                    let rule = Some(unacceptable.rule().to_owned());
                    let failure = Failure { reason, detail: unacceptable.to_string(), rule };
                    return refuse::unacceptable(writer, message, &result, unacceptable.reason(), &failure)
                        .await;
                }
            };
            let sound = Sound { measured, findings };
            match completed(writer, tx, out, &open, source, &result, &sound).await {
                Err(Trouble::Store(error)) if !error.is_transient() => {
                    let (reason, detail) = (FailureReason::InvalidResult, error.to_string());
                    let failure = Failure { reason, detail, rule: None };
                    refuse::unacceptable(writer, message, &result, error.reason(), &failure).await
                }
                other => other,
            }
        }
    }
}

/// Who measured.
fn source_of(result: &ScanResult) -> Source {
    Source {
        attempt: result.attempt,
        worker: Some(result.worker.clone()),
        engine: Some(result.engine.clone()),
    }
}

/// A measurement of which everything can be stored.
struct Sound<'a> {
    measured: &'a Measurement,
    findings: Vec<Finding>,
}

/// A failure of an attempt that is no longer the current one ends nothing: the newer attempt is under way.
async fn failed(
    mut tx: Tx<'_>,
    mut out: Out,
    message: &Message,
    open: &OpenScan,
    result: &ScanResult,
    failure: &Failure,
    proven: bool,
) -> Result<(), Trouble> {
    if result.attempt != open.attempt {
        metrics::counter!("openwatch_results_stale_total").increment(1);
        return Ok(());
    }
    let mismatch = if proven { keys::learn_all(&mut tx, &mut out, open, result).await? } else { None };
    keys::note_shown(&mut tx, open, result).await?;
    let source = source_of(result);
    ending::fail(&mut tx, &mut out, open, &source, mismatch.as_ref().unwrap_or(failure)).await?;
    if failure.reason.consequence().dead_letter {
        let reason = format!("{}: {}", failure.reason.as_str(), failure.detail);
        refuse::file(&tx, &mut out, message, &reason);
    }
    out.commit(tx).await?;
    Ok(())
}

async fn completed(
    writer: &Writer,
    mut tx: Tx<'_>,
    mut out: Out,
    open: &OpenScan,
    source: Source,
    result: &ScanResult,
    sound: &Sound<'_>,
) -> Result<(), Trouble> {
    let findings = &sound.findings;
    if open.is_superseded() {
        let counts = finding::counts(findings);
        end::supersede(&mut tx, open, &source, counts).await?;
        let score = Score::of(counts);
        let summary = Summary { before: score, after: score, ..Summary::default() };
        completed_event(&tx, &mut out, open, result, findings, &summary, 0, true);
        out.commit(tx).await?;
        return Ok(());
    }
    let policy = writer.policy.version(&open.policy_version).await.map_err(Trouble::Stage)?;
    if let Some(mismatch) = keys::learn_all(&mut tx, &mut out, open, result).await? {
        ending::fail(&mut tx, &mut out, open, &source, &mismatch).await?;
        out.commit(tx).await?;
        return Ok(());
    }
    let score = Score::of(finding::counts(findings));
    let critical = finding::critical_failing(findings) > 0;
    let state = policy.bands.classify(score, critical, open.host_state);
    let (changes, summary) = write(&mut tx, open, source, sound, result, state).await?;
    announce(&mut tx, &mut out, open, result, findings, &changes, &summary).await?;
    out.commit(tx).await?;
    metrics::counter!("openwatch_results_applied_total").increment(1);
    metrics::counter!("openwatch_transactions_total").increment(changes.len() as u64);
    Ok(())
}

/// Writes what differs, and returns the transactions and the scan's summary.
async fn write(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    source: Source,
    sound: &Sound<'_>,
    result: &ScanResult,
    state: ComplianceState,
) -> Result<(Vec<Change>, Summary), StoreError> {
    let Sound { measured, findings } = sound;
    // Variables act through the outcomes and their evidence, which are in the digest.
    let digest = finding::digest(findings, &result.corpus, &open.selection, &result.engine, &BTreeMap::new());
    let same = open.selection.is_full() && open.full_digest.as_deref() == Some(&digest[..]);
    let score = Score::of(finding::counts(findings));
    let low_confidence = measured.low_confidence();
    let done = |summary| Completion {
        source: source.clone(),
        findings,
        digest,
        summary,
        state,
        platform: &measured.platform,
        capabilities: &measured.capabilities,
        timings: &measured.timings,
    };
    if same {
        let summary = summarise(score, &[], 0, low_confidence);
        apply::unchanged(tx, open, &done(&summary)).await?;
        return Ok((Vec::new(), summary));
    }
    let comparison = apply::compare(tx, open, findings).await?;
    let differing = comparison.differences.iter().filter_map(|d| findings.get(d.index).map(|f| (d.prior, f)));
    let changes: Vec<_> = differing.filter_map(|(prior, f)| change(f.rule(), prior, f.state())).collect();
    let removed = comparison.dropped.len() as u32;
    let summary = summarise(score, &changes, removed, low_confidence);
    apply::write(tx, open, &done(&summary), &comparison, &changes).await?;
    Ok((changes, summary))
}

async fn announce(
    tx: &mut Tx<'_>,
    out: &mut Out,
    open: &OpenScan,
    result: &ScanResult,
    findings: &[Finding],
    changes: &[Change],
    summary: &Summary,
) -> Result<(), StoreError> {
    let counts = finding::counts(findings);
    out.audit(
        tx,
        &ScanCompleted {
            host_id: open.host,
            scan_id: open.scan,
            framework_id: open.selection.framework.clone(),
            policy_version: open.policy_version.clone(),
            passed: counts.pass,
            failed: counts.fail,
            skipped: counts.skipped,
            errored: counts.error,
            compliance_score: Score::of(counts).percent(),
        },
    );
    let persisted: Vec<_> = changes
        .iter()
        .map(|change| FindingPersisted {
            host_id: open.host,
            rule_id: change.rule.clone(),
            scan_id: open.scan,
            change_kind: change.kind,
            status: change.status,
            prior_status: change.prior_status.map_or("none", |s| s.as_str()),
        })
        .collect();
    out.audit_many(tx, &persisted);
    for chunk in FindingChanged::chunks(open.scan, open.host, changes) {
        out.event(tx, Some(open.host), chunk);
    }
    completed_event(tx, out, open, result, findings, summary, changes.len() as u32, false);
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one flat event; a struct would only repeat its fields")]
fn completed_event(
    tx: &Tx<'_>,
    out: &mut Out,
    open: &OpenScan,
    result: &ScanResult,
    findings: &[Finding],
    summary: &Summary,
    changes: u32,
    superseded: bool,
) {
    let counts = finding::counts(findings);
    let event = ScanCompletedEvent {
        scan_id: open.scan,
        host_id: open.host,
        attempt: result.attempt,
        host_number: open.number,
        trigger: open.lane,
        framework_id: open.selection.framework.clone(),
        full: open.selection.is_full(),
        superseded,
        policy_version: open.policy_version.clone(),
        corpus: result.corpus.clone(),
        engine: result.engine.clone(),
        counts,
        score: Score::of(counts).percent(),
        critical_failing: finding::critical_failing(findings) > 0,
        summary: summary.clone(),
        changes,
        finished_at: tx.now(),
    };
    out.event(tx, Some(open.host), event);
}
