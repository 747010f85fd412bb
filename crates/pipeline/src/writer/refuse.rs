//! Results that are not applied: refused whole, with a reason, in the audit log and the dead-letter stream.

use openwatch_bus::message::event::JobRejected;
use openwatch_bus::message::result::{BLOB_MOST, Final, Rejected, decode_final};
use openwatch_bus::{BusError, Message, Next};
use openwatch_model::audit::{Actor, JobHmacRejected, MessageDeadLettered, WriterApplyFailed};
use openwatch_model::scan::{Failure, FailureReason, ScanResult};
use openwatch_model::{HostId, ScanId};
use openwatch_store::counter::{self, Counter};
use openwatch_store::end::{self, Ending, OpenScan, Source};
use openwatch_store::{StoreError, Tx, inbox};
use openwatch_trust::Tag;

use super::{STAGE, Trouble, Writer, letter};
use crate::ending;
use crate::error::next;
use crate::out::Out;

/// A message that cannot be believed or read at all: audit and dead letter in one `tx`.
pub(super) async fn dead_letter(writer: &Writer, message: &Message, reason: &str) -> Next {
    let filed = async {
        let mut tx = writer.store.begin().await?;
        if !first_time(&mut tx, message).await? {
            return Ok(());
        }
        let mut out = Out::new(STAGE, message.message_id().unwrap_or(&message.subject)).traced(message.trace);
        file(&tx, &mut out, message, reason);
        out.commit(tx).await
    };
    match filed.await {
        Ok(()) => Next::Done,
        Err(error) => next(error),
    }
}

/// Whether this message is refused for the first time: delivered again, it is neither told nor filed again. By the time it
/// was stored as well as its place, which repeats when the stream is made anew.
async fn first_time(tx: &mut Tx<'_>, message: &Message) -> Result<bool, StoreError> {
    let stored = message.published.unix_timestamp_nanos();
    inbox::first_time(tx, STAGE, &format!("refused {} {} {stored}", message.stream, message.sequence)).await
}

/// A dead letter and its audit row, in the caller's `tx`.
pub(super) fn file(tx: &Tx<'_>, out: &mut Out, message: &Message, reason: &str) {
    tracing::error!(subject = message.subject, sequence = message.sequence, reason, "result refused");
    metrics::counter!("openwatch_dead_lettered_total", "stage" => STAGE).increment(1);
    out.send(letter(message, reason));
    out.audit(
        tx,
        &MessageDeadLettered {
            stream: message.stream.clone(),
            subject: message.subject.clone(),
            stage: STAGE.to_owned(),
            deliveries: message.deliveries,
            reason: reason.to_owned(),
        },
    );
}

/// `writer.apply.failed`, in whatever `tx` survives.
fn audit(tx: &Tx<'_>, out: &mut Out, result: &ScanResult, rules: usize, reason: &str, rule: Option<String>) {
    out.audit(
        tx,
        &WriterApplyFailed {
            scan_id: Some(result.scan),
            host_id: Some(result.host),
            reason: reason.to_owned(),
            rule_count_attempted: rules as u32,
            offending_rule_id: rule,
        },
    );
}

/// A result for a scan that is unknown or of another host.
pub(super) async fn conflict(writer: &Writer, message: &Message, result: &ScanResult) -> Result<(), Trouble> {
    keep_stored(writer, message).await.map_err(Trouble::Bus)?;
    let mut tx = writer.store.begin().await?;
    if !first_time(&mut tx, message).await? {
        return Ok(());
    }
    let mut out = Out::new(STAGE, result.scan.to_string()).traced(message.trace);
    // What it says was not looked at.
    audit(&tx, &mut out, result, 0, "scan_id_conflict", None);
    file(&tx, &mut out, message, "its scan is unknown or belongs to another host");
    out.commit(tx).await?;
    Ok(())
}

/// Something in it cannot be stored, or the database does not take it. Nothing of the batch stays; the refusal and the
/// scan's end are a `tx` of their own.
pub(super) async fn unacceptable(
    writer: &Writer,
    message: &Message,
    result: &ScanResult,
    rules: usize,
    reason: &str,
    failure: &Failure,
) -> Result<(), Trouble> {
    keep_stored(writer, message).await.map_err(Trouble::Bus)?;
    let mut tx = writer.store.begin().await?;
    if !first_time(&mut tx, message).await? {
        return Ok(());
    }
    let Ending::Open(open) = end::open(&mut tx, result.scan, Some(result.host)).await? else { return Ok(()) };
    let mut out = Out::new(STAGE, result.scan.to_string())
        .by(Actor::Worker(result.worker.clone()))
        .under(&open.policy_version)
        .traced(message.trace);
    let source = Source { attempt: result.attempt, worker: Some(result.worker.clone()), engine: None };
    audit(&tx, &mut out, result, rules, reason, failure.rule.clone());
    // The result of an attempt that was given up ends nothing: the newer one is under way.
    if result.attempt == open.attempt {
        ending::fail(&mut tx, &mut out, &open, &source, failure).await?;
    }
    file(&tx, &mut out, message, &failure.detail);
    out.commit(tx).await?;
    Ok(())
}

/// Signed with the key of its attempt, but not to be read: the attempt has spoken, and its scan ends with that.
pub(super) async fn unreadable(
    writer: &Writer,
    message: &Message,
    (host, scan): (HostId, ScanId),
    attempt: u32,
    reason: &str,
) -> Result<(), StoreError> {
    let mut tx = writer.store.begin().await?;
    if !first_time(&mut tx, message).await? {
        return Ok(());
    }
    let mut out = Out::new(STAGE, scan.to_string()).traced(message.trace);
    let failed = WriterApplyFailed {
        scan_id: Some(scan),
        host_id: Some(host),
        reason: "invalid_result".to_owned(),
        rule_count_attempted: 0,
        offending_rule_id: None,
    };
    out.audit(&tx, &failed);
    if let Ending::Open(open) = end::open(&mut tx, scan, Some(host)).await?
        && open.attempt == attempt
    {
        let failure = Failure { reason: FailureReason::InvalidResult, detail: reason.to_owned(), rule: None };
        let source = Source { attempt, worker: None, engine: None };
        ending::fail(&mut tx, &mut out, &open, &source, &failure).await?;
    }
    file(&tx, &mut out, message, reason);
    out.commit(tx).await
}

/// The stored part of a believed but refused result, beside its letter and before it: the bucket forgets it long before.
async fn keep_stored(writer: &Writer, message: &Message) -> Result<(), BusError> {
    let Ok(Final::Stored(blob)) = decode_final(&message.payload) else { return Ok(()) };
    match writer.bus.get_object(&blob.bucket, &blob.name, BLOB_MOST).await? {
        Some(bytes) => writer.bus.keep_blob(STAGE, &blob.name, &bytes).await,
        None => Ok(()),
    }
}

/// A worker would not touch a job: one audit row, one dead letter, one event. The scan fails only when the refused
/// message really was its current attempt's.
pub(super) async fn job(writer: &Writer, message: &Message) -> Result<(), Trouble> {
    let it = Rejected::decode(&message.payload)?;
    let mut tx = writer.store.begin().await?;
    // The sequence alone repeats when the stream is deleted and made anew.
    let stored = it.stored_at.map(|at| at.unix_timestamp_nanos()).unwrap_or_default();
    let cause = format!("job {} {stored}", it.sequence);
    if !inbox::first_time(&mut tx, STAGE, &cause).await? {
        return Ok(());
    }
    let mut out = Out::new(STAGE, cause).by(Actor::Worker(it.worker.clone())).traced(message.trace);
    let open = really_its_attempt(&mut tx, &it).await?;
    out.audit(
        &tx,
        &JobHmacRejected {
            job_id: open.as_ref().map(|o| o.scan),
            host_id: open.as_ref().map(|o| o.host),
            failure: it.failure.as_str().to_owned(),
            subject: it.subject.clone(),
            stream_sequence: it.sequence,
        },
    );
    let event = JobRejected {
        scan_id: open.as_ref().map(|o| o.scan),
        host_id: open.as_ref().map(|o| o.host),
        failure: it.failure,
        stream_sequence: it.sequence,
        worker: it.worker.clone(),
    };
    out.event(&tx, open.as_ref().map(|o| o.host), event);
    file(&tx, &mut out, message, &format!("job refused: {}", it.failure.as_str()));
    if let Some(open) = open {
        let failure = Failure {
            reason: FailureReason::HmacRejected,
            detail: format!("its job was refused: {}", it.failure.as_str()),
            rule: None,
        };
        let source = Source { attempt: open.attempt, worker: Some(it.worker.clone()), engine: None };
        ending::fail(&mut tx, &mut out, &open, &source, &failure).await?;
    }
    out.flush(&mut tx).await?;
    counter::add(&mut tx, &[(Counter::HmacRejected, 1)]).await?;
    tx.commit().await?;
    metrics::counter!("openwatch_scheduler_hmac_rejected_total").increment(1);
    Ok(())
}

/// The open scan whose current attempt carries the very tag of the refused message.
async fn really_its_attempt(tx: &mut Tx<'_>, it: &Rejected) -> Result<Option<OpenScan>, StoreError> {
    let claim = it.message_id.as_deref().and_then(|id| id.split_once('.'));
    let Some((scan, attempt)) =
        claim.and_then(|(s, a)| Some((s.parse::<ScanId>().ok()?, a.parse::<u32>().ok()?)))
    else {
        return Ok(None);
    };
    let Ending::Open(open) = end::open(tx, scan, None).await? else { return Ok(None) };
    let stored = open.tag.as_deref().and_then(|tag| <[u8; 32]>::try_from(tag).ok()).map(Tag::from_bytes);
    let shown = it.tag.as_deref().and_then(|tag| tag.parse::<Tag>().ok());
    let same = matches!((stored, shown), (Some(a), Some(b)) if a == b);
    Ok((open.attempt == attempt && same).then_some(*open))
}
