//! The bodies of events, version 1 of each. A field once sent is never renamed or removed; a new one is optional.

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType};
use openwatch_model::drift::{Drift, Summary};
use openwatch_model::liveness::{ProbeError, Reachability, Standing};
use openwatch_model::outcome::Counts;
use openwatch_model::scan::{FailureReason, Lane, Rejection};
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::transaction::Change;
use openwatch_model::{AlertId, HostId, ScanId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::message::instant;

/// Most changes in one [`FindingChanged`].
pub const CHANGES_MOST: usize = 200;

/// A worker is about to log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanStarted {
    /// The scan.
    pub scan_id: ScanId,
    /// The host.
    pub host_id: HostId,
    /// 1 for the first try.
    pub attempt: u32,
    /// Who asked.
    pub trigger: Lane,
    /// Framework measured, `*` for every rule.
    pub framework_id: String,
    /// Policy of the scan.
    pub policy_version: String,
    /// Name of the worker.
    pub worker: String,
}

/// A result was applied, or recorded as superseded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScanCompleted {
    /// The scan.
    pub scan_id: ScanId,
    /// The host.
    pub host_id: HostId,
    /// The attempt that gave the result.
    pub attempt: u32,
    /// Place of this scan among the host's scans: of two events, the larger is the later.
    pub host_number: i64,
    /// Who asked.
    pub trigger: Lane,
    /// Framework measured, `*` for every rule.
    pub framework_id: String,
    /// Whether every applicable rule was measured. Only such scans move a host's score and schedule.
    pub full: bool,
    /// A later scan had been applied before: nothing of this one changed any state.
    pub superseded: bool,
    /// Policy of the scan: its thresholds are the scan's.
    pub policy_version: String,
    /// Corpus measured.
    pub corpus: String,
    /// Engine that judged.
    pub engine: String,
    /// How the rules ended.
    pub counts: Counts,
    /// Percent with two decimals; absent when undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Whether a critical rule fails.
    pub critical_failing: bool,
    /// Scores before and after, and what moved.
    pub summary: Summary,
    /// Transactions recorded.
    pub changes: u32,
    /// When the result was applied.
    #[serde(with = "instant")]
    pub finished_at: Timestamp,
}

/// A scan ended without a result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanFailed {
    /// The scan.
    pub scan_id: ScanId,
    /// The host.
    pub host_id: HostId,
    /// The last attempt.
    pub attempt: u32,
    /// Place of this scan among the host's scans.
    pub host_number: i64,
    /// Who asked.
    pub trigger: Lane,
    /// Framework asked for, `*` for every rule.
    pub framework_id: String,
    /// Whether every applicable rule was asked for.
    pub full: bool,
    /// Policy of the scan.
    pub policy_version: String,
    /// Why.
    pub reason: FailureReason,
    /// The rule at fault, where one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule_id: Option<String>,
    /// Failures of this host in a row, this one included, of those that hold it back.
    pub consecutive_failures: u32,
    /// Scans of this host that failed in a row, this one included, whatever the reason; but where workers were stopped.
    /// Absent in what was sent before these were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_scans: Option<u32>,
    /// No scheduled scan before this.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant::optional")]
    pub suppress_until: Option<Timestamp>,
    /// When it was given up.
    #[serde(with = "instant")]
    pub finished_at: Timestamp,
}

/// Transactions of one scan, in one or more messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingChanged {
    /// The scan.
    pub scan_id: ScanId,
    /// The host.
    pub host_id: HostId,
    /// 1 for the first message of the scan.
    pub chunk: u32,
    /// Messages in all.
    pub chunks: u32,
    /// At most [`CHANGES_MOST`].
    pub changes: Vec<Change>,
}

impl FindingChanged {
    /// All changes of a scan, cut into messages; none when nothing changed.
    pub fn chunks(scan_id: ScanId, host_id: HostId, changes: &[Change]) -> Vec<Self> {
        let chunks = changes.len().div_ceil(CHANGES_MOST) as u32;
        let chunk = |(at, changes): (usize, &[Change])| Self {
            scan_id,
            host_id,
            chunk: at as u32 + 1,
            chunks,
            changes: changes.to_vec(),
        };
        changes.chunks(CHANGES_MOST).enumerate().map(chunk).collect()
    }
}

/// A job was not what the scheduler signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRejected {
    /// The scan, when the message really was its current attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan_id: Option<ScanId>,
    /// The host of that scan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_id: Option<HostId>,
    /// What was wrong.
    pub failure: Rejection,
    /// Its place in the job stream.
    pub stream_sequence: u64,
    /// Name of the worker that refused it.
    pub worker: String,
}

/// A host's next scan moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleUpdated {
    /// The host.
    pub host_id: HostId,
    /// The scan that moved it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan_id: Option<ScanId>,
    /// What moved it: `scan_completed`, `scan_failed`, `policy_changed` and the like.
    pub change_kind: String,
    /// Compliance state now.
    pub compliance_state: ComplianceState,
    /// Percent; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compliance_score: Option<f64>,
    /// Minutes between scans.
    pub interval_minutes: u32,
    /// When it is due.
    #[serde(with = "instant")]
    pub next_scan_at: Timestamp,
    /// Policy that decided.
    pub policy_version: String,
}

/// A host's score moved past a threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftDetected {
    /// The host.
    pub host_id: HostId,
    /// The scan.
    pub scan_id: ScanId,
    /// Policy whose thresholds decided.
    pub policy_version: String,
    /// Percent before; absent when undefined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior_score: Option<f64>,
    /// Percent now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_score: Option<f64>,
    /// Percentage points, negative is worse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_delta: Option<f64>,
    /// The answer, and the numbers it came from.
    pub drift: Drift,
}

impl DriftDetected {
    /// Of a drift, with the derived numbers filled in.
    pub fn new(host_id: HostId, scan_id: ScanId, policy_version: String, drift: Drift) -> Self {
        let percent = |score: Score| score.percent();
        Self {
            host_id,
            scan_id,
            policy_version,
            prior_score: percent(drift.summary.before),
            current_score: percent(drift.summary.after),
            score_delta: drift.delta_points(),
            drift,
        }
    }
}

/// A host became reachable or unreachable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HostConnectivity {
    /// The host.
    pub host_id: HostId,
    /// Before.
    pub prior: Reachability,
    /// Now.
    pub status: Reachability,
    /// Counts this host's transitions: of two events, the larger is the later.
    pub transition: i64,
    /// Time to the banner, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<f64>,
    /// Why the last probe failed, when it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ProbeError>,
}

/// The probers lost the network, or have it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProberConnectivity {
    /// Now.
    pub status: Standing,
    /// Counts these changes: of two events, the larger is the later.
    pub transition: i64,
    /// Hosts that were asked, of those that were not down before.
    pub asked: u32,
    /// Of those, hosts that did not answer.
    pub silent: u32,
}

/// A host shows another key than the one on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKeyChanged {
    /// The host.
    pub host_id: HostId,
    /// The scan that was refused for it.
    pub scan_id: ScanId,
    /// Place of that scan among the host's scans.
    pub host_number: i64,
}

macro_rules! alert_event {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            /// The alert.
            pub alert_id: AlertId,
            /// What it is about.
            #[serde(rename = "type")]
            pub kind: AlertType,
            /// How much it matters.
            pub severity: AlertSeverity,
            /// The host, where there is one.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub host_id: Option<HostId>,
            /// Its state now.
            pub state: AlertState,
            $($(#[$field_doc])* pub $field: $type),*
        }
    };
}

alert_event! {
    /// An alert was opened.
    AlertOpened {}
}

alert_event! {
    /// An open alert repeated, changed hands, fell silent or spoke again.
    AlertUpdated {
        /// Its state before; the same when it only repeated.
        prior_state: AlertState,
        /// How often it has happened since it was opened.
        occurrences: u32,
    }
}

alert_event! {
    /// An alert is over: resolved or dismissed.
    AlertResolved {
        /// Its state before.
        prior_state: AlertState,
        /// By another event, not by a person.
        automatic: bool,
    }
}

/// A policy was refused; the one in force stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRejected {
    /// A stable word for the reason.
    pub reason: String,
    /// Version that was offered, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempted_version: Option<String>,
    /// Version in force, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_version: Option<String>,
}

/// A policy was read and found good: from now on it is in force, or it was already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyAccepted {
    /// Version in force.
    pub version: String,
    /// Version in force until now, where there was another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_version: Option<String>,
}

#[cfg(test)]
mod tests {
    use openwatch_model::Status;
    use openwatch_model::transaction::ChangeKind;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn changes_are_cut_into_chunks_and_none_is_lost() {
        let change = |i: usize| Change {
            rule: format!("r{i}"),
            kind: ChangeKind::FirstSeen,
            status: Status::Pass,
            severity: None,
            prior_status: None,
            prior_severity: None,
        };
        let changes: Vec<_> = (0..401).map(change).collect();
        let chunks = FindingChanged::chunks(ScanId(Uuid::nil()), HostId(Uuid::nil()), &changes);
        assert_eq!(
            chunks.iter().map(|c| (c.chunk, c.chunks, c.changes.len())).collect::<Vec<_>>(),
            [(1, 3, 200), (2, 3, 200), (3, 3, 1)]
        );
        let all: Vec<_> = chunks.into_iter().flat_map(|c| c.changes).collect();
        assert_eq!(all, changes);
        assert!(FindingChanged::chunks(ScanId(Uuid::nil()), HostId(Uuid::nil()), &[]).is_empty());
    }
}
