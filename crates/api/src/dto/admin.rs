//! For whoever looks after the installation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// What is counted and measured right now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricsSnapshot {
    /// Counters and gauges of this process by name: what `/metrics` shows. Of a histogram, its sum and count.
    pub metrics: BTreeMap<String, Vec<Sample>>,
    /// Messages that wait to be sent, by sender; a sender with none is absent.
    pub outbox: Vec<OutboxView>,
    /// Streams and what they hold.
    pub streams: Vec<StreamView>,
    /// Consumers and how far they are.
    pub consumers: Vec<ConsumerView>,
}

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sample {
    /// What it is the number of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The number.
    pub value: f64,
}

/// Messages of one sender that wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OutboxView {
    /// Whose they are.
    pub sender: String,
    /// How many.
    pub rows: u64,
    /// How long the oldest has waited.
    pub oldest_seconds: u64,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamView {
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes it may hold; absent without a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
}

/// A consumer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConsumerView {
    /// Its stream.
    pub stream: String,
    /// Its name.
    pub name: String,
    /// Messages not delivered yet.
    pub pending: u64,
    /// Delivered, not decided yet.
    pub unacked: u64,
    /// Of those, delivered more than once.
    pub redelivered: u64,
    /// Requests that wait for messages: zero means nobody is there.
    pub waiting: u64,
}

/// A message that could not be processed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterView {
    /// Its number.
    pub sequence: u64,
    /// When it was put aside.
    #[serde(with = "time::serde::rfc3339")]
    pub filed_at: OffsetDateTime,
    /// Who put it aside.
    pub stage: String,
    /// Where it came from.
    pub stream: String,
    /// Its place there.
    pub stream_sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// How often it was tried.
    pub deliveries: u64,
    /// Why it was given up.
    pub reason: String,
    /// Its size.
    pub bytes: u64,
    /// Whether all of it is kept; only then can it be replayed.
    pub whole: bool,
}

/// A letter that something was done to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Replayed {
    /// Its number.
    pub sequence: u64,
}
