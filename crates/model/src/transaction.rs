//! `result_to_transaction`: what changed for one rule on one host.

use serde::{Deserialize, Serialize};

use crate::outcome::{Severity, Status};

/// Why a transaction exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The rule was never seen on this host.
    FirstSeen,
    /// Its status moved (its severity may have moved too; status wins, both priors are kept).
    StateChanged,
    /// Only its severity moved.
    SeverityChanged,
}

impl ChangeKind {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstSeen => "first_seen",
            Self::StateChanged => "state_changed",
            Self::SeverityChanged => "severity_changed",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::FirstSeen, Self::StateChanged, Self::SeverityChanged].into_iter().find(|k| k.as_str() == text)
    }
}

/// What is stored, and what is measured, of one rule on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleState {
    /// Verdict.
    pub status: Status,
    /// Severity, where the rule has one.
    pub severity: Option<Severity>,
}

/// One change: the row of the transaction log without its ids and times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Rule id.
    pub rule: String,
    /// Why it is recorded.
    pub kind: ChangeKind,
    /// Now.
    pub status: Status,
    /// Now.
    pub severity: Option<Severity>,
    /// Before; absent on first sight.
    pub prior_status: Option<Status>,
    /// Before.
    pub prior_severity: Option<Severity>,
}

/// The change from one state to the next, if there is one.
pub fn change(rule: &str, prior: Option<RuleState>, now: RuleState) -> Option<Change> {
    let kind = match prior {
        None => ChangeKind::FirstSeen,
        Some(prior) if prior.status != now.status => ChangeKind::StateChanged,
        Some(prior) if prior.severity != now.severity => ChangeKind::SeverityChanged,
        Some(_) => return None,
    };
    Some(Change {
        rule: rule.to_owned(),
        kind,
        status: now.status,
        severity: now.severity,
        prior_status: prior.map(|p| p.status),
        prior_severity: prior.and_then(|p| p.severity),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_wins_over_severity_and_nothing_is_silent() {
        let state = |status, severity| RuleState { status, severity };
        let high = Some(Severity::High);
        let kind = |prior, now| change("r", prior, now).map(|c| c.kind);
        assert_eq!(kind(None, state(Status::Pass, high)), Some(ChangeKind::FirstSeen));
        assert_eq!(kind(Some(state(Status::Pass, high)), state(Status::Pass, high)), None);
        assert_eq!(
            kind(Some(state(Status::Pass, high)), state(Status::Fail, None)),
            Some(ChangeKind::StateChanged)
        );
        assert_eq!(
            kind(Some(state(Status::Pass, high)), state(Status::Pass, None)),
            Some(ChangeKind::SeverityChanged)
        );
    }
}
