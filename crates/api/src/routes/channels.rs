//! Channels: where alerts go.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::ChannelId;
use openwatch_model::alert::{AlertSeverity, Notification};
use openwatch_model::audit::{ChannelChanged, ChannelCreated, ChannelDeleted, ChannelTested, ChannelUpdated};
use openwatch_store::channel::{self, Sealed};
use openwatch_store::{StoreError, Tx, delivery};
use openwatch_trust::keyring::KeyNames;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::channel_targets::{Wanted, wanted};
use crate::dto::{Channel, ChannelChange, ChannelTarget, MadeChannel, NewChannel, Page, Problem, TestAsked};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Api, Asking, Shared};
use crate::{trail, validate};

/// What the tag of a label begins with.
const LABEL: &str = "label.";

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
    validate::tags("/tags", &new.tags)?;
    validate::labels("/labels", &new.labels)?;
    let mut reached = reached(&mut new);
    let Wanted { target, shown, made } = wanted(new.kind, &mut reached)?;
    let (tags, labels) = (std::mem::take(&mut new.tags), std::mem::take(&mut new.labels));
    let tags = narrowed(&BTreeMap::new(), Some(tags), Some(labels));
    let id = ChannelId(Uuid::new_v4());
    let sealed = seal(&api, id, &target)?;
    let row = channel::NewChannel {
        id,
        name: new.name.clone(),
        kind: new.kind,
        target: shown,
        allow_private: new.allow_private,
        min_severity: new.min_severity.unwrap_or(AlertSeverity::Info),
        tags,
        sealed,
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

/// Changes what a channel hears, or turns it on or off. One that a receiver turned off by saying that it is gone is turned
/// on here again.
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
    wanted.tags.as_ref().map_or(Ok(()), |tags| validate::tags("/tags", tags))?;
    wanted.labels.as_ref().map_or(Ok(()), |labels| validate::labels("/labels", labels))?;
    let mut tx = api.begin().await?;
    let row = find(&mut tx, &named).await?;
    let severity = wanted.min_severity.unwrap_or(row.min_severity);
    let tags = narrowed(&row.tags, wanted.tags, wanted.labels);
    let changed = [(severity != row.min_severity, "min_severity"), (tags != row.tags, "tags")];
    let changed: Vec<_> = changed.into_iter().filter_map(|(it, name)| it.then_some(name)).collect();
    if !changed.is_empty() {
        channel::set_filter(&mut tx, row.id, severity, &tags).await?;
        let event = ChannelUpdated { channel_id: row.id, name: row.name.clone(), changed };
        trail::record(&mut tx, &asking, &event).await?;
    }
    if let Some(enabled) = wanted.enabled {
        turn(&mut tx, &asking, row, enabled).await?;
    }
    let row = find(&mut tx, &named).await?;
    tx.commit().await?;
    Ok(axum::Json(view(row)))
}

/// What a channel is narrowed to: tags and labels, each in the place of those so far where they are given.
fn narrowed(
    so_far: &BTreeMap<String, String>,
    tags: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let stays = |key: &str| if key.starts_with(LABEL) { labels.is_none() } else { tags.is_none() };
    let mut all: BTreeMap<_, _> = so_far
        .iter()
        .filter(|(key, _)| stays(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    all.extend(tags.unwrap_or_default());
    all.extend(labels.unwrap_or_default().into_iter().map(|(key, value)| (format!("{LABEL}{key}"), value)));
    all
}

async fn turn(tx: &mut Tx<'_>, asking: &Asking, row: channel::Channel, enabled: bool) -> Result<(), Failure> {
    let changed = channel::set_enabled(tx, row.id, enabled, None).await;
    if matches!(&changed, Err(StoreError::Refused { constraint, .. }) if constraint == "channel_sealed") {
        let detail = row.disabled_reason.unwrap_or_else(|| "its target is gone; set it again".to_owned());
        return Err(Failure::new(Code::ChannelDisabled, detail));
    }
    if changed? {
        let event = ChannelChanged { channel_id: row.id, name: row.name, enabled };
        trail::record(tx, asking, &event).await?;
    }
    Ok(())
}

/// Leads a channel elsewhere, or changes its secret: name, id, filters and what waits for it stay.
#[utoipa::path(put, path = "/api/v1/channels/{channel}/target", tag = "channels", params(("channel" = String, Path, description = "name or id")),
    request_body = ChannelTarget, responses(
    (status = 200, description = "as it is now", body = MadeChannel),
    (status = 400, description = "a field is wrong, or not of this kind of channel", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "channel.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn set_target(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(mut new): Json<ChannelTarget>,
) -> Result<axum::Json<MadeChannel>, Failure> {
    let mut tx = api.begin().await?;
    let row = find(&mut tx, &named).await?;
    let allow_private = new.allow_private;
    let Wanted { target, shown, made } = wanted(row.kind, &mut new)?;
    let sealed = seal(&api, row.id, &target)?;
    channel::set_target(&mut tx, row.id, &shown, allow_private, &sealed).await?;
    let event = ChannelUpdated { channel_id: row.id, name: row.name, changed: vec!["target"] };
    trail::record(&mut tx, &asking, &event).await?;
    let row = find(&mut tx, &named).await?;
    tx.commit().await?;
    Ok(axum::Json(MadeChannel { channel: view(row), secret: made }))
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
    Failure::new(
        Code::ChannelNotFound,
        "no channel has this name or id; see `openwatch channel list` or GET /api/v1/channels",
    )
}

/// Moves out of a new channel what it takes to reach it.
fn reached(new: &mut NewChannel) -> ChannelTarget {
    ChannelTarget {
        url: new.url.take(),
        secret: new.secret.take(),
        routing_key: new.routing_key.take(),
        mail: new.mail.take(),
        subject: new.subject.take(),
        allow_private: new.allow_private,
    }
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
