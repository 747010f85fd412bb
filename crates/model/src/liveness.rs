//! Is a host there? One banner probe at a time, with hysteresis so that one lost packet wakes nobody.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::HostId;

/// What the last probes amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reachability {
    /// Not decided yet.
    #[default]
    Unknown,
    /// An SSH banner was read.
    Reachable,
    /// As many probes in a row failed as the threshold asks for.
    Unreachable,
}

impl Reachability {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Reachable => "reachable",
            Self::Unreachable => "unreachable",
        }
    }

    /// Reads a column value; unknown words are [`Reachability::Unknown`].
    pub fn parse(text: &str) -> Self {
        match text {
            "reachable" => Self::Reachable,
            "unreachable" => Self::Unreachable,
            _ => Self::Unknown,
        }
    }
}

/// Why a probe failed (LIV-05).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeError {
    /// No answer in time.
    TcpTimeout,
    /// Nobody listens.
    ConnectionRefused,
    /// Something else than SSH answered.
    BannerMismatch,
    /// Anything else: no route, no such name.
    TcpError,
}

impl ProbeError {
    /// All four.
    pub const ALL: [Self; 4] =
        [Self::TcpTimeout, Self::ConnectionRefused, Self::BannerMismatch, Self::TcpError];

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == text)
    }

    /// For a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::TcpTimeout => "no answer in time",
            Self::ConnectionRefused => "connection refused",
            Self::BannerMismatch => "something else than SSH answers",
            Self::TcpError => "no connection, or closed without a word",
        }
    }

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TcpTimeout => "tcp_timeout",
            Self::ConnectionRefused => "connection_refused",
            Self::BannerMismatch => "banner_mismatch",
            Self::TcpError => "tcp_error",
        }
    }
}

/// One probe's answer: how long it took, or why it failed.
pub type ProbeOutcome = Result<Duration, ProbeError>;

/// Probe interval when the policy names none.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);
/// Failures in a row before a host counts as unreachable (seed).
pub const DEFAULT_THRESHOLD: u32 = 2;

/// Clamps to [60 s, 60 min]; zero means the default (LIV-07).
pub fn clamp_interval(interval: Duration) -> Duration {
    if interval.is_zero() {
        return DEFAULT_INTERVAL;
    }
    interval.clamp(Duration::from_secs(60), Duration::from_secs(3600))
}

/// Spreads hosts over 0.8 to 1.2 of the interval, always the same for one host: FNV-1a (64 bit) of its id (LIV-08).
pub fn jittered(host: HostId, interval: Duration) -> Duration {
    let hash = host.0.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let share = hash as f64 / u64::MAX as f64;
    interval.mul_f64(0.8 + 0.4 * share)
}

/// The stored state that a probe moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Liveness {
    /// Decided state.
    pub status: Reachability,
    /// Failures since the last success.
    pub consecutive_failures: u32,
}

/// The next state, and whether it is a transition (which alone is audited and sent).
pub fn observe(prior: Liveness, outcome: ProbeOutcome, threshold: u32) -> (Liveness, bool) {
    let next = match outcome {
        Ok(_) => Liveness { status: Reachability::Reachable, consecutive_failures: 0 },
        Err(_) => {
            let failures = prior.consecutive_failures.saturating_add(1);
            let status = if failures >= threshold.max(1) { Reachability::Unreachable } else { prior.status };
            Liveness { status, consecutive_failures: failures }
        }
    };
    (next, next.status != prior.status)
}

/// Whether the probers reach anything at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Most hosts answer: a host that does not is down.
    Connected,
    /// Most hosts fell silent together: their outages are held back.
    Isolated,
}

impl Standing {
    /// The wire value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Isolated => "isolated",
        }
    }
}

/// Percent of hosts whose silence is blamed on the probers' network, when the policy names none.
pub const DEFAULT_ISOLATION_PERCENT: u32 = 50;
/// So many hosts are asked about a network, and fewer prove nothing about it.
pub const WITNESSES: u32 = 10;
/// For so long a host's outage waits for others to be asked.
pub const WITNESSES_AWAITED: Duration = Duration::from_secs(30);

/// What other hosts say about the network between them and the probers. Hosts that were down before say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Witnesses {
    /// How many there are.
    pub hosts: u32,
    /// How many of them were asked in the time in question.
    pub asked: u32,
    /// How many of those did not answer.
    pub silent: u32,
}

/// Whose outage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// That one host's.
    Host,
    /// The probers' own network.
    Network,
    /// Not to be told before so many others were asked.
    Unsure(u32),
}

impl Witnesses {
    /// Judges, `waited` after the first sign. More than `percent` silent is the network's fault; 0 never blames it.
    pub fn blame(self, percent: u32, waited: Duration) -> Blame {
        if percent == 0 || self.hosts < WITNESSES {
            return Blame::Host;
        }
        if self.asked < WITNESSES && waited < WITNESSES_AWAITED {
            return Blame::Unsure(WITNESSES - self.asked);
        }
        let silent = u64::from(self.silent) * 100 > u64::from(percent) * u64::from(self.asked);
        if silent { Blame::Network } else { Blame::Host }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_failure_is_nothing_and_two_are_an_outage() {
        let mut state = Liveness::default();
        let mut seen = Vec::new();
        let probes = [false, false, false, true, false, true];
        for up in probes {
            let outcome = if up { Ok(Duration::from_millis(3)) } else { Err(ProbeError::TcpTimeout) };
            let (next, moved) = observe(state, outcome, DEFAULT_THRESHOLD);
            state = next;
            seen.push((state.status.as_str(), moved));
        }
        assert_eq!(
            seen,
            [
                ("unknown", false),
                ("unreachable", true),
                ("unreachable", false),
                ("reachable", true),
                ("reachable", false),
                ("reachable", false)
            ]
        );
    }

    #[test]
    fn jitter_is_deterministic_and_spread() {
        let base = Duration::from_secs(300);
        let values: BTreeSet<_> = (0..100u128).map(|i| jittered(HostId(Uuid::from_u128(i)), base)).collect();
        assert_eq!(values.len(), 100);
        assert!(values.iter().all(|v| *v >= base.mul_f64(0.8) && *v <= base.mul_f64(1.2)));
        assert_eq!(jittered(HostId(Uuid::from_u128(7)), Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn intervals_are_clamped() {
        assert_eq!(clamp_interval(Duration::ZERO), Duration::from_secs(300));
        assert_eq!(clamp_interval(Duration::from_secs(1)), Duration::from_secs(60));
        assert_eq!(clamp_interval(Duration::from_secs(9999)), Duration::from_secs(3600));
    }

    #[test]
    fn most_hosts_silent_at_once_is_our_own_network() {
        let of = |hosts, asked, silent| Witnesses { hosts, asked, silent };
        let cases = [
            (of(9, 9, 9), Blame::Host),
            (of(10, 0, 0), Blame::Unsure(10)),
            (of(10, 10, 5), Blame::Host),
            (of(10, 10, 6), Blame::Network),
            (of(1000, 9, 9), Blame::Unsure(1)),
            (of(1000, 20, 10), Blame::Host),
            (of(1000, 20, 11), Blame::Network),
            (of(1000, 1000, 1000), Blame::Network),
        ];
        for (witnesses, expect) in cases {
            assert_eq!(witnesses.blame(50, Duration::ZERO), expect, "{witnesses:?}");
            assert_eq!(witnesses.blame(0, Duration::ZERO), Blame::Host, "switched off: {witnesses:?}");
        }
        // Nobody waits for ever for witnesses who are never asked.
        assert_eq!(of(1000, 3, 1).blame(50, WITNESSES_AWAITED), Blame::Host);
        assert_eq!(of(1000, 3, 3).blame(50, WITNESSES_AWAITED), Blame::Network);
        assert_eq!(of(1000, 0, 0).blame(50, WITNESSES_AWAITED), Blame::Host);
        assert_eq!(of(10, 10, 10).blame(99, Duration::ZERO), Blame::Network);
    }
}
