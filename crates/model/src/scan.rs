//! What is asked of a worker and what it answers.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::credential::SudoMode;
pub use crate::failure::{Failure, FailureReason};
use crate::host::{HostKeyMode, KnownKey, Platform};
use crate::outcome::Outcome;
use crate::{HostId, ScanId, Timestamp};

/// Which queue a job waits in. One consumer each, so that a person never waits behind the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// Asked for by a person or a script.
    Manual,
    /// Asked for by the schedule.
    Scheduled,
}

impl Lane {
    /// Both lanes, the one to serve first first.
    pub const ALL: [Self; 2] = [Self::Manual, Self::Scheduled];

    /// The subject token, column value and metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Scheduled => "scheduled",
        }
    }

    /// Reads a subject token or column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.as_str() == text)
    }
}

/// Where a scan is in its life. `Completed` and `Failed` are terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScanState {
    /// Asked for; no worker has begun.
    Queued,
    /// A worker reported that it was about to log in.
    Running,
    /// Its result was applied, or recorded as superseded.
    Completed,
    /// It ended without a usable result.
    Failed,
}

impl ScanState {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Queued, Self::Running, Self::Completed, Self::Failed];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Whether nothing more can happen to it.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

/// Which rules a scan measures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// A framework id, or `*` for every applicable rule.
    pub framework: String,
    /// Rule ids; empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
}

impl Selection {
    /// Every applicable rule.
    pub fn full() -> Self {
        Self { framework: "*".into(), rules: Vec::new() }
    }

    /// Whether it measures everything. Only full scans move a host's score, tier and schedule.
    pub fn is_full(&self) -> bool {
        self.framework == "*" && self.rules.is_empty()
    }
}

/// One attempt at one scan, as a worker is told of it. Carries no secret.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The scan.
    pub scan: ScanId,
    /// 1 for the first try.
    pub attempt: u32,
    /// The host.
    pub host: HostId,
    /// Place of this scan among the host's scans, given at queueing. Decides order, never a worker's clock.
    pub host_number: i64,
    /// What to measure.
    pub selection: Selection,
    /// Policy in force when the job was signed; thresholds of this scan are those of this version.
    pub policy_version: String,
    /// Unix time in nanoseconds (JOB-14).
    pub enqueued_at_ns: i64,
    /// Which lane it was sent on.
    pub lane: Lane,
    /// Who asked: `scheduler`, or the name of a token.
    pub actor: String,
    /// Address to dial: a name, IPv4 or IPv6.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user.
    pub user: String,
    /// How to become root.
    pub sudo: SudoMode,
    /// Limit for the whole scan.
    pub timeout: Duration,
    /// First-contact rule.
    pub host_key_mode: HostKeyMode,
    /// Keys on record for this address and port.
    pub known_keys: Vec<KnownKey>,
    /// The host to go through; absent when it is dialled directly.
    pub jump: Option<Jump>,
    /// SHA-256 of the corpus, hex.
    pub corpus: String,
    /// Variables that differ from the corpus's defaults.
    pub variables: BTreeMap<String, String>,
}

/// The host that another one is reached through. It has a credential and host keys of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// That host.
    pub host: HostId,
    /// Address to dial.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user there.
    pub user: String,
    /// Keys on record for that address and port.
    pub known_keys: Vec<KnownKey>,
}

/// Oldest a job may be when a worker takes it (JOB-11).
pub const JOB_MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Furthest into the future a job may be dated (JOB-11).
pub const JOB_MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// Whether a job of that time may still be run.
///
/// # Errors
/// `Expired` when older than [`JOB_MAX_AGE`] or dated more than [`JOB_MAX_SKEW`] ahead.
pub fn check_fresh(enqueued_at_ns: i64, now_ns: i64) -> Result<(), Rejection> {
    let age = i128::from(now_ns) - i128::from(enqueued_at_ns);
    let oldest = JOB_MAX_AGE.as_nanos() as i128;
    let newest = -(JOB_MAX_SKEW.as_nanos() as i128);
    if age > oldest || age < newest { Err(Rejection::Expired) } else { Ok(()) }
}

/// Why a job was refused before anything was done (JOB-09). Security relevant: each one is audited and alerted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The tag does not match the bytes and lane.
    HmacMismatch,
    /// No tag or key id in the headers.
    PayloadMissingHmac,
    /// The tag matches but the payload cannot be read.
    Malformed,
    /// Signed with a key this worker does not hold.
    UnknownKey,
    /// Too old, or dated in the future.
    Expired,
    /// A version of the job message that this worker does not know.
    UnsupportedVersion,
}

impl Rejection {
    /// The wire and audit value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HmacMismatch => "hmac_mismatch",
            Self::PayloadMissingHmac => "payload_missing_hmac",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::Expired => "expired",
            Self::UnsupportedVersion => "unsupported_version",
        }
    }
}

/// How long one rule took, kept outside evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleTiming {
    /// Rule id.
    pub rule: String,
    /// Time on the target in milliseconds.
    pub duration_ms: u64,
    /// Lane that ran it.
    pub lane: u8,
}

/// Timings kept of a scan: all of them would be most of what an unchanged scan writes, and nobody asks for the fast ones.
pub const TIMINGS_KEPT: usize = 5;

/// The [`TIMINGS_KEPT`] slowest, the slowest first.
pub fn slowest(mut all: Vec<RuleTiming>) -> Vec<RuleTiming> {
    all.sort_by_key(|timing| std::cmp::Reverse(timing.duration_ms));
    all.truncate(TIMINGS_KEPT);
    all
}

/// A finished measurement of one host, as `measure` returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Operating system found.
    pub platform: Platform,
    /// Capability probes, name to answer.
    pub capabilities: BTreeMap<String, bool>,
    /// One per selected rule, in rule id order.
    pub outcomes: Vec<Outcome>,
    /// One per rule that ran something; of what is sent to the writer the [`slowest`].
    pub timings: Vec<RuleTiming>,
    /// Checks lost to transport and checks planned; more than a fifth lost fails the scan.
    pub lost_checks: u32,
    /// Distinct commands planned.
    pub planned_checks: u32,
    /// Why the batch could not be used, when it could not.
    pub fallback: Option<String>,
    /// SSH executions used.
    pub executions: u32,
}

impl Measurement {
    /// Whether transport took too much for the rest to be trusted: more than 20 % (design 3.1).
    pub fn transport_lost(&self) -> bool {
        u64::from(self.lost_checks) * 5 > u64::from(self.planned_checks)
    }

    /// Some checks were lost to transport: what they would have said is in no drift.
    pub fn low_confidence(&self) -> bool {
        self.lost_checks > 0
    }
}

/// What the worker says at the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It measured.
    Completed(Measurement),
    /// It did not.
    Failed(Failure),
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanResult {
    /// The scan.
    pub scan: ScanId,
    /// The attempt.
    pub attempt: u32,
    /// The host.
    pub host: HostId,
    /// From the job.
    pub host_number: i64,
    /// Name of the worker.
    pub worker: String,
    /// The worker's clock: shown, never used to order.
    pub started_at: Timestamp,
    /// The worker's clock.
    pub finished_at: Timestamp,
    /// Version of the engine that judged (EXE-26).
    pub engine: String,
    /// Corpus measured.
    pub corpus: String,
    /// A key accepted on first contact under tofu.
    pub learned_key: Option<KnownKey>,
    /// The same of the jump host, and which host that was.
    pub learned_jump_key: Option<(HostId, KnownKey)>,
    /// A key that was shown and not believed: for a person to judge, never trusted for having been shown.
    pub shown_key: Option<KnownKey>,
    /// The end of it.
    pub verdict: Verdict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_fresh_for_a_day_and_five_minutes_of_skew() {
        let second = 1_000_000_000i64;
        let now = 1_800_000_000 * second;
        assert_eq!(check_fresh(now - 24 * 3600 * second, now), Ok(()));
        assert_eq!(check_fresh(now - 24 * 3600 * second - 1, now), Err(Rejection::Expired));
        assert_eq!(check_fresh(now + 300 * second, now), Ok(()));
        assert_eq!(check_fresh(now + 300 * second + 1, now), Err(Rejection::Expired));
        assert_eq!(check_fresh(i64::MIN, i64::MAX), Err(Rejection::Expired));
    }
}
