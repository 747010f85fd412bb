//! Standard Webhooks: the notification as it is, signed, with the transition's name as idempotency key.

use openwatch_store::delivery::Delivery;
use openwatch_trust::webhook::WebhookSecret;

use super::http::Http;
use super::{Answered, Refused};

pub(super) async fn send(http: &Http, secret: &WebhookSecret, id: &str, it: &Delivery) -> Answered {
    let body = serde_json::to_vec(&it.payload).map_err(Refused::new)?;
    // Of this try: receivers refuse what is minutes old.
    let timestamp = it.claimed_at.unix_timestamp();
    let headers = [
        ("webhook-id", id.to_owned()),
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-signature", secret.sign(id, timestamp, &body)),
    ];
    http.post(&headers, body).await
}
