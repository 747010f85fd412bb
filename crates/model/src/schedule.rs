//! When a host is scanned next: `schedule_to_job`'s side of the pipeline. Pure; the caller emits what is returned.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::score::ComplianceState;

/// No tier is scanned more often (seed).
pub const FLOOR_MINUTES: u32 = 5;
/// No tier waits longer (seed).
pub const CAP_MINUTES: u32 = 48 * 60;
/// Consecutive failures before backoff begins (EXE-20).
pub const BACKOFF_AFTER: u32 = 3;
/// Longest backoff (EXE-20).
pub const BACKOFF_CAP: Duration = Duration::from_secs(24 * 3600);

/// Minutes between scans for each state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder(pub BTreeMap<ComplianceState, u32>);

/// Which bound an interval ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClampKind {
    /// Raised to five minutes.
    MinFloor,
    /// Lowered to 48 hours.
    MaxCeiling,
}

/// One interval that the policy set out of bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// The tier.
    pub tier: ComplianceState,
    /// As written.
    pub original_minutes: u64,
    /// As used.
    pub clamped_minutes: u32,
    /// Which bound.
    pub kind: ClampKind,
}

/// Clamps a policy's intervals. A tier that is missing waits 48 h: an incomplete policy never scans too fast (SCH-02).
pub fn load_intervals(tiers: &BTreeMap<ComplianceState, u64>) -> (Ladder, Vec<Clamp>) {
    let mut clamps = Vec::new();
    let ladder = ComplianceState::ALL.into_iter().map(|tier| {
        let original = tiers.get(&tier).copied().unwrap_or(u64::from(CAP_MINUTES));
        let clamped = original.clamp(u64::from(FLOOR_MINUTES), u64::from(CAP_MINUTES)) as u32;
        if u64::from(clamped) != original {
            let kind =
                if original < u64::from(FLOOR_MINUTES) { ClampKind::MinFloor } else { ClampKind::MaxCeiling };
            clamps.push(Clamp { tier, original_minutes: original, clamped_minutes: clamped, kind });
        }
        (tier, clamped)
    });
    let ladder = Ladder(ladder.collect());
    (ladder, clamps)
}

impl Ladder {
    /// Minutes for a state; a state without a tier gets the shortest known one (SCH-09).
    pub fn minutes(&self, state: ComplianceState) -> u32 {
        let shortest = || self.0.values().min().copied().unwrap_or(CAP_MINUTES);
        self.0.get(&state).copied().unwrap_or_else(shortest).min(CAP_MINUTES)
    }
}

/// When a host in `state` is due again. `None`: never finished a scan, so at once (SCH-08).
pub fn next_scan_for(
    state: ComplianceState,
    last_finished: Option<Timestamp>,
    ladder: &Ladder,
) -> Option<Timestamp> {
    last_finished.map(|at| at + Duration::from_secs(u64::from(ladder.minutes(state)) * 60))
}

/// Why a host is due when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DueReason {
    /// Registered and never asked to be scanned.
    FirstContact,
    /// The same, put in a line because more such hosts arrived than the rate limit lets through.
    Spread,
    /// One interval of its tier after its scan.
    Interval,
    /// Its scan failed; tried again soon.
    Retry,
    /// Its scans failed again and again; left alone for a while.
    Backoff,
}

impl DueReason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::FirstContact, Self::Spread, Self::Interval, Self::Retry, Self::Backoff];

    /// The column and wire value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstContact => "first_contact",
            Self::Spread => "spread",
            Self::Interval => "interval",
            Self::Retry => "retry",
            Self::Backoff => "backoff",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}

/// A host's failures so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// No scheduled scan before this.
    pub suppress_until: Option<Timestamp>,
}

/// One more failure: from the third on, twice the interval, doubling, at most a day (EXE-20).
pub fn backoff_after_failure(prior: Backoff, interval_minutes: u32, now: Timestamp) -> Backoff {
    let failures = prior.consecutive_failures.saturating_add(1);
    if failures < BACKOFF_AFTER {
        return Backoff { consecutive_failures: failures, suppress_until: prior.suppress_until };
    }
    let doublings = (failures - BACKOFF_AFTER + 1).min(20);
    let wait = Duration::from_secs(u64::from(interval_minutes.max(1)) * 60 * (1u64 << doublings));
    Backoff { consecutive_failures: failures, suppress_until: Some(now + wait.min(BACKOFF_CAP)) }
}

/// When a failed scan's host is tried again: soon, but never before its backoff ends, and a backoff that is shorter
/// than the tier's interval never shortens a running wait (EXE-23, SCH 1g-4).
pub fn next_after_failure(backoff: Backoff, now: Timestamp) -> (Timestamp, DueReason) {
    let retry = now + Duration::from_secs(u64::from(FLOOR_MINUTES) * 60);
    match backoff.suppress_until.filter(|until| *until > retry) {
        Some(until) => (until, DueReason::Backoff),
        None => (retry, DueReason::Retry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_timestamp(seconds).unwrap()
    }

    #[test]
    fn intervals_are_clamped_and_missing_tiers_wait_longest() {
        let tiers = BTreeMap::from([
            (ComplianceState::Critical, 1),
            (ComplianceState::Partial, 9999),
            (ComplianceState::Compliant, 1440),
        ]);
        let (ladder, clamps) = load_intervals(&tiers);
        assert_eq!(ladder.minutes(ComplianceState::Critical), 5);
        assert_eq!(ladder.minutes(ComplianceState::Partial), 2880);
        assert_eq!(ladder.minutes(ComplianceState::Compliant), 1440);
        assert_eq!(ladder.minutes(ComplianceState::Unknown), 2880);
        assert_eq!(clamps.len(), 2);
        assert_eq!(clamps[0].kind, ClampKind::MinFloor);
        assert_eq!(clamps[1].kind, ClampKind::MaxCeiling);
    }

    #[test]
    fn a_state_without_a_tier_takes_the_shortest() {
        let ladder =
            Ladder(BTreeMap::from([(ComplianceState::Partial, 60), (ComplianceState::Compliant, 600)]));
        assert_eq!(ladder.minutes(ComplianceState::Critical), 60);
        assert_eq!(next_scan_for(ComplianceState::Partial, None, &ladder), None);
        assert_eq!(next_scan_for(ComplianceState::Partial, Some(at(0)), &ladder), Some(at(3600)));
    }

    #[test]
    fn backoff_starts_at_the_third_failure_and_doubles_to_a_day() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..9 {
            backoff = backoff_after_failure(backoff, 60, at(0));
            waits.push(backoff.suppress_until.map(|t| t.unix_timestamp() / 3600));
        }
        assert_eq!(waits, [None, None, Some(2), Some(4), Some(8), Some(16), Some(24), Some(24), Some(24)]);
        assert_eq!(next_after_failure(Backoff::default(), at(0)), (at(300), DueReason::Retry));
        let until = Some(at(7200));
        let suppressed = Backoff { consecutive_failures: 3, suppress_until: until };
        assert_eq!(next_after_failure(suppressed, at(0)), (at(7200), DueReason::Backoff));
    }
}
