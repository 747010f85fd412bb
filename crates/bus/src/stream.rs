//! Looking into streams: the requests of the JetStream API that OpenWatch needs, spoken as they are on the wire so
//! that each identity's permissions are exactly what is used.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use openwatch_model::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use crate::{Bus, BusError, User, subject};

/// JetStream's own description of a refusal.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ApiError {
    code: u32,
    #[serde(default)]
    err_code: u32,
    #[serde(default)]
    description: String,
}

impl ApiError {
    pub(crate) fn on(self, subject: &str) -> BusError {
        let Self { code, err_code, description } = self;
        BusError::Refused { subject: subject.to_owned(), code, error: err_code, description }
    }
}

/// A stored message, looked up rather than delivered.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Where it was published.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// Its headers; the last value of each name.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub payload: Bytes,
    /// When it was stored, by the server's clock.
    pub at: Timestamp,
}

impl Stored {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Messages held.
    pub messages: u64,
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold; `None` without a limit.
    pub max_bytes: Option<u64>,
    /// First sequence held.
    pub first_sequence: u64,
    /// Last sequence given.
    pub last_sequence: u64,
    /// When it was made, as the server says it: another time is another stream, which counts from one again.
    pub created: String,
}

/// How far a consumer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Not delivered yet: the lag.
    pub pending: u64,
    /// Delivered, not decided yet.
    pub unacked: u64,
    /// Of those, delivered more than once.
    pub redelivered: u64,
    /// Pull requests waiting for messages: zero means nobody is there.
    pub waiting: u64,
    /// Everything up to this place in the stream is decided.
    pub ack_floor: u64,
    /// The server's clock when it answered; nothing when it did not tell.
    pub server_time: Option<Timestamp>,
}

#[derive(Deserialize)]
struct RawStream {
    created: String,
    config: RawConfig,
    state: RawState,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(default)]
    max_bytes: i64,
}

#[derive(Deserialize)]
struct RawState {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
    #[serde(default)]
    subjects: std::collections::BTreeMap<String, u64>,
}

#[derive(Deserialize)]
struct RawConsumer {
    num_pending: u64,
    num_ack_pending: u64,
    num_redelivered: u64,
    #[serde(default)]
    num_waiting: u64,
    #[serde(default)]
    ack_floor: RawFloor,
    #[serde(default)]
    ts: String,
}

#[derive(Default, Deserialize)]
struct RawFloor {
    #[serde(default)]
    stream_seq: u64,
}

#[derive(Deserialize)]
struct RawMessage {
    message: RawStored,
}

#[derive(Deserialize)]
struct RawStored {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: String,
}

impl Bus {
    /// What a stream holds.
    ///
    /// # Errors
    /// [`BusError::is_not_found`] when there is none.
    pub async fn stream_info(&self, stream: &str) -> Result<StreamInfo, BusError> {
        let raw: RawStream = self.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await?;
        Ok(StreamInfo {
            messages: raw.state.messages,
            bytes: raw.state.bytes,
            max_bytes: u64::try_from(raw.config.max_bytes).ok().filter(|limit| *limit > 0),
            first_sequence: raw.state.first_seq,
            last_sequence: raw.state.last_seq,
            created: raw.created,
        })
    }

    /// How far a consumer is.
    ///
    /// # Errors
    /// [`BusError::is_not_found`] when there is none.
    pub async fn consumer_info(&self, stream: &str, consumer: &str) -> Result<ConsumerInfo, BusError> {
        let raw: RawConsumer = self.api(&format!("CONSUMER.INFO.{stream}.{consumer}"), &Value::Null).await?;
        Ok(ConsumerInfo {
            pending: raw.num_pending,
            unacked: raw.num_ack_pending,
            redelivered: raw.num_redelivered,
            waiting: raw.num_waiting,
            ack_floor: raw.ack_floor.stream_seq,
            server_time: Timestamp::parse(&raw.ts, &Rfc3339).ok(),
        })
    }

    /// The newest message of a subject, as the stream's leader has it.
    ///
    /// # Errors
    /// Outages and refusals; a subject without a message is `None`.
    pub async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<Stored>, BusError> {
        self.stored(stream, &json!({ "last_by_subj": subject })).await
    }

    /// The message at a sequence.
    ///
    /// # Errors
    /// Outages and refusals; a deleted message is `None`.
    pub async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, BusError> {
        self.stored(stream, &json!({ "seq": sequence })).await
    }

    /// The first message at or after a sequence whose subject matches.
    ///
    /// # Errors
    /// Outages and refusals; the end of the stream is `None`.
    pub async fn next_message(
        &self,
        stream: &str,
        from: u64,
        subject: &str,
    ) -> Result<Option<Stored>, BusError> {
        self.stored(stream, &json!({ "seq": from.max(1), "next_by_subj": subject })).await
    }

    /// Deletes one message. Deleting it again is harmless; answers whether it was there.
    ///
    /// # Errors
    /// Outages and refusals.
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<bool, BusError> {
        let body = json!({ "seq": sequence, "no_erase": true });
        match self.api::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &body).await {
            Ok(_) => Ok(true),
            // 10043, or 10057 for one that is gone: nothing there to delete.
            Err(BusError::Refused { error: 10043 | 10057, .. }) => Ok(false),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Subjects of a stream that match a filter, with their counts.
    pub(crate) async fn subjects(
        &self,
        stream: &str,
        filter: &str,
    ) -> Result<std::collections::BTreeMap<String, u64>, BusError> {
        let body = json!({ "subjects_filter": filter });
        let raw: RawStream = self.api(&format!("STREAM.INFO.{stream}"), &body).await?;
        Ok(raw.state.subjects)
    }

    pub(crate) async fn purge(&self, stream: &str, filter: &str) -> Result<(), BusError> {
        self.api::<Value>(&format!("STREAM.PURGE.{stream}"), &json!({ "filter": filter })).await.map(drop)
    }

    async fn stored(&self, stream: &str, what: &Value) -> Result<Option<Stored>, BusError> {
        let subject = format!("STREAM.MSG.GET.{stream}");
        match self.api::<RawMessage>(&subject, what).await {
            Ok(raw) => read(raw.message).map(Some).map_err(|reason| BusError::Garbled { subject, reason }),
            // 10037: no message found. A missing stream (10059) stays an error.
            Err(BusError::Refused { error: 10037, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The readers' stream is in an account of its own; everyone else asks there by way of an import.
    fn api_of(&self, name: &str) -> &'static str {
        let theirs = name.split('.').any(|token| token == subject::EVENTS_PUBLIC);
        if theirs && self.user != User::Reader { "OUTSIDE.API" } else { "$JS.API" }
    }

    /// One request of the JetStream API.
    pub(crate) async fn api<T: DeserializeOwned>(&self, name: &str, body: &Value) -> Result<T, BusError> {
        let subject = format!("{}.{name}", self.api_of(name));
        let payload = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let answer = self.ask(&subject, None, payload, self.ack_timeout).await?;
        let garbled = |error: serde_json::Error| BusError::Garbled {
            subject: subject.clone(),
            reason: error.to_string(),
        };
        #[derive(Deserialize)]
        struct Refusal {
            error: Option<ApiError>,
        }
        let refusal: Refusal = serde_json::from_slice(&answer.payload).map_err(garbled)?;
        match refusal.error {
            Some(error) => Err(error.on(&subject)),
            None => serde_json::from_slice(&answer.payload).map_err(garbled),
        }
    }
}

fn read(raw: RawStored) -> Result<Stored, String> {
    let at = Timestamp::parse(&raw.time, &Rfc3339).map_err(|error| error.to_string())?;
    let payload = STANDARD.decode(&raw.data).map_err(|error| error.to_string())?;
    let headers = STANDARD.decode(&raw.hdrs).map_err(|error| error.to_string())?;
    let headers = read_headers(&String::from_utf8_lossy(&headers));
    Ok(Stored { subject: raw.subject, sequence: raw.seq, headers, payload: payload.into(), at })
}

/// `NATS/1.0` and then lines of `name: value`.
fn read_headers(text: &str) -> Vec<(String, String)> {
    let pair =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.split("\r\n").skip(1).filter_map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_a_stored_message_are_read() {
        let text = "NATS/1.0\r\nNats-Msg-Id: a.1\r\nce-time: 2026-01-01T00:00:00Z\r\n\r\n";
        let headers = read_headers(text);
        assert_eq!(headers[0], ("Nats-Msg-Id".into(), "a.1".into()));
        assert_eq!(headers[1].1, "2026-01-01T00:00:00Z");
        assert_eq!(headers.len(), 2);
    }
}
