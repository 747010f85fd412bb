//! Publishing into streams: every message is waited for. One by one, pipelined, or as one batch.

use async_nats::HeaderMap;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::Deserialize;

use crate::request::clean;
use crate::{Bus, BusError, Profile, subject};

/// Bytes on their way at once. More than 128 MiB would be refused by the stream; less keeps a leader responsive.
const WINDOW_BYTES: usize = 8 << 20;
/// Messages on their way at once.
const WINDOW_MESSAGES: usize = 512;
/// The server takes no larger batch.
const BATCH_MOST: usize = 1000;
/// Below this a batch costs more than it saves (measured on one replica with `sync_interval: always`).
const BATCH_LEAST: usize = 30;

/// A message to publish. Publishing it twice is harmless: the id is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub subject: String,
    /// `Nats-Msg-Id`: derived from the cause, never random.
    pub message_id: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The bytes.
    pub payload: Bytes,
}

impl Outgoing {
    fn header_map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.insert(name.as_str(), clean(value).as_str());
        }
        map.insert("Nats-Msg-Id", clean(&self.message_id).as_str());
        map
    }

    fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.payload.len() + self.subject.len() + headers
    }
}

/// Where a message was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The stream.
    pub stream: String,
    /// Its place in the stream; of the first copy, when it is a duplicate.
    pub sequence: u64,
    /// It had been stored before.
    pub duplicate: bool,
}

#[derive(Deserialize)]
struct Ack {
    stream: Option<String>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    #[serde(default)]
    count: u64,
    error: Option<crate::stream::ApiError>,
}

impl Bus {
    /// Publishes, and waits until the stream has it.
    ///
    /// # Errors
    /// See [`BusError::is_outage`]: after an outage publish it again, with the same id.
    pub async fn publish(&self, message: &Outgoing) -> Result<Published, BusError> {
        let ack = self.publish_raw(message, message.header_map()).await?;
        let stream = ack.stream.ok_or_else(|| garbled(message, "no stream in the ack"))?;
        let outcome = if ack.duplicate { "duplicate" } else { "stored" };
        metrics::counter!("openwatch_published_total", "stream" => stream.clone(), "outcome" => outcome)
            .increment(1);
        Ok(Published { stream, sequence: ack.seq, duplicate: ack.duplicate })
    }

    /// Publishes many, in order, and waits for all. Answers are in the order of the messages.
    ///
    /// On one replica, many messages for one stream go as atomic batches (one write to the disk for hundreds); a batch
    /// that is refused, or whose answer is lost, is repeated one by one under the same ids.
    pub async fn publish_all(&self, messages: &[Outgoing]) -> Vec<Result<Published, BusError>> {
        let mut answers: Vec<Option<Result<Published, BusError>>> = messages.iter().map(|_| None).collect();
        if self.profile == Profile::Small {
            for batch in batches(messages) {
                self.publish_batch(messages, &batch, &mut answers).await;
            }
        }
        self.publish_singles(messages, &mut answers).await;
        let missing = |message: &Outgoing| Err(garbled(message, "it was not published"));
        answers
            .into_iter()
            .zip(messages)
            .map(|(answer, message)| answer.unwrap_or_else(|| missing(message)))
            .collect()
    }

    async fn publish_singles(
        &self,
        messages: &[Outgoing],
        answers: &mut [Option<Result<Published, BusError>>],
    ) {
        let mut waiting = answers
            .iter()
            .enumerate()
            .filter_map(|(index, answer)| answer.is_none().then_some(index))
            .collect::<std::collections::VecDeque<_>>();
        let mut flying = FuturesUnordered::new();
        let mut bytes = 0;
        loop {
            while let Some(&index) = waiting.front() {
                let size = messages[index].size();
                let full = flying.len() >= WINDOW_MESSAGES || bytes + size > WINDOW_BYTES;
                if full && !flying.is_empty() {
                    break;
                }
                waiting.pop_front();
                bytes += size;
                flying.push(async move { (index, size, self.publish(&messages[index]).await) });
            }
            let Some((index, size, answer)) = flying.next().await else { break };
            bytes -= size;
            answers[index] = Some(answer);
        }
    }

    /// Publishes `batch` (indices into `messages`) so that all or none of it is stored. Fills in answers only when the
    /// server said that it is.
    async fn publish_batch(
        &self,
        messages: &[Outgoing],
        batch: &[usize],
        answers: &mut [Option<Result<Published, BusError>>],
    ) {
        match self.try_batch(messages, batch).await {
            Ok(ack) => {
                let stream = ack.stream.unwrap_or_default();
                metrics::counter!("openwatch_published_total", "stream" => stream.clone(), "outcome" => "stored")
                    .increment(batch.len() as u64);
                let first = ack.seq + 1 - batch.len() as u64;
                for (place, &index) in batch.iter().enumerate() {
                    let sequence = first + place as u64;
                    answers[index] =
                        Some(Ok(Published { stream: stream.clone(), sequence, duplicate: false }));
                }
            }
            Err(error) => {
                metrics::counter!("openwatch_batches_refused_total").increment(1);
                tracing::debug!(%error, messages = batch.len(), "a batch was refused; sending its messages singly");
            }
        }
    }

    async fn try_batch(&self, messages: &[Outgoing], batch: &[usize]) -> Result<Ack, BusError> {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let last = batch.len() - 1;
        for (place, &index) in batch.iter().enumerate() {
            let message = &messages[index];
            let mut headers = message.header_map();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", (place + 1).to_string().as_str());
            if place == last {
                headers.insert("Nats-Batch-Commit", "1");
                let ack = self.publish_raw(message, headers).await?;
                let whole = ack.count == batch.len() as u64 && ack.seq >= ack.count;
                return if whole { Ok(ack) } else { Err(garbled(message, "the batch was not stored whole")) };
            }
            if place == 0 {
                // The first answer is empty when the stream takes batches, and an error at once when it does not.
                let answer = self
                    .ask(&message.subject, Some(headers), message.payload.clone(), self.ack_timeout)
                    .await?;
                if !answer.payload.is_empty() {
                    return Err(match read_ack(message, &answer.payload) {
                        Ok(_) => garbled(message, "the stream does not know batches"),
                        Err(error) => error,
                    });
                }
                continue;
            }
            let sent =
                self.client.publish_with_headers(message.subject.clone(), headers, message.payload.clone());
            sent.await.map_err(|_| BusError::Disconnected { subject: message.subject.clone() })?;
        }
        Err(BusError::Garbled { subject: String::new(), reason: "an empty batch".into() })
    }

    async fn publish_raw(&self, message: &Outgoing, headers: HeaderMap) -> Result<Ack, BusError> {
        let size = message.size();
        let limit = self.client.max_payload();
        if size > limit {
            return Err(BusError::TooLarge {
                what: format!("a message to `{}`", message.subject),
                bytes: size,
                limit,
            });
        }
        let answer =
            self.ask(&message.subject, Some(headers), message.payload.clone(), self.ack_timeout).await?;
        read_ack(message, &answer.payload)
    }
}

fn read_ack(message: &Outgoing, payload: &[u8]) -> Result<Ack, BusError> {
    let mut ack: Ack =
        serde_json::from_slice(payload).map_err(|error| garbled(message, &error.to_string()))?;
    match ack.error.take() {
        Some(error) => Err(error.on(&message.subject)),
        None => Ok(ack),
    }
}

fn garbled(message: &Outgoing, reason: &str) -> BusError {
    BusError::Garbled { subject: message.subject.clone(), reason: reason.to_owned() }
}

/// Groups messages that may go as one batch: one stream, enough of them, not too many, not too large.
fn batches(messages: &[Outgoing]) -> Vec<Vec<usize>> {
    let mut by_stream = std::collections::BTreeMap::<&str, Vec<usize>>::new();
    for (index, message) in messages.iter().enumerate() {
        // Results and dead letters come from stages that publish them singly.
        if let Some(stream @ (subject::JOBS | subject::EVENTS | subject::AUDIT)) =
            subject::stream_of(&message.subject)
        {
            by_stream.entry(stream).or_default().push(index);
        }
    }
    let mut found = Vec::new();
    for indices in by_stream.into_values() {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for index in indices {
            let size = messages[index].size();
            if batch.len() == BATCH_MOST || bytes + size > WINDOW_BYTES {
                found.push(std::mem::take(&mut batch));
                bytes = 0;
            }
            batch.push(index);
            bytes += size;
        }
        found.push(batch);
    }
    found.retain(|batch| batch.len() >= BATCH_LEAST);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, size: usize) -> Outgoing {
        let payload = Bytes::from(vec![b'x'; size]);
        Outgoing { subject: subject.into(), message_id: "1".into(), headers: Vec::new(), payload }
    }

    #[test]
    fn batches_are_of_one_stream_and_bounded() {
        let mut messages: Vec<_> = (0..2100).map(|_| message("ow.v1.job.manual.a", 100)).collect();
        messages.extend((0..29).map(|_| message("ow.v1.evt.scan_failed.a", 100)));
        messages.extend((0..40).map(|_| message("ow.v1.result.final.a.b", 100)));
        let found = batches(&messages);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 100]);
        assert!(found.iter().flatten().all(|&index| messages[index].subject.starts_with("ow.v1.job")));

        let large: Vec<_> = (0..60).map(|_| message("ow.v1.audit.x", 200_000)).collect();
        let found = batches(&large);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [41]);
    }
}
