//! Whether hosts answer. One probe per host and interval, among all processes.

use std::time::Duration;

use openwatch_model::liveness::{Liveness, ProbeOutcome, Reachability};
use openwatch_model::policy::Maintenance;
use openwatch_model::{HostId, Timestamp};

use crate::host::{count, port};
use crate::{StoreError, Tx};

/// A host to be probed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: HostId,
    /// Address to dial.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Until when it is nobody else's; proves the claim in [`lock`].
    pub lease: Timestamp,
}

/// What is known of a host before its answer is noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// State and failures in a row.
    pub state: Liveness,
    /// Since when it has not answered.
    pub failing_since: Option<Timestamp>,
}

/// Claims hosts whose probe is due; each is due again after `lease` unless its answer is noted. Hosts in maintenance are
/// left alone; those in backoff are not: a probe is how their recovery is noticed. Neither are hosts behind a jump host:
/// their banner cannot be had without logging in there. Called by liveness.
///
/// # Errors
/// The database is away.
pub async fn claim(
    tx: &mut Tx<'_>,
    maintenance: &Maintenance,
    limit: u32,
    lease: Duration,
) -> Result<Vec<Target>, StoreError> {
    if maintenance.all {
        return Ok(Vec::new());
    }
    let lease = tx.now() + lease;
    let rows = sqlx::query!(
        "with due as (
           select l.host_id from host_liveness l
           join host h on h.id = l.host_id and h.deleted_at is null
           left join host_maintenance m on m.host_id = l.host_id
           where l.next_probe_at <= $1 and h.jump_id is null and h.name <> all($2) and m.maintenance is not true
           order by l.next_probe_at
           limit $3
           for update of l skip locked
         )
         update host_liveness l set next_probe_at = $4, updated_at = $1
         from due join host h on h.id = due.host_id
         where l.host_id = due.host_id
         returning l.host_id, h.address, h.port",
        tx.now(),
        &maintenance.hosts,
        i64::from(limit),
        lease,
    )
    .fetch_all(tx.connection())
    .await?;
    let targets = rows.into_iter().map(|r| Target {
        host: HostId(r.host_id),
        address: r.address,
        port: port(r.port),
        lease,
    });
    Ok(targets.collect())
}

/// A host's state, locked until the transaction ends; nothing when the host was removed meanwhile, or when its probe took
/// so long that the host was claimed anew: an answer counts once, and only that of the latest claim. Called by liveness
/// after a probe, before it asks the model.
///
/// # Errors
/// The database is away.
pub async fn lock(tx: &mut Tx<'_>, target: &Target) -> Result<Option<Known>, StoreError> {
    let row = sqlx::query!(
        "select l.reachability_status, l.consecutive_failures, l.failing_since
         from host_liveness l join host h on h.id = l.host_id and h.deleted_at is null
         where l.host_id = $1 and l.next_probe_at = $2 for update of l",
        target.host.0,
        target.lease,
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|r| Known {
        state: Liveness {
            status: Reachability::parse(&r.reachability_status),
            consecutive_failures: count(r.consecutive_failures),
        },
        failing_since: r.failing_since,
    }))
}

/// Keeps the state that a probe led to, and returns the number of the latest transition: with the host, the id of its
/// event. Called by liveness in the transaction of [`lock`].
///
/// # Errors
/// The database is away.
pub async fn save(
    tx: &mut Tx<'_>,
    host: HostId,
    next: Liveness,
    transition: bool,
    outcome: ProbeOutcome,
    next_probe_at: Timestamp,
) -> Result<i64, StoreError> {
    // Microseconds; never nothing, however near the host is.
    let response_ms = outcome.ok().map(|took| (took.as_micros().max(1) as f64) / 1000.0);
    Ok(sqlx::query_scalar!(
        "update host_liveness
         set reachability_status = $2, consecutive_failures = $3, last_probe_at = $4, last_response_ms = $5,
             last_error_type = $6, next_probe_at = $7, updated_at = $4,
             failing_since = case when $3::int = 0 then null when $3 = 1 then $4 else coalesce(failing_since, $4) end,
             transition = transition + case when $8 then 1 else 0 end,
             last_state_change_at = case when $8 then $4 else last_state_change_at end
         where host_id = $1 returning transition",
        host.0,
        next.status.as_str(),
        i32::try_from(next.consecutive_failures).unwrap_or(i32::MAX),
        tx.now(),
        response_ms,
        outcome.err().map(|e| e.as_str()),
        next_probe_at,
        transition,
    )
    .fetch_one(tx.connection())
    .await?)
}
