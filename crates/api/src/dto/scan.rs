//! Scans: one measurement of one host.

use openwatch_model::outcome::{Counts, Severity, Status};
use openwatch_model::scan::{FailureReason, Lane, ScanState, Selection};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// A scan to be made. Without framework and rules it is full; only full scans move the host's score and schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewScan {
    /// Name or id of the host.
    pub host: String,
    /// Only rules with references to this framework.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    /// Only these rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

/// The same, where the path names the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHostScan {
    /// Only rules with references to this framework.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<String>,
    /// Only these rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

/// A scan that waits for a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueuedScan {
    /// Its id, made by the server.
    pub scan_id: Uuid,
    /// `queued`.
    #[schema(value_type = String, example = "queued")]
    pub status: ScanState,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub queued_at: OffsetDateTime,
    /// It was waiting already and is now at the front; it measures what it was first asked to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub promoted: bool,
}

/// Which rules a scan measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Selected {
    /// A framework, or `*`.
    pub framework: String,
    /// Rules; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

impl From<Selection> for Selected {
    fn from(selection: Selection) -> Self {
        Self { framework: selection.framework, rules: selection.rules }
    }
}

/// Rules by status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Counts)]
pub struct CountsView {
    /// Rules that passed.
    pub pass: u32,
    /// Rules that failed.
    pub fail: u32,
    /// Rules that were skipped.
    pub skipped: u32,
    /// Rules without a verdict.
    pub error: u32,
}

impl From<Counts> for CountsView {
    fn from(counts: Counts) -> Self {
        Self { pass: counts.pass, fail: counts.fail, skipped: counts.skipped, error: counts.error }
    }
}

/// Who asked for a scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Initiator {
    /// `scheduled` or `manual`.
    #[schema(value_type = String, example = "manual")]
    pub kind: Lane,
    /// `scheduler`, or the name of a token.
    pub actor: String,
}

/// A scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scan {
    /// Its id.
    pub id: Uuid,
    /// The host.
    pub host_id: Uuid,
    /// The host's name.
    pub host: String,
    /// `queued`, `running`, `completed` or `failed`.
    #[schema(value_type = String, example = "completed")]
    pub state: ScanState,
    /// Who asked.
    pub initiator: Initiator,
    /// What it measures.
    pub selection: Selected,
    /// The policy in force when its job was signed; absent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_version: Option<String>,
    /// The corpus it measured with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<String>,
    /// Version of the engine that judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The worker that has or had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Tries so far.
    pub attempt: u32,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub queued_at: OffsetDateTime,
    /// When a worker began.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub started_at: Option<OffsetDateTime>,
    /// When it ended.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<OffsetDateTime>,
    /// Rules by status, once completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<CountsView>,
    /// Percent of the rules with a verdict that pass; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "auth_failed")]
    pub failure: Option<FailureReason>,
    /// More about the failure, for a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_detail: Option<String>,
    /// Nothing at all differed from the scan before: what was known is verified unchanged at `finished_at`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// Transactions it recorded.
    #[serde(default)]
    pub changes: u32,
    /// A newer scan of the host was applied first; this one changed nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub superseded: bool,
}

/// A scan with its outcomes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScanDetail {
    /// The scan.
    pub scan: Scan,
    /// What it found, by rule id.
    pub rules: Vec<ScanRule>,
    /// What differs from the scan before.
    pub changes: Vec<ScanRule>,
    /// Where the time went: `rules`, the five slowest first, each with `rule`, `duration_ms` and `lane`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<serde_json::Value>,
}

/// One rule of a scan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScanRule {
    /// The rule.
    pub rule_id: String,
    /// `pass`, `fail`, `skipped` or `error`.
    #[schema(value_type = String, example = "fail")]
    pub status: Status,
    /// Where the rule has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "high")]
    pub severity: Option<Severity>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_reason: Option<String>,
    /// Of a change: the status before; absent on first sight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "pass")]
    pub prior_status: Option<Status>,
}

/// What one rule ran and what it saw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvidenceView {
    /// The scan that was asked about.
    pub scan_id: Uuid,
    /// The rule.
    pub rule_id: String,
    /// SHA-256 of the evidence, hex.
    pub sha256: String,
    /// See `specs/schemas/evidence.json`.
    pub evidence: serde_json::Value,
}
