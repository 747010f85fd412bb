//! Moving alerts through their life. The router cannot split `{id}:verb`, so one route takes all and hands on.

use axum::extract::{Path, State};
use openwatch_bus::message::event::{AlertResolved, AlertUpdated};
use openwatch_model::alert::{AlertState, Notification};
use openwatch_model::audit::{self, AlertAcknowledged, AlertDismissed, AlertSilenced, AlertUnsilenced};
use openwatch_model::{AlertId, Timestamp};
use openwatch_store::alert_life::{self, Moved, Transition};
use openwatch_store::{Tx, channel, delivery};
use time::format_description::well_known::Rfc3339;

use super::alerts::{unknown, view};
use crate::dto::{Alert, AlertAction, Problem, SilenceAction};
use crate::error::{Code, Failure};
use crate::extract::{Raw, decode, id};
use crate::state::{Api, Asking, Shared};
use crate::{trail, validate};

/// What is wanted of which alert.
struct Wish {
    alert: AlertId,
    to: AlertState,
    reason: Option<String>,
    until: Option<Timestamp>,
}

/// `POST /alerts/{id}:verb`.
pub(crate) async fn act(
    State(api): Shared,
    asking: Asking,
    Path(target): Path<String>,
    raw: Raw,
) -> Result<axum::Json<Alert>, Failure> {
    let nowhere = || {
        Failure::new(
            Code::NotFound,
            "write /alerts/{id}:acknowledge, :silence, :unsilence, :resolve or :dismiss",
        )
    };
    let (alert, verb) = target.split_once(':').ok_or_else(nowhere)?;
    let wish = match verb {
        "acknowledge" => acknowledge(alert, &raw),
        "silence" => silence(alert, &raw),
        "unsilence" => unsilence(alert, &raw),
        "resolve" => resolve(alert, &raw),
        "dismiss" => dismiss(alert, &raw),
        _ => Err(nowhere()),
    }?;
    Ok(axum::Json(move_to(&api, &asking, wish).await?))
}

/// Takes an alert: it stays open, and everybody sees who has it.
#[utoipa::path(post, path = "/api/v1/alerts/{id}:acknowledge", tag = "alerts", params(("id" = Uuid, Path, description = "the alert")),
    request_body = AlertAction, responses(
    (status = 200, description = "as it is now", body = Alert),
    (status = 404, description = "alerts.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "alerts.invalid_transition", body = Problem, content_type = "application/problem+json"),
))]
fn acknowledge(alert: &str, raw: &Raw) -> Result<Wish, Failure> {
    wish(alert, AlertState::Acknowledged, read::<AlertAction>(raw)?.reason)
}

/// Silences an alert, until a moment or until further notice.
#[utoipa::path(post, path = "/api/v1/alerts/{id}:silence", tag = "alerts", params(("id" = Uuid, Path, description = "the alert")),
    request_body = SilenceAction, responses(
    (status = 200, description = "as it is now", body = Alert),
    (status = 404, description = "alerts.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "alerts.invalid_transition", body = Problem, content_type = "application/problem+json"),
))]
fn silence(alert: &str, raw: &Raw) -> Result<Wish, Failure> {
    let SilenceAction { reason, until } = read(raw)?;
    Ok(Wish { until, ..wish(alert, AlertState::Silenced, reason)? })
}

/// Ends a silence by hand.
#[utoipa::path(post, path = "/api/v1/alerts/{id}:unsilence", tag = "alerts", params(("id" = Uuid, Path, description = "the alert")),
    request_body = AlertAction, responses(
    (status = 200, description = "as it is now", body = Alert),
    (status = 404, description = "alerts.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "alerts.invalid_transition", body = Problem, content_type = "application/problem+json"),
))]
fn unsilence(alert: &str, raw: &Raw) -> Result<Wish, Failure> {
    wish(alert, AlertState::Active, read::<AlertAction>(raw)?.reason)
}

/// Says that an alert is over.
#[utoipa::path(post, path = "/api/v1/alerts/{id}:resolve", tag = "alerts", params(("id" = Uuid, Path, description = "the alert")),
    request_body = AlertAction, responses(
    (status = 200, description = "as it is now", body = Alert),
    (status = 404, description = "alerts.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "alerts.invalid_transition", body = Problem, content_type = "application/problem+json"),
))]
fn resolve(alert: &str, raw: &Raw) -> Result<Wish, Failure> {
    wish(alert, AlertState::Resolved, read::<AlertAction>(raw)?.reason)
}

/// Puts an alert away for good.
#[utoipa::path(post, path = "/api/v1/alerts/{id}:dismiss", tag = "alerts", params(("id" = Uuid, Path, description = "the alert")),
    request_body = AlertAction, responses(
    (status = 200, description = "as it is now", body = Alert),
    (status = 404, description = "alerts.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "alerts.invalid_transition", body = Problem, content_type = "application/problem+json"),
))]
fn dismiss(alert: &str, raw: &Raw) -> Result<Wish, Failure> {
    wish(alert, AlertState::Dismissed, read::<AlertAction>(raw)?.reason)
}

fn wish(alert: &str, to: AlertState, reason: Option<String>) -> Result<Wish, Failure> {
    validate::reason(reason.as_deref())?;
    Ok(Wish { alert: AlertId(id("id", alert)?), to, reason, until: None })
}

/// An empty body is an empty object.
fn read<T: serde::de::DeserializeOwned + Default>(raw: &Raw) -> Result<T, Failure> {
    if raw.body.is_empty() { Ok(T::default()) } else { decode(&raw.body) }
}

/// One transaction: the move, its audit row, the event, and a delivery for each channel that wants it.
async fn move_to(api: &Api, asking: &Asking, wish: Wish) -> Result<Alert, Failure> {
    let actor = &asking.caller.name;
    let mut tx = api.begin().await?;
    let moved =
        alert_life::transition(&mut tx, wish.alert, wish.to, actor, wish.reason.as_deref(), wish.until)
            .await?;
    let (row, prior) = match moved {
        Moved::Done { alert, prior } => (*alert, prior),
        Moved::Unknown => return Err(unknown()),
        Moved::PastWindow => return Err(Failure::field(Code::FieldRange, "/until", "must be in the future")),
        Moved::Invalid { prior } => {
            return Err(Failure::new(Code::AlertTransition, cannot(prior, wish.to)));
        }
    };
    record(&mut tx, asking, &wish, prior).await?;
    tell(&mut tx, asking, &row, prior).await?;
    deliver(&mut tx, &row, &wish, actor).await?;
    tx.commit().await?;
    let last = Transition {
        number: row.transition,
        state: row.state,
        actor: actor.clone(),
        reason: wish.reason,
        until: row.silenced_until,
        changed_at: row.last_occurred_at,
    };
    Ok(view(row, Some(last)))
}

/// Why an alert does not move, and where it could.
fn cannot(prior: AlertState, wanted: AlertState) -> String {
    let no = format!("an alert that is {} cannot become {}", prior.as_str(), wanted.as_str());
    let open: Vec<_> =
        AlertState::ALL.into_iter().filter(|it| prior.may_become(*it)).map(AlertState::as_str).collect();
    match open.split_last() {
        None => format!("{no}, nor anything else"),
        Some((last, [])) => format!("{no}; it can become {last}"),
        Some((last, others)) => format!("{no}; it can become {} or {last}", others.join(", ")),
    }
}

async fn record(tx: &mut Tx<'_>, asking: &Asking, wish: &Wish, prior: AlertState) -> Result<(), Failure> {
    let (alert_id, reason) = (wish.alert, wish.reason.clone());
    let (prior_state, new_state) = (prior.as_str(), wish.to.as_str());
    match wish.to {
        AlertState::Acknowledged => {
            trail::record(tx, asking, &AlertAcknowledged { alert_id, prior_state, new_state, reason })
                .await?;
        }
        AlertState::Silenced => {
            let until = wish.until.and_then(|at| at.format(&Rfc3339).ok());
            trail::record(tx, asking, &AlertSilenced { alert_id, prior_state, new_state, until, reason })
                .await?;
        }
        AlertState::Active => {
            trail::record(tx, asking, &AlertUnsilenced { alert_id, prior_state, new_state, reason }).await?;
        }
        AlertState::Resolved => {
            trail::record(tx, asking, &audit::AlertResolved { alert_id, prior_state, new_state, reason })
                .await?;
        }
        AlertState::Dismissed => {
            trail::record(tx, asking, &AlertDismissed { alert_id, prior_state, new_state, reason }).await?;
        }
    }
    Ok(())
}

async fn tell(
    tx: &mut Tx<'_>,
    asking: &Asking,
    row: &alert_life::Alert,
    prior_state: AlertState,
) -> Result<(), Failure> {
    let &alert_life::Alert { id: alert_id, kind, severity, host: host_id, state, occurrences, .. } = row;
    if state.is_open() {
        let event = AlertUpdated { alert_id, kind, severity, host_id, state, prior_state, occurrences };
        trail::tell(tx, asking, host_id, event).await?;
    } else {
        let event = AlertResolved { alert_id, kind, severity, host_id, state, prior_state, automatic: false };
        trail::tell(tx, asking, host_id, event).await?;
    }
    Ok(())
}

/// Tells the channels, as the alerts stage does for what happens by itself.
async fn deliver(tx: &mut Tx<'_>, row: &alert_life::Alert, wish: &Wish, actor: &str) -> Result<(), Failure> {
    let over = (!row.state.is_open()).then_some(row.id);
    let channels = channel::matching(tx, row.severity, &row.tags, over).await?;
    let word = if row.state == AlertState::Active { "unsilenced" } else { row.state.as_str() };
    let notification = Notification {
        event: format!("alert.{word}"),
        alert_id: Some(row.id),
        transition: row.transition,
        kind: Some(row.kind),
        severity: row.severity,
        host_id: row.host,
        host: row.host_name.clone(),
        title: row.title.clone(),
        body: row.body.clone(),
        tags: row.tags.clone(),
        occurred_at: row.occurred_at,
        actor: Some(actor.to_owned()),
        reason: wish.reason.clone(),
    };
    let payload = serde_json::to_value(notification).unwrap_or_default();
    delivery::enqueue(tx, row.id, row.transition, &channels, &payload).await?;
    Ok(())
}
