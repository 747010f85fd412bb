//! A scan ends without outcomes: shared by the writer (a failure was reported) and the rescuer (nothing was).

use openwatch_bus::message::event::{HostKeyChanged, ScanFailed as ScanFailedEvent};
use openwatch_model::audit::{HostKeyChanged as HostKeyChangedAudit, ScanFailed};
use openwatch_model::scan::{Failure, FailureReason};
use openwatch_model::schedule::backoff_after_failure;
use openwatch_store::end::{self, OpenScan, Source};
use openwatch_store::{StoreError, Tx};

use crate::out::Out;

/// Ends it: ledger row, backoff where the reason counts, audit, events.
pub(crate) async fn fail(
    tx: &mut Tx<'_>,
    out: &mut Out,
    open: &OpenScan,
    source: &Source,
    failure: &Failure,
) -> Result<(), StoreError> {
    let (before, interval_minutes) = end::failures(tx, open.host).await?;
    let counts = failure.reason.consequence().backoff;
    let backoff = counts.then(|| backoff_after_failure(before, interval_minutes, tx.now()));
    let failed_scans = end::fail(tx, open, source, failure, backoff).await?;
    let backoff = backoff.unwrap_or(before);
    out.audit(
        tx,
        &ScanFailed {
            host_id: open.host,
            scan_id: open.scan,
            framework_id: open.selection.framework.clone(),
            policy_version: open.policy_version.clone(),
            reason: failure.reason,
            rule_id: failure.rule.clone(),
        },
    );
    out.event(
        tx,
        Some(open.host),
        ScanFailedEvent {
            scan_id: open.scan,
            host_id: open.host,
            attempt: open.attempt,
            host_number: open.number,
            trigger: open.lane,
            framework_id: open.selection.framework.clone(),
            full: open.selection.is_full(),
            policy_version: open.policy_version.clone(),
            reason: failure.reason,
            rule_id: failure.rule.clone(),
            consecutive_failures: backoff.consecutive_failures,
            failed_scans: Some(failed_scans),
            suppress_until: backoff.suppress_until,
            finished_at: tx.now(),
        },
    );
    if failure.reason == FailureReason::HostKeyMismatch {
        key_changed(tx, out, open).await?;
    }
    metrics::counter!("openwatch_scans_failed_total", "reason" => failure.reason.as_str()).increment(1);
    Ok(())
}

/// A host shows another key than the one on record: audit and event.
async fn key_changed(tx: &mut Tx<'_>, out: &mut Out, open: &OpenScan) -> Result<(), StoreError> {
    out.audit(tx, &HostKeyChangedAudit { host_id: open.host, scan_id: open.scan });
    let changed = HostKeyChanged { host_id: open.host, scan_id: open.scan, host_number: open.number };
    out.event(tx, Some(open.host), changed);
    Ok(())
}
