//! The state of the fleet on one page.

use openwatch_model::alert::AlertSeverity;
use openwatch_model::score::ComplianceState;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// The fleet at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StatusReport {
    /// The moment.
    #[serde(with = "time::serde::rfc3339")]
    pub as_of: OffsetDateTime,
    /// All hosts.
    pub hosts: u64,
    /// Of those, the ones with a score.
    pub hosts_scored: u64,
    /// Hosts by compliance state, worst first.
    pub by_state: Vec<StateCount>,
    /// Hosts that do not answer. Of the present only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<u64>,
    /// Since when most hosts are silent together, which is blamed on our own network: meanwhile none is called
    /// unreachable. Of the present only.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub probers_isolated_since: Option<OffsetDateTime>,
    /// Percent over all rules of all scored hosts; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Open alerts by severity, worst first.
    pub open_alerts: Vec<SeverityCount>,
    /// The host that has waited longest for a full scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_unscanned: Option<OldestHost>,
    /// Scans under way. Of the present only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueDepth>,
}

/// Hosts in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StateCount {
    /// `unknown`, `critical`, `non_compliant`, `partial` or `compliant`.
    #[schema(value_type = String, example = "partial")]
    pub state: ComplianceState,
    /// How many.
    pub hosts: u64,
}

/// Alerts of one severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeverityCount {
    /// `critical`, `high`, `medium`, `low` or `info`.
    #[schema(value_type = String, example = "high")]
    pub severity: AlertSeverity,
    /// How many.
    pub alerts: u64,
}

/// A host that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OldestHost {
    /// The host.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// When it was last verified; absent: never.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_scanned_at: Option<OffsetDateTime>,
}

/// Scans under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueDepth {
    /// Waiting for a worker.
    pub queued: u64,
    /// Begun.
    pub running: u64,
}
