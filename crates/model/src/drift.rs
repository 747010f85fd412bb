//! `transaction_to_drift`: how far a scan moved its host's score.

use serde::{Deserialize, Serialize};

use crate::outcome::{Severity, Status};
use crate::score::Score;
use crate::transaction::{Change, ChangeKind};

/// The four answers (DRF-02).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// Within the thresholds, or nothing to compare with.
    Stable,
    /// Down by at least the minor threshold.
    MinorWorsening,
    /// Down by at least the major threshold.
    MajorWorsening,
    /// Up by at least the improvement threshold.
    Improvement,
}

impl DriftKind {
    /// All four.
    pub const ALL: [Self; 4] = [Self::Stable, Self::MinorWorsening, Self::MajorWorsening, Self::Improvement];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::MinorWorsening => "minor_worsening",
            Self::MajorWorsening => "major_worsening",
            Self::Improvement => "improvement",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// The audit detail `drift_type` (seed): major, minor, improvement; `None` when stable.
    pub fn drift_type(self) -> Option<&'static str> {
        match self {
            Self::Stable => None,
            Self::MinorWorsening => Some("minor"),
            Self::MajorWorsening => Some("major"),
            Self::Improvement => Some("improvement"),
        }
    }
}

/// Thresholds in hundredths of a percentage point: 1000 is 10 pp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    major: u32,
    minor: u32,
    improvement: u32,
}

/// Thresholds that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidThresholds {
    /// Not above 0 and at most 100 percentage points.
    #[error("drift threshold `{0}` must be above 0 and at most 100 percentage points")]
    OutOfRange(&'static str),
    /// Major below minor.
    #[error("drift threshold `major` must not be below `minor`")]
    MajorBelowMinor,
}

impl Default for Thresholds {
    /// 10, 5 and 5 percentage points (seed).
    fn default() -> Self {
        Self { major: 1000, minor: 500, improvement: 500 }
    }
}

impl Thresholds {
    /// From percentage points.
    ///
    /// # Errors
    /// Any value outside (0, 100], or major below minor.
    pub fn new(major: f64, minor: f64, improvement: f64) -> Result<Self, InvalidThresholds> {
        let check = |name, points: f64| {
            let hundredths = (points * 100.0).round();
            if points > 0.0 && (1.0..=10_000.0).contains(&hundredths) {
                Ok(hundredths as u32)
            } else {
                Err(InvalidThresholds::OutOfRange(name))
            }
        };
        let it = Self {
            major: check("major", major)?,
            minor: check("minor", minor)?,
            improvement: check("improvement", improvement)?,
        };
        if it.major < it.minor { Err(InvalidThresholds::MajorBelowMinor) } else { Ok(it) }
    }
}

/// Compares two scores exactly, in whole fractions; either one undefined is stable (DRF-10).
pub fn classify(prior: Score, current: Score, thresholds: Thresholds) -> DriftKind {
    if !prior.is_defined() || !current.is_defined() {
        return DriftKind::Stable;
    }
    let total = |s: Score| i128::from(s.pass) + i128::from(s.fail);
    let (prior_total, current_total) = (total(prior), total(current));
    // delta in hundredths of a point, times both totals: no division, so no rounding on a boundary.
    let delta = (i128::from(current.pass) * prior_total - i128::from(prior.pass) * current_total) * 10_000;
    let scale = prior_total * current_total;
    if delta >= i128::from(thresholds.improvement) * scale {
        DriftKind::Improvement
    } else if delta <= -(i128::from(thresholds.major) * scale) {
        DriftKind::MajorWorsening
    } else if delta <= -(i128::from(thresholds.minor) * scale) {
        DriftKind::MinorWorsening
    } else {
        DriftKind::Stable
    }
}

/// Rules that moved, by severity. Rules without a severity count as low.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SeverityCounts {
    /// Critical rules.
    pub critical: u32,
    /// High rules.
    pub high: u32,
    /// Medium rules.
    pub medium: u32,
    /// Low rules, and rules without a severity.
    pub low: u32,
}

impl SeverityCounts {
    /// Rules of any severity.
    pub fn total(self) -> u32 {
        self.critical.saturating_add(self.high).saturating_add(self.medium).saturating_add(self.low)
    }

    fn add(&mut self, severity: Option<Severity>) {
        match severity {
            Some(Severity::Critical) => self.critical += 1,
            Some(Severity::High) => self.high += 1,
            Some(Severity::Medium) => self.medium += 1,
            Some(Severity::Low) | None => self.low += 1,
        }
    }
}

/// What the writer knew when it applied the scan. Drift needs nothing else, so it does not depend on when it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Summary {
    /// Prior status of this scan's rules; rules first seen are no part of it.
    pub before: Score,
    /// Of this scan.
    pub after: Score,
    /// Rules whose new status is fail (state changes and first sights).
    pub became_failing: SeverityCounts,
    /// Rules that changed to pass.
    pub became_passing: SeverityCounts,
    /// Of `became_failing`, those never seen before: a new rule, not a regression (DRF-15).
    pub newly_observed_failing: u32,
    /// Rules seen for the first time.
    pub rules_added: u32,
    /// Rules that the previous full scan had and this one does not.
    pub rules_removed: u32,
    /// Some checks were lost on the way, and are missing in `after`: see [`Self::seen_after`].
    pub low_confidence: bool,
    /// Hardly any of this scan's rules were known before, so that `before` speaks of few of them: the corpus was
    /// replaced, say. Drift from it pages nobody.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub low_overlap: bool,
}

/// Below this share of the rules, `before` says too little about `after`: one in five.
const OVERLAP_LEAST: u64 = 5;

impl Summary {
    /// The score after, had nothing moved but the rules that were seen to fail or to pass: what was lost stands as it was
    /// before.
    pub fn seen_after(&self) -> Score {
        let failed = self.became_failing.total().saturating_sub(self.newly_observed_failing);
        let passed = self.became_passing.total();
        let Score { pass, fail } = self.before;
        Score {
            pass: pass.saturating_add(passed).saturating_sub(failed),
            fail: fail.saturating_add(failed).saturating_sub(passed),
        }
    }
}

/// Builds the summary of a scan from its score and its changes, inverting each change to find the score before.
///
/// `after` and `changes` must speak of the same rules: those of this scan.
pub fn summarise(after: Score, changes: &[Change], rules_removed: u32, low_confidence: bool) -> Summary {
    let mut it = Summary { before: after, after, rules_removed, low_confidence, ..Summary::default() };
    for change in changes {
        if change.kind == ChangeKind::SeverityChanged {
            continue;
        }
        step(&mut it.before, Some(change.status), -1);
        step(&mut it.before, change.prior_status, 1);
        let first_seen = change.kind == ChangeKind::FirstSeen;
        it.rules_added += u32::from(first_seen);
        match change.status {
            Status::Fail => {
                it.became_failing.add(change.severity);
                it.newly_observed_failing += u32::from(first_seen);
            }
            Status::Pass if !first_seen => it.became_passing.add(change.severity),
            _ => {}
        }
    }
    let scored = |score: Score| u64::from(score.pass) + u64::from(score.fail);
    it.low_overlap = it.before.is_defined() && scored(it.before) * OVERLAP_LEAST < scored(it.after);
    it
}

fn step(score: &mut Score, status: Option<Status>, by: i32) {
    match status {
        Some(Status::Pass) => score.pass = score.pass.saturating_add_signed(by),
        Some(Status::Fail) => score.fail = score.fail.saturating_add_signed(by),
        _ => {}
    }
}

/// The drift of one scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// The answer.
    pub kind: DriftKind,
    /// Whether there was a score before.
    pub has_prior_baseline: bool,
    /// Either score undefined, so nothing could be compared.
    pub score_undefined: bool,
    /// The numbers it came from.
    #[serde(flatten)]
    pub summary: Summary,
}

impl Drift {
    /// Score change in percentage points, negative is worse; `None` when either score is undefined.
    pub fn delta_points(&self) -> Option<f64> {
        let before = i64::from(self.summary.before.hundredths()?);
        let after = i64::from(self.summary.after.hundredths()?);
        Some((after - before) as f64 / 100.0)
    }
}

/// `transaction_to_drift`.
pub fn detect(summary: Summary, thresholds: Thresholds) -> Drift {
    let (before, after) = (summary.before.is_defined(), summary.after.is_defined());
    Drift {
        kind: classify(summary.before, summary.after, thresholds),
        has_prior_baseline: before,
        score_undefined: !(before && after),
        summary,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transaction::{RuleState, change};

    fn percent(pass: u32) -> Score {
        Score { pass, fail: 100 - pass }
    }

    #[test]
    fn golden_cases_at_the_defaults() {
        let kind = |a, b| classify(percent(a), percent(b), Thresholds::default());
        assert_eq!(kind(80, 70), DriftKind::MajorWorsening);
        assert_eq!(kind(80, 76), DriftKind::Stable);
        assert_eq!(kind(80, 75), DriftKind::MinorWorsening);
        assert_eq!(kind(70, 78), DriftKind::Improvement);
        assert_eq!(kind(80, 82), DriftKind::Stable);
        let wide = Thresholds::new(20.0, 10.0, 5.0).unwrap();
        assert_eq!(classify(percent(80), percent(70), wide), DriftKind::MinorWorsening);
    }

    #[test]
    fn thirds_are_exactly_ten_points_apart() {
        // 20/30 to 17/30 is 66.67 to 56.67: floats say 9.999, the fraction says 10.
        let kind =
            classify(Score { pass: 20, fail: 10 }, Score { pass: 17, fail: 13 }, Thresholds::default());
        assert_eq!(kind, DriftKind::MajorWorsening);
    }

    #[test]
    fn thresholds_are_checked() {
        assert_eq!(Thresholds::new(0.0, 5.0, 5.0), Err(InvalidThresholds::OutOfRange("major")));
        assert_eq!(Thresholds::new(10.0, 5.0, 100.5), Err(InvalidThresholds::OutOfRange("improvement")));
        assert_eq!(Thresholds::new(f64::NAN, 5.0, 5.0), Err(InvalidThresholds::OutOfRange("major")));
        assert_eq!(Thresholds::new(4.0, 5.0, 5.0), Err(InvalidThresholds::MajorBelowMinor));
    }

    #[test]
    fn an_undefined_score_is_stable() {
        let drift = detect(Summary { before: percent(90), ..Summary::default() }, Thresholds::default());
        assert_eq!((drift.kind, drift.score_undefined), (DriftKind::Stable, true));
    }

    #[test]
    fn a_handful_of_known_rules_says_little_about_many() {
        let now = |status| RuleState { status, severity: None };
        let first_seen = |n: usize| -> Vec<_> {
            (0..n).filter_map(|n| change(&n.to_string(), None, now(Status::Pass))).collect()
        };
        // One rule known of five is a fifth: enough. One of six is not.
        let of = |added| summarise(Score { pass: added as u32 + 1, fail: 0 }, &first_seen(added), 0, false);
        assert!(!of(4).low_overlap && of(5).low_overlap);
        // A first scan has no overlap at all, and nothing to doubt.
        assert!(!summarise(Score { pass: 9, fail: 0 }, &first_seen(9), 0, false).low_overlap);
    }

    fn state() -> impl Strategy<Value = RuleState> {
        let severity = prop_oneof![
            Just(None),
            Just(Some(Severity::Low)),
            Just(Some(Severity::High)),
            Just(Some(Severity::Critical))
        ];
        let status =
            prop_oneof![Just(Status::Pass), Just(Status::Fail), Just(Status::Skipped), Just(Status::Error)];
        (status, severity).prop_map(|(status, severity)| RuleState { status, severity })
    }

    // @spec drift-detector
    // @ac AC-15
    /// The score before, found by inverting the changes, is the score of the prior states of this scan's rules.
    #[test]
    fn inverting_the_changes_gives_the_prior_score() {
        println!("@spec drift-detector\n@ac AC-15");
        let history = prop::collection::vec((prop::option::of(state()), state()), 0..60);
        let score = |states: Vec<RuleState>| Score {
            pass: states.iter().filter(|s| s.status == Status::Pass).count() as u32,
            fail: states.iter().filter(|s| s.status == Status::Fail).count() as u32,
        };
        proptest!(|(rules in history)| {
            let numbered = rules.iter().enumerate();
            let changes: Vec<_> = numbered.filter_map(|(i, (prior, now))| change(&i.to_string(), *prior, *now)).collect();
            let after = score(rules.iter().map(|(_, now)| *now).collect());
            let before = score(rules.iter().filter_map(|(prior, _)| *prior).collect());
            prop_assert_eq!(summarise(after, &changes, 0, false).before, before);
        });
    }
}
