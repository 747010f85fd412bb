//! How each kind of channel is reached: one file per kind, none knows another.

mod http;
mod mail;
mod nats;
mod pagerduty;
mod slack;
mod stdout;
mod webhook;

use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_model::alert::Notification;
use openwatch_model::channel::Target;
use openwatch_store::channel::Open;
use openwatch_store::delivery::Delivery;
use openwatch_trust::AlertsKeys;
use reqwest::Url;

use self::http::Http;

/// Why a try did not arrive. Texts never hold an address, a password or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What went wrong.
    pub(super) error: String,
    /// What the receiver answered, where it did.
    pub(super) status: Option<u16>,
    /// It asked to be left alone for so long.
    pub(super) after: Option<Duration>,
    /// It said that it is gone for good.
    pub(super) gone: bool,
}

impl Refused {
    fn new(error: impl ToString) -> Self {
        Self { error: error.to_string(), status: None, after: None, gone: false }
    }
}

/// What a receiver answered, where its kind answers with a number.
type Answered = Result<Option<u16>, Refused>;

/// A channel that can be sent to.
pub(super) enum Reach {
    Webhook { http: Http, secret: openwatch_trust::webhook::WebhookSecret },
    Slack { http: Http },
    Email { target: Target, allow_private: bool },
    Pagerduty { http: Http, target: Target },
    Nats { bus: Bus, target: Target },
    Stdout,
}

impl Reach {
    /// Opens what was sealed. The error is for the ledger: it says what is wrong, not with what.
    pub(super) fn open(keys: &AlertsKeys, channel: &Open, bus: &Bus) -> Result<Self, String> {
        let Some(sealed) = &channel.sealed else { return Ok(Self::Stdout) };
        let plain = keys.open_channel(&sealed.bytes, channel.id).map_err(|error| error.to_string())?;
        let target: Target = serde_json::from_slice(&plain)
            .map_err(|_| "its target was stored by another version".to_owned())?;
        let allow_private = channel.allow_private;
        let http = |url: &str| {
            let url = Url::parse(url).map_err(|_| "the address cannot be read".to_owned())?;
            Http::new(url, allow_private)
        };
        Ok(match &target {
            Target::Webhook { url, secret } => {
                let secret =
                    openwatch_trust::webhook::WebhookSecret::parse(secret).map_err(|e| e.to_string())?;
                Self::Webhook { http: http(url)?, secret }
            }
            Target::Slack { url } => Self::Slack { http: http(url)? },
            Target::Pagerduty { url, .. } => Self::Pagerduty { http: http(url)?, target },
            Target::Email(_) => Self::Email { target, allow_private },
            Target::Nats { .. } => Self::Nats { bus: bus.clone(), target },
            Target::Stdout {} => Self::Stdout,
        })
    }

    /// One try.
    pub(super) async fn send(&self, it: &Delivery) -> Answered {
        let told: Notification = serde_json::from_value(it.payload.clone())
            .map_err(|_| Refused::new("what was to be told was stored by another version"))?;
        let id = message_id(it);
        match self {
            Self::Webhook { http, secret } => webhook::send(http, secret, &id, it).await,
            Self::Slack { http } => slack::send(http, &told).await,
            Self::Email { target, allow_private } => mail::send(target, *allow_private, &id, &told).await,
            Self::Pagerduty { http, target } => pagerduty::send(http, target, &told).await,
            Self::Nats { bus, target } => nats::send(bus, target, &id, it).await,
            Self::Stdout => stdout::send(it).await,
        }
    }
}

/// Names a transition, the same in every channel and at every try; a test is named by its delivery.
fn message_id(it: &Delivery) -> String {
    it.alert.map_or_else(|| it.id.to_string(), |alert| format!("{alert}-{}", it.transition))
}

/// `[critical] web-1: compliance score fell from ... to ...`, with what happened to it where it did not just open.
fn headline(it: &Notification) -> String {
    let what = match it.event.strip_prefix("alert.") {
        None | Some("opened") => String::new(),
        Some(word) => format!(" ({word})"),
    };
    let host = it.host.as_deref().map(|host| format!("{host}: ")).unwrap_or_default();
    format!("[{}{what}] {host}{}", it.severity.as_str(), it.title)
}

/// The lines below it: what is known beyond the headline, and who moved it.
fn details(it: &Notification) -> Vec<String> {
    let mut lines: Vec<String> = it.body.lines().map(str::to_owned).collect();
    let word = it.event.strip_prefix("alert.").unwrap_or(&it.event);
    lines.extend(it.actor.as_ref().map(|actor| format!("{word} by {actor}")));
    lines.extend(it.reason.as_ref().map(|reason| format!("reason: {reason}")));
    lines.extend(it.alert_id.map(|id| format!("alert {id}")));
    lines
}

#[cfg(test)]
pub(super) mod tests {
    use openwatch_model::alert::{AlertSeverity, AlertType, Notification};
    use openwatch_model::{AlertId, Timestamp};
    use uuid::Uuid;

    use super::*;

    pub(in crate::alerts) fn told(event: &str) -> Notification {
        Notification {
            event: event.to_owned(),
            alert_id: Some(AlertId(Uuid::nil())),
            transition: 1,
            kind: Some(AlertType::DriftMajor),
            severity: AlertSeverity::High,
            host_id: None,
            host: Some("web-1".to_owned()),
            title: "score <fell> & broke".to_owned(),
            body: "now failing: 1 critical".to_owned(),
            tags: [].into(),
            occurred_at: Timestamp::UNIX_EPOCH,
            actor: None,
            reason: None,
        }
    }

    #[test]
    fn a_headline_says_what_happened_to_what() {
        assert_eq!(headline(&told("alert.opened")), "[high] web-1: score <fell> & broke");
        assert_eq!(headline(&told("alert.resolved")), "[high (resolved)] web-1: score <fell> & broke");
        let by = Notification {
            actor: Some("alice".into()),
            reason: Some("mine".into()),
            ..told("alert.acknowledged")
        };
        assert_eq!(details(&by)[1..3], ["acknowledged by alice", "reason: mine"]);
    }
}
