//! Opening alerts, and closing them when their opposite happens. What people do to them is in [`crate::alert_life`].

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::alert::{AlertState, AlertType, NewAlert};
use openwatch_model::{AlertId, HostId, Timestamp};
use uuid::Uuid;

use crate::words::{alert_state, alert_type};
use crate::{StoreError, Tx};

/// What became of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// It is open; this is its transition number, 1.
    New {
        /// Id.
        id: AlertId,
        /// Transition number.
        transition: i32,
    },
    /// One with the same key was open and has counted up.
    Repeated {
        /// Id.
        id: AlertId,
        /// Transition number: higher than before when `notify`.
        transition: i32,
        /// How often it has happened.
        occurrences: u32,
        /// It is worse than before, or so long ago that people are told again.
        notify: bool,
    },
}

/// An alert that was closed by its opposite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoResolved {
    /// Id.
    pub id: AlertId,
    /// What it was about.
    pub kind: AlertType,
    /// State before.
    pub prior: AlertState,
    /// Transition number.
    pub transition: i32,
}

/// Moves the cursor of a host and family to an event's time; `false` when a later event was seen already: this one
/// must neither open nor resolve anything. Called first by the alerts stage, under whose lock the rest happens.
///
/// # Errors
/// The database is away.
pub async fn advance_cursor(
    tx: &mut Tx<'_>,
    host: Option<HostId>,
    family: &str,
    occurred_at: Timestamp,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into alert_cursor as c (host, family, occurred_at) values ($1, $2, $3)
         on conflict (host, family) do update set occurred_at = excluded.occurred_at
           where c.occurred_at <= excluded.occurred_at",
        host.map_or_else(|| "-".to_owned(), |h| h.to_string()),
        family,
        occurred_at,
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Opens an alert, or counts up the one that is open under its key. Called by the alerts stage.
///
/// # Errors
/// The database is away.
pub async fn open(
    tx: &mut Tx<'_>,
    alert: &NewAlert,
    tags: &BTreeMap<String, String>,
    ttl: Duration,
) -> Result<Opened, StoreError> {
    let row = sqlx::query!(
        r#"insert into alert as a (id, dedup_key, alert_type, severity, host_id, title, body, tags, occurred_at,
             last_occurred_at, last_notified_at, created_at, updated_at)
           values ($1, $2, $3, $4, $5, left($6, 1024), left($7, 16384), $8, $9, $9, $10, $10, $10)
           on conflict (dedup_key) where state in ('active', 'acknowledged', 'silenced') do update set
             occurrences = a.occurrences + 1,
             last_occurred_at = greatest(a.last_occurred_at, excluded.last_occurred_at),
             severity = case when severity_rank(excluded.severity) > severity_rank(a.severity)
               then excluded.severity else a.severity end,
             title = excluded.title,
             body = excluded.body,
             tags = excluded.tags,
             updated_at = excluded.updated_at,
             -- Nobody is told of a repeat, unless it is worse or the window is over; never while it is in hand or silenced.
             transition = a.transition + case when a.state = 'active' and (
               severity_rank(excluded.severity) > severity_rank(a.severity) or a.last_notified_at <= $11) then 1 else 0 end,
             last_notified_at = case when a.state = 'active' and (
               severity_rank(excluded.severity) > severity_rank(a.severity) or a.last_notified_at <= $11)
               then excluded.last_notified_at else a.last_notified_at end
           returning id, transition, occurrences, last_notified_at = $10 as "notify!""#,
        tx.new_id(),
        alert.dedup_key(),
        alert.kind.as_str(),
        alert.severity.as_str(),
        alert.host.map(|h| h.0),
        alert.title,
        alert.body,
        serde_json::json!(tags),
        alert.occurred_at,
        tx.now(),
        tx.now() - ttl,
    )
    .fetch_one(tx.connection())
    .await?;
    let (id, transition) = (AlertId(row.id), row.transition);
    if row.notify {
        note(tx, &[(id, transition)], AlertState::Active, "alerts", None, None).await?;
    }
    Ok(match row.occurrences {
        1 => Opened::New { id, transition },
        n => Opened::Repeated { id, transition, occurrences: crate::host::count(n), notify: row.notify },
    })
}

/// Resolves a host's open alerts of these types that are not younger than the event. Called by the alerts stage with
/// [`AlertType::resolves`].
///
/// # Errors
/// The database is away.
pub async fn resolve_open(
    tx: &mut Tx<'_>,
    host: Option<HostId>,
    kinds: &[AlertType],
    not_after: Timestamp,
) -> Result<Vec<AutoResolved>, StoreError> {
    let kinds: Vec<String> = kinds.iter().map(|k| k.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        r#"with open as (
             select id, state from alert
             where host_id is not distinct from $1 and alert_type = any($2) and occurred_at <= $3
               and state in ('active', 'acknowledged', 'silenced')
             order by id for update
           )
           update alert a set state = 'resolved', silenced_until = null, transition = a.transition + 1, updated_at = $4
           from open where a.id = open.id
           returning a.id, a.alert_type, open.state as prior, a.transition"#,
        host.map(|h| h.0),
        &kinds,
        not_after,
        tx.now(),
    )
    .fetch_all(tx.connection())
    .await?;
    let resolved = rows
        .into_iter()
        .map(|r| {
            Ok(AutoResolved {
                id: AlertId(r.id),
                kind: alert_type(&r.alert_type)?,
                prior: alert_state(&r.prior)?,
                transition: r.transition,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    let numbers: Vec<_> = resolved.iter().map(|r| (r.id, r.transition)).collect();
    note(tx, &numbers, AlertState::Resolved, "alerts", Some("auto"), None).await?;
    Ok(resolved)
}

/// Appends transitions to the history.
pub(crate) async fn note(
    tx: &mut Tx<'_>,
    alerts: &[(AlertId, i32)],
    state: AlertState,
    actor: &str,
    reason: Option<&str>,
    until: Option<Timestamp>,
) -> Result<(), StoreError> {
    let ids: Vec<Uuid> = alerts.iter().map(|(id, _)| id.0).collect();
    let numbers: Vec<i32> = alerts.iter().map(|(_, number)| *number).collect();
    sqlx::query!(
        "insert into alert_transition (alert_id, number, state, actor, reason, until, changed_at)
         select t.id, t.number, $3, $4, $5, $6, $7 from unnest($1::uuid[], $2::int[]) as t (id, number)",
        &ids,
        &numbers,
        state.as_str(),
        actor,
        reason,
        until,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}
