//! Opening alerts, and closing them when their opposite happens. What people do to them is in [`crate::alert_life`].

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType, NewAlert};
use openwatch_model::{AlertId, HostId, Timestamp};
use uuid::Uuid;

use crate::words::{alert_severity, alert_state, alert_type};
use crate::{Store, StoreError, Tx};

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
        /// The gravest so far.
        severity: AlertSeverity,
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
    /// Nobody needs to know of its end: it flapped, and nobody was told of it yet, or it was good news and is old.
    pub quiet: bool,
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
        cursor_host(host),
        family,
        occurred_at,
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How cursors name a host, or that there is none.
fn cursor_host(host: Option<HostId>) -> String {
    host.map_or_else(|| "-".to_owned(), |h| h.to_string())
}

/// Whether [`advance_known_cursors`] would move any, without a transaction: a cursor that appears a moment later it would
/// not have moved either. Called by the alerts stage for every scan that ended well: most end no alert.
///
/// # Errors
/// The database is away.
pub async fn has_earlier_cursors(
    store: &Store,
    host: Option<HostId>,
    families: &[&str],
    occurred_at: Timestamp,
) -> Result<bool, StoreError> {
    let families: Vec<String> = families.iter().map(|family| (*family).to_owned()).collect();
    Ok(sqlx::query_scalar!(
        r#"select exists (
             select from alert_cursor where host = $1 and family = any($2) and occurred_at <= $3) as "there!""#,
        cursor_host(host),
        &families,
        occurred_at,
    )
    .fetch_one(store.pool())
    .await?)
}

/// Moves the cursors of a host in some families to an event's time, where there are any; `false` when there are none, or
/// a later event was seen of all of them. For events that only end alerts: most end nothing, and must cost nothing.
/// Called by the alerts stage.
///
/// # Errors
/// The database is away.
pub async fn advance_known_cursors(
    tx: &mut Tx<'_>,
    host: Option<HostId>,
    families: &[&str],
    occurred_at: Timestamp,
) -> Result<bool, StoreError> {
    let families: Vec<String> = families.iter().map(|family| (*family).to_owned()).collect();
    let done = sqlx::query!(
        "update alert_cursor set occurred_at = $3 where host = $1 and family = any($2) and occurred_at <= $3",
        cursor_host(host),
        &families,
        occurred_at,
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() > 0)
}

/// How often an alert was opened under this key since then. Called by the alerts stage, under the cursor's lock.
///
/// # Errors
/// The database is away.
pub async fn openings_since(tx: &mut Tx<'_>, dedup_key: &str, since: Timestamp) -> Result<u32, StoreError> {
    let openings = sqlx::query_scalar!(
        r#"select count(*) as "n!" from alert where dedup_key = $1 and created_at > $2"#,
        dedup_key,
        since
    )
    .fetch_one(tx.connection())
    .await?;
    Ok(u32::try_from(openings).unwrap_or(u32::MAX))
}

/// Opens an alert, or counts up the one that is open under its key. With `hold`, nobody is to be told of a new one until
/// that time has passed. Called by the alerts stage.
///
/// # Errors
/// The database is away.
pub async fn open(
    tx: &mut Tx<'_>,
    alert: &NewAlert,
    tags: &BTreeMap<String, String>,
    ttl: Duration,
    hold: Option<Duration>,
) -> Result<Opened, StoreError> {
    let row = sqlx::query!(
        r#"insert into alert as a (id, dedup_key, alert_type, severity, host_id, title, body, tags, occurred_at,
             last_occurred_at, last_notified_at, created_at, updated_at, withheld_until)
           values ($1, $2, $3, $4, $5, left($6, 1024), left($7, 16384), $8, $9, $9, $10, $10, $10, $12)
           on conflict (dedup_key) where state in ('active', 'acknowledged', 'silenced') do update set
             occurrences = a.occurrences + 1,
             last_occurred_at = greatest(a.last_occurred_at, excluded.last_occurred_at),
             severity = case when severity_rank(excluded.severity) > severity_rank(a.severity)
               then excluded.severity else a.severity end,
             title = excluded.title,
             body = excluded.body,
             tags = case when severity_rank(excluded.severity) >= severity_rank(a.severity) then excluded.tags
               else excluded.tags || jsonb_build_object('severity', a.severity) end,
             updated_at = excluded.updated_at,
             -- Nobody is told of a repeat unless the window is over, and never while it is in hand; what got worse is told to
             -- whoever has it as well. What is silenced or kept back is told when that ends.
             transition = a.transition + case when a.withheld_until is null and (
                 (a.state = 'active' and a.last_notified_at <= $11)
                 or (a.state <> 'silenced' and severity_rank(excluded.severity) > severity_rank(a.severity)))
               then 1 else 0 end,
             last_notified_at = case when a.withheld_until is null and (
                 (a.state = 'active' and a.last_notified_at <= $11)
                 or (a.state <> 'silenced' and severity_rank(excluded.severity) > severity_rank(a.severity)))
               then excluded.last_notified_at else a.last_notified_at end
           returning id, transition, severity, occurrences, state, last_notified_at = $10 as "notify!""#,
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
        hold.map(|hold| tx.now() + hold),
    )
    .fetch_one(tx.connection())
    .await?;
    let (id, transition) = (AlertId(row.id), row.transition);
    if row.notify {
        note(tx, &[(id, transition)], alert_state(&row.state)?, "alerts", None, None).await?;
    }
    Ok(match row.occurrences {
        1 => Opened::New { id, transition },
        n => Opened::Repeated {
            id,
            transition,
            severity: alert_severity(&row.severity)?,
            occurrences: crate::host::count(n),
            notify: row.notify,
        },
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
             select id, state, withheld_until from alert
             where host_id is not distinct from $1 and alert_type = any($2) and occurred_at <= $3
               and state in ('active', 'acknowledged', 'silenced')
             order by id for update
           )
           update alert a set state = 'resolved', silenced_until = null, withheld_until = null,
             transition = a.transition + 1, updated_at = $4
           from open where a.id = open.id
           returning a.id, a.alert_type, open.state as prior, a.transition, open.withheld_until is not null as "withheld!""#,
        host.map(|h| h.0),
        &kinds,
        not_after,
        tx.now(),
    )
    .fetch_all(tx.connection())
    .await?;
    let resolved = rows
        .into_iter()
        .map(|r| auto_resolved(r.id, &r.alert_type, &r.prior, r.transition, r.withheld))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let numbers: Vec<_> = resolved.iter().map(|r| (r.id, r.transition)).collect();
    note(tx, &numbers, AlertState::Resolved, "alerts", Some("auto"), None).await?;
    Ok(resolved)
}

/// How long good news stays open where no bad news ends it: the longest repeat window a policy may have.
const NEWS: Duration = Duration::from_secs(86_400);

/// Resolves open alerts that nothing will end any more: those of hosts that were removed, those of hosts that are behind a
/// jump host about their connection, for these are not probed, and good news that nobody touched for a day, which needs no
/// telling; a silence that somebody put on it ends first. Returns each with its host. Called by the alerts stage, now and then.
///
/// # Errors
/// The database is away.
pub async fn resolve_orphaned(
    tx: &mut Tx<'_>,
    limit: u32,
) -> Result<Vec<(Option<HostId>, AutoResolved)>, StoreError> {
    let family = AlertType::HostUnreachable.family();
    let of_probes = AlertType::ALL.into_iter().filter(|kind| kind.family() == family);
    let of_probes: Vec<String> = of_probes.map(|kind| kind.as_str().to_owned()).collect();
    let news = AlertType::ALL.into_iter().filter(|kind| kind.is_good_news());
    let news: Vec<String> = news.map(|kind| kind.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        r#"with orphaned as (
             select a.id, a.state, a.withheld_until is not null or not alone.is as quiet
             from alert a left join host h on h.id = a.host_id
             cross join lateral (select coalesce(
               h.deleted_at is not null or (h.jump_id is not null and a.alert_type = any($1)), false) as is) alone
             where a.state in ('active', 'acknowledged', 'silenced')
               and (alone.is or (a.alert_type = any($4) and a.state <> 'silenced' and a.updated_at < $5))
             order by a.id limit $2 for update of a skip locked
           )
           update alert a set state = 'resolved', silenced_until = null, withheld_until = null,
             transition = a.transition + 1, updated_at = $3
           from orphaned o where a.id = o.id
           returning a.id, a.host_id, a.alert_type, o.state as prior, a.transition, o.quiet as "quiet!""#,
        &of_probes,
        i64::from(limit),
        tx.now(),
        &news,
        tx.now() - NEWS,
    )
    .fetch_all(tx.connection())
    .await?;
    let resolved = rows
        .into_iter()
        .map(|r| {
            let it = auto_resolved(r.id, &r.alert_type, &r.prior, r.transition, r.quiet)?;
            Ok((r.host_id.map(HostId), it))
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    let numbers: Vec<_> = resolved.iter().map(|(_, it)| (it.id, it.transition)).collect();
    note(tx, &numbers, AlertState::Resolved, "alerts", Some("auto"), None).await?;
    Ok(resolved)
}

fn auto_resolved(
    id: Uuid,
    kind: &str,
    prior: &str,
    transition: i32,
    quiet: bool,
) -> Result<AutoResolved, StoreError> {
    Ok(AutoResolved {
        id: AlertId(id),
        kind: alert_type(kind)?,
        prior: alert_state(prior)?,
        transition,
        quiet,
    })
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
        "insert into alert_transition (alert_id, number, state, actor, reason, until, changed_at, severity)
         select t.id, t.number, $3, $4, $5, $6, $7, a.severity
         from unnest($1::uuid[], $2::int[]) as t (id, number) join alert a on a.id = t.id",
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
