//! Following the public events, as an outside consumer would.

use std::time::Duration;

use async_nats::{StatusCode, Subscriber};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::message::event::Event;
use crate::{Bus, BusError, DecodeError, Message, subject};

const BATCH: usize = 100;
const EXPIRES: Duration = Duration::from_secs(5);
const FILTER: &str = "ow.v1.evt.>";

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Only what happens from now on.
    Now,
    /// From this sequence on; 1 is the oldest event that is kept.
    Sequence(u64),
}

/// An event as it was followed.
#[derive(Debug)]
pub struct Followed {
    /// Its place in the stream: give the next one to [`Since::Sequence`] to go on later.
    pub sequence: u64,
    /// The message as it came.
    pub message: Message,
    /// The event, or why this build cannot read it.
    pub event: Result<Event, DecodeError>,
}

/// Follows `OW_EVENTS_PUBLIC` in order, without gaps, over reconnects and restarts of the server. Of a stream that was made anew it
/// begins with the first event.
pub struct EventTail {
    bus: Bus,
    since: Since,
    /// When the stream was made that `since` speaks of, once that is known.
    created: Option<String>,
    consumer: Option<String>,
    pull: Option<Pull>,
    generation: watch::Receiver<u64>,
}

struct Pull {
    answers: Subscriber,
    remaining: usize,
}

impl EventTail {
    /// A tail of all events.
    pub fn new(bus: &Bus, since: Since) -> Self {
        Self {
            bus: bus.clone(),
            since,
            created: None,
            consumer: None,
            pull: None,
            generation: bus.generation(),
        }
    }

    /// The next event; waits until there is one. Outages are waited out. May be dropped and called again.
    ///
    /// # Errors
    /// What waiting does not cure, such as a missing permission.
    pub async fn next(&mut self) -> Result<Followed, BusError> {
        loop {
            match self.step().await {
                Ok(Some(message)) => {
                    self.since = Since::Sequence(message.sequence + 1);
                    let event = Event::decode(&message.headers, &message.payload);
                    return Ok(Followed { sequence: message.sequence, message, event });
                }
                Ok(None) => self.pull = None,
                Err(error) if error.is_outage() || error.is_not_found() => {
                    // What was on its way may be lost, so begin anew after the last event that was seen.
                    (self.pull, self.consumer) = (None, None);
                    tracing::debug!(%error, "the tail waits for the server");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message of the open pull; `None` when the pull is over.
    async fn step(&mut self) -> Result<Option<Message>, BusError> {
        if self.generation.has_changed().unwrap_or_default() {
            self.generation.mark_unchanged();
            (self.pull, self.consumer) = (None, None);
        }
        let consumer = match &self.consumer {
            Some(consumer) => consumer.clone(),
            None => {
                let name = self.create().await?;
                self.consumer.insert(name).clone()
            }
        };
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{consumer}", subject::EVENTS_PUBLIC);
        let disconnected = || BusError::Disconnected { subject: subject.clone() };
        let pull = match &mut self.pull {
            Some(pull) => pull,
            None => self.pull.insert(ask(&self.bus, &subject).await.ok_or_else(disconnected)?),
        };
        if pull.remaining == 0 {
            return Ok(None);
        }
        let silence = EXPIRES * 2;
        let answer = timeout(silence, pull.answers.next()).await;
        let raw = answer.map_err(|_| BusError::TimedOut { subject: subject.clone(), after: silence })?;
        let raw = raw.ok_or_else(disconnected)?;
        match raw.status {
            None | Some(StatusCode::OK) => {
                pull.remaining -= 1;
                Ok(Message::read(raw))
            }
            Some(StatusCode::TIMEOUT | StatusCode::NOT_FOUND) => Ok(None),
            Some(_) => Err(BusError::NobodyThere { subject }),
        }
    }

    async fn create(&mut self) -> Result<String, BusError> {
        let info = self.bus.stream_info(subject::EVENTS_PUBLIC).await?;
        if self.created.as_ref().is_some_and(|known| *known != info.created) {
            tracing::warn!(
                created = info.created,
                "the stream of events was made anew: following it from its first event"
            );
            self.since = Since::Sequence(1);
        }
        self.created = Some(info.created);
        let from = match self.since {
            Since::Now => info.last_sequence + 1,
            Since::Sequence(from) => from.max(1),
        };
        self.since = Since::Sequence(from);
        let name = format!("tail_{}", uuid::Uuid::new_v4().simple());
        let config = json!({
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": from,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subject": FILTER,
            "inactive_threshold": Duration::from_secs(60).as_nanos() as u64,
            "mem_storage": true,
            "num_replicas": 1,
        });
        let stream = subject::EVENTS_PUBLIC;
        let request = format!("CONSUMER.CREATE.{stream}.{name}.{FILTER}");
        let body = json!({ "stream_name": stream, "config": config, "action": "create" });
        self.bus.api::<Value>(&request, &body).await?;
        Ok(name)
    }

    /// Removes the consumer now instead of a minute later.
    pub async fn close(self) {
        if let Some(consumer) = &self.consumer {
            let request = format!("CONSUMER.DELETE.{}.{consumer}", subject::EVENTS_PUBLIC);
            if let Err(error) = self.bus.api::<Value>(&request, &Value::Null).await {
                tracing::debug!(%error, "the consumer of a tail goes by itself");
            }
        }
    }
}

async fn ask(bus: &Bus, subject: &str) -> Option<Pull> {
    let inbox = bus.client.new_inbox();
    let answers = bus.client.subscribe(inbox.clone()).await.ok()?;
    let body = json!({ "batch": BATCH, "expires": EXPIRES.as_nanos() as u64 }).to_string();
    bus.client.publish_with_reply(subject.to_owned(), inbox, body.into()).await.ok()?;
    Some(Pull { answers, remaining: BATCH })
}
