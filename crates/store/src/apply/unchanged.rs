//! What nearly every scan does, in one statement.

use super::Completion;
use crate::end::OpenScan;
use crate::outbox::{Told, do_telling};
use crate::{Moment, Store, StoreError, kept};

/// The ledger's answer to a row without counts (not null), of a host that was moved meanwhile.
const NO_NUMBERS: &str = "23502";

/// Ends a full scan that found what the one before found: a ledger row says so, no rule is touched, and what is told goes
/// with it. `open` was only looked at ([`crate::end::glance`]): whether it still holds is decided by the scan's own row, and
/// when it does not, nothing is done. Whether it was done. Called by the writer when [`OpenScan::found_before`] knows the
/// scan's digest.
///
/// # Errors
/// The database is away.
pub async fn unchanged(
    store: &Store,
    moment: &Moment,
    open: &OpenScan,
    done: &Completion<'_>,
    told: &Told<'_>,
) -> Result<bool, StoreError> {
    // Counts are those on record; the digest is the one before, which the ledger has there. First comes the scan's row, as for
    // everybody who ends scans: of two, the second waits there, and finds it closed. Then the host, which nothing but the end
    // of a scan moves, and no other scan of it is open: had somebody moved it nevertheless, the ledger's row would lack its
    // numbers and all of this be refused.
    let ended = do_telling!(
        "done as (
           update scan set state = 'completed', finished_at = $2, worker = coalesce($30, worker), engine = coalesce($31, engine)
           where id = $23 and state in ('queued', 'running')
           returning id
         ),
         closed as (
           delete from open_scan where host_id = $21 and scan_id = $23 and exists (select from done)
         ),
         moved as (
           update host_state
           set full_seq = full_seq + 1, applied_number = $22, full_number = $22, full_scan_id = $23, full_at = $2,
               compliance_state = $24, platform = $25, capabilities = $26
           where host_id = $21 and full_digest = $32 and full_seq = $33 and applied_number = $34 and compliance_state = $35
             and exists (select from done)
           returning full_seq, pass, fail, skipped, error, critical_failing
         ),
         recorded as (
           insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, skipped, error,
             critical_failing, compliance_state, unchanged, summary, timings, worker, applied_at)
           select $23, $21, $22, $27, 'completed', true, m.full_seq, m.pass, m.fail, m.skipped, m.error, m.critical_failing, $24,
             true, $28, $29, $30, $2
           from done left join moved m on true
         ),
         recovered as (
           update host_backoff_state set consecutive_failures = 0, failed_scans = 0, suppress_until = null, updated_at = $2
           where host_id = $21 and probe_type = 'scan' and (failed_scans > 0 or consecutive_failures > 0 or suppress_until is not null)
             and exists (select from done)
         )",
        store,
        moment,
        told,
        open.host.0,
        open.number,
        open.scan.0,
        done.state.as_str(),
        serde_json::json!(done.platform),
        serde_json::json!(done.capabilities),
        i32::try_from(done.source.attempt).unwrap_or(i32::MAX),
        kept::summary(done.summary),
        kept::timings(done.timings),
        done.source.worker,
        done.source.engine,
        &done.digest,
        open.full_seq,
        open.applied_number,
        open.host_state.as_str(),
    );
    match ended {
        Err(StoreError::Refused { constraint, .. }) if constraint == NO_NUMBERS => Ok(false),
        ended => ended,
    }
}
