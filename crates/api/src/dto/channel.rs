//! Channels: somewhere alerts are delivered to.

use std::collections::BTreeMap;

use openwatch_model::alert::AlertSeverity;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// How a channel delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// An HTTPS POST with a signature.
    Webhook,
    /// A line on the standard output of the alerts stage.
    Stdout,
}

impl ChannelKind {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Stdout => "stdout",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Webhook, Self::Stdout].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A channel to be made.
#[derive(Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewChannel {
    /// Unique, 1 to 64 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// How it delivers.
    pub kind: ChannelKind,
    /// Where a webhook goes: an `https` address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub url: Option<String>,
    /// Name of the key, in the configuration of the alerts stage, that signs a webhook; never the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
    /// Only alerts of at least this severity; all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "high")]
    pub min_severity: Option<AlertSeverity>,
    /// Only alerts with all of these tags; all when empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
}

impl std::fmt::Debug for NewChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewChannel")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A channel. A webhook's address may hold a secret, so only its host is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Channel {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// How it delivers.
    pub kind: ChannelKind,
    /// The host part of a webhook's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Name of the key that signs a webhook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<String>,
    /// Whether it is used.
    pub enabled: bool,
    /// Only alerts of at least this severity.
    #[schema(value_type = String, example = "info")]
    pub min_severity: AlertSeverity,
    /// Only alerts with all of these tags.
    pub tags: BTreeMap<String, String>,
}
