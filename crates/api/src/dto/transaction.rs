//! Transactions: recorded changes of one rule on one host.

use openwatch_model::outcome::{Severity, Status};
use openwatch_model::transaction::ChangeKind;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// One rule on one host changed, or was seen for the first time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Transaction {
    /// Its id.
    pub id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// The host's name.
    pub host: String,
    /// The rule.
    pub rule_id: String,
    /// The scan that saw it.
    pub scan_id: Uuid,
    /// `first_seen`, `state_changed` or `severity_changed`.
    #[schema(value_type = String, example = "state_changed")]
    pub change_kind: ChangeKind,
    /// Now.
    #[schema(value_type = String, example = "fail")]
    pub status: Status,
    /// Now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "high")]
    pub severity: Option<Severity>,
    /// Before; absent on first sight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "pass")]
    pub prior_status: Option<Status>,
    /// Before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "high")]
    pub prior_severity: Option<Severity>,
    /// When it was recorded.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: OffsetDateTime,
}
