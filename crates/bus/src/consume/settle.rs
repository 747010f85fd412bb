//! One message in the hands of its handler: the beat that keeps it ours, and the decision that ends it.

use std::future::Future;
use std::time::Duration;

use async_nats::{Client, Subject};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Message, Next};
use crate::dead_letter::DeadLetter;
use crate::{Bus, BusError};

/// Sent with a termination whose dead letter is already filed, so that the caretaker does not file another.
pub const TERM_REASON: &str = "dead-lettered";

/// How a message ended.
pub(super) enum Settled {
    Done,
    Retried,
    Rejected,
    Fatal(Box<dyn std::error::Error + Send + Sync>),
}

/// Tells the server every few seconds that the message is being worked on. Ends with the value.
struct Beat(#[expect(dead_code, reason = "dropping the set aborts its task")] JoinSet<()>);

impl Beat {
    fn start(client: Client, reply: Subject, every: Duration) -> Self {
        let mut set = JoinSet::new();
        set.spawn(async move {
            loop {
                tokio::time::sleep(every).await;
                // A closed connection cannot be told; redelivery follows, and that is right.
                let _ = client.publish(reply.clone(), Bytes::from_static(b"+WPI")).await;
            }
        });
        Self(set)
    }
}

/// How a stage settles its messages; see [`super::Options`].
#[derive(Clone, Copy)]
pub(super) struct Settling {
    pub(super) stage: &'static str,
    pub(super) beat: Duration,
    pub(super) confirm: bool,
}

/// Runs the handler and does what it says. Dropped or panicking, it leaves the message undecided; the loop NAKs.
pub(super) async fn work(
    bus: Bus,
    options: Settling,
    message: Message,
    handler: impl Future<Output = Next> + Send,
) -> Settled {
    let Settling { stage, beat, confirm } = options;
    let _beat = Beat::start(bus.client.clone(), message.reply.clone(), beat);
    match handler.await {
        Next::Done => {
            let how = Bytes::from_static(b"+ACK");
            // The handler is idempotent, so a second delivery does no harm. This only puts the ack in line: an error says
            // that the connection was given up, and what the network loses later nobody hears of.
            if !confirm {
                if let Err(error) = bus.client.publish(message.reply, how).await {
                    tracing::debug!(%error, "the ack of a handled message was not sent; it comes again");
                }
            } else if let Err(error) = ack(&bus, &message.reply, how).await {
                tracing::warn!(%error, "the ack of a handled message was not confirmed; it may come again");
            }
            Settled::Done
        }
        Next::Retry { after } => {
            tracing::debug!(after_ms = after.as_millis() as u64, "message put back");
            nak(&bus.client, &message.reply, Some(after)).await;
            Settled::Retried
        }
        Next::Reject { reason } => reject(&bus, stage, &message, &reason).await,
        Next::Fatal { error } => {
            nak(&bus.client, &message.reply, None).await;
            Settled::Fatal(error)
        }
    }
}

async fn reject(bus: &Bus, stage: &'static str, message: &Message, reason: &str) -> Settled {
    tracing::error!(subject = message.subject, sequence = message.sequence, reason, "message rejected");
    let letter = DeadLetter::of(stage, message, reason).encode();
    if let Err(error) = bus.publish(&letter).await {
        // Only after the letter is safe may the message go.
        tracing::error!(%error, "the dead letter could not be filed; trying again with the message's next delivery");
        nak(&bus.client, &message.reply, Some(Duration::from_secs(5))).await;
        return Settled::Retried;
    }
    metrics::counter!("openwatch_dead_lettered_total", "stage" => stage).increment(1);
    if let Err(error) = ack(bus, &message.reply, Bytes::from(format!("+TERM {TERM_REASON}"))).await {
        tracing::warn!(%error, "the end of a rejected message was not confirmed; it may come again");
    }
    Settled::Rejected
}

/// Decides and waits for the server to say that it heard.
async fn ack(bus: &Bus, reply: &Subject, how: Bytes) -> Result<(), BusError> {
    let mut left = 3;
    loop {
        left -= 1;
        match bus.ask(reply.as_str(), None, how.clone(), bus.ack_timeout).await {
            Ok(_) => return Ok(()),
            Err(error) if left > 0 && error.is_outage() => {
                tokio::time::sleep(Duration::from_millis(100)).await
            }
            Err(error) => return Err(error),
        }
    }
}

/// Gives a message back. Not confirmed: if it is lost, the ack wait does the same a little later.
pub(super) async fn nak(client: &Client, reply: &Subject, after: Option<Duration>) {
    let how = match after {
        Some(after) => format!("-NAK {{\"delay\":{}}}", after.as_nanos()),
        None => "-NAK".to_owned(),
    };
    if let Err(error) = client.publish(reply.clone(), how.into()).await {
        tracing::debug!(%error, "a message could not be given back; its ack wait will");
    }
}
