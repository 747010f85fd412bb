//! Alerts: what someone should know about.

use axum::extract::State;
use openwatch_model::AlertId;
use openwatch_model::alert::{AlertSeverity, AlertState};
use openwatch_store::alert_life::{self, Filter, Transition};
use openwatch_store::ledger;
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::deliveries::view as delivery;
use super::{filter_host, page, part, past, stretch, word};
use crate::dto::{Alert, AlertStep, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::{Id, Query};
use crate::state::Shared;

/// Alerts on a page.
const LIMIT: u32 = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AlertsQuery {
    /// Only open ones: active, acknowledged or silenced.
    #[serde(default)]
    open: bool,
    /// Only in this state.
    state: Option<String>,
    /// Only of this severity.
    severity: Option<String>,
    /// Only about this host: name or id.
    host: Option<String>,
    /// Not before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// Before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    /// As they were at this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 200.
    limit: Option<u32>,
}

/// Alerts, newest first.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(AlertsQuery), responses(
    (status = 200, description = "alerts", body = Page<Alert>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Query(asked): Query<AlertsQuery>,
) -> Result<axum::Json<Page<Alert>>, Failure> {
    let part = part(asked.cursor.as_deref(), asked.limit, LIMIT)?;
    stretch(asked.since, asked.until, asked.as_of)?;
    let mut tx = api.begin_read().await?;
    let filter = Filter {
        state: word("state", asked.state.as_deref(), AlertState::ALL.map(|it| (it.as_str(), it)))?,
        severity: word(
            "severity",
            asked.severity.as_deref(),
            AlertSeverity::ALL.map(|it| (it.as_str(), it)),
        )?,
        host: filter_host(&mut tx, asked.host.as_deref()).await?,
        since: asked.since,
        until: asked.until,
        as_of: past(asked.as_of, tx.now())?,
        open: asked.open,
        ..Filter::default()
    };
    Ok(axum::Json(page(alert_life::list(&mut tx, &filter, &part).await?, |row| view(row, None))))
}

/// One alert, with its life so far, who was told, and every try to.
#[utoipa::path(get, path = "/api/v1/alerts/{id}", tag = "alerts", params(("id" = Uuid, Path, description = "the alert")), responses(
    (status = 200, description = "the alert", body = Alert),
    (status = 404, description = "alerts.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): Shared, Id(id): Id) -> Result<axum::Json<Alert>, Failure> {
    let mut tx = api.begin_read().await?;
    let row = alert_life::get(&mut tx, AlertId(id)).await?.ok_or_else(unknown)?;
    let history = alert_life::history(&mut tx, AlertId(id)).await?;
    let of = ledger::Filter { alert: Some(AlertId(id)), ..ledger::Filter::default() };
    let told = ledger::list(&mut tx, &of, &openwatch_store::Page::first(LIMIT)).await?;
    let mut alert = view(row, history.last().cloned());
    alert.history = history.into_iter().map(step).collect();
    alert.deliveries = told.rows.into_iter().map(delivery).collect();
    Ok(axum::Json(alert))
}

fn step(it: Transition) -> AlertStep {
    let Transition { number, state, actor, reason, until, changed_at } = it;
    AlertStep { number, state, actor, reason, until, changed_at }
}

pub(super) fn unknown() -> Failure {
    Failure::new(Code::AlertNotFound, "no alert has this id; see `openwatch alerts` or GET /api/v1/alerts")
}

pub(super) fn view(row: alert_life::Alert, last: Option<Transition>) -> Alert {
    let (changed_by, reason) = last.map_or((None, None), |last| (Some(last.actor), last.reason));
    Alert {
        id: row.id.0,
        kind: row.kind,
        severity: row.severity,
        state: row.state,
        host_id: row.host.map(|host| host.0),
        host: row.host_name,
        title: row.title,
        body: row.body,
        tags: row.tags,
        occurrences: i64::from(row.occurrences),
        occurred_at: row.occurred_at,
        last_occurred_at: row.last_occurred_at,
        silenced_until: row.silenced_until,
        changed_by,
        reason,
        history: Vec::new(),
        deliveries: Vec::new(),
    }
}
