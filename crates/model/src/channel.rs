//! Channels: how people and machines are told of alerts, and when a delivery that failed is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::alert::AlertSeverity;

/// How a channel delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelKind {
    /// A signed HTTPS POST (Standard Webhooks).
    Webhook,
    /// An incoming webhook of Slack, or of whoever speaks the same.
    Slack,
    /// A mail.
    Email,
    /// PagerDuty events, version 2.
    Pagerduty,
    /// A message on a NATS subject.
    Nats,
    /// A line on the standard output of the alerts stage.
    Stdout,
}

impl ChannelKind {
    /// All six.
    pub const ALL: [Self; 6] =
        [Self::Webhook, Self::Slack, Self::Email, Self::Pagerduty, Self::Nats, Self::Stdout];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Email => "email",
            Self::Pagerduty => "pagerduty",
            Self::Nats => "nats",
            Self::Stdout => "stdout",
        }
    }

    /// Reads a wire or column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How a mail server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailSecurity {
    /// In the clear at first, then TLS or nothing; port 587.
    #[default]
    Starttls,
    /// TLS from the first byte; port 465.
    Tls,
    /// In the clear; port 25. Never with a password, except to this machine.
    None,
}

impl MailSecurity {
    /// The port that goes with it.
    pub fn port(self) -> u16 {
        match self {
            Self::Starttls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// Everything it takes to reach a channel: sealed at rest as one, for any part may be a secret. Wiped on drop; has no
/// `Clone`, and its `Debug` prints only its kind.
///
/// Serde is derived for what is sealed only; nothing else may serialise it. A field once stored is never renamed.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// See [`ChannelKind::Webhook`].
    Webhook {
        /// Where to.
        url: String,
        /// Signs it: `whsec_` and base64.
        secret: String,
    },
    /// See [`ChannelKind::Slack`].
    Slack {
        /// Where to; whoever has it may post.
        url: String,
    },
    /// See [`ChannelKind::Email`].
    Email(Mailbox),
    /// See [`ChannelKind::Pagerduty`].
    Pagerduty {
        /// Where events go.
        url: String,
        /// Of the service's integration.
        routing_key: String,
    },
    /// See [`ChannelKind::Nats`].
    Nats {
        /// The subject.
        subject: String,
    },
    /// See [`ChannelKind::Stdout`].
    Stdout {},
}

/// A mail server, and who writes to whom through it.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Mailbox {
    /// Name or address of the server.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// How it is spoken to.
    #[zeroize(skip)]
    pub security: MailSecurity,
    /// Login.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<String>,
    /// Who writes.
    pub from: String,
    /// Who reads.
    pub to: Vec<String>,
}

impl Target {
    /// Its kind.
    pub fn kind(&self) -> ChannelKind {
        match self {
            Self::Webhook { .. } => ChannelKind::Webhook,
            Self::Slack { .. } => ChannelKind::Slack,
            Self::Email(_) => ChannelKind::Email,
            Self::Pagerduty { .. } => ChannelKind::Pagerduty,
            Self::Nats { .. } => ChannelKind::Nats,
            Self::Stdout {} => ChannelKind::Stdout,
        }
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", self.kind().as_str())
    }
}

/// Waits after the first try, the second and so on, in seconds: ten tries in some twenty hours.
const WAITS: [u64; 9] = [5, 30, 120, 600, 1800, 3600, 7200, 18_000, 36_000];
/// The longest that a receiver may ask us to wait.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long to wait after a failed try, counted from 1; `None` when it was the last. A receiver that named a time is not
/// asked before it. `spread`, 0 to 1, keeps many deliveries from coming back at one moment.
pub fn wait_after(attempt: u32, asked: Option<Duration>, spread: f64) -> Option<Duration> {
    let base = WAITS.get(attempt.saturating_sub(1) as usize)?;
    let wait = Duration::from_secs(*base).mul_f64(0.9 + 0.2 * spread.clamp(0.0, 1.0));
    Some(asked.map_or(wait, |asked| asked.min(LONGEST).max(wait)))
}

/// What PagerDuty calls a severity.
pub fn pagerduty_severity(severity: AlertSeverity) -> &'static str {
    match severity {
        AlertSeverity::Critical => "critical",
        AlertSeverity::High => "error",
        AlertSeverity::Medium => "warning",
        AlertSeverity::Low | AlertSeverity::Info => "info",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_heed_the_receiver_and_end() {
        let wait = |attempt, asked| wait_after(attempt, asked, 0.5);
        assert_eq!(wait(1, None), Some(Duration::from_secs(5)));
        assert_eq!(wait(9, None), Some(Duration::from_secs(36_000)));
        assert_eq!((wait(10, None), wait(10, Some(Duration::ZERO))), (None, None));
        assert_eq!(wait(1, Some(Duration::from_secs(90))), Some(Duration::from_secs(90)));
        assert_eq!(wait(2, Some(Duration::from_secs(1))), Some(Duration::from_secs(30)), "never sooner");
        assert_eq!(wait(1, Some(Duration::MAX)), Some(LONGEST));
        let (early, late) = (wait_after(5, None, 0.0).unwrap(), wait_after(5, None, 1.0).unwrap());
        assert!(early < late && late < early * 2);
    }

    #[test]
    fn a_target_says_its_kind_and_nothing_else() {
        let target =
            Target::Webhook { url: "https://x.example/s3cret".into(), secret: "whsec_s3cret".into() };
        assert_eq!(format!("{target:?}"), "Target(webhook)");
        let text = serde_json::to_string(&target).unwrap();
        let back: Target = serde_json::from_str(&text).unwrap();
        assert_eq!(back.kind(), ChannelKind::Webhook);
        for kind in ChannelKind::ALL {
            assert_eq!(ChannelKind::parse(kind.as_str()), Some(kind));
        }
    }
}
