//! A message on a NATS subject. It has arrived when a stream kept it, or when somebody listened.

use std::time::Duration;

use openwatch_bus::{Bus, BusError};
use openwatch_model::channel::Target;
use openwatch_store::delivery::Delivery;
use serde_json::Value;

use super::{Answered, Refused};

/// The server says at once when nobody listens, and a stream that it has kept a message; a listener says nothing.
const SILENCE: Duration = Duration::from_millis(500);

pub(super) async fn send(bus: &Bus, target: &Target, id: &str, it: &Delivery) -> Answered {
    let Target::Nats { subject } = target else { return Err(Refused::new("it is no NATS channel")) };
    let body = serde_json::to_vec(&it.payload).map_err(Refused::new)?;
    let headers = [("Nats-Msg-Id", id), ("content-type", "application/json")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    match bus.request(subject, &headers, body.into(), SILENCE).await {
        Err(BusError::TimedOut { .. }) => Ok(None),
        Err(BusError::NobodyThere { .. }) => {
            Err(Refused::new("nobody listens on the subject, and no stream keeps it"))
        }
        Err(error) => Err(Refused::new(error)),
        Ok(answer) => match serde_json::from_slice::<Value>(&answer) {
            Ok(ack) if ack.get("error").is_some() => {
                Err(Refused::new(format!("the stream refused it: {}", ack["error"]["description"])))
            }
            _ => Ok(None),
        },
    }
}
