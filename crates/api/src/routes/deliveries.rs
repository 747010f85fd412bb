//! Deliveries: what was sent through which channel, and every try of it.

use axum::extract::{Path, State};
use openwatch_store::Paged;
use openwatch_store::ledger::{self, Delivered, Filter};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::channels::find;
use super::{page, part, word};
use crate::dto::{Delivery, DeliveryTry, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::{Query, id};
use crate::state::Shared;

/// Deliveries on a page.
const LIMIT: u32 = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeliveriesQuery {
    /// Only in this state: `pending`, `delivered` or `failed`.
    state: Option<String>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 200.
    limit: Option<u32>,
}

/// Deliveries of a channel with every try, newest first.
#[utoipa::path(get, path = "/api/v1/channels/{channel}/deliveries", tag = "deliveries",
    params(("channel" = String, Path, description = "name or id"), DeliveriesQuery), responses(
    (status = 200, description = "deliveries", body = Page<Delivery>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "channel.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Path(named): Path<String>,
    Query(asked): Query<DeliveriesQuery>,
) -> Result<axum::Json<Page<Delivery>>, Failure> {
    let part = part(asked.cursor.as_deref(), asked.limit, LIMIT)?;
    let known = |text: &str| {
        ["pending", "delivered", "failed"].into_iter().find(|word| *word == text).map(str::to_owned)
    };
    let state = word("state", asked.state.as_deref(), known)?;
    let mut tx = api.begin_read().await?;
    let channel = Some(find(&mut tx, &named).await?.id);
    let paged: Paged<Delivered> =
        ledger::list(&mut tx, &Filter { channel, state, ..Filter::default() }, &part).await?;
    Ok(axum::Json(page(paged, view)))
}

/// One delivery with every try.
#[utoipa::path(get, path = "/api/v1/channels/{channel}/deliveries/{delivery}", tag = "deliveries",
    params(("channel" = String, Path, description = "name or id"), ("delivery" = Uuid, Path, description = "the delivery")), responses(
    (status = 200, description = "the delivery", body = Delivery),
    (status = 404, description = "delivery.not_found or channel.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(
    State(api): Shared,
    Path((named, delivery)): Path<(String, String)>,
) -> Result<axum::Json<Delivery>, Failure> {
    let wanted: Uuid = id("delivery", &delivery)?;
    let mut tx = api.begin_read().await?;
    let channel = Some(find(&mut tx, &named).await?.id);
    let filter = Filter { id: Some(wanted), channel, ..Filter::default() };
    let row = ledger::list(&mut tx, &filter, &openwatch_store::Page::first(1)).await?.rows.pop();
    let unknown = || Failure::new(Code::DeliveryNotFound, "this channel has no such delivery");
    row.map(|row| axum::Json(view(row))).ok_or_else(unknown)
}

pub(super) fn view(row: Delivered) -> Delivery {
    let tries = row.tries.into_iter().map(|it| DeliveryTry {
        attempt: it.attempt,
        delivered: it.delivered,
        status: it.status,
        error: it.error,
        took_ms: it.took_ms,
        at: it.at,
    });
    Delivery {
        id: row.id,
        channel: row.channel,
        alert_id: row.alert.map(|id| id.0),
        transition: row.transition,
        event: row.event,
        state: row.state,
        created_at: row.created_at,
        next_try_at: row.next_try_at,
        finished_at: row.finished_at,
        tries: tries.collect(),
    }
}
