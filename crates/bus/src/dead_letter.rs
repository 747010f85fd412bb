//! Dead letters: what could not be processed, whole, with the reason and where it came from.

use bytes::Bytes;
use openwatch_model::Timestamp;

use crate::stream::Stored;
use crate::{Bus, BusError, DecodeError, Message, Outgoing, Published, subject};

/// Room that a letter's own headers take of the server's payload limit.
const HEADER_ROOM: usize = 40 * 1024;
/// The original headers are kept up to this.
const HEADERS_MOST: usize = 24 * 1024;
/// The server's `max_payload`.
const PAYLOAD_MOST: usize = 1024 * 1024;
/// Size of one part of a kept blob.
const PART: usize = 512 * 1024;

const STAGE: &str = "Ow-Dead-Stage";
const STREAM: &str = "Ow-Dead-Stream";
const SEQUENCE: &str = "Ow-Dead-Sequence";
const SUBJECT: &str = "Ow-Dead-Subject";
const DELIVERIES: &str = "Ow-Dead-Deliveries";
const REASON: &str = "Ow-Dead-Reason";
const HEADERS: &str = "Ow-Dead-Headers";
const CLIPPED: &str = "Ow-Dead-Clipped";

/// One message that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Who put it aside.
    pub stage: String,
    /// The stream it came from.
    pub stream: String,
    /// Its place there.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub payload: Bytes,
    /// How often it was tried.
    pub deliveries: u64,
    /// Why it was given up.
    pub reason: String,
    /// Its original size, when it was too large to keep whole.
    pub clipped_from: Option<usize>,
}

/// A letter in the dead-letter stream.
#[derive(Clone, Debug)]
pub struct Filed {
    /// Its place in the dead-letter stream.
    pub sequence: u64,
    /// When it was filed.
    pub at: Timestamp,
    /// The letter.
    pub letter: DeadLetter,
}

impl Filed {
    /// The original message, under an id of its own so that no duplicate window swallows it: however often the same
    /// letter is sent again, it is published once more.
    ///
    /// # Errors
    /// It was not kept whole.
    pub fn again(&self) -> Result<Outgoing, BusError> {
        let letter = &self.letter;
        if let Some(bytes) = letter.clipped_from {
            let what = format!("dead letter {}, which was not kept whole", self.sequence);
            return Err(BusError::TooLarge { what, bytes, limit: letter.payload.len() });
        }
        let is_id = |name: &str| name.eq_ignore_ascii_case("Nats-Msg-Id");
        let original = letter.headers.iter().find(|(name, _)| is_id(name)).map(|(_, id)| id.clone());
        let original = original.unwrap_or_else(|| format!("{}.{}", letter.stream, letter.sequence));
        // Headers that steer the server belonged to the first publication.
        let keep = |name: &str| !name.to_ascii_lowercase().starts_with("nats-");
        let headers = letter.headers.iter().filter(|(name, _)| keep(name)).cloned().collect();
        Ok(Outgoing {
            subject: letter.subject.clone(),
            message_id: format!("{original}.replay.{}", self.sequence),
            headers,
            payload: letter.payload.clone(),
        })
    }
}

impl DeadLetter {
    /// Of a message that waited in the outbox and that the server refuses for ever.
    pub fn of_unsent(sender: &str, place: u64, message: Outgoing, reason: &str) -> Self {
        let Outgoing { subject, message_id, mut headers, payload } = message;
        headers.push(("Nats-Msg-Id".to_owned(), message_id));
        Self {
            stage: sender.to_owned(),
            stream: "outbox".to_owned(),
            sequence: place,
            subject,
            headers,
            payload,
            deliveries: 1,
            reason: reason.to_owned(),
            clipped_from: None,
        }
    }

    /// Of a message in hand.
    pub fn of(stage: &str, message: &Message, reason: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            stream: message.stream.clone(),
            sequence: message.sequence,
            subject: message.subject.clone(),
            headers: message.headers.clone(),
            payload: message.payload.clone(),
            deliveries: message.deliveries,
            reason: reason.to_owned(),
            clipped_from: None,
        }
    }

    /// Of a message that was looked up.
    pub fn of_stored(stage: &str, stream: &str, message: Stored, deliveries: u64, reason: &str) -> Self {
        Self {
            stage: stage.to_owned(),
            stream: stream.to_owned(),
            sequence: message.sequence,
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
            deliveries,
            reason: reason.to_owned(),
            clipped_from: None,
        }
    }

    /// The message to publish. Its id follows from where the letter came from and who files it, so filing it again
    /// files nothing.
    pub fn encode(&self) -> Outgoing {
        let room = PAYLOAD_MOST - HEADER_ROOM;
        let clipped = self.clipped_from.or((self.payload.len() > room).then_some(self.payload.len()));
        let mut kept = self.headers.clone();
        let mut original = serde_json::to_string(&kept).unwrap_or_default();
        while original.len() > HEADERS_MOST && kept.pop().is_some() {
            original = serde_json::to_string(&kept).unwrap_or_default();
        }
        let mut headers = vec![
            (STAGE.to_owned(), self.stage.clone()),
            (STREAM.to_owned(), self.stream.clone()),
            (SEQUENCE.to_owned(), self.sequence.to_string()),
            (SUBJECT.to_owned(), clip(&self.subject, 1024)),
            (DELIVERIES.to_owned(), self.deliveries.to_string()),
            (REASON.to_owned(), clip(&self.reason, 2048)),
            (HEADERS.to_owned(), original),
        ];
        headers.extend(clipped.map(|size| (CLIPPED.to_owned(), size.to_string())));
        Outgoing {
            subject: subject::dead_letter(&self.stage),
            message_id: format!("{}.{}.{}", self.stream, self.sequence, self.stage),
            headers,
            payload: self.payload.slice(..self.payload.len().min(room)),
        }
    }

    /// Reads a letter back.
    ///
    /// # Errors
    /// The message is no dead letter.
    pub fn decode(stored: &Stored) -> Result<Self, DecodeError> {
        let missing =
            |name: &str| DecodeError::Malformed { what: "dead letter", reason: format!("no {name}") };
        let text = |name: &str| stored.header(name).map(str::to_owned).ok_or_else(|| missing(name));
        let number =
            |name: &str| stored.header(name).and_then(|text| text.parse().ok()).ok_or_else(|| missing(name));
        Ok(Self {
            stage: text(STAGE)?,
            stream: text(STREAM)?,
            sequence: number(SEQUENCE)?,
            subject: text(SUBJECT)?,
            headers: serde_json::from_str(&text(HEADERS)?).map_err(|_| missing(HEADERS))?,
            payload: stored.payload.clone(),
            deliveries: number(DELIVERIES)?,
            reason: text(REASON)?,
            clipped_from: stored.header(CLIPPED).and_then(|text| text.parse().ok()),
        })
    }
}

fn clip(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

impl Bus {
    /// Letters in the order they were filed, from a place in the dead-letter stream on.
    ///
    /// # Errors
    /// Outages and refusals. Kept blobs and what cannot be read are left out.
    pub async fn dead_letters(&self, from: u64, limit: usize) -> Result<Vec<Filed>, BusError> {
        let mut letters = Vec::new();
        let mut at = from;
        while letters.len() < limit {
            let Some(stored) = self.next_message(subject::DLQ, at, "ow.v1.dlq.*").await? else { break };
            at = stored.sequence + 1;
            match DeadLetter::decode(&stored) {
                Ok(letter) => letters.push(Filed { sequence: stored.sequence, at: stored.at, letter }),
                Err(error) => tracing::warn!(sequence = stored.sequence, %error, "skipped"),
            }
        }
        Ok(letters)
    }

    /// Publishes the original message again; the letter stays. See [`Filed::again`].
    ///
    /// # Errors
    /// Outages and refusals; a clipped letter cannot be replayed.
    pub async fn replay(&self, filed: &Filed) -> Result<Published, BusError> {
        self.publish(&filed.again()?).await
    }

    /// Keeps the blob of a rejected result beside its letter: the bucket forgets it long before the letter goes.
    ///
    /// # Errors
    /// Outages and refusals.
    pub async fn keep_blob(&self, stage: &str, name: &str, bytes: &Bytes) -> Result<(), BusError> {
        let parts = bytes.len().div_ceil(PART).max(1);
        for part in 0..parts {
            let range = part * PART..((part + 1) * PART).min(bytes.len());
            self.publish(&Outgoing {
                subject: format!("{}.blob", subject::dead_letter(stage)),
                message_id: format!("{name}.{part}"),
                headers: vec![
                    ("Ow-Blob-Name".into(), name.to_owned()),
                    ("Ow-Blob-Part".into(), part.to_string()),
                    ("Ow-Blob-Parts".into(), parts.to_string()),
                ],
                payload: bytes.slice(range),
            })
            .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(size: usize) -> DeadLetter {
        DeadLetter {
            stage: "writer".into(),
            stream: "OW_RESULTS".into(),
            sequence: 7,
            subject: "ow.v1.result.final.a.b".into(),
            headers: vec![("Nats-Msg-Id".into(), "x.1".into()), ("Ow-Mac".into(), "aa".into())],
            payload: Bytes::from(vec![b'x'; size]),
            deliveries: 3,
            reason: "no such\r\nscan".into(),
            clipped_from: None,
        }
    }

    fn stored(message: &Outgoing) -> Stored {
        Stored {
            subject: message.subject.clone(),
            sequence: 1,
            headers: message.headers.clone(),
            payload: message.payload.clone(),
            at: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn a_letter_reads_back() {
        let it = letter(10);
        let message = it.encode();
        assert_eq!(message.message_id, "OW_RESULTS.7.writer");
        assert_eq!(message.subject, "ow.v1.dlq.writer");
        assert_eq!(DeadLetter::decode(&stored(&message)).unwrap(), it);
    }

    #[test]
    fn the_largest_message_still_makes_a_letter() {
        let mut it = letter(PAYLOAD_MOST);
        it.headers.extend((0..2000).map(|i| (format!("X-{i}"), "v".repeat(100))));
        let message = it.encode();
        let headers: usize = message.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        assert!(message.payload.len() + headers < PAYLOAD_MOST);
        assert_eq!(DeadLetter::decode(&stored(&message)).unwrap().clipped_from, Some(PAYLOAD_MOST));
    }
}
