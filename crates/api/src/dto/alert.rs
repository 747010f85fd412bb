//! Alerts: incidents that someone should know about.

use std::collections::BTreeMap;

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Delivery;

/// An alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its id.
    pub id: Uuid,
    /// What it is about, such as `drift_major`.
    #[serde(rename = "type")]
    #[schema(value_type = String, example = "drift_major")]
    pub kind: AlertType,
    /// `info`, `low`, `medium`, `high` or `critical`.
    #[schema(value_type = String, example = "high")]
    pub severity: AlertSeverity,
    /// `active`, `acknowledged`, `silenced`, `resolved` or `dismissed`.
    #[schema(value_type = String, example = "active")]
    pub state: AlertState,
    /// The host, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<Uuid>,
    /// The host's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// One line.
    pub title: String,
    /// A few lines.
    pub body: String,
    /// What channels filter on; of drift, `scan_id` tells the scan that showed it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// How often it happened while it was open.
    pub occurrences: i64,
    /// When it happened first.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: OffsetDateTime,
    /// When it happened last.
    #[serde(with = "time::serde::rfc3339")]
    pub last_occurred_at: OffsetDateTime,
    /// When its silence ends; absent: not silenced, or until further notice.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub silenced_until: Option<OffsetDateTime>,
    /// Who last moved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_by: Option<String>,
    /// Why it was last moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its life so far, where one alert was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<AlertStep>,
    /// Who was told, or is to be, where one alert was asked for; newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<Delivery>,
}

/// One step in the life of an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertStep {
    /// Its number; opening is 1.
    pub number: i32,
    /// The state since; the same as before when people were told again.
    #[schema(value_type = String, example = "active")]
    pub state: AlertState,
    /// Who did it.
    pub actor: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When a silence was to end.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<OffsetDateTime>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
}

/// Moves an alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlertAction {
    /// Why, at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Silences an alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SilenceAction {
    /// Why, at most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Until when; absent: until further notice.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<OffsetDateTime>,
}
