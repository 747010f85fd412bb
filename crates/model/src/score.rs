//! The one score formula and the ladder from score to compliance state.

use serde::{Deserialize, Serialize};

use crate::outcome::Counts;

/// Passed and failed rules: the score is their ratio, undefined when there are neither.
/// Kept as integers so that comparisons on a boundary are exact (DRF-24).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// Rules that passed.
    pub pass: u32,
    /// Rules that failed.
    pub fail: u32,
}

impl Score {
    /// Of some counts: skipped rules and errors are no part of it.
    pub fn of(counts: Counts) -> Self {
        Self { pass: counts.pass, fail: counts.fail }
    }

    /// Whether there is anything to score.
    pub fn is_defined(self) -> bool {
        self.pass + self.fail > 0
    }

    /// Hundredths of a percent, rounded half up: 6667 for two of three. `None` when undefined.
    pub fn hundredths(self) -> Option<u32> {
        let total = u64::from(self.pass) + u64::from(self.fail);
        (total > 0).then(|| ((u64::from(self.pass) * 20_000 + total) / (2 * total)) as u32)
    }

    /// Percent with two decimals, for people and JSON.
    pub fn percent(self) -> Option<f64> {
        self.hundredths().map(|h| f64::from(h) / 100.0)
    }
}

/// The compliance state of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComplianceState {
    /// Never scored.
    #[default]
    Unknown,
    /// Below 50, or a critical rule fails.
    Critical,
    /// From 50 to below 80.
    NonCompliant,
    /// From 80 to below 100.
    Partial,
    /// 100.
    Compliant,
}

impl ComplianceState {
    /// All states, worst first.
    pub const ALL: [Self; 5] =
        [Self::Unknown, Self::Critical, Self::NonCompliant, Self::Partial, Self::Compliant];

    /// The wire, policy and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Critical => "critical",
            Self::NonCompliant => "non_compliant",
            Self::Partial => "partial",
            Self::Compliant => "compliant",
        }
    }

    /// Reads a policy or column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// State from score: the first band whose floor (percent) the score reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bands(pub Vec<(u32, ComplianceState)>);

impl Default for Bands {
    /// Seed cut-offs: 100, 80, 50.
    fn default() -> Self {
        use ComplianceState::{Compliant, Critical, NonCompliant, Partial};
        Self(vec![(100, Compliant), (80, Partial), (50, NonCompliant), (0, Critical)])
    }
}

impl Bands {
    /// The state for a score. A failing critical rule is critical whatever the score; an undefined score keeps the
    /// prior state (SCH-11).
    pub fn classify(&self, score: Score, critical_failing: bool, prior: ComplianceState) -> ComplianceState {
        if critical_failing {
            return ComplianceState::Critical;
        }
        if !score.is_defined() {
            return prior;
        }
        let (pass, total) = (u64::from(score.pass), u64::from(score.pass) + u64::from(score.fail));
        self.0
            .iter()
            .find(|(floor, _)| pass * 100 >= u64::from(*floor) * total)
            .map_or(ComplianceState::Critical, |(_, state)| *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_exact_on_their_boundaries() {
        let state = |pass, fail| {
            Bands::default().classify(Score { pass, fail }, false, ComplianceState::Unknown).as_str()
        };
        assert_eq!(state(10, 0), "compliant");
        assert_eq!(state(999, 1), "partial");
        assert_eq!(state(80, 20), "partial");
        assert_eq!(state(7999, 2001), "non_compliant");
        assert_eq!(state(1, 1), "non_compliant");
        assert_eq!(state(49, 51), "critical");
    }

    #[test]
    fn a_critical_finding_wins_and_an_undefined_score_keeps_the_state() {
        let bands = Bands::default();
        assert_eq!(
            bands.classify(Score { pass: 99, fail: 1 }, true, ComplianceState::Partial),
            ComplianceState::Critical
        );
        assert_eq!(
            bands.classify(Score::default(), false, ComplianceState::Partial),
            ComplianceState::Partial
        );
    }

    #[test]
    fn scores_round_half_up() {
        assert_eq!(Score { pass: 2, fail: 1 }.hundredths(), Some(6667));
        assert_eq!(Score { pass: 1, fail: 2 }.hundredths(), Some(3333));
        assert_eq!(Score::default().hundredths(), None);
        assert_eq!(Score { pass: 7, fail: 0 }.percent(), Some(100.0));
    }
}
