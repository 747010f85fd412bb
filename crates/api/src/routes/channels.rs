//! Channels: where alerts go.

use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use openwatch_model::alert::AlertSeverity;
use openwatch_model::audit::{ChannelCreated, ChannelDeleted};
use openwatch_store::channel::{self, ChannelKind as Reached};

use crate::dto::{Channel, ChannelKind, NewChannel, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Api, Asking, Shared};
use crate::{trail, validate};

/// Channels by name. Of a webhook's address only the host is shown: the rest may be a secret.
#[utoipa::path(get, path = "/api/v1/channels", tag = "channels", responses(
    (status = 200, description = "channels", body = Page<Channel>),
))]
pub(crate) async fn list(State(api): Shared) -> Result<axum::Json<Page<Channel>>, Failure> {
    let rows = channel::list(&mut api.begin_read().await?).await?;
    Ok(axum::Json(Page { items: rows.into_iter().map(view).collect(), next_cursor: None }))
}

/// Makes a channel; alerts that open or change from now on are delivered to it.
#[utoipa::path(post, path = "/api/v1/channels", tag = "channels", request_body = NewChannel, responses(
    (status = 201, description = "made", body = Channel),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "channel.duplicate", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): Shared,
    asking: Asking,
    Json(new): Json<NewChannel>,
) -> Result<(StatusCode, axum::Json<Channel>), Failure> {
    check(&api, &new)?;
    let mut tx = api.begin().await?;
    let kind = new.url.map_or(Reached::Stdout, |url| Reached::Webhook { url, secret_ref: new.signing_key });
    let min_severity = new.min_severity.unwrap_or(AlertSeverity::Info);
    let row = channel::NewChannel { name: new.name.clone(), kind, min_severity, tags: new.tags };
    let id = channel::add(&mut tx, &row, &asking.caller.name).await?;
    let event = ChannelCreated { channel_id: id, name: new.name, kind: new.kind.as_str() };
    trail::record(&mut tx, &asking, &event).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(view(channel::Channel { id, enabled: true, channel: row }))))
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
    let unknown = || Failure::new(Code::ChannelNotFound, "no channel has this name or id");
    let mut tx = api.begin().await?;
    let all = channel::list(&mut tx).await?;
    let row = all
        .into_iter()
        .find(|row| row.channel.name == named || row.id.to_string() == named)
        .ok_or_else(unknown)?;
    if !channel::remove(&mut tx, row.id).await? {
        return Err(unknown());
    }
    trail::record(&mut tx, &asking, &ChannelDeleted { channel_id: row.id, name: row.channel.name }).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn check(api: &Api, new: &NewChannel) -> Result<(), Failure> {
    validate::name("/name", &new.name, 64)?;
    validate::labels("/tags", &new.tags)?;
    new.signing_key.as_deref().map_or(Ok(()), |key| validate::name("/signing_key", key, 64))?;
    match (new.kind, &new.url) {
        (ChannelKind::Webhook, Some(url)) => validate::webhook("/url", url, api.private_webhooks),
        (ChannelKind::Webhook, None) => {
            Err(Failure::field(Code::FieldRequired, "/url", "a webhook needs an address"))
        }
        (ChannelKind::Stdout, None) => Ok(()),
        (ChannelKind::Stdout, Some(_)) => {
            Err(Failure::field(Code::FieldUnknown, "/url", "only a webhook has an address"))
        }
    }
}

fn target(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.host().map(str::to_owned)
}

fn view(row: channel::Channel) -> Channel {
    let channel::NewChannel { name, kind, min_severity, tags } = row.channel;
    let (kind, target, signing_key) = match kind {
        Reached::Stdout => (ChannelKind::Stdout, None, None),
        Reached::Webhook { url, secret_ref } => (ChannelKind::Webhook, target(&url), secret_ref),
    };
    Channel { id: row.id.0, name, kind, target, signing_key, enabled: row.enabled, min_severity, tags }
}
