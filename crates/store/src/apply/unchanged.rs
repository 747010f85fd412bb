//! What nearly every scan does, in one statement.

use uuid::Uuid;

use super::Completion;
use crate::end::OpenScan;
use crate::listen::OUTBOX;
use crate::outbox::{Lines, Told};
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
    let (log, lines) = (&told.log, Lines::of(&told.messages));
    // Counts are those on record; the digest is the one before, which the ledger has there. Of what is told every message
    // is packed, and so none can be there already. First comes the scan's row, as for everybody who ends scans: of two, the
    // second waits there, and finds it closed. Then the host, which nothing but the end of a scan moves, and no other scan of
    // it is open: had somebody moved it nevertheless, the ledger's row would lack its numbers and all of this be refused.
    let rung = store.doorbell().is_answered_by(told.sender);
    let row = sqlx::query!(
        r#"with ended as (
             update scan set state = 'completed', finished_at = $4, worker = coalesce($11, worker), engine = coalesce($12, engine)
             where id = $3 and state in ('queued', 'running')
             returning id
           ),
           closed as (
             delete from open_scan where host_id = $1 and scan_id = $3 and exists (select from ended)
           ),
           moved as (
             update host_state
             set full_seq = full_seq + 1, applied_number = $2, full_number = $2, full_scan_id = $3, full_at = $4,
                 compliance_state = $5, platform = $6, capabilities = $7
             where host_id = $1 and full_digest = $13 and full_seq = $14 and applied_number = $15 and compliance_state = $16
               and exists (select from ended)
             returning full_seq, pass, fail, skipped, error, critical_failing
           ),
           recorded as (
             insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, skipped, error,
               critical_failing, compliance_state, unchanged, summary, timings, worker, applied_at)
             select $3, $1, $2, $8, 'completed', true, m.full_seq, m.pass, m.fail, m.skipped, m.error, m.critical_failing, $5,
               true, $9, $10, $11, $4
             from ended left join moved m on true
           ),
           recovered as (
             update host_backoff_state set consecutive_failures = 0, suppress_until = null, updated_at = $4
             where host_id = $1 and probe_type = 'scan' and (consecutive_failures > 0 or suppress_until is not null)
               and exists (select from ended)
           ),
           logged as (
             insert into audit_event (id, action, severity, actor_type, actor_label, host_id, correlation_id,
               cause, policy_version, detail, redactions, occurred_at)
             select e.id, e.action, e.severity, e.actor_type, e.actor, e.host_id, e.correlation, e.cause, e.policy,
               e.detail::jsonb, string_to_array(e.redactions, E'\n'), $4
             from unnest($17::uuid[], $18::text[], $19::text[], $20::text[], $21::text[], $22::uuid[], $23::text[], $24::text[],
               $25::text[], $26::text[], $27::text[])
               as e (id, action, severity, actor_type, actor, host_id, correlation, cause, policy, detail, redactions)
             where exists (select from ended)
           ),
           told as (
             insert into outbox (sender, payload, packed, created_at)
             select $28, m.payload, true, $4
             from unnest($29::bytea[]) with ordinality as m (payload, place)
             where exists (select from ended)
             order by m.place
           )
           select count(*) > 0 as "ended!", max(case when $30 then pg_notify($31, $28)::text end) as called from ended"#,
        open.host.0,
        open.number,
        open.scan.0,
        moment.now(),
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
        &log.ids,
        &log.codes,
        &log.severities,
        &log.actor_types,
        &log.actors,
        &log.hosts as &[Option<Uuid>],
        &log.correlations as &[Option<String>],
        &log.causes as &[Option<String>],
        &log.policies as &[Option<String>],
        &log.details,
        &log.redactions as &[Option<String>],
        told.sender,
        &lines.payloads as &[&[u8]],
        !rung,
        OUTBOX,
    )
    .fetch_one(store.pool())
    .await
    .map_err(StoreError::from);
    let ended = match row {
        Err(StoreError::Refused { constraint, .. }) if constraint == NO_NUMBERS => false,
        other => other?.ended,
    };
    if ended && rung {
        store.doorbell().ring();
    }
    Ok(ended)
}
