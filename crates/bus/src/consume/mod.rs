//! *The* consume loop. Every stage that takes messages runs in it, so that no stage can forget an ack, a beat, a dead
//! letter or a slot.

mod message;
mod pull;
mod pulse;
mod settle;
mod worker;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

pub use message::Message;
pub use pulse::Pulse;
pub use settle::TERM_REASON;

use crate::{Bus, BusError};

/// What a handler decided. Dropping a message undecided (a panic, an abort) gives it back.
#[derive(Debug)]
pub enum Next {
    /// It is dealt with: acked.
    Done,
    /// The world is not ready: delivered again after this long.
    Retry {
        /// The delay.
        after: Duration,
    },
    /// It will never be right: filed as a dead letter, then terminated.
    Reject {
        /// Why, in one line, without secrets.
        reason: String,
    },
    /// The stage cannot go on: the message is given back and [`run`] returns the error.
    Fatal {
        /// Why.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A durable consumer of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// Its stream.
    pub stream: &'static str,
    /// Its name.
    pub name: &'static str,
}

impl Consumer {
    /// Every one.
    pub const ALL: [Self; 7] = [
        Self::EXECUTOR_MANUAL,
        Self::EXECUTOR_SCHEDULED,
        Self::WRITER,
        Self::SCHEDULER,
        Self::DRIFT,
        Self::ALERTS,
        Self::ADVISORIES,
    ];
    /// Jobs that people asked for.
    pub const EXECUTOR_MANUAL: Self = Self { stream: crate::subject::JOBS, name: "executor-manual" };
    /// Jobs that fell due.
    pub const EXECUTOR_SCHEDULED: Self = Self { stream: crate::subject::JOBS, name: "executor-scheduled" };
    /// Results.
    pub const WRITER: Self = Self { stream: crate::subject::RESULTS, name: "writer" };
    /// Scans that ended, for the scheduler.
    pub const SCHEDULER: Self = Self { stream: crate::subject::EVENTS, name: "scheduler" };
    /// Scans that completed, for drift.
    pub const DRIFT: Self = Self { stream: crate::subject::EVENTS, name: "drift" };
    /// What people should know.
    pub const ALERTS: Self = Self { stream: crate::subject::EVENTS, name: "alerts" };
    /// What the server gave up on.
    pub const ADVISORIES: Self = Self { stream: crate::subject::ADVISORIES, name: "advisories" };
}

/// Must resolve before anything is pulled; called again before every pull.
pub type Gate = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// How a stage consumes.
#[derive(Clone)]
pub struct Options {
    /// Name of the stage: log target, metric label, dead-letter subject.
    pub stage: &'static str,
    /// What is consumed.
    pub first: Consumer,
    /// A second consumer that shares the slots. The first is served before it, and with two or more slots keeps one.
    pub second: Option<Consumer>,
    /// Messages in hand at once.
    pub slots: usize,
    /// How long to finish what is in hand when told to stop.
    pub grace: Duration,
    /// How often the server is told that a message is being worked on; well below the consumer's ack wait.
    pub beat: Duration,
    /// Stages with tables wait here while the database is away.
    pub gate: Option<Gate>,
    /// Ticks with every round of the loop.
    pub pulse: Pulse,
    /// Acks are said up to three times, until the server says that it heard them. An ack that is lost brings its message
    /// again: most stages find that they know it, which costs less than asking about every ack.
    pub confirm: bool,
}

impl Options {
    /// One consumer, a beat of ten seconds, 25 seconds of grace.
    pub fn new(stage: &'static str, consumer: Consumer, slots: usize) -> Self {
        Self {
            stage,
            first: consumer,
            second: None,
            slots: slots.max(1),
            grace: Duration::from_secs(25),
            beat: Duration::from_secs(10),
            gate: None,
            pulse: Pulse::new(),
            confirm: false,
        }
    }

    /// With a second consumer that shares the slots.
    #[must_use]
    pub fn second(mut self, consumer: Consumer) -> Self {
        self.second = Some(consumer);
        self
    }

    /// With acks that are confirmed: for work that is dear to do again.
    #[must_use]
    pub fn confirmed(mut self) -> Self {
        self.confirm = true;
        self
    }

    /// With a gate.
    #[must_use]
    pub fn gate<F, W>(mut self, gate: F) -> Self
    where
        F: Fn() -> W + Send + Sync + 'static,
        W: Future<Output = ()> + Send + 'static,
    {
        self.gate = Some(Arc::new(move || Box::pin(gate())));
        self
    }
}

/// Consumes until told to stop, or until a handler says [`Next::Fatal`].
///
/// Pulls exactly as many messages as there are free slots; runs each handler in a task of its own; tells the server
/// every [`Options::beat`] that it is still at work. Outages and restarts of the server are waited out. Told to stop,
/// it fetches no more and finishes what is in hand; when the grace is over, it aborts and gives the rest back.
///
/// A handler may see a message again after its effects were made (a lost ack, a kill): it must be idempotent.
///
/// # Errors
/// [`BusError::Fatal`] from a handler, [`BusError::Denied`] when the consumer is not ours to read.
pub async fn run<H, F>(
    bus: &Bus,
    options: Options,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), BusError>
where
    H: Fn(Message) -> F + Send + Sync + 'static,
    F: Future<Output = Next> + Send + 'static,
{
    worker::Worker::new(bus, options, handler).run(shutdown).await
}
