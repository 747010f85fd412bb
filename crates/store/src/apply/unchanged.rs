//! What nearly every scan does, in one statement.

use uuid::Uuid;

use super::Completion;
use crate::audit::Columns;
use crate::end::OpenScan;
use crate::outbox::{Lines, Told};
use crate::{Moment, Store, StoreError, kept};

/// Ends a full scan that found what the one before found: a ledger row says so, no rule is touched, and what is told goes
/// with it. `open` was only looked at ([`crate::end::glance`]): whether it still holds is known under the locks that the
/// statement takes, and when it does not, nothing is done. Whether it was done. Called by the writer when
/// [`OpenScan::found_before`] knows the scan's digest.
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
    let (log, lines) = (Columns::of(&told.rows), Lines::of(&told.messages));
    // Counts are those on record; the digest is the one before, which the ledger has there. Of what is told every message
    // is packed, and so none can be there already.
    let ended = sqlx::query_scalar!(
        r#"with held as (
             select s.id from scan s join host_state hs on hs.host_id = s.host_id
             where s.id = $3 and s.state in ('queued', 'running') and hs.full_digest = $13 and hs.full_seq = $14
               and hs.applied_number = $15 and hs.compliance_state = $16
             for update
           ),
           moved as (
             update host_state
             set full_seq = full_seq + 1, applied_number = $2, full_number = $2, full_scan_id = $3, full_at = $4,
                 compliance_state = $5, platform = $6, capabilities = $7
             where host_id = $1 and exists (select from held)
             returning full_seq, pass, fail, skipped, error, critical_failing
           ),
           recorded as (
             insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, skipped, error,
               critical_failing, compliance_state, unchanged, summary, timings, worker, applied_at)
             select $3, $1, $2, $8, 'completed', true, m.full_seq, m.pass, m.fail, m.skipped, m.error, m.critical_failing, $5,
               true, $9, $10, $11, $4
             from moved m
           ),
           ended as (
             update scan set state = 'completed', finished_at = $4, worker = coalesce($11, worker), engine = coalesce($12, engine)
             where id = $3 and exists (select from held)
           ),
           recovered as (
             update host_backoff_state set consecutive_failures = 0, suppress_until = null, updated_at = $4
             where host_id = $1 and probe_type = 'scan' and (consecutive_failures > 0 or suppress_until is not null)
               and exists (select from held)
           ),
           logged as (
             insert into audit_event (id, action, severity, actor_type, actor_label, host_id, correlation_id,
               cause, policy_version, detail, redactions, occurred_at)
             select e.id, e.action, e.severity, e.actor_type, e.actor, e.host_id, e.correlation, e.cause, e.policy,
               e.detail::jsonb, coalesce(string_to_array(e.redactions, E'\n'), '{}'), $4
             from unnest($17::uuid[], $18::text[], $19::text[], $20::text[], $21::text[], $22::uuid[], $23::text[], $24::text[],
               $25::text[], $26::text[], $27::text[])
               as e (id, action, severity, actor_type, actor, host_id, correlation, cause, policy, detail, redactions)
             where exists (select from held)
           ),
           told as (
             insert into outbox (sender, message_id, subject, headers, payload, packed, created_at)
             select $28, m.message_id, m.subject, m.headers, m.payload, true, $4
             from unnest($29::text[], $30::text[], $31::jsonb[], $32::bytea[]) with ordinality
               as m (message_id, subject, headers, payload, place)
             where exists (select from held)
             order by m.place
           )
           select count(*) > 0 as "ended!" from held"#,
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
        &log.codes as &[&str],
        &log.severities as &[&str],
        &log.actor_types as &[&str],
        &log.actors as &[&str],
        &log.hosts as &[Option<Uuid>],
        &log.correlations as &[Option<&str>],
        &log.causes as &[Option<&str>],
        &log.policies as &[Option<&str>],
        &log.details,
        &log.redactions as &[Option<String>],
        told.sender,
        &lines.ids as &[&str],
        &lines.subjects as &[&str],
        &lines.headers,
        &lines.payloads as &[&[u8]],
    )
    .fetch_one(store.pool())
    .await?;
    Ok(ended)
}
