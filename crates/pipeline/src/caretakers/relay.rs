//! Sends what waits in the outbox: one relayer per sender among all processes.
//!
//! Publish, wait for the acks, delete. A crash between any two repeats the same messages under the same ids. What was sent
//! is deleted by the statement that takes what comes next, or in the first quiet moment.

use std::time::Duration;

use openwatch_bus::dead_letter::DeadLetter;
use openwatch_bus::{Bus, BusError, Outgoing, subject};
use openwatch_model::audit::{MessageDeadLettered, OutboxStalled};
use openwatch_store::listen::{self, Wake};
use openwatch_store::outbox::{OutboxMessage, OutboxRow};
use openwatch_store::{Relay, Store, StoreError, outbox};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::out::{Out, messages_of, outbox_message};
use crate::trail;

/// Rows taken at once: about as many messages as one atomic batch holds.
const BATCH: u32 = 1000;
/// How often the outbox is looked at when nobody called.
const POLL: Duration = Duration::from_secs(1);
/// Least time between two looks, unless this process put a message in line by itself, such as a job that somebody asked for:
/// the first event after a pause goes at once, and what a busy stage tells in so long goes together. A look costs the database
/// and the bus about as much for one row as for ten.
const PACE: Duration = Duration::from_millis(20);
/// A moment is quiet when nobody called for so long.
const QUIET: Duration = Duration::from_millis(100);
/// How long to wait before another try when the lock is held, the bus or the database is away.
const PAUSE: Duration = Duration::from_millis(500);
/// A message that waited longer is an affair for people.
const STALLED: Duration = Duration::from_secs(60);

/// Relays a stage's rows until told to stop. Waits while another process does.
///
/// # Errors
/// None that waiting could cure.
pub async fn run(
    store: Store,
    bus: Bus,
    sender: &'static str,
    shutdown: CancellationToken,
) -> Result<(), StageError> {
    let mut told = false;
    while !shutdown.is_cancelled() {
        match relay(&store, &bus, sender, &mut told, &shutdown).await {
            Ok(()) => {}
            Err(StageError::Store(error)) if error.is_transient() => {
                tracing::warn!(sender, %error, "the outbox waits for the database");
            }
            Err(StageError::Bus(error)) => tracing::warn!(sender, %error, "the outbox waits for the bus"),
            Err(error) => return Err(error),
        }
        if let Err(error) = tell_stalled(&store, sender, &mut told).await {
            tracing::debug!(sender, %error, "whether the outbox stalls cannot be told");
        }
        let _ = tokio::time::timeout(PAUSE, shutdown.cancelled()).await;
    }
    Ok(())
}

/// Puts it on record, once for each time, that messages wait too long.
async fn tell_stalled(store: &Store, sender: &str, told: &mut bool) -> Result<(), StoreError> {
    let depth = outbox::depth(store, Some(sender)).await?;
    let stalled = depth.oldest >= STALLED;
    if stalled && !std::mem::replace(told, true) {
        let oldest_seconds = depth.oldest.as_secs();
        tracing::error!(sender, waiting = depth.rows, oldest_seconds, "the outbox has stalled");
        let event = OutboxStalled { sender: sender.to_owned(), waiting: depth.rows, oldest_seconds };
        trail::process(store, &event).await?;
    }
    *told &= stalled;
    Ok(())
}

async fn relay(
    store: &Store,
    bus: &Bus,
    sender: &'static str,
    told: &mut bool,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    let Some(mut relay) = Relay::try_take(store, sender).await? else { return Ok(()) };
    let mut listener = store.listen(&[listen::OUTBOX]).await?;
    tracing::debug!(sender, "relaying the outbox");
    let mut sent = Vec::new();
    loop {
        // What was committed while stopping still goes out if it can at once; else the next process sends it.
        let stopping = shutdown.is_cancelled();
        let looked = Instant::now();
        drain(store, bus, sender, &mut relay, &mut sent, told).await?;
        if stopping {
            relay.next(&sent, 0).await?;
            relay.release().await;
            return Ok(());
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = relay.rung() => {}
            called = called(&mut listener, sender) => called?,
            () = tokio::time::sleep(if sent.is_empty() { POLL } else { QUIET }) => {}
        }
        let paced = tokio::time::sleep_until(looked + PACE);
        tokio::pin!(paced);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = relay.hurried() => {}
                () = &mut paced => {}
                // The look that follows is an answer to all of them.
                called = called(&mut listener, sender) => { called?; continue }
            }
            break;
        }
    }
}

/// Forgets what was `sent` before and sends what there is, batch by batch, until one is not full. What the last of them sent is
/// left for the next time.
async fn drain(
    store: &Store,
    bus: &Bus,
    sender: &'static str,
    relay: &mut Relay,
    sent: &mut Vec<i64>,
    told: &mut bool,
) -> Result<(), StageError> {
    loop {
        let rows = relay.next(sent, BATCH).await?;
        let full = rows.len() == BATCH as usize;
        let batch = send(bus, sender, rows).await;
        *sent = batch.sent;
        if !batch.stuck.is_empty() || batch.outage.is_some() || batch.kept > 0 || *told {
            // Before anything else that can fail: what was sent is not sent again because of what was not.
            relay.next(sent, 0).await?;
            sent.clear();
        }
        for (id, stuck) in batch.stuck {
            match stuck {
                Stuck::Alone(messages) => outbox::replace(store, id, sender, &messages).await?,
                Stuck::Dead(message, reason) => give_up(store, sender, id, message, &reason).await?,
            }
        }
        if let Some(error) = batch.outage {
            return Err(error.into());
        }
        if !full || batch.kept > 0 {
            if batch.kept > 0 || *told {
                tell_stalled(store, sender, told).await?;
            }
            return Ok(());
        }
    }
}

/// Waits for a call that is meant for this sender.
async fn called(listener: &mut openwatch_store::Listener, sender: &str) -> Result<(), StoreError> {
    loop {
        match listener.recv().await? {
            Wake::Call { payload, .. } if !payload.is_empty() && payload != sender => {}
            Wake::Call { .. } | Wake::Missed => return Ok(()),
        }
    }
}

/// What became of one batch.
#[derive(Default)]
struct Batch {
    /// Rows whose every message has been acknowledged.
    sent: Vec<i64>,
    /// Rows that cannot go as they are.
    stuck: Vec<(i64, Stuck)>,
    /// Refused for now: no permission, say. They stay, and others do not wait for them.
    kept: usize,
    /// Why the rest could not be sent.
    outage: Option<BusError>,
}

/// What to do about a row that cannot go as it is.
enum Stuck {
    /// Some of its messages were refused: each for itself the next time. What was sent is not sent again for their sake.
    Alone(Vec<OutboxMessage>),
    /// It will never be taken, for this reason.
    Dead(Outgoing, String),
}

/// Sends one batch.
async fn send(bus: &Bus, sender: &'static str, rows: Vec<OutboxRow>) -> Batch {
    let mut batch = Batch::default();
    let (mut of, mut messages) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        match messages_of(row.message) {
            Ok(some) => {
                of.push((row.id, some.len()));
                messages.extend(some);
            }
            Err(unreadable) => {
                let (message, error) = *unreadable;
                batch.stuck.push((row.id, Stuck::Dead(message, error.to_string())));
            }
        }
    }
    let answers = bus.publish_all(&messages).await;
    let mut answered = messages.into_iter().zip(answers);
    for (id, many) in of {
        let answers = answered.by_ref().take(many);
        let mut unsent: Vec<_> =
            answers.filter_map(|(message, answer)| Some((message, answer.err()?))).collect();
        if let Some(at) = unsent.iter().position(|(_, error)| error.is_outage()) {
            batch.outage = Some(unsent.swap_remove(at).1);
        } else if many > 1 && !unsent.is_empty() {
            let alone = unsent.into_iter().map(|(message, _)| outbox_message(message)).collect();
            batch.stuck.push((id, Stuck::Alone(alone)));
        } else if let Some((message, error)) = unsent.pop() {
            if error.is_verdict() && subject::stream_of(&message.subject) != Some(subject::DLQ) {
                batch.stuck.push((id, Stuck::Dead(message, error.to_string())));
            } else {
                tracing::error!(sender, subject = message.subject, %error, "a message of the outbox is refused");
                batch.kept += 1;
            }
        } else {
            batch.sent.push(id);
        }
    }
    metrics::counter!("openwatch_outbox_relayed_total", "sender" => sender)
        .increment(batch.sent.len() as u64);
    if batch.kept > 0 {
        // What we may not send may be ours to send tomorrow.
        metrics::counter!("openwatch_outbox_refused_total", "sender" => sender).increment(batch.kept as u64);
    }
    batch
}

/// The server will never take it: then it is a dead letter, in one `tx` with its end here.
async fn give_up(
    store: &Store,
    sender: &'static str,
    id: i64,
    message: Outgoing,
    reason: &str,
) -> Result<(), StoreError> {
    tracing::error!(sender, subject = message.subject, reason, "a message of the outbox is a dead letter");
    let mut tx = store.begin().await?;
    if !outbox::give_up(&mut tx, sender, id).await? {
        return Ok(());
    }
    let mut out = Out::new(sender, message.message_id.clone());
    let event = MessageDeadLettered {
        stream: "outbox".to_owned(),
        subject: message.subject.clone(),
        stage: sender.to_owned(),
        deliveries: 1,
        reason: reason.to_owned(),
    };
    out.audit(&tx, &event);
    out.send(DeadLetter::of_unsent(sender, id.unsigned_abs(), message, reason).encode());
    out.commit(tx).await?;
    metrics::counter!("openwatch_dead_lettered_total", "stage" => sender).increment(1);
    Ok(())
}
