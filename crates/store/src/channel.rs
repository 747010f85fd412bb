//! Where alerts are delivered to. What it takes to reach a channel is sealed: only the alerts stage opens it.

use std::collections::BTreeMap;

use openwatch_model::alert::AlertSeverity;
use openwatch_model::channel::ChannelKind;
use openwatch_model::{AlertId, ChannelId, Timestamp};

use crate::words::{alert_severity, channel_kind};
use crate::{StoreError, Tx};

/// What it takes to reach a channel, sealed to the alerts stage. Opaque here; no `Debug` of the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// To which key.
    pub key_id: String,
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A channel to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChannel {
    /// Chosen by the API before sealing, so that the sealed bytes can be bound to it.
    pub id: ChannelId,
    /// Unique name.
    pub name: String,
    /// How it is reached.
    pub kind: ChannelKind,
    /// What may be shown of where it leads.
    pub target: String,
    /// Whether it may go to addresses inside the network.
    pub allow_private: bool,
    /// Only alerts at least this severe.
    pub min_severity: AlertSeverity,
    /// Only alerts with all of these tags; empty takes every alert.
    pub tags: BTreeMap<String, String>,
    /// What it takes to reach it.
    pub sealed: Sealed,
}

/// A registered channel, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Id.
    pub id: ChannelId,
    /// Unique name.
    pub name: String,
    /// How it is reached.
    pub kind: ChannelKind,
    /// What may be shown of where it leads.
    pub target: String,
    /// Whether it may go to addresses inside the network.
    pub allow_private: bool,
    /// Only alerts at least this severe.
    pub min_severity: AlertSeverity,
    /// Only alerts with all of these tags; empty takes every alert.
    pub tags: BTreeMap<String, String>,
    /// Whether it is used.
    pub enabled: bool,
    /// Why it is not, when nobody turned it off.
    pub disabled_reason: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// A channel in use, as the alerts stage sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Id; part of what the sealed bytes are bound to.
    pub id: ChannelId,
    /// Its name.
    pub name: String,
    /// Whether it may go to addresses inside the network.
    pub allow_private: bool,
    /// What it takes to reach it; a line on standard output may take nothing.
    pub sealed: Option<Sealed>,
}

/// Registers a channel. Called by the API.
///
/// # Errors
/// `Conflict` on `channel_name_key` when the name is taken.
pub async fn add(tx: &mut Tx<'_>, new: &NewChannel, actor: &str) -> Result<(), StoreError> {
    sqlx::query!(
        "insert into channel (id, name, kind, target, allow_private, min_severity, tags, sealed, key_id, created_by, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        new.id.0,
        new.name,
        new.kind.as_str(),
        new.target,
        new.allow_private,
        new.min_severity.as_str(),
        serde_json::json!(new.tags),
        new.sealed.bytes,
        new.sealed.key_id,
        actor,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Turns a channel on or off, with the reason when nobody asked for it. `false` when it is so already. Called by the API,
/// and by the alerts stage when a receiver says that it is gone.
///
/// # Errors
/// `Refused` on `channel_sealed` when there is nothing to turn on.
pub async fn set_enabled(
    tx: &mut Tx<'_>,
    id: ChannelId,
    enabled: bool,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update channel set enabled = $2, disabled_reason = left($3, 256) where id = $1 and enabled <> $2",
        id.0,
        enabled,
        reason.filter(|_| !enabled),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Changes which alerts a channel hears. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn set_filter(
    tx: &mut Tx<'_>,
    id: ChannelId,
    min_severity: AlertSeverity,
    tags: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update channel set min_severity = $2, tags = $3 where id = $1",
        id.0,
        min_severity.as_str(),
        serde_json::json!(tags),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Leads a channel elsewhere. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn set_target(
    tx: &mut Tx<'_>,
    id: ChannelId,
    shown: &str,
    private: bool,
    sealed: &Sealed,
) -> Result<(), StoreError> {
    sqlx::query!(
        "update channel set target = $2, allow_private = $3, sealed = $4, key_id = $5 where id = $1",
        id.0,
        shown,
        private,
        sealed.bytes,
        sealed.key_id,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Removes a channel with what still was to be delivered to it. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn remove(tx: &mut Tx<'_>, id: ChannelId) -> Result<bool, StoreError> {
    let done = sqlx::query!("delete from channel where id = $1", id.0).execute(tx.connection()).await?;
    Ok(done.rows_affected() == 1)
}

/// All channels by name. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>) -> Result<Vec<Channel>, StoreError> {
    let rows = sqlx::query!(
        "select id, name, kind, target, allow_private, min_severity, tags, enabled, disabled_reason, created_by, created_at
         from channel order by name"
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(Channel {
                id: ChannelId(r.id),
                name: r.name,
                kind: channel_kind(&r.kind)?,
                target: r.target,
                allow_private: r.allow_private,
                min_severity: alert_severity(&r.min_severity)?,
                tags: serde_json::from_value(r.tags).unwrap_or_default(),
                enabled: r.enabled,
                disabled_reason: r.disabled_reason,
                created_by: r.created_by,
                created_at: r.created_at,
            })
        })
        .collect()
}

/// Channels in use, with what it takes to reach them. Called by the alerts stage to start one deliverer each.
///
/// # Errors
/// The database is away.
pub async fn open(tx: &mut Tx<'_>) -> Result<Vec<Open>, StoreError> {
    let rows = sqlx::query!(
        "select id, name, allow_private, sealed, key_id from channel where enabled order by name"
    )
    .fetch_all(tx.connection())
    .await?;
    let sealed = |bytes: Option<Vec<u8>>, key_id: Option<String>| {
        bytes.zip(key_id).map(|(bytes, key_id)| Sealed { bytes, key_id })
    };
    let open = rows.into_iter().map(|r| Open {
        id: ChannelId(r.id),
        name: r.name,
        allow_private: r.allow_private,
        sealed: sealed(r.sealed, r.key_id),
    });
    Ok(open.collect())
}

/// Channels sealed to another key than this one. Called by the alerts stage while keys are rotated.
///
/// # Errors
/// The database is away.
pub async fn under_other_key(tx: &mut Tx<'_>, key_id: &str) -> Result<Vec<(ChannelId, Sealed)>, StoreError> {
    let rows = sqlx::query!(
        r#"select id, sealed as "sealed!", key_id as "key_id!" from channel where key_id <> $1 for update skip locked"#,
        key_id
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(rows.into_iter().map(|r| (ChannelId(r.id), Sealed { bytes: r.sealed, key_id: r.key_id })).collect())
}

/// Puts what was sealed again in the place of what was. Called by the alerts stage.
///
/// # Errors
/// The database is away.
pub async fn reseal(tx: &mut Tx<'_>, id: ChannelId, sealed: &Sealed) -> Result<(), StoreError> {
    sqlx::query!(
        "update channel set sealed = $2, key_id = $3 where id = $1",
        id.0,
        sealed.bytes,
        sealed.key_id
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Channels that want an alert: enabled, at or below its severity, and with no tag that it lacks. The end of an alert (`over`)
/// also goes to those that were told of it before: what they have open over there must close, whatever became of its tags. Nobody asks about
/// good news that ended of itself.
/// Called by the alerts stage, and by the API when people move an alert.
///
/// # Errors
/// The database is away.
pub async fn matching(
    tx: &mut Tx<'_>,
    severity: AlertSeverity,
    tags: &BTreeMap<String, String>,
    over: Option<AlertId>,
) -> Result<Vec<ChannelId>, StoreError> {
    let ids = sqlx::query_scalar!(
        "select id from channel c
         where enabled and (
           (severity_rank(min_severity) <= severity_rank($1) and $2::jsonb @> tags)
           or exists (select from alert_delivery d where d.alert_id = $3 and d.channel_id = c.id))
         order by id",
        severity.as_str(),
        serde_json::json!(tags),
        over.map(|alert| alert.0),
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(ids.into_iter().map(ChannelId).collect())
}
