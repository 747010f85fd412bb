//! `drift_to_alert` and its siblings: which events someone should know about, and how an alert lives.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::drift::{Drift, DriftKind, Thresholds, classify};
use crate::liveness::{Reachability, Standing};
use crate::{AlertId, HostId, Timestamp};

/// Ordered: `Info < Critical`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertSeverity {
    /// Good to know.
    Info,
    /// Look some day.
    Low,
    /// Look this week.
    Medium,
    /// Look today.
    High,
    /// Look now.
    Critical,
}

impl AlertSeverity {
    /// All five, least first.
    pub const ALL: [Self; 5] = [Self::Info, Self::Low, Self::Medium, Self::High, Self::Critical];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Reads a wire or column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// What an alert is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertType {
    /// Probes fail.
    HostUnreachable,
    /// Probes work again.
    HostRecovered,
    /// Most hosts fell silent together: the probers' own network.
    ProberIsolated,
    /// Most hosts answer again.
    ProberConnected,
    /// The score fell far.
    DriftMajor,
    /// The score fell.
    DriftMinor,
    /// The score rose.
    DriftImprovement,
    /// Three scans in a row failed.
    ScanFailing,
    /// A host shows another key than the one on record.
    HostKeyChanged,
    /// A job was not what the scheduler signed.
    JobTampered,
    /// A policy was refused.
    PolicyRejected,
}

impl AlertType {
    /// Every type.
    pub const ALL: [Self; 11] = [
        Self::HostUnreachable,
        Self::HostRecovered,
        Self::ProberIsolated,
        Self::ProberConnected,
        Self::DriftMajor,
        Self::DriftMinor,
        Self::DriftImprovement,
        Self::ScanFailing,
        Self::HostKeyChanged,
        Self::JobTampered,
        Self::PolicyRejected,
    ];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostUnreachable => "host_unreachable",
            Self::HostRecovered => "host_recovered",
            Self::ProberIsolated => "prober_isolated",
            Self::ProberConnected => "prober_connected",
            Self::DriftMajor => "drift_major",
            Self::DriftMinor => "drift_minor",
            Self::DriftImprovement => "drift_improvement",
            Self::ScanFailing => "scan_failing",
            Self::HostKeyChanged => "host_key_changed",
            Self::JobTampered => "job_tampered",
            Self::PolicyRejected => "policy_rejected",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.as_str() == text)
    }

    /// Types that speak of the same thing share a family; an event older than the family's cursor of its host neither
    /// opens nor resolves anything.
    pub fn family(self) -> &'static str {
        match self {
            Self::HostUnreachable | Self::HostRecovered => "connectivity",
            Self::ProberIsolated | Self::ProberConnected => "prober",
            Self::DriftMajor | Self::DriftMinor | Self::DriftImprovement => "drift",
            Self::ScanFailing => "scan",
            Self::HostKeyChanged => "host_key",
            Self::JobTampered => "job",
            Self::PolicyRejected => "policy",
        }
    }

    /// Open alerts of these types are resolved by this one.
    pub fn resolves(self) -> &'static [AlertType] {
        match self {
            Self::HostRecovered => &[Self::HostUnreachable],
            Self::HostUnreachable => &[Self::HostRecovered],
            Self::ProberConnected => &[Self::ProberIsolated],
            Self::ProberIsolated => &[Self::ProberConnected],
            Self::DriftImprovement => &[Self::DriftMajor, Self::DriftMinor],
            // Good news is over when bad news comes.
            Self::DriftMajor | Self::DriftMinor => &[Self::DriftImprovement],
            _ => &[],
        }
    }

    /// Something got better: worth a line, never an incident of its own.
    pub fn is_good_news(self) -> bool {
        matches!(self, Self::HostRecovered | Self::DriftImprovement | Self::ProberConnected)
    }

    /// Open alerts of these types are over once a scan of their host has a result: somebody logged in, to a host that
    /// showed the right key.
    pub const ENDED_BY_A_SCAN: [Self; 2] = [Self::ScanFailing, Self::HostKeyChanged];

    /// Open alerts of these types are over once a policy is found good. A tampered job is over only when a person says so:
    /// that later jobs are sound does not tell who meddled with that one.
    pub const ENDED_BY_A_POLICY: [Self; 1] = [Self::PolicyRejected];
}

/// Openings of one key within the repeat window from which on the alert says that it flaps.
const FLAPS_FROM: u32 = 3;
/// How long an alert that flaps must stay open before anybody is told of it again.
const FLAP_HOLD: Duration = Duration::from_secs(300);

/// What is known of an alert that opens by how often its key was opened before, within the repeat window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flapping {
    /// People are told that it comes and goes.
    pub marked: bool,
    /// They were told before: it must last this long until they are told again.
    pub hold: Option<Duration>,
}

/// Recognises what opens again and again: the third opening within the window says so, later ones are kept back until
/// they have lasted a while. Nothing is swallowed: what lasts is told, what ends unseen was told to flap.
pub fn flapping(openings_before: u32, window: Duration) -> Flapping {
    let openings = openings_before.saturating_add(1);
    Flapping { marked: openings >= FLAPS_FROM, hold: (openings > FLAPS_FROM).then(|| FLAP_HOLD.min(window)) }
}

/// Where an alert is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// Open, nobody has it.
    Active,
    /// Open, somebody has it.
    Acknowledged,
    /// Open, quiet for a while.
    Silenced,
    /// Over.
    Resolved,
    /// Put away.
    Dismissed,
}

impl AlertState {
    /// All five.
    pub const ALL: [Self; 5] =
        [Self::Active, Self::Acknowledged, Self::Silenced, Self::Resolved, Self::Dismissed];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Acknowledged => "acknowledged",
            Self::Silenced => "silenced",
            Self::Resolved => "resolved",
            Self::Dismissed => "dismissed",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// Open alerts hold the dedup key: a repeat counts up instead of opening another.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Active | Self::Acknowledged | Self::Silenced)
    }

    /// Whether an alert may go from here to there (ALC-02, ALC-03).
    pub fn may_become(self, next: Self) -> bool {
        use AlertState::{Acknowledged, Active, Dismissed, Resolved, Silenced};
        matches!(
            (self, next),
            (Active, Acknowledged | Silenced | Resolved | Dismissed)
                | (Acknowledged, Resolved | Dismissed)
                | (Silenced, Active | Resolved | Dismissed)
                | (Resolved, Dismissed)
        )
    }
}

/// Names of what every alert may carry for channels to filter on, beside labels of its host.
pub const TAGS: [&str; 7] =
    ["alert_type", "severity", "host", "host_id", "scan_id", "score_delta", "flapping"];

/// An alert before it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAlert {
    /// What it is about.
    pub kind: AlertType,
    /// How much it matters.
    pub severity: AlertSeverity,
    /// The host, where there is one.
    pub host: Option<HostId>,
    /// One line.
    pub title: String,
    /// A few lines.
    pub body: String,
    /// When it happened, from the event.
    pub occurred_at: Timestamp,
}

impl NewAlert {
    /// `type|host|rule`: one open alert per key (ALR-04). No alert is about a single rule yet, so the last part is empty.
    pub fn dedup_key(&self) -> String {
        let host = self.host.map(|h| h.to_string()).unwrap_or_default();
        format!("{}|{host}|", self.kind.as_str())
    }
}

/// What a channel is told of one transition of an alert: the body of a webhook. Ids and words, never addresses of hosts or
/// evidence. A field once sent is never renamed or removed; a new one is optional.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// `alert.` and what happened: opened, repeated, resolved, acknowledged, silenced, unsilenced, dismissed; or
    /// `channel.test`.
    pub event: String,
    /// The alert; absent in a test of the channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<AlertId>,
    /// Which of its transitions; opening is 1, a test is 0.
    pub transition: i32,
    /// What it is about; absent in a test of the channel.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AlertType>,
    /// How much it matters.
    pub severity: AlertSeverity,
    /// The host, where there is one.
    pub host_id: Option<HostId>,
    /// Its name.
    pub host: Option<String>,
    /// One line.
    pub title: String,
    /// A few lines.
    pub body: String,
    /// What channels filter on.
    pub tags: BTreeMap<String, String>,
    /// When it happened.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: Timestamp,
    /// Who moved it, when a person did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// Why, when a person said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Notification {
    /// What a test of a channel says.
    pub fn test(channel: &str, actor: &str, now: Timestamp) -> Self {
        Self {
            event: "channel.test".to_owned(),
            alert_id: None,
            transition: 0,
            kind: None,
            severity: AlertSeverity::Info,
            host_id: None,
            host: None,
            title: format!("test of channel {channel}"),
            body: "If you read this, alerts will arrive here.".to_owned(),
            tags: BTreeMap::new(),
            occurred_at: now,
            actor: Some(actor.to_owned()),
            reason: None,
        }
    }
}

/// What a drift means to people; `None` when it pages nobody. Where checks were lost, only a fall counts that the rules
/// which were seen to fail make by themselves.
pub fn drift_to_alert(
    host: HostId,
    drift: &Drift,
    thresholds: Thresholds,
    occurred_at: Timestamp,
) -> Option<NewAlert> {
    let Drift { kind, summary, .. } = drift;
    let critical = summary.became_failing.critical > 0;
    let sure = match (kind, summary.low_confidence) {
        (DriftKind::MajorWorsening | DriftKind::MinorWorsening, true) => {
            classify(summary.before, summary.seen_after(), thresholds)
        }
        (DriftKind::Improvement, true) => DriftKind::Stable,
        (kind, _) => *kind,
    };
    let (kind, severity) = match sure {
        _ if summary.low_overlap => return None,
        // Seen or not, it did not rise.
        DriftKind::Improvement if sure != *kind => return None,
        DriftKind::Stable => return None,
        DriftKind::MajorWorsening if critical => (AlertType::DriftMajor, AlertSeverity::Critical),
        DriftKind::MajorWorsening => (AlertType::DriftMajor, AlertSeverity::High),
        DriftKind::MinorWorsening if critical => (AlertType::DriftMinor, AlertSeverity::High),
        DriftKind::MinorWorsening => (AlertType::DriftMinor, AlertSeverity::Medium),
        DriftKind::Improvement => (AlertType::DriftImprovement, AlertSeverity::Info),
    };
    let percent =
        |score: crate::score::Score| score.percent().map_or("undefined".to_owned(), |p| format!("{p:.2} %"));
    let (before, after) = (percent(summary.before), percent(summary.after));
    let moved = if kind == AlertType::DriftImprovement { "rose" } else { "fell" };
    let lost = if summary.low_confidence { "; some checks were lost on the way" } else { "" };
    let failing = summary.became_failing;
    let passing = summary.became_passing;
    Some(NewAlert {
        kind,
        severity,
        host: Some(host),
        title: format!("compliance score {moved} from {before} to {after}"),
        body: format!(
            "now failing: {} critical, {} high, {} medium, {} low; now passing: {} critical, {} high, {} medium, {} low{lost}",
            failing.critical,
            failing.high,
            failing.medium,
            failing.low,
            passing.critical,
            passing.high,
            passing.medium,
            passing.low
        ),
        occurred_at,
    })
}

/// What a change of reachability means to people; a first contact pages nobody.
pub fn connectivity_to_alert(
    host: HostId,
    prior: Reachability,
    now: Reachability,
    occurred_at: Timestamp,
) -> Option<NewAlert> {
    let (kind, severity, title) = match (prior, now) {
        (_, Reachability::Unreachable) => {
            (AlertType::HostUnreachable, AlertSeverity::High, "host does not answer")
        }
        (Reachability::Unreachable, Reachability::Reachable) => {
            (AlertType::HostRecovered, AlertSeverity::Info, "host answers again")
        }
        _ => return None,
    };
    Some(NewAlert { kind, severity, host: Some(host), title: title.into(), body: String::new(), occurred_at })
}

/// What a change of the probers' own network means to people.
pub fn prober_to_alert(now: Standing, asked: u32, silent: u32, occurred_at: Timestamp) -> NewAlert {
    let (kind, severity, title, body) = match now {
        Standing::Isolated => (
            AlertType::ProberIsolated,
            AlertSeverity::Critical,
            "most hosts fell silent together: look at the network of the liveness processes",
            format!(
                "{silent} of {asked} hosts asked did not answer. No host is reported unreachable until most answer \
                 again; remove or put into maintenance what is really gone"
            ),
        ),
        Standing::Connected => (
            AlertType::ProberConnected,
            AlertSeverity::Info,
            "most hosts answer again",
            format!("{silent} of {asked} hosts asked did not answer; they are told one by one now"),
        ),
    };
    NewAlert { kind, severity, host: None, title: title.to_owned(), body, occurred_at }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::drift::{SeverityCounts, Summary, detect};
    use crate::score::Score;

    fn drift(kind: DriftKind, critical: u32, low_confidence: bool) -> Drift {
        let became_failing = SeverityCounts { critical, ..SeverityCounts::default() };
        let summary = Summary { became_failing, low_confidence, ..Summary::default() };
        Drift { kind, has_prior_baseline: true, score_undefined: false, summary }
    }

    #[test]
    fn severity_follows_what_fell() {
        let route = |kind, critical, low| {
            let drift = drift(kind, critical, low);
            drift_to_alert(HostId(Uuid::nil()), &drift, Thresholds::default(), Timestamp::UNIX_EPOCH)
                .map(|a| (a.kind, a.severity))
        };
        assert_eq!(route(DriftKind::Stable, 0, false), None);
        assert_eq!(
            route(DriftKind::MajorWorsening, 0, false),
            Some((AlertType::DriftMajor, AlertSeverity::High))
        );
        assert_eq!(
            route(DriftKind::MajorWorsening, 1, false),
            Some((AlertType::DriftMajor, AlertSeverity::Critical))
        );
        assert_eq!(
            route(DriftKind::MinorWorsening, 1, false),
            Some((AlertType::DriftMinor, AlertSeverity::High))
        );
        assert_eq!(route(DriftKind::MajorWorsening, 1, true), None);
    }

    #[test]
    fn what_was_lost_wakes_nobody_and_hides_nothing() {
        // Of a hundred rules that passed, so many fail now, and so many were lost.
        let route = |failing: u32, lost: u32| {
            let summary = Summary {
                before: Score { pass: 100, fail: 20 },
                after: Score { pass: 100 - failing - lost, fail: 20 + failing },
                became_failing: SeverityCounts { high: failing, ..SeverityCounts::default() },
                low_confidence: lost > 0,
                ..Summary::default()
            };
            let drift = detect(summary, Thresholds::default());
            assert_ne!(drift.kind, DriftKind::Stable, "{failing} {lost}");
            let at = Timestamp::UNIX_EPOCH;
            drift_to_alert(HostId(Uuid::nil()), &drift, Thresholds::default(), at).map(|it| it.kind)
        };
        assert_eq!(route(20, 0), Some(AlertType::DriftMajor));
        assert_eq!(route(20, 1), Some(AlertType::DriftMajor));
        // Both together are a major fall; what was seen is a minor one.
        assert_eq!(route(7, 30), Some(AlertType::DriftMinor));
        assert_eq!(route(1, 60), None);
    }

    #[test]
    fn what_comes_and_goes_is_said_once_and_then_kept_back_for_a_while() {
        let hour = Duration::from_secs(3600);
        let steps: Vec<_> = (0..5).map(|before| flapping(before, hour)).collect();
        let marked: Vec<_> = steps.iter().map(|it| it.marked).collect();
        assert_eq!(marked, [false, false, true, true, true]);
        assert_eq!(steps[2].hold, None, "the one that says so is told");
        assert_eq!((steps[3].hold, steps[4].hold), (Some(FLAP_HOLD), Some(FLAP_HOLD)));
        assert_eq!(flapping(3, Duration::from_secs(60)).hold, Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_life_of_an_alert() {
        use AlertState::{Acknowledged, Active, Dismissed, Resolved, Silenced};
        let allowed = [
            (Active, Acknowledged),
            (Active, Silenced),
            (Active, Resolved),
            (Active, Dismissed),
            (Acknowledged, Resolved),
            (Acknowledged, Dismissed),
            (Silenced, Active),
            (Silenced, Resolved),
            (Silenced, Dismissed),
            (Resolved, Dismissed),
        ];
        for from in AlertState::ALL {
            for to in AlertState::ALL {
                assert_eq!(from.may_become(to), allowed.contains(&(from, to)), "{from:?} -> {to:?}");
            }
        }
    }
}
