//! PagerDuty events, version 2. One incident there is one alert here: the alert's id is the deduplication key.

use openwatch_model::alert::{AlertType, Notification};
use openwatch_model::channel::{Target, pagerduty_severity};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::http::Http;
use super::{Answered, Refused, headline};

pub(super) async fn send(http: &Http, target: &Target, told: &Notification) -> Answered {
    let Target::Pagerduty { routing_key, .. } = target else {
        return Err(Refused::new("it is no PagerDuty channel"));
    };
    match event(routing_key, told) {
        Some(event) => http.post(&[], serde_json::to_vec(&event).map_err(Refused::new)?).await,
        // Good news opens no incident; the incident that it ends is resolved by its own transition.
        None => Ok(None),
    }
}

fn event(routing_key: &str, told: &Notification) -> Option<Value> {
    let action = match told.event.as_str() {
        "alert.resolved" | "alert.dismissed" => "resolve",
        // Silenced here is at least nobody's to be woken for there.
        "alert.acknowledged" | "alert.silenced" => "acknowledge",
        // A test must not wake anybody and must not stay: it resolves an incident that is not there.
        "channel.test" => "resolve",
        _ => "trigger",
    };
    if told.kind.is_some_and(AlertType::is_good_news) {
        return None;
    }
    let key = told.alert_id.map_or_else(|| "openwatch-channel-test".to_owned(), |id| id.to_string());
    let mut event = json!({ "routing_key": routing_key, "event_action": action, "dedup_key": key });
    if action == "trigger" {
        // PagerDuty takes 1024 characters.
        let summary: String = headline(told).chars().take(1024).collect();
        event["payload"] = json!({
            "summary": summary,
            "source": told.host.as_deref().unwrap_or("openwatch"),
            "severity": pagerduty_severity(told.severity),
            "timestamp": told.occurred_at.format(&Rfc3339).ok(),
            "class": told.kind.map(AlertType::as_str),
            "custom_details": { "body": told.body, "tags": told.tags, "alert_id": told.alert_id },
        });
        event["client"] = json!("OpenWatch");
    }
    Some(event)
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    #[test]
    fn one_alert_is_one_incident() {
        let action = |event: &str| super::event("key", &told(event)).unwrap()["event_action"].clone();
        for event in ["alert.opened", "alert.repeated", "alert.unsilenced"] {
            assert_eq!(action(event), "trigger", "{event}");
        }
        assert_eq!(
            (action("alert.acknowledged"), action("alert.resolved")),
            ("acknowledge".into(), "resolve".into())
        );
        let opened = event("key", &told("alert.opened")).unwrap();
        assert_eq!(
            (&opened["payload"]["severity"], &opened["routing_key"]),
            (&"error".into(), &"key".into())
        );
        assert_eq!(opened["dedup_key"], event("key", &told("alert.resolved")).unwrap()["dedup_key"]);
        let good = Notification { kind: Some(AlertType::HostRecovered), ..told("alert.opened") };
        assert_eq!(event("key", &good), None);
    }
}
