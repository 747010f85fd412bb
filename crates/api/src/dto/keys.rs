//! Keys, by their ids.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// Asks for a new data-encryption key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old key is still understood after the switch; a day when absent: as long as a job signed with it may
    /// be fresh. Shorter lets jobs in flight fail, which may be wanted when the old key is known to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retire_after_sec: Option<u32>,
}

/// A process and the ids of the keys that it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyHolder {
    /// `scheduler`, `vault`, `executor`, `writer` or `api`.
    pub role: String,
    /// Which of them.
    pub process: String,
    /// The key that it makes new things with.
    pub current: String,
    /// All keys that it understands.
    pub key_ids: Vec<String>,
}

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyRotation {
    /// `requested`, `issued`, `switched` or `done`.
    pub phase: String,
    /// Who asked.
    pub requested_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub requested_at: OffsetDateTime,
    /// The key that goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_key_id: Option<String>,
    /// The key that comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_key_id: Option<String>,
    /// When the old key may go.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub retire_at: Option<OffsetDateTime>,
    /// Credentials that are not encrypted with the new key yet.
    pub credentials_left: u64,
    /// Processes that have not reloaded, by role and name; a role alone when nobody of it was heard.
    pub waiting_for: Vec<String>,
}

/// Who holds which keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeysView {
    /// Processes heard of lately.
    pub holders: Vec<KeyHolder>,
    /// The newest rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<KeyRotation>,
}
