//! Drift: how far a scan moved its host's score.

use openwatch_model::drift::DriftKind;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// A host's score moved, or was found stable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drift {
    /// The scan that moved it.
    pub scan_id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// The host's name.
    pub host: String,
    /// `stable`, `minor_worsening`, `major_worsening` or `improvement`.
    #[schema(value_type = String, example = "minor_worsening")]
    pub kind: DriftKind,
    /// Percent before; absent when undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_before: Option<f64>,
    /// Percent after; absent when undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_after: Option<f64>,
    /// Percentage points, negative is worse; absent when either score is undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_delta: Option<f64>,
    /// Policy whose thresholds decided: that of the scan.
    pub policy_version: String,
    /// Rules that now fail, by severity.
    pub became_failing: BySeverity,
    /// Rules that now pass, by severity.
    pub became_passing: BySeverity,
    /// Of those that now fail, the ones never seen before: new rules, not regressions.
    pub newly_observed_failing: u32,
    /// Rules seen for the first time; they are no part of the score before.
    pub rules_added: u32,
    /// Rules that the full scan before had and this one has not; they are no part of the score after.
    pub rules_removed: u32,
    /// Some checks were lost on the way: an alert there was only for what the rules that were measured made fall.
    pub low_confidence: bool,
    /// Hardly any of the rules were known before: the score before speaks of few of them; nobody was alerted.
    pub low_overlap: bool,
    /// When it was detected.
    #[serde(with = "time::serde::rfc3339")]
    pub detected_at: OffsetDateTime,
}

/// Rules by severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BySeverity {
    /// Critical rules.
    pub critical: u32,
    /// High rules.
    pub high: u32,
    /// Medium rules.
    pub medium: u32,
    /// Low rules, and rules without a severity.
    pub low: u32,
}

impl From<openwatch_model::drift::SeverityCounts> for BySeverity {
    fn from(counts: openwatch_model::drift::SeverityCounts) -> Self {
        Self { critical: counts.critical, high: counts.high, medium: counts.medium, low: counts.low }
    }
}
