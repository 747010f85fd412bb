//! A final result becomes ledger, transactions and events: all of it in one `tx`, or none.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use openwatch_bus::message::event::{FindingChanged, ScanCompleted as ScanCompletedEvent};
use openwatch_bus::message::result::Unread;
use openwatch_bus::{DecodeError, Message};
use openwatch_model::Status;
use openwatch_model::audit::{Actor, FindingPersisted, ScanCompleted};
use openwatch_model::drift::{Summary, summarise};
use openwatch_model::scan::{Failure, FailureReason, ScanResult, Verdict};
use openwatch_model::score::Score;
use openwatch_model::transaction::{Change, RuleState, change};
use openwatch_store::apply::{self, Completion, Known};
use openwatch_store::end::{self, Ending, Found, OpenScan, Source};
use openwatch_store::finding::{self, Finding, Unacceptable};
use openwatch_store::{Moment, StoreError, Tx, outbox};
use tokio::task::JoinError;

use super::{STAGE, Trouble, Writer, keys, refuse};
use crate::ending;
use crate::out::Out;

/// Applies a verified result. A replay is acked and counted.
/// `proven`: signed with the key of its attempt, not with one that every worker has.
pub(super) async fn result(
    writer: &Writer,
    message: &Message,
    unread: Unread,
    proven: bool,
) -> Result<(), Trouble> {
    let unread = Arc::new(unread);
    let head = unread.head();
    let digest = finding::digest(&unread.outcomes_digest(), &head.corpus, &head.engine);
    if unchanged(writer, message, head, &digest).await? {
        return Ok(());
    }
    // The outcomes are read while the server says what it knows.
    let read = aside({
        let unread = unread.clone();
        move || findings(&unread)
    });
    let (looked, read) = tokio::join!(look(writer, message, head, proven), read);
    let (tx, ending, prior) = looked?;
    let open = match ending {
        Ending::Open(open) => *open,
        Ending::Ended => {
            replayed();
            return Ok(());
        }
        Ending::OtherHost(_) | Ending::Unknown => {
            drop(tx);
            return refuse::conflict(writer, message, head).await;
        }
    };
    let out = out(message, head, &open);
    if let Verdict::Failed(failure) = &head.verdict {
        return failed(tx, out, message, &open, head, failure, proven).await;
    }
    let findings = match read {
        Ok(findings) => findings,
        // They are signed with the key of their attempt: what cannot be read, nobody will say better.
        Err(Unfit::Unreadable(error)) => {
            let about = (head.host, head.scan);
            return Err(Trouble::Unreadable { about, attempt: head.attempt, refusal: error.into() });
        }
        Err(Unfit::Unacceptable { rules, why }) => {
            drop(tx);
            let reason = match why {
                Unacceptable::EvidenceOversize { .. } => FailureReason::EvidenceOversize,
                _ => FailureReason::InvalidResult,
            };
            let rule = Some(why.rule().to_owned());
            let failure = Failure { reason, detail: why.to_string(), rule };
            return refuse::unacceptable(writer, message, head, rules, why.reason(), &failure).await;
        }
    };
    let sound = Sound { digest, found: Found::of(&findings), findings, prior };
    completed(writer, message, tx, out, &open, head, &sound).await
}

/// Holds the scan and its host, and what is known of the host when that will be asked.
///
/// The key of an attempt proves that it began: a beginning that this result has overtaken is told first.
async fn look(
    writer: &Writer,
    message: &Message,
    head: &ScanResult,
    proven: bool,
) -> Result<(Tx<'static>, Ending, Prior), Trouble> {
    let (mut tx, mut ending) = end::begin(&writer.store, head.scan, head.host).await?;
    if proven && matches!(&ending, Ending::Open(open) if open.is_to_begin(head.attempt)) {
        drop(tx);
        writer.begin(message, head.host, head.scan, head.attempt, &head.worker).await?;
        (tx, ending) = end::begin(&writer.store, head.scan, head.host).await?;
    }
    let prior = match (&ending, &head.verdict) {
        (Ending::Open(open), Verdict::Completed(_)) if !open.is_superseded() => Prior {
            known: apply::known(&mut tx, open).await?,
            before_filtered: apply::before_filtered(&mut tx, open).await?,
        },
        _ => Prior::default(),
    };
    Ok((tx, ending, prior))
}

/// What is known of a host's rules before a scan.
#[derive(Default)]
struct Prior {
    known: Vec<Known>,
    /// See [`apply::before_filtered`].
    before_filtered: BTreeMap<String, Option<RuleState>>,
}

/// Outcomes that cannot be stored.
enum Unfit {
    Unreadable(DecodeError),
    Unacceptable { rules: usize, why: Unacceptable },
}

fn findings(unread: &Unread) -> Result<Vec<Finding>, Unfit> {
    let outcomes = unread.outcomes().map_err(Unfit::Unreadable)?;
    let rules = outcomes.len();
    finding::prepare(outcomes).map_err(|why| Unfit::Unacceptable { rules, why })
}

fn out(message: &Message, result: &ScanResult, open: &OpenScan) -> Out {
    Out::new(STAGE, result.scan.to_string())
        .by(Actor::Worker(result.worker.clone()))
        .under(&open.policy_version)
        .traced(message.trace)
}

/// Applies what nearly every scan finds: nothing new. It is on record and nothing of it needs to be looked at, nor is
/// anything held until the statement that ends the scan. A replay of a scan that has ended is not looked at either. Whether
/// nothing is left to do.
async fn unchanged(
    writer: &Writer,
    message: &Message,
    result: &ScanResult,
    digest: &[u8; 32],
) -> Result<bool, Trouble> {
    let Verdict::Completed(measured) = &result.verdict else { return Ok(false) };
    let (moment, open) = match end::glance(&writer.store, result.scan, result.host).await? {
        Some((moment, Ending::Open(open))) => (moment, open),
        Some((_, Ending::Ended)) => {
            replayed();
            return Ok(true);
        }
        // Whoever holds the scan finds out what is wrong.
        Some((_, Ending::OtherHost(_) | Ending::Unknown)) | None => return Ok(false),
    };
    let keys = result.learned_key.is_some() || result.learned_jump_key.is_some();
    if !open.found_before(digest) || open.is_superseded() || keys || open.is_to_begin(result.attempt) {
        return Ok(false);
    }
    let policy = writer.policy.version(&open.policy_version).await.map_err(Trouble::Stage)?;
    let (found, score) = (open.found, Score::of(open.found.counts));
    let summary = summarise(score, &[], 0, measured.low_confidence());
    let done = Completion {
        source: source_of(result),
        found,
        digest: *digest,
        summary: &summary,
        state: policy.bands.classify(score, found.critical_failing > 0, open.host_state),
        platform: &measured.platform,
        capabilities: &measured.capabilities,
        timings: &measured.timings,
    };
    let mut out = out(message, result, &open);
    announce(&moment, &mut out, &open, result, found, &[], &summary);
    match apply::unchanged(&writer.store, &moment, &open, &done, &out.told(&moment)).await {
        Ok(true) => applied(0),
        // Somebody was faster: what holds now is asked again.
        Ok(false) => return Ok(false),
        // What the database refuses for good ends the scan, as anywhere else; nothing was done yet.
        Err(error) if !error.is_transient() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    Ok(true)
}

fn replayed() {
    metrics::counter!("openwatch_results_replayed_total").increment(1);
}

fn applied(transactions: usize) {
    metrics::counter!("openwatch_results_applied_total").increment(1);
    metrics::counter!("openwatch_transactions_total").increment(transactions as u64);
}

/// Who measured.
fn source_of(result: &ScanResult) -> Source {
    Source {
        attempt: result.attempt,
        worker: Some(result.worker.clone()),
        engine: Some(result.engine.clone()),
    }
}

/// What a completed scan found, all of which can be stored, and what is known of its host.
struct Sound {
    digest: [u8; 32],
    found: Found,
    findings: Vec<Finding>,
    prior: Prior,
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

/// What the database refuses for good ends the scan as well.
async fn completed(
    writer: &Writer,
    message: &Message,
    tx: Tx<'_>,
    out: Out,
    open: &OpenScan,
    result: &ScanResult,
    sound: &Sound,
) -> Result<(), Trouble> {
    match conclude(writer, tx, out, open, result, sound).await {
        Err(Trouble::Store(error)) if !error.is_transient() => {
            let (reason, detail) = (FailureReason::InvalidResult, error.to_string());
            let failure = Failure { reason, detail, rule: error.rule().map(str::to_owned) };
            let rules = sound.found.counts.total() as usize;
            refuse::unacceptable(writer, message, result, rules, error.reason(), &failure).await
        }
        other => other,
    }
}

async fn conclude(
    writer: &Writer,
    mut tx: Tx<'_>,
    mut out: Out,
    open: &OpenScan,
    result: &ScanResult,
    sound: &Sound,
) -> Result<(), Trouble> {
    let (found, source) = (sound.found, source_of(result));
    let score = Score::of(found.counts);
    if open.is_superseded() {
        end::supersede(&mut tx, open, &source, found.counts).await?;
        let summary = Summary { before: score, after: score, ..Summary::default() };
        completed_event(&tx, &mut out, open, result, found, &summary, 0, true);
        out.commit(tx).await?;
        return Ok(());
    }
    let policy = writer.policy.version(&open.policy_version).await.map_err(Trouble::Stage)?;
    if let Some(mismatch) = keys::learn_all(&mut tx, &mut out, open, result).await? {
        ending::fail(&mut tx, &mut out, open, &source, &mismatch).await?;
        out.commit(tx).await?;
        return Ok(());
    }
    let state = policy.bands.classify(score, found.critical_failing > 0, open.host_state);
    let Verdict::Completed(measured) = &result.verdict else { return Ok(()) };
    let findings = &sound.findings;
    let comparison = apply::compare(&sound.prior.known, open.selection.is_full(), findings);
    let differing = comparison.differences.iter().filter_map(|d| findings.get(d.index).map(|f| (d.prior, f)));
    let changes: Vec<_> = differing.filter_map(|(prior, f)| change(f.rule(), prior, f.state())).collect();
    let before = before(&mut tx, open, sound, &changes).await?;
    let moved = since(&before, findings, &changes);
    let summary = summarise(score, &moved, comparison.dropped.len() as u32, measured.low_confidence());
    let done = Completion {
        source,
        found,
        digest: sound.digest,
        summary: &summary,
        state,
        platform: &measured.platform,
        capabilities: &measured.capabilities,
        timings: &measured.timings,
    };
    let tell = {
        let (moment, open, result) = (*tx, open.clone(), result.clone());
        let (changes, summary) = (changes.clone(), summary.clone());
        move || {
            announce(&moment, &mut out, &open, &result, found, &changes, &summary);
            out.told(&moment)
        }
    };
    let written = apply::write(&mut tx, open, &done, findings, &comparison, &changes);
    let (written, told) = tokio::join!(written, meanwhile(changes.len(), tell));
    written?;
    outbox::tell(&mut tx, &told).await?;
    tx.commit().await?;
    applied(changes.len());
    Ok(())
}

/// Rules that were not, at the newest full scan, what is stored of them now, or of which that one had lost the check: what was
/// last seen of each. Only rules that this scan sees again are looked for.
async fn before(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    sound: &Sound,
    changes: &[Change],
) -> Result<BTreeMap<String, Option<RuleState>>, StoreError> {
    if !open.selection.is_full() {
        return Ok(BTreeMap::new());
    }
    let mut before = sound.prior.before_filtered.clone();
    let error = |state: &RuleState| state.status == Status::Error;
    let seen = |rule: &&String| {
        let at = sound.findings.binary_search_by(|f| f.rule().cmp(rule));
        at.is_ok_and(|at| sound.findings.get(at).is_some_and(|f| !error(&f.state())))
    };
    let filtered = before.iter().filter(|(_, state)| state.as_ref().is_some_and(error)).map(|(rule, _)| rule);
    let own = changes.iter().filter(|c| c.prior_status == Some(Status::Error)).map(|c| &c.rule);
    let own = own.filter(|rule| !before.contains_key(*rule));
    let rules: Vec<_> = filtered.chain(own).filter(seen).cloned().collect();
    before.extend(apply::before_lost(tx, open, &rules).await?);
    Ok(before)
}

/// What has moved since then: what this scan changes, and what others had changed before it. Those changes are nobody's drift
/// yet.
fn since<'a>(
    before: &BTreeMap<String, Option<RuleState>>,
    findings: &[Finding],
    changes: &'a [Change],
) -> Cow<'a, [Change]> {
    if before.is_empty() {
        return Cow::Borrowed(changes);
    }
    let moved = findings.iter().filter_map(|f| change(f.rule(), *before.get(f.rule())?, f.state()));
    let own = changes.iter().filter(|change| !before.contains_key(&change.rule));
    Cow::Owned(own.cloned().chain(moved).collect())
}

/// More changes than this are worth a thread of their own.
const MANY: usize = 50;

/// Puts together what is told while the database writes.
async fn meanwhile<T: Send + 'static>(changes: usize, make: impl FnOnce() -> T + Send + 'static) -> T {
    if changes <= MANY { make() } else { aside(make).await }
}

/// On a thread of its own.
async fn aside<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(make).await.map_err(JoinError::try_into_panic) {
        Ok(made) => made,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The process ends, and this with it.
        Err(Err(_)) => std::future::pending().await,
    }
}

fn announce(
    moment: &Moment,
    out: &mut Out,
    open: &OpenScan,
    result: &ScanResult,
    found: Found,
    changes: &[Change],
    summary: &Summary,
) {
    let counts = found.counts;
    out.audit(
        moment,
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
    out.audit_many(moment, &persisted);
    for chunk in FindingChanged::chunks(open.scan, open.host, changes) {
        out.event(moment, Some(open.host), chunk);
    }
    completed_event(moment, out, open, result, found, summary, changes.len() as u32, false);
}

#[expect(clippy::too_many_arguments, reason = "one flat event; a struct would only repeat its fields")]
fn completed_event(
    moment: &Moment,
    out: &mut Out,
    open: &OpenScan,
    result: &ScanResult,
    found: Found,
    summary: &Summary,
    changes: u32,
    superseded: bool,
) {
    let Found { counts, critical_failing } = found;
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
        critical_failing: critical_failing > 0,
        summary: summary.clone(),
        changes,
        finished_at: moment.now(),
    };
    out.event(moment, Some(open.host), event);
}
