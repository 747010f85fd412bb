//! Whether the probers' own network is there: one row that all of them share, and what the hosts say about it.

use std::time::Duration;

use openwatch_model::liveness::Witnesses;
use openwatch_model::policy::Maintenance;
use openwatch_model::{HostId, Timestamp};
use uuid::Uuid;

use crate::{StoreError, Tx};

/// The row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProberStanding {
    /// Since when the probers reach almost nothing; absent while they do.
    pub isolated_since: Option<Timestamp>,
    /// End of the last isolation.
    pub connected_at: Option<Timestamp>,
}

/// How it stands. Called by liveness before each round and each answer, and by the API.
///
/// # Errors
/// The database is away.
pub async fn get(tx: &mut Tx<'_>) -> Result<ProberStanding, StoreError> {
    Ok(sqlx::query_as!(ProberStanding, "select isolated_since, connected_at from prober_standing")
        .fetch_one(tx.connection())
        .await?)
}

/// The same, locked until the transaction ends. Called by liveness before it changes it; after a host's row, never before.
///
/// # Errors
/// The database is away.
pub async fn lock(tx: &mut Tx<'_>) -> Result<ProberStanding, StoreError> {
    Ok(sqlx::query_as!(ProberStanding, "select isolated_since, connected_at from prober_standing for update")
        .fetch_one(tx.connection())
        .await?)
}

/// Begins or ends an isolation now; the number of this change. Called by liveness under [`lock`].
///
/// # Errors
/// The database is away.
pub async fn change(tx: &mut Tx<'_>, isolated: bool) -> Result<i64, StoreError> {
    Ok(sqlx::query_scalar!(
        "update prober_standing set transition = transition + 1,
           isolated_since = case when $1 then $2::timestamptz end,
           connected_at = case when $1 then connected_at else $2 end
         returning transition",
        isolated,
        tx.now(),
    )
    .fetch_one(tx.connection())
    .await?)
}

/// What the hosts say that are probed and were not down before, `except` one: who was asked since `since`, and who of them
/// was silent. Called by liveness.
///
/// # Errors
/// The database is away.
pub async fn witnesses(
    tx: &mut Tx<'_>,
    except: Option<HostId>,
    since: Timestamp,
    maintenance: &Maintenance,
) -> Result<Witnesses, StoreError> {
    let row = sqlx::query!(
        r#"select count(*) as "hosts!", count(*) filter (where l.last_probe_at >= $2) as "asked!",
             count(*) filter (where l.last_probe_at >= $2 and l.consecutive_failures > 0) as "silent!"
           from host_liveness l
           join host h on h.id = l.host_id and h.deleted_at is null and h.jump_id is null
           left join host_maintenance m on m.host_id = l.host_id
           where l.reachability_status <> 'unreachable' and l.host_id is distinct from $1 and h.name <> all($3)
             and m.maintenance is not true"#,
        except.map(|host| host.0) as Option<Uuid>,
        since,
        &maintenance.hosts,
    )
    .fetch_one(tx.connection())
    .await?;
    let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
    Ok(Witnesses { hosts: number(row.hosts), asked: number(row.asked), silent: number(row.silent) })
}

/// Has up to so many witnesses asked at once that were not asked since `since`. Whoever may be claimed (its next probe is no
/// further away than a `lease`) is left alone: it is asked soon anyway. Called by liveness.
///
/// # Errors
/// The database is away.
pub async fn call(
    tx: &mut Tx<'_>,
    limit: u32,
    since: Timestamp,
    lease: Duration,
    maintenance: &Maintenance,
) -> Result<(), StoreError> {
    sqlx::query!(
        "with called as (
           select l.host_id from host_liveness l
           join host h on h.id = l.host_id and h.deleted_at is null and h.jump_id is null
           left join host_maintenance m on m.host_id = l.host_id
           where l.reachability_status <> 'unreachable' and l.last_probe_at < $2 and l.next_probe_at > $3
             and h.name <> all($4) and m.maintenance is not true
           order by l.last_probe_at
           limit $1
           for update of l skip locked
         )
         update host_liveness l set next_probe_at = $5, updated_at = $5 from called where l.host_id = called.host_id",
        i64::from(limit),
        since,
        tx.now() + lease,
        &maintenance.hosts,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}
