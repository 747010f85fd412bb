//! Channels: where alerts go.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::ChannelId;
use openwatch_model::alert::{AlertSeverity, Notification};
use openwatch_model::audit::{ChannelChanged, ChannelCreated, ChannelDeleted, ChannelTested};
use openwatch_store::channel::{self, Sealed};
use openwatch_store::{StoreError, Tx, delivery};
use openwatch_trust::keyring::KeyNames;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::channel_targets::{Wanted, wanted};
use crate::dto::{Channel, ChannelChange, MadeChannel, NewChannel, Page, Problem, TestAsked};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Api, Asking, Shared};
use crate::{trail, validate};

/// Channels by name. Of what it takes to reach them only a part is shown: the rest may be a secret.
#[utoipa::path(get, path = "/api/v1/channels", tag = "channels", responses(
    (status = 200, description = "channels", body = Page<Channel>),
))]
pub(crate) async fn list(State(api): Shared) -> Result<axum::Json<Page<Channel>>, Failure> {
    let rows = channel::list(&mut api.begin_read().await?).await?;
    Ok(axum::Json(Page { items: rows.into_iter().map(view).collect(), next_cursor: None }))
}

/// Makes a channel; alerts that open or change from now on are delivered to it.
#[utoipa::path(post, path = "/api/v1/channels", tag = "channels", request_body = NewChannel, responses(
    (status = 201, description = "made", body = MadeChannel),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "channel.duplicate", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): Shared,
    asking: Asking,
    Json(mut new): Json<NewChannel>,
) -> Result<(StatusCode, axum::Json<MadeChannel>), Failure> {
    validate::name("/name", &new.name, 64)?;
    validate::labels("/tags", &new.tags)?;
    validate::labels("/labels", &new.labels)?;
    let Wanted { target, shown, made } = wanted(&mut new)?;
    let mut tags = std::mem::take(&mut new.tags);
    tags.extend(
        std::mem::take(&mut new.labels).into_iter().map(|(key, value)| (format!("label.{key}"), value)),
    );
    let id = ChannelId(Uuid::new_v4());
    let row = channel::NewChannel {
        id,
        name: new.name.clone(),
        kind: new.kind,
        target: shown,
        allow_private: new.allow_private,
        min_severity: new.min_severity.unwrap_or(AlertSeverity::Info),
        tags,
        sealed: seal(&api, id, &target)?,
    };
    let mut tx = api.begin().await?;
    channel::add(&mut tx, &row, &asking.caller.name).await?;
    let event = ChannelCreated {
        channel_id: id,
        name: row.name.clone(),
        kind: row.kind.as_str(),
        allow_private: row.allow_private,
    };
    trail::record(&mut tx, &asking, &event).await?;
    let stored = find(&mut tx, &row.name).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(MadeChannel { channel: view(stored), secret: made })))
}

/// Turns a channel on or off. One that a receiver turned off by saying that it is gone is turned on here again.
#[utoipa::path(patch, path = "/api/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path, description = "name or id")),
    request_body = ChannelChange, responses(
    (status = 200, description = "as it is now", body = Channel),
    (status = 404, description = "channel.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "channel.disabled", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn change(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(wanted): Json<ChannelChange>,
) -> Result<axum::Json<Channel>, Failure> {
    let mut tx = api.begin().await?;
    let row = find(&mut tx, &named).await?;
    let changed = channel::set_enabled(&mut tx, row.id, wanted.enabled, None).await;
    if matches!(&changed, Err(StoreError::Refused { constraint, .. }) if constraint == "channel_sealed") {
        let detail = row.disabled_reason.unwrap_or_else(|| "its target is gone; add it again".to_owned());
        return Err(Failure::new(Code::ChannelDisabled, detail));
    }
    if changed? {
        let event = ChannelChanged { channel_id: row.id, name: row.name.clone(), enabled: wanted.enabled };
        trail::record(&mut tx, &asking, &event).await?;
    }
    let row = find(&mut tx, &named).await?;
    tx.commit().await?;
    Ok(axum::Json(view(row)))
}

/// Removes a channel; what waits for it is delivered no more.
#[utoipa::path(delete, path = "/api/v1/channels/{channel}", tag = "channels", params(("channel" = String, Path, description = "name or id")), responses(
    (status = 204, description = "removed"),
    (status = 404, description = "channel.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn remove(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
) -> Result<StatusCode, Failure> {
    let mut tx = api.begin().await?;
    let row = find(&mut tx, &named).await?;
    if !channel::remove(&mut tx, row.id).await? {
        return Err(unknown());
    }
    trail::record(&mut tx, &asking, &ChannelDeleted { channel_id: row.id, name: row.name }).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Sends a test through a channel, by the same way as alerts and with one try; ask for the delivery to see what became of it.
#[utoipa::path(post, path = "/api/v1/channels/{channel}/test", tag = "channels", params(("channel" = String, Path, description = "name or id")), responses(
    (status = 202, description = "in line", body = TestAsked),
    (status = 404, description = "channel.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "channel.disabled", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn test(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
) -> Result<(StatusCode, axum::Json<TestAsked>), Failure> {
    let mut tx = api.begin().await?;
    let row = find(&mut tx, &named).await?;
    if !row.enabled {
        let why = row.disabled_reason.unwrap_or_else(|| "somebody turned it off".to_owned());
        return Err(Failure::new(Code::ChannelDisabled, format!("{why}; turn it on first")));
    }
    let notification = Notification::test(&row.name, &asking.caller.name, tx.now());
    let payload = serde_json::to_value(notification).unwrap_or_default();
    let delivery_id = delivery::enqueue_test(&mut tx, row.id, &payload).await?;
    let event = ChannelTested { channel_id: row.id, name: row.name, delivery_id: delivery_id.to_string() };
    trail::record(&mut tx, &asking, &event).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, axum::Json(TestAsked { delivery_id })))
}

/// By name or id.
pub(super) async fn find(tx: &mut Tx<'_>, named: &str) -> Result<channel::Channel, Failure> {
    let all = channel::list(tx).await?;
    all.into_iter().find(|row| row.name == named || row.id.to_string() == named).ok_or_else(unknown)
}

fn unknown() -> Failure {
    Failure::new(Code::ChannelNotFound, "no channel has this name or id; see GET /api/v1/channels")
}

/// Seals to the alerts stage; from then on nobody else can read it.
fn seal(api: &Api, id: ChannelId, target: &openwatch_model::channel::Target) -> Result<Sealed, Failure> {
    let broken = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a channel cannot be sealed");
        Failure::new(Code::Internal, "the public key for channels cannot be used; issue the API's keys again")
    };
    // Large enough never to grow: what a growing buffer leaves behind is not wiped.
    let mut plain = Zeroizing::new(Vec::with_capacity(24 * 1024));
    serde_json::to_writer(&mut *plain, target).map_err(|error| broken(&error))?;
    let keys = api.keys.borrow().clone();
    let bytes = keys.seal_channel(&plain, id).map_err(|error| broken(&error))?;
    Ok(Sealed { bytes, key_id: keys.current().to_string() })
}

fn view(row: channel::Channel) -> Channel {
    Channel {
        id: row.id.0,
        name: row.name,
        kind: row.kind,
        target: row.target,
        allow_private: row.allow_private,
        enabled: row.enabled,
        disabled_reason: row.disabled_reason,
        min_severity: row.min_severity,
        tags: row.tags,
        created_by: row.created_by,
        created_at: row.created_at,
    }
}
