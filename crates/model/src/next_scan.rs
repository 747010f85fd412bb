//! When a host is scanned next, and why then: what the scheduler will do, in words for a person. Pure.

use std::fmt;
use std::time::Duration;

use crate::Timestamp;
use crate::policy::Policy;
use crate::scan::ScanState;
use crate::schedule::{BACKOFF_AFTER, DueReason};
use crate::score::ComplianceState;

/// What is known of a host's schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts<'a> {
    /// Name, as policies use it.
    pub name: &'a str,
    /// Its state.
    pub state: ComplianceState,
    /// When its row falls due.
    pub due_at: Timestamp,
    /// Why then.
    pub reason: DueReason,
    /// Minutes of its tier.
    pub interval_minutes: u32,
    /// In maintenance by hand.
    pub maintenance: bool,
    /// Until then; absent means until called off.
    pub maintenance_until: Option<Timestamp>,
    /// Failures in a row.
    pub failures: u32,
    /// Backoff lasts until then.
    pub suppress_until: Option<Timestamp>,
    /// The scan under way, if any.
    pub open: Option<ScanState>,
    /// Due hosts that are dispatched before it.
    pub ahead: u64,
}

/// One cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It was never scanned.
    FirstContact,
    /// More new hosts arrived at once than the limit lets through.
    Spread {
        /// The limit.
        per_minute: Option<u32>,
    },
    /// Its tier.
    Interval {
        /// The state.
        state: ComplianceState,
        /// Minutes between scans.
        minutes: u32,
    },
    /// Its last scan failed.
    Retry {
        /// Failures in a row.
        failures: u32,
    },
    /// Its last scans failed.
    Backoff {
        /// Failures in a row.
        failures: u32,
        /// Until when it is left alone.
        until: Timestamp,
    },
    /// A scan of it is under way.
    OpenScan {
        /// How far that is.
        state: ScanState,
    },
    /// Somebody put it into maintenance.
    Maintenance {
        /// Until then; absent means until called off.
        until: Option<Timestamp>,
    },
    /// The policy names it among the hosts in maintenance.
    PolicyMaintenance,
    /// The policy puts the whole fleet into maintenance.
    FleetMaintenance,
    /// It is due and waits for its turn.
    RateLimit {
        /// Due hosts before it.
        ahead: u64,
        /// The limit.
        per_minute: u32,
    },
}

impl Why {
    /// The wire value.
    pub fn code(&self) -> &'static str {
        match self {
            Self::FirstContact => "first_contact",
            Self::Spread { .. } => "spread",
            Self::Interval { .. } => "interval",
            Self::Retry { .. } => "retry",
            Self::Backoff { .. } => "backoff",
            Self::OpenScan { .. } => "open_scan",
            Self::Maintenance { .. } => "maintenance",
            Self::PolicyMaintenance => "policy_maintenance",
            Self::FleetMaintenance => "fleet_maintenance",
            Self::RateLimit { .. } => "rate_limit",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstContact => write!(f, "it was never scanned, so it is due at once"),
            Self::Spread { per_minute: Some(limit) } => {
                write!(
                    f,
                    "more new hosts came at once than the {limit} per minute that the policy lets through, so they are lined up"
                )
            }
            Self::Spread { per_minute: None } => write!(f, "it was lined up with other new hosts"),
            Self::Interval { state, minutes } => {
                write!(
                    f,
                    "hosts that are {} are scanned every {minutes} minutes",
                    state.as_str().replace('_', "-")
                )
            }
            Self::Retry { failures } => {
                write!(f, "its last scan failed ({failures} in a row); it is tried again soon")
            }
            Self::Backoff { failures, until } => {
                write!(
                    f,
                    "backoff: {failures} scans in a row failed; it is left alone until {}",
                    minute(*until)
                )
            }
            Self::OpenScan { state: ScanState::Running } => {
                write!(f, "a scan of it is running; its end decides the next one")
            }
            Self::OpenScan { .. } => {
                write!(f, "a scan of it waits for a worker; its end decides the next one")
            }
            Self::Maintenance { until: Some(until) } => write!(f, "maintenance until {}", minute(*until)),
            Self::Maintenance { until: None } => {
                write!(f, "maintenance until somebody ends it (`openwatch host maintenance HOST --off`)")
            }
            Self::PolicyMaintenance => write!(f, "maintenance: the policy in force names it"),
            Self::FleetMaintenance => write!(f, "maintenance of the whole fleet by the policy in force"),
            Self::RateLimit { ahead, per_minute } => {
                write!(f, "it is due; {ahead} hosts go before it at {per_minute} per minute")
            }
        }
    }
}

fn minute(at: Timestamp) -> String {
    let (date, time) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02} UTC", time.hour(), time.minute(), time.second())
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub struct NextScan {
    /// About when; `None` when nobody can say.
    pub at: Option<Timestamp>,
    /// Why then: what made it due first, then what holds it back.
    pub why: Vec<Why>,
}

/// When a host is scanned next by the scheduler. Scans asked for by hand are not in it: they wait for nothing of this.
pub fn next_scan(facts: &Facts<'_>, policy: &Policy, now: Timestamp) -> NextScan {
    let mut why = vec![match facts.reason {
        DueReason::FirstContact => Why::FirstContact,
        DueReason::Spread => Why::Spread { per_minute: policy.dispatch_per_minute },
        DueReason::Interval => Why::Interval { state: facts.state, minutes: facts.interval_minutes },
        DueReason::Retry | DueReason::Backoff => Why::Retry { failures: facts.failures },
    }];
    let mut at = Some(facts.due_at.max(now));
    if let Some(until) = facts.suppress_until.filter(|until| *until > now && facts.failures >= BACKOFF_AFTER)
    {
        why.push(Why::Backoff { failures: facts.failures, until });
        at = at.map(|at| at.max(until));
    }
    if facts.maintenance {
        why.push(Why::Maintenance { until: facts.maintenance_until });
        at = at.zip(facts.maintenance_until).map(|(at, until)| at.max(until));
    }
    if policy.maintenance.all {
        why.push(Why::FleetMaintenance);
        at = None;
    } else if policy.in_maintenance(facts.name) {
        why.push(Why::PolicyMaintenance);
        at = None;
    }
    if let Some(state) = facts.open {
        why.push(Why::OpenScan { state });
        at = None;
    }
    if let (Some(per_minute), true) = (policy.dispatch_per_minute, at == Some(now)) {
        why.push(Why::RateLimit { ahead: facts.ahead, per_minute });
        at = Some(now + Duration::from_secs(facts.ahead.saturating_mul(60) / u64::from(per_minute.max(1))));
    }
    NextScan { at, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyDocument;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix_timestamp(seconds).unwrap()
    }

    fn policy(extra: &str) -> Policy {
        let document: PolicyDocument =
            serde_json::from_str(&format!(r#"{{"version": "1.0.0"{extra}}}"#)).unwrap();
        document.check().unwrap().0
    }

    fn facts() -> Facts<'static> {
        Facts {
            name: "web-1",
            state: ComplianceState::NonCompliant,
            due_at: at(500),
            reason: DueReason::Interval,
            interval_minutes: 60,
            maintenance: false,
            maintenance_until: None,
            failures: 0,
            suppress_until: None,
            open: None,
            ahead: 0,
        }
    }

    #[test]
    fn each_cause_is_told_and_moves_the_time() {
        let limited = policy(r#", "dispatch_per_minute": 10"#);
        let fleet = policy(r#", "maintenance": {"all": true}"#);
        let named = policy(r#", "maintenance": {"hosts": ["web-1"]}"#);
        let plain = policy("");
        type Change = fn(&mut Facts<'static>);
        let rows: [(&Policy, Change, Option<i64>, &str); 10] = [
            (&plain, |_| {}, Some(500), "non-compliant are scanned every 60 minutes"),
            (&plain, |f| (f.due_at, f.reason) = (at(0), DueReason::FirstContact), Some(100), "never scanned"),
            (&limited, |f| f.reason = DueReason::Spread, Some(500), "10 per minute"),
            (&plain, |f| (f.reason, f.failures) = (DueReason::Retry, 1), Some(500), "tried again soon"),
            (
                &plain,
                |f| (f.failures, f.suppress_until) = (3, Some(at(7200))),
                Some(7200),
                "backoff: 3 scans",
            ),
            (
                &plain,
                |f| (f.maintenance, f.maintenance_until) = (true, Some(at(900))),
                Some(900),
                "until 1970-01-01 00:15",
            ),
            (&plain, |f| f.maintenance = true, None, "until somebody ends it"),
            (&fleet, |_| {}, None, "whole fleet"),
            (&named, |_| {}, None, "the policy in force names it"),
            (&plain, |f| f.open = Some(ScanState::Running), None, "running"),
        ];
        for (policy, change, when, word) in rows {
            let mut facts = facts();
            change(&mut facts);
            let told = next_scan(&facts, policy, at(100));
            assert_eq!(told.at, when.map(at), "{word}: {told:?}");
            let text: Vec<_> = told.why.iter().map(ToString::to_string).collect();
            assert!(text.last().unwrap().contains(word), "{word}: {text:?}");
        }
    }

    #[test]
    fn a_due_host_waits_for_its_turn() {
        let mut facts = facts();
        (facts.due_at, facts.ahead) = (at(0), 25);
        let told = next_scan(&facts, &policy(r#", "dispatch_per_minute": 10"#), at(100));
        assert_eq!(told.at, Some(at(250)));
        assert_eq!(told.why.last(), Some(&Why::RateLimit { ahead: 25, per_minute: 10 }));
    }
}
