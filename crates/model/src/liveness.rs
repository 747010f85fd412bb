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
}
