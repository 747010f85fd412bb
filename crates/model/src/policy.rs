//! The signed document that sets cadence, thresholds, host-key policy, variables and limits.
//!
//! [`PolicyDocument`] is what a person writes; [`Policy`] is what passed every check.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::drift::Thresholds;
use crate::host::HostKeyMode;
use crate::liveness;
use crate::schedule::{Clamp, Ladder, load_intervals};
use crate::score::{Bands, ComplianceState};

/// `schedules.yaml` as written. Unknown fields are refused: a typing mistake must not scan the wrong hosts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyDocument {
    /// Semantic version, strictly rising.
    pub version: String,
    /// Minutes between scans for each compliance state.
    #[serde(default)]
    pub tiers: BTreeMap<ComplianceState, u64>,
    /// Score floors in percent for each state; absent means 100, 80, 50, 0.
    #[serde(default)]
    pub bands: BTreeMap<ComplianceState, u32>,
    /// Who is left alone.
    #[serde(default)]
    pub maintenance: Maintenance,
    /// First-contact rule.
    #[serde(default)]
    pub host_key_policy: HostKeyMode,
    /// Whole-scan limit in seconds, 10 to 7200.
    #[serde(default = "default_timeout")]
    pub executor_timeout_sec: u64,
    /// Drift thresholds in percentage points.
    #[serde(default)]
    pub drift: DriftSection,
    /// Probing.
    #[serde(default)]
    pub liveness: LivenessSection,
    /// Alerts.
    #[serde(default)]
    pub alerts: AlertSection,
    /// Most hosts dispatched per minute; absent or 0 means no limit.
    #[serde(default)]
    pub dispatch_per_minute: u32,
    /// Corpus digest that jobs name; absent means the newest publication.
    #[serde(default)]
    pub corpus: Option<String>,
    /// Rule variables.
    #[serde(default)]
    pub variables: VariableSection,
    /// Whether a manual scan moves the next scheduled one.
    #[serde(default)]
    pub manual_scan_refreshes_schedule: bool,
}

fn default_timeout() -> u64 {
    600
}

/// Maintenance by policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Maintenance {
    /// No scheduled scan anywhere.
    #[serde(default)]
    pub all: bool,
    /// No scheduled scan of these hosts, by name.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// Drift thresholds in percentage points.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DriftSection {
    /// Down by this much is major.
    pub major: f64,
    /// Down by this much is minor.
    pub minor: f64,
    /// Up by this much is an improvement.
    pub improvement: f64,
}

impl Default for DriftSection {
    fn default() -> Self {
        Self { major: 10.0, minor: 5.0, improvement: 5.0 }
    }
}

/// Probing.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LivenessSection {
    /// Seconds between probes, clamped to 60 to 3600; 0 means 300.
    pub interval_sec: u64,
    /// Failures in a row that count as an outage; 0 means 2.
    pub threshold: u32,
    /// When more than this percentage of the hosts fall silent together, the probers' own network is blamed; absent means
    /// 50, 0 means never.
    pub isolation_percent: Option<u32>,
}

/// Alerts.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlertSection {
    /// Seconds within which a repeat of an open alert notifies nobody, 60 to 86400; 0 means 3600.
    pub dedup_ttl_sec: u64,
}

/// Rule variables; later tiers win: fleet, label (in label order), host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VariableSection {
    /// For every host.
    pub fleet: BTreeMap<String, String>,
    /// For hosts with a label, written `key=value`.
    pub labels: BTreeMap<String, BTreeMap<String, String>>,
    /// For one host, by name.
    pub hosts: BTreeMap<String, BTreeMap<String, String>>,
}

/// A policy in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Its version.
    pub version: String,
    /// Intervals, clamped.
    pub ladder: Ladder,
    /// Score bands.
    pub bands: Bands,
    /// Who is left alone.
    pub maintenance: Maintenance,
    /// First-contact rule.
    pub host_key_mode: HostKeyMode,
    /// Whole-scan limit.
    pub timeout: Duration,
    /// Drift thresholds.
    pub thresholds: Thresholds,
    /// Probe interval, clamped.
    pub liveness_interval: Duration,
    /// Probe failures that count.
    pub liveness_threshold: u32,
    /// Percentage of silent hosts above which the probers' own network is blamed; 0 is never.
    pub isolation_percent: u32,
    /// Repeat window of open alerts.
    pub dedup_ttl: Duration,
    /// Most hosts per minute; `None` is no limit.
    pub dispatch_per_minute: Option<u32>,
    /// Corpus that jobs name.
    pub corpus: Option<String>,
    /// Rule variables.
    pub variables: VariableSection,
    /// Whether manual scans move the schedule.
    pub manual_scan_refreshes_schedule: bool,
}

/// Something in a policy that cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` {problem}")]
pub struct PolicyProblem {
    /// Where.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// The parts of `MAJOR.MINOR.PATCH`; `None` when it is not three plain numbers.
pub fn parse_version(text: &str) -> Option<(u64, u64, u64)> {
    let mut parts = text.split('.').map(|part| {
        let plain = !part.is_empty() && part.len() <= 18 && part.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| part.parse().ok()).flatten()
    });
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

impl PolicyDocument {
    /// Checks everything and reports all problems together; clamped intervals are no problem but are told.
    ///
    /// # Errors
    /// Every problem found, in field order.
    pub fn check(self) -> Result<(Policy, Vec<Clamp>), Vec<PolicyProblem>> {
        let mut problems = Vec::new();
        let mut problem = |field, text: String| problems.push(PolicyProblem { field, problem: text });
        if parse_version(&self.version).is_none() {
            problem("version", format!("must be MAJOR.MINOR.PATCH, not `{}`", self.version));
        }
        if !(10..=7200).contains(&self.executor_timeout_sec) {
            problem(
                "executor_timeout_sec",
                format!("must be from 10 to 7200, not {}", self.executor_timeout_sec),
            );
        }
        let thresholds = Thresholds::new(self.drift.major, self.drift.minor, self.drift.improvement)
            .map_err(|e| problem("drift", e.to_string()))
            .unwrap_or_default();
        let isolation_percent =
            self.liveness.isolation_percent.unwrap_or(liveness::DEFAULT_ISOLATION_PERCENT);
        if isolation_percent > 99 {
            problem(
                "liveness.isolation_percent",
                format!("must be from 1 to 99, or 0 for never, not {isolation_percent}"),
            );
        }
        let ttl = self.alerts.dedup_ttl_sec;
        if ttl != 0 && !(60..=86_400).contains(&ttl) {
            problem("alerts.dedup_ttl_sec", format!("must be from 60 to 86400, or 0 for an hour, not {ttl}"));
        }
        if let Some(digest) = &self.corpus
            && (digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            problem(
                "corpus",
                "must be a corpus digest of 64 hex digits, as `rules publish` prints it".into(),
            );
        }
        let mut bands: Vec<_> = self.bands.iter().map(|(state, floor)| (*floor, *state)).collect();
        bands.sort_by_key(|(floor, _)| std::cmp::Reverse(*floor));
        if bands.iter().any(|(floor, state)| *floor > 100 || *state == ComplianceState::Unknown) {
            problem("bands", "floors are percent from 0 to 100, and `unknown` has none".into());
        }
        if !bands.is_empty() && bands.last().is_none_or(|(floor, _)| *floor != 0) {
            problem("bands", "one state must have the floor 0".into());
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let (ladder, clamps) = load_intervals(&self.tiers);
        let policy = Policy {
            version: self.version,
            ladder,
            bands: if bands.is_empty() { Bands::default() } else { Bands(bands) },
            maintenance: self.maintenance,
            host_key_mode: self.host_key_policy,
            timeout: Duration::from_secs(self.executor_timeout_sec),
            thresholds,
            liveness_interval: liveness::clamp_interval(Duration::from_secs(self.liveness.interval_sec)),
            liveness_threshold: match self.liveness.threshold {
                0 => liveness::DEFAULT_THRESHOLD,
                n => n,
            },
            isolation_percent,
            dedup_ttl: Duration::from_secs(if ttl == 0 { 3600 } else { ttl }),
            dispatch_per_minute: (self.dispatch_per_minute > 0).then_some(self.dispatch_per_minute),
            corpus: self.corpus.map(|digest| digest.to_ascii_lowercase()),
            variables: self.variables,
            manual_scan_refreshes_schedule: self.manual_scan_refreshes_schedule,
        };
        Ok((policy, clamps))
    }
}

impl Policy {
    /// Variables for one host: fleet, then each matching label in label order, then the host.
    pub fn variables_for(&self, host: &str, labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut variables = self.variables.fleet.clone();
        for (key, value) in labels {
            if let Some(tier) = self.variables.labels.get(&format!("{key}={value}")) {
                variables.extend(tier.clone());
            }
        }
        variables.extend(self.variables.hosts.get(host).cloned().unwrap_or_default());
        variables
    }

    /// Whether the policy keeps scheduled scans away from a host.
    pub fn in_maintenance(&self, host: &str) -> bool {
        self.maintenance.all || self.maintenance.hosts.iter().any(|name| name == host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> PolicyDocument {
        serde_json::from_str(r#"{"version": "1.0.0"}"#).unwrap()
    }

    #[test]
    fn an_empty_policy_has_the_documented_defaults() {
        let (policy, clamps) = document().check().unwrap();
        assert_eq!(policy.timeout, Duration::from_secs(600));
        assert_eq!(policy.host_key_mode, HostKeyMode::RequireKnown);
        assert_eq!(policy.thresholds, Thresholds::default());
        assert_eq!(policy.dedup_ttl, Duration::from_secs(3600));
        assert!(clamps.is_empty());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut it = document();
        it.version = "1.0".into();
        it.executor_timeout_sec = 1;
        it.drift.major = 0.0;
        it.liveness.isolation_percent = Some(100);
        it.corpus = Some("latest".into());
        it.bands = BTreeMap::from([(ComplianceState::Compliant, 120)]);
        let fields: Vec<_> = it.check().unwrap_err().into_iter().map(|p| p.field).collect();
        assert_eq!(
            fields,
            [
                "version",
                "executor_timeout_sec",
                "drift",
                "liveness.isolation_percent",
                "corpus",
                "bands",
                "bands"
            ]
        );
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<PolicyDocument>(r#"{"version":"1.0.0","teirs":{}}"#).is_err());
    }

    #[test]
    fn versions_order_as_numbers() {
        assert!(parse_version("1.10.0") > parse_version("1.9.9"));
        assert_eq!(parse_version("1.0"), None);
        assert_eq!(parse_version("1.0.0-rc1"), None);
        assert_eq!(parse_version("1.0.0.0"), None);
    }

    #[test]
    fn host_variables_win_over_labels_over_fleet() {
        let mut it = document();
        let pair = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
        it.variables.fleet = BTreeMap::from([("a".into(), "fleet".into()), ("b".into(), "fleet".into())]);
        it.variables.labels = BTreeMap::from([("env=prod".into(), pair("a", "label"))]);
        it.variables.hosts = BTreeMap::from([("web-1".into(), pair("a", "host"))]);
        let (policy, _) = it.check().unwrap();
        let labels = pair("env", "prod");
        assert_eq!(policy.variables_for("web-1", &labels)["a"], "host");
        assert_eq!(policy.variables_for("web-2", &labels)["a"], "label");
        assert_eq!(policy.variables_for("web-2", &BTreeMap::new())["b"], "fleet");
    }
}
