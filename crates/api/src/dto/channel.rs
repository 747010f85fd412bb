//! Channels: somewhere alerts are delivered to, and what became of each delivery.

use std::collections::BTreeMap;

use openwatch_model::alert::AlertSeverity;
use openwatch_model::channel::{ChannelKind, MailSecurity};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A channel to be made. Each kind takes its own fields and no others. Nothing of what it takes to reach the channel is
/// ever shown again.
#[derive(Serialize, Deserialize, ToSchema, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct NewChannel {
    /// Unique, 1 to 64 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// `webhook`, `slack`, `email`, `pagerduty`, `nats` or `stdout`.
    #[zeroize(skip)]
    #[schema(value_type = String, example = "webhook")]
    pub kind: ChannelKind,
    /// Where a webhook or Slack message goes, `https`; for PagerDuty its service region, when it is not the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub url: Option<String>,
    /// Signs a webhook: `whsec_` and base64 of 24 to 64 bytes. Made, and answered once, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub secret: Option<String>,
    /// PagerDuty integration key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub routing_key: Option<String>,
    /// Mail server, and who writes to whom through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<NewMail>,
    /// NATS subject; `ow.v1.notify.` is put before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The channel may reach addresses inside the network, and such without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_private: bool,
    /// Only alerts of at least this severity; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[zeroize(skip)]
    #[schema(value_type = Option<String>, example = "high")]
    pub min_severity: Option<AlertSeverity>,
    /// Only alerts with all of these tags, such as `alert_type` or `host`; all when empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[zeroize(skip)]
    pub tags: BTreeMap<String, String>,
    /// Only alerts of hosts with all of these labels; all when empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[zeroize(skip)]
    pub labels: BTreeMap<String, String>,
}

impl std::fmt::Debug for NewChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewChannel")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A mail server, and who writes to whom through it.
#[derive(Serialize, Deserialize, ToSchema, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct NewMail {
    /// Name or address of the server.
    pub server: String,
    /// 587 for `starttls`, 465 for `tls`, 25 for `none` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `starttls` (when absent), `tls`, or `none`, which only a channel that may reach private addresses has.
    #[serde(default)]
    #[zeroize(skip)]
    #[schema(value_type = String, example = "starttls")]
    pub security: MailSecurity,
    /// Login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub password: Option<String>,
    /// Who writes: `name@example.org` or `Name <name@example.org>`.
    pub from: String,
    /// Who reads, 1 to 20.
    pub to: Vec<String>,
}

impl std::fmt::Debug for NewMail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewMail").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A channel. What it takes to reach it may hold secrets, so only a part is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// How it delivers.
    #[schema(value_type = String, example = "webhook")]
    pub kind: ChannelKind,
    /// What may be shown of where it leads: the host of an address, a mail server and its readers, a subject.
    pub target: String,
    /// Whether it may reach addresses inside the network.
    pub allow_private: bool,
    /// Whether it is used.
    pub enabled: bool,
    /// Why it is not, when nobody turned it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled_reason: Option<String>,
    /// Only alerts of at least this severity.
    #[schema(value_type = String, example = "info")]
    pub min_severity: AlertSeverity,
    /// Only alerts with all of these tags; a label of the host is `label.` and its key.
    pub tags: BTreeMap<String, String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}

/// A channel that was just made.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MadeChannel {
    /// The channel.
    pub channel: Channel,
    /// What signs a webhook, when it was made here: for its receiver, and shown this once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl std::fmt::Debug for MadeChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MadeChannel").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// What to change of a channel; what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelChange {
    /// Whether it is used. What waits for a channel that is turned off waits on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Only alerts of at least this severity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "high")]
    pub min_severity: Option<AlertSeverity>,
    /// Only alerts with all of these tags, in the place of those so far; `{}` takes all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// Only alerts of hosts with all of these labels, in the place of those so far; `{}` takes all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// What it takes to reach a channel from now on, whole: nobody can read what it was. Each kind takes its own fields and no
/// others, as in a new channel.
#[derive(Serialize, Deserialize, ToSchema, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct ChannelTarget {
    /// See a new channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub url: Option<String>,
    /// Signs a webhook. Made, and answered once, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub secret: Option<String>,
    /// PagerDuty integration key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub routing_key: Option<String>,
    /// Mail server, and who writes to whom through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail: Option<NewMail>,
    /// NATS subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The channel may reach addresses inside the network, and such without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_private: bool,
}

impl std::fmt::Debug for ChannelTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChannelTarget").field("allow_private", &self.allow_private).finish_non_exhaustive()
    }
}

/// A test that was put in line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TestAsked {
    /// The delivery, to ask what became of it.
    pub delivery_id: Uuid,
}

/// A delivery: one transition of an alert through one channel, or a test of a channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Delivery {
    /// Its id.
    pub id: Uuid,
    /// Name of the channel.
    pub channel: String,
    /// The alert; absent in a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<Uuid>,
    /// Which of its transitions.
    pub transition: i32,
    /// What is told, such as `alert.opened`.
    pub event: String,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// Since when it has been there.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it is tried next, while it waits.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_try_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<OffsetDateTime>,
    /// Its tries, oldest first. A number that is missing was cut off before it ended.
    pub tries: Vec<DeliveryTry>,
}

/// Which deliveries to try again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayDeliveries {
    /// Only this one; all of the channel that were given up when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_id: Option<Uuid>,
}

/// Deliveries that were put in line again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveriesReplayed {
    /// How many.
    pub replayed: u64,
}

/// One try of a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeliveryTry {
    /// Its number, from 1.
    pub attempt: u32,
    /// Whether it arrived.
    pub delivered: bool,
    /// What the receiver answered: a status of HTTP or a reply code of SMTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How long it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u32>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}
