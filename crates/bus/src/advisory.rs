//! What the server says when it gives up on a message.

use serde::Deserialize;

use crate::{DecodeError, Message, consume};

/// Why a message will not be delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was tried as often as its consumer allows. It stays in its stream.
    MaxDeliveries,
    /// A consumer terminated it. In a work queue it is gone.
    Terminated,
}

/// One advisory of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advisory {
    /// What happened.
    pub ending: Ending,
    /// The stream that holds the message.
    pub stream: String,
    /// The consumer that is done with it.
    pub consumer: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// How often it was delivered.
    pub deliveries: u64,
    /// The terminating consumer's words.
    pub reason: String,
}

impl Advisory {
    /// Whether our own loop terminated it after filing the dead letter: nothing is left to do.
    pub fn is_filed(&self) -> bool {
        self.ending == Ending::Terminated && self.reason == consume::TERM_REASON
    }

    /// Reads an advisory as the server wrote it.
    ///
    /// # Errors
    /// Not an advisory of these two kinds.
    pub fn decode(message: &Message) -> Result<Self, DecodeError> {
        Self::parse(&message.payload)
    }

    fn parse(payload: &[u8]) -> Result<Self, DecodeError> {
        #[derive(Deserialize)]
        struct Raw {
            #[serde(rename = "type")]
            kind: String,
            stream: String,
            consumer: String,
            stream_seq: u64,
            #[serde(default)]
            deliveries: u64,
            #[serde(default)]
            reason: String,
        }
        let raw: Raw = serde_json::from_slice(payload)
            .map_err(|error| DecodeError::Malformed { what: "advisory", reason: error.to_string() })?;
        let ending = match raw.kind.as_str() {
            "io.nats.jetstream.advisory.v1.max_deliver" => Ending::MaxDeliveries,
            "io.nats.jetstream.advisory.v1.terminated" => Ending::Terminated,
            _ => return Err(DecodeError::UnknownKind { kind: raw.kind.chars().take(100).collect() }),
        };
        let Raw { stream, consumer, stream_seq: sequence, deliveries, reason, .. } = raw;
        Ok(Self { ending, stream, consumer, sequence, deliveries, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read_and_others_refused() {
        let text = |kind: &str| {
            format!(
                r#"{{"type":"{kind}","stream":"OW_JOBS","consumer":"c","stream_seq":4,"deliveries":20,"reason":"dead-lettered"}}"#
            )
        };
        let exhausted =
            Advisory::parse(text("io.nats.jetstream.advisory.v1.max_deliver").as_bytes()).unwrap();
        assert_eq!(
            (exhausted.ending, exhausted.sequence, exhausted.is_filed()),
            (Ending::MaxDeliveries, 4, false)
        );
        let terminated =
            Advisory::parse(text("io.nats.jetstream.advisory.v1.terminated").as_bytes()).unwrap();
        assert!(terminated.is_filed());
        assert!(matches!(Advisory::parse(text("other").as_bytes()), Err(DecodeError::UnknownKind { .. })));
        assert!(matches!(Advisory::parse(b"{}"), Err(DecodeError::Malformed { .. })));
    }
}
