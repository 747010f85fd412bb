//! Maintenance by hand: people leave a wish, the scheduler takes it over into its table.

use openwatch_model::audit::ScheduleFacts;
use openwatch_model::{HostId, Timestamp};

use super::Moved;
use crate::{StoreError, Tx};

/// What a person wants of a host's schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// No scheduled scan and no probe, until that time or until called off.
    Maintenance {
        /// End of it, by itself.
        until: Option<Timestamp>,
    },
    /// Back to normal.
    Normal,
}

/// Leaves a wish. It holds at once: every reader asks `host_maintenance`, which knows wishes. Called by the API.
///
/// # Errors
/// There is no such host, or the database is away.
pub async fn ask(
    tx: &mut Tx<'_>,
    host: HostId,
    wish: Wish,
    actor: &str,
    correlation: &str,
) -> Result<(), StoreError> {
    let (maintenance, until) = match wish {
        Wish::Maintenance { until } => (true, until),
        Wish::Normal => (false, None),
    };
    sqlx::query!(
        "insert into maintenance_request (host_id, maintenance, until, actor, correlation, requested_at)
         values ($1, $2, $3, $4, $5, $6)",
        host.0,
        maintenance,
        until,
        actor,
        correlation,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A wish that was taken over.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    /// Who asked.
    pub actor: String,
    /// See [`crate::audit::Context`].
    pub correlation: Option<String>,
    /// Whether the host is in maintenance now.
    pub maintenance: bool,
    /// The row before and after.
    pub moved: Moved,
}

/// Takes wishes over, oldest first, a hundred at most; each is to be audited in its person's name. A wish that changes
/// nothing is forgotten. Called by the scheduler before it claims.
///
/// # Errors
/// The database is away.
pub async fn grant(tx: &mut Tx<'_>) -> Result<Vec<Granted>, StoreError> {
    let mut wishes = sqlx::query!(
        "delete from maintenance_request where id in (
           select id from maintenance_request order by id limit 100 for update skip locked)
         returning id, host_id, maintenance, until, actor, correlation"
    )
    .fetch_all(tx.connection())
    .await?;
    wishes.sort_by_key(|wish| wish.id);
    let mut granted = Vec::new();
    for wish in wishes {
        let host = HostId(wish.host_id);
        let Some(prior) = super::lock(tx.connection(), host).await? else { continue };
        if prior.maintenance_mode == wish.maintenance && prior.maintenance_until == wish.until {
            continue;
        }
        let row = sqlx::query!(
            r#"update host_compliance_schedule
               set maintenance_mode = $2, maintenance_until = $3, updated_at = $4
               where host_id = $1
               returning compliance_state, compliance_score::float8 as score, has_critical_findings,
                 current_interval_minutes, next_scheduled_scan, next_reason, maintenance_mode, maintenance_until,
                 policy_version_at_last_scan"#,
            host.0,
            wish.maintenance,
            wish.until,
            tx.now(),
        )
        .fetch_one(tx.connection())
        .await?;
        granted.push(Granted {
            actor: wish.actor,
            correlation: wish.correlation,
            maintenance: wish.maintenance,
            moved: (host, prior, facts!(row)),
        });
    }
    Ok(granted)
}

/// Ends maintenance whose time is up and forgets the schedules of removed hosts. Returns the rows changed, each to be
/// audited as `maintenance_cleared`. Called by the scheduler before each pass.
///
/// # Errors
/// The database is away.
pub async fn sweep(tx: &mut Tx<'_>) -> Result<Vec<Moved>, StoreError> {
    sqlx::query!(
        "delete from host_compliance_schedule s using host h where h.id = s.host_id and h.deleted_at is not null"
    )
    .execute(tx.connection())
    .await?;
    let rows = sqlx::query!(
        r#"with over as (
             select host_id, maintenance_until from host_compliance_schedule
             where maintenance_mode and maintenance_until <= $1
             order by host_id for update skip locked
           )
           update host_compliance_schedule s
           set maintenance_mode = false, maintenance_until = null, updated_at = $1
           from over where over.host_id = s.host_id
           returning s.host_id, s.compliance_state, s.compliance_score::float8 as score, s.has_critical_findings,
             s.current_interval_minutes, s.next_scheduled_scan, s.next_reason, s.maintenance_mode, s.maintenance_until,
             s.policy_version_at_last_scan, over.maintenance_until as until"#,
        tx.now()
    )
    .fetch_all(tx.connection())
    .await?;
    let moved = rows.into_iter().map(|r| {
        let new = facts!(r);
        let prior = ScheduleFacts { maintenance_mode: true, maintenance_until: r.until, ..new.clone() };
        (HostId(r.host_id), prior, new)
    });
    Ok(moved.collect())
}
