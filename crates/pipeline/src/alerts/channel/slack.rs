//! Incoming webhooks of Slack, and of those that take the same: a text, and an attachment with a colour.

use openwatch_model::alert::{AlertSeverity, Notification};
use serde_json::{Value, json};

use super::http::Http;
use super::{Answered, Refused, details, headline};

pub(super) async fn send(http: &Http, told: &Notification) -> Answered {
    http.post(&[], serde_json::to_vec(&body(told)).map_err(Refused::new)?).await
}

fn body(told: &Notification) -> Value {
    let colour = match (told.event.as_str(), told.severity) {
        ("alert.resolved" | "alert.dismissed", _) => "#2eb67d",
        (_, AlertSeverity::Critical | AlertSeverity::High) => "#e01e5a",
        (_, AlertSeverity::Medium) => "#ecb22e",
        _ => "#36c5f0",
    };
    let text = escaped(&headline(told));
    json!({
        "text": text,
        "attachments": [{
            "color": colour,
            "fallback": text,
            "text": escaped(&details(told).join("\n")),
            "ts": told.occurred_at.unix_timestamp(),
        }],
    })
}

/// The three characters that would be read as markup: a host's name must not become a link or a call to everybody.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;
    use super::*;

    #[test]
    fn nothing_in_it_is_markup() {
        let body = body(&told("alert.opened"));
        assert_eq!(body["text"], "[high] web-1: score &lt;fell&gt; &amp; broke");
        assert_eq!(body["attachments"][0]["color"], "#e01e5a");
        assert_eq!(super::body(&told("alert.resolved"))["attachments"][0]["color"], "#2eb67d");
    }
}
