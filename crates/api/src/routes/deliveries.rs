//! Deliveries: what was sent through which channel, and every try of it.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::audit::DeliveriesReplayed as Replayed;
use openwatch_store::ledger::{self, Delivered, Filter};
use openwatch_store::{Page as Part, delivery};
use serde::Deserialize;
use utoipa::IntoParams;
use uuid::Uuid;

use super::channels::find;
use super::{page, part, word};
use crate::dto::{DeliveriesReplayed, Delivery, DeliveryTry, Page, Problem, ReplayDeliveries};
use crate::error::{Code, Failure};
use crate::extract::{Json, Query, id};
use crate::state::{Asking, Shared};
use crate::trail;

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

impl DeliveriesQuery {
    fn read(&self) -> Result<(Part, Filter), Failure> {
        let part = part(self.cursor.as_deref(), self.limit, LIMIT)?;
        let known = ["pending", "delivered", "failed"].map(|word| (word, word.to_owned()));
        let state = word("state", self.state.as_deref(), known)?;
        Ok((part, Filter { state, ..Filter::default() }))
    }
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
    let (part, mut filter) = asked.read()?;
    let mut tx = api.begin_read().await?;
    filter.channel = Some(find(&mut tx, &named).await?.id);
    let paged = ledger::list(&mut tx, &filter, &part).await?;
    Ok(axum::Json(page(paged, view)))
}

/// Deliveries of all channels with every try, newest first: what was given up, say.
#[utoipa::path(get, path = "/api/v1/deliveries", tag = "deliveries", params(DeliveriesQuery), responses(
    (status = 200, description = "deliveries", body = Page<Delivery>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list_all(
    State(api): Shared,
    Query(asked): Query<DeliveriesQuery>,
) -> Result<axum::Json<Page<Delivery>>, Failure> {
    let (part, filter) = asked.read()?;
    let paged = ledger::list(&mut api.begin_read().await?, &filter, &part).await?;
    Ok(axum::Json(page(paged, view)))
}

/// Has deliveries that were given up, or that wait for their next try, tried again now, with new waits between tries; those of a channel that is turned off
/// wait until it is turned on.
#[utoipa::path(post, path = "/api/v1/channels/{channel}/deliveries:replay", tag = "deliveries",
    params(("channel" = String, Path, description = "name or id")), request_body = ReplayDeliveries, responses(
    (status = 202, description = "in line", body = DeliveriesReplayed),
    (status = 404, description = "channel.not_found, or delivery.not_found: it does not exist, is a test, or neither was given up nor waits", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn replay(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(wanted): Json<ReplayDeliveries>,
) -> Result<(StatusCode, axum::Json<DeliveriesReplayed>), Failure> {
    let mut tx = api.begin().await?;
    let channel = find(&mut tx, &named).await?;
    let replayed = delivery::replay(&mut tx, channel.id, wanted.delivery_id).await?;
    if replayed == 0 && wanted.delivery_id.is_some() {
        let detail = "this channel has no such delivery that was given up or waits for its next try";
        return Err(Failure::new(Code::DeliveryNotFound, detail));
    }
    if replayed > 0 {
        let event = Replayed { channel_id: channel.id, name: channel.name, deliveries: replayed };
        trail::record(&mut tx, &asking, &event).await?;
    }
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(DeliveriesReplayed { replayed })))
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
