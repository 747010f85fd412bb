//! The life of an alert: acknowledge, silence, resolve, dismiss, and looking at them.

use std::collections::BTreeMap;

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType};
use openwatch_model::{AlertId, HostId, Timestamp};

use crate::page::{Page, Paged};
use crate::words::{alert_severity, alert_state, alert_type};
use crate::{StoreError, Tx, alert};

/// An alert, as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Id.
    pub id: AlertId,
    /// What it is about.
    pub kind: AlertType,
    /// How much it matters.
    pub severity: AlertSeverity,
    /// The host, where there is one.
    pub host: Option<HostId>,
    /// Its name.
    pub host_name: Option<String>,
    /// One line.
    pub title: String,
    /// A few lines.
    pub body: String,
    /// What channels filter on.
    pub tags: BTreeMap<String, String>,
    /// Where it is in its life.
    pub state: AlertState,
    /// Number of its latest transition.
    pub transition: i32,
    /// How often it has happened.
    pub occurrences: u32,
    /// When it happened first.
    pub occurred_at: Timestamp,
    /// When it happened last.
    pub last_occurred_at: Timestamp,
    /// Quiet until; absent for ever, or when it is not silenced.
    pub silenced_until: Option<Timestamp>,
    /// When it was opened here.
    pub created_at: Timestamp,
}

/// One step in an alert's life.
#[derive(Clone, Debug, PartialEq)]
pub struct Transition {
    /// Number.
    pub number: i32,
    /// State since.
    pub state: AlertState,
    /// Who.
    pub actor: String,
    /// Why.
    pub reason: Option<String>,
    /// Silenced until.
    pub until: Option<Timestamp>,
    /// When.
    pub changed_at: Timestamp,
}

/// What became of the wish to move an alert.
#[derive(Clone, Debug, PartialEq)]
pub enum Moved {
    /// It moved.
    Done {
        /// As it is now.
        alert: Box<Alert>,
        /// State before.
        prior: AlertState,
    },
    /// It may not go there from where it is.
    Invalid {
        /// Where it is.
        prior: AlertState,
    },
    /// A silence must end in the future, by the database's clock.
    PastWindow,
    /// There is none.
    Unknown,
}

/// An alert whose silence ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rearmed {
    /// Id.
    pub id: AlertId,
    /// Its host.
    pub host: Option<HostId>,
    /// When the silence was to end.
    pub silenced_until: Option<Timestamp>,
    /// Transition number.
    pub transition: i32,
}

/// Moves an alert, if the model lets it: of two who acknowledge at once, one does. `until` is for silences. Called by
/// the API.
///
/// # Errors
/// `Refused` when the reason is over 256 characters.
pub async fn transition(
    tx: &mut Tx<'_>,
    id: AlertId,
    to: AlertState,
    actor: &str,
    reason: Option<&str>,
    until: Option<Timestamp>,
) -> Result<Moved, StoreError> {
    if until.is_some_and(|until| until <= tx.now()) {
        return Ok(Moved::PastWindow);
    }
    let locked = sqlx::query!("select state from alert where id = $1 for update", id.0)
        .fetch_optional(tx.connection())
        .await?;
    let Some(locked) = locked else { return Ok(Moved::Unknown) };
    let prior = alert_state(&locked.state)?;
    if !prior.may_become(to) {
        return Ok(Moved::Invalid { prior });
    }
    let until = until.filter(|_| to == AlertState::Silenced);
    let number = sqlx::query_scalar!(
        "update alert set state = $2, silenced_until = $3, withheld_until = null, transition = transition + 1, updated_at = $4
         where id = $1 returning transition",
        id.0,
        to.as_str(),
        until,
        tx.now(),
    )
    .fetch_one(tx.connection())
    .await?;
    alert::note(tx, &[(id, number)], to, actor, reason, until).await?;
    match get(tx, id).await? {
        Some(alert) => Ok(Moved::Done { alert: Box::new(alert), prior }),
        None => Ok(Moved::Unknown),
    }
}

/// Makes alerts active again whose silence ran out, each with the time it ran out. Called by the alerts stage, now and
/// then.
///
/// # Errors
/// The database is away.
pub async fn rearm_expired(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Rearmed>, StoreError> {
    let rows = sqlx::query!(
        r#"with expired as (
             select id, silenced_until from alert where state = 'silenced' and silenced_until <= $1
             order by silenced_until limit $2 for update skip locked
           )
           update alert a set state = 'active', silenced_until = null, transition = a.transition + 1, updated_at = $1,
             last_notified_at = $1
           from expired e where a.id = e.id
           returning a.id, a.host_id, e.silenced_until, a.transition"#,
        tx.now(),
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    let rearmed: Vec<Rearmed> = rows
        .into_iter()
        .map(|r| Rearmed {
            id: AlertId(r.id),
            host: r.host_id.map(HostId),
            silenced_until: r.silenced_until,
            transition: r.transition,
        })
        .collect();
    let numbers: Vec<_> = rearmed.iter().map(|r| (r.id, r.transition)).collect();
    alert::note(tx, &numbers, AlertState::Active, "alerts", Some("silence ended"), None).await?;
    Ok(rearmed)
}

/// Alerts that were kept back and have stayed open long enough: people are to be told of them now, as if they had just
/// opened. Called by the alerts stage, now and then.
///
/// # Errors
/// The database is away.
pub async fn release_withheld(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Alert>, StoreError> {
    let ids = sqlx::query_scalar!(
        "with lasting as (
           select id from alert where withheld_until <= $1 order by withheld_until limit $2 for update skip locked
         )
         update alert a set withheld_until = null, last_notified_at = $1 from lasting where a.id = lasting.id
         returning a.id",
        tx.now(),
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    let mut alerts = Vec::with_capacity(ids.len());
    for id in ids {
        alerts.extend(get(tx, AlertId(id)).await?);
    }
    Ok(alerts)
}

/// Which alerts to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this one.
    pub id: Option<AlertId>,
    /// Only in this state.
    pub state: Option<AlertState>,
    /// Only open ones.
    pub open: bool,
    /// Only of this host.
    pub host: Option<HostId>,
    /// Only of this severity.
    pub severity: Option<AlertSeverity>,
    /// Happened at that time or later.
    pub since: Option<Timestamp>,
    /// Happened before.
    pub until: Option<Timestamp>,
    /// As they were at that time.
    pub as_of: Option<Timestamp>,
}

/// One alert. Called by the API and the alerts stage.
///
/// # Errors
/// The database is away.
pub async fn get(tx: &mut Tx<'_>, id: AlertId) -> Result<Option<Alert>, StoreError> {
    let filter = Filter { id: Some(id), ..Filter::default() };
    Ok(list(tx, &filter, &Page::first(1)).await?.rows.pop())
}

/// Alerts, newest first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, filter: &Filter, page: &Page) -> Result<Paged<Alert>, StoreError> {
    let (after, after_id) = page.after();
    let rows = sqlx::query!(
        r#"select a.id, a.alert_type, coalesce(t.severity, a.severity) as "severity!", a.host_id, h.name as "host_name?", a.title, a.body, a.tags,
             coalesce(t.state, a.state) as "state!", coalesce(t.number, a.transition) as "transition!", a.occurrences,
             a.occurred_at, a.last_occurred_at, case when $8::timestamptz is null then a.silenced_until else t.until end as silenced_until,
             a.created_at
           from alert a
           left join host h on h.id = a.host_id
           -- Only when the past is asked for: where the alert was in its life then, and how grave.
           left join lateral (
             select t.state, t.number, t.until, t.severity from alert_transition t
             where $8::timestamptz is not null and t.alert_id = a.id and t.changed_at <= $8
             order by t.number desc limit 1) t on true
           where ($1::uuid is null or a.id = $1)
             and ($2::text is null or coalesce(t.state, a.state) = $2)
             and (not $3 or coalesce(t.state, a.state) in ('active', 'acknowledged', 'silenced'))
             and ($4::uuid is null or a.host_id = $4)
             and ($5::text is null or coalesce(t.severity, a.severity) = $5)
             and ($6::timestamptz is null or a.occurred_at >= $6)
             and ($7::timestamptz is null or a.occurred_at < $7)
             and ($8::timestamptz is null or a.created_at <= $8)
             and ($9::timestamptz is null or (a.occurred_at, a.id) < ($9, $10))
           order by a.occurred_at desc, a.id desc
           limit $11"#,
        filter.id.map(|a| a.0),
        filter.state.map(AlertState::as_str),
        filter.open,
        filter.host.map(|h| h.0),
        filter.severity.map(AlertSeverity::as_str),
        filter.since,
        filter.until,
        filter.as_of,
        after,
        after_id,
        page.fetch(),
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows
        .into_iter()
        .map(|r| {
            let mut tags: BTreeMap<String, String> = serde_json::from_value(r.tags).unwrap_or_default();
            // That of the moment asked for.
            tags.entry("severity".to_owned()).and_modify(|it| it.clone_from(&r.severity));
            Ok(Alert {
                id: AlertId(r.id),
                kind: alert_type(&r.alert_type)?,
                severity: alert_severity(&r.severity)?,
                host: r.host_id.map(HostId),
                host_name: r.host_name,
                title: r.title,
                body: r.body,
                tags,
                state: alert_state(&r.state)?,
                transition: r.transition,
                occurrences: crate::host::count(r.occurrences),
                occurred_at: r.occurred_at,
                last_occurred_at: r.last_occurred_at,
                silenced_until: r.silenced_until,
                created_at: r.created_at,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(page.cut(rows, |row| (row.occurred_at, row.id.0)))
}

/// The steps of an alert's life, in order. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn history(tx: &mut Tx<'_>, id: AlertId) -> Result<Vec<Transition>, StoreError> {
    let rows = sqlx::query!(
        "select number, state, actor, reason, until, changed_at from alert_transition where alert_id = $1 order by number",
        id.0
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Transition {
                number: r.number,
                state: alert_state(&r.state)?,
                actor: r.actor,
                reason: r.reason,
                until: r.until,
                changed_at: r.changed_at,
            })
        })
        .collect()
}
