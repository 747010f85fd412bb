//! Where alerts are delivered to.

use std::collections::BTreeMap;

use openwatch_model::ChannelId;
use openwatch_model::alert::AlertSeverity;
use uuid::Uuid;

use crate::words::alert_severity;
use crate::{StoreError, Tx};

/// How a channel is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// The alerts stage's own output.
    Stdout,
    /// An HTTP endpoint.
    Webhook {
        /// Where to.
        url: String,
        /// Name of the signing key in the configuration; never the key.
        secret_ref: Option<String>,
    },
}

/// A channel to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChannel {
    /// Unique name.
    pub name: String,
    /// How it is reached.
    pub kind: ChannelKind,
    /// Only alerts at least this severe.
    pub min_severity: AlertSeverity,
    /// Only alerts with all of these tags; empty takes every alert.
    pub tags: BTreeMap<String, String>,
}

/// A registered channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Id.
    pub id: ChannelId,
    /// Whether it is used.
    pub enabled: bool,
    /// The rest.
    pub channel: NewChannel,
}

/// Registers a channel. Called by the API.
///
/// # Errors
/// `Conflict` on `channel_name_key` when the name is taken.
pub async fn add(tx: &mut Tx<'_>, new: &NewChannel, actor: &str) -> Result<ChannelId, StoreError> {
    let id = ChannelId(Uuid::new_v4());
    let (kind, url, secret_ref) = match &new.kind {
        ChannelKind::Stdout => ("stdout", None, None),
        ChannelKind::Webhook { url, secret_ref } => ("webhook", Some(url.as_str()), secret_ref.as_deref()),
    };
    sqlx::query!(
        "insert into channel (id, name, kind, url, secret_ref, min_severity, tags, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        id.0,
        new.name,
        kind,
        url,
        secret_ref,
        new.min_severity.as_str(),
        serde_json::json!(new.tags),
        actor,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(id)
}

/// Turns a channel on or off. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn set_enabled(tx: &mut Tx<'_>, id: ChannelId, enabled: bool) -> Result<bool, StoreError> {
    let done = sqlx::query!("update channel set enabled = $2 where id = $1", id.0, enabled)
        .execute(tx.connection())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a channel with what still was to be delivered to it. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn remove(tx: &mut Tx<'_>, id: ChannelId) -> Result<bool, StoreError> {
    let done = sqlx::query!("delete from channel where id = $1", id.0).execute(tx.connection()).await?;
    Ok(done.rows_affected() == 1)
}

/// All channels by name. Called by the API, and by the alerts stage to start one deliverer each.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>) -> Result<Vec<Channel>, StoreError> {
    let rows = sqlx::query!(
        "select id, name, kind, url, secret_ref, min_severity, tags, enabled from channel order by name"
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            let kind = match (r.kind.as_str(), r.url) {
                ("stdout", _) => ChannelKind::Stdout,
                ("webhook", Some(url)) => ChannelKind::Webhook { url, secret_ref: r.secret_ref },
                (kind, _) => return Err(StoreError::unknown_word("channel kind", kind)),
            };
            let channel = NewChannel {
                name: r.name,
                kind,
                min_severity: alert_severity(&r.min_severity)?,
                tags: serde_json::from_value(r.tags).unwrap_or_default(),
            };
            Ok(Channel { id: ChannelId(r.id), enabled: r.enabled, channel })
        })
        .collect()
}

/// Channels that want an alert: enabled, at or below its severity, and with no tag that it lacks. Called by the alerts
/// stage.
///
/// # Errors
/// The database is away.
pub async fn matching(
    tx: &mut Tx<'_>,
    severity: AlertSeverity,
    tags: &BTreeMap<String, String>,
) -> Result<Vec<ChannelId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "select id from channel
         where enabled and severity_rank(min_severity) <= severity_rank($1) and $2::jsonb @> tags
         order by id",
        severity.as_str(),
        serde_json::json!(tags),
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(ids.into_iter().map(ChannelId).collect())
}
