//! Sends what waits in the outbox: one relayer per sender among all processes.
//!
//! Publish, wait for the acks, delete. A crash between any two repeats the same messages under the same ids.

use std::time::Duration;

use openwatch_bus::dead_letter::DeadLetter;
use openwatch_bus::{Bus, Outgoing, subject};
use openwatch_model::audit::{MessageDeadLettered, OutboxStalled};
use openwatch_store::listen::{self, Wake};
use openwatch_store::{RelayLock, Store, StoreError, outbox};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::out::{Out, messages_of, outbox_message};
use crate::trail;

/// Rows taken at once: about as many messages as one atomic batch holds.
const BATCH: u32 = 1000;
/// How often the outbox is looked at when nobody called.
const POLL: Duration = Duration::from_secs(1);
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
    let Some(mut lock) = RelayLock::try_take(store, sender).await? else { return Ok(()) };
    let mut listener = store.listen(&[listen::OUTBOX]).await?;
    tracing::debug!(sender, "relaying the outbox");
    loop {
        lock.check().await?;
        let kept = loop {
            let drained = drain(store, bus, sender).await?;
            if drained.taken < BATCH as usize || drained.kept > 0 {
                break drained.kept;
            }
        };
        if kept > 0 || *told {
            tell_stalled(store, sender, told).await?;
        }
        tokio::select! {
            () = shutdown.cancelled() => {
                // What was committed while stopping still goes out if it can at once; else the next process sends it.
                drain(store, bus, sender).await?;
                lock.release().await;
                return Ok(());
            }
            called = called(&mut listener, sender) => called?,
            () = tokio::time::sleep(POLL) => {}
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
struct Drained {
    taken: usize,
    /// Refused for now: no permission, say. They stay, and others do not wait for them.
    kept: usize,
}

/// Sends one batch.
async fn drain(store: &Store, bus: &Bus, sender: &'static str) -> Result<Drained, StageError> {
    let rows = outbox::take(store, sender, BATCH).await?;
    let taken = rows.len();
    let (mut of, mut messages) = (Vec::with_capacity(taken), Vec::with_capacity(taken));
    for row in rows {
        match messages_of(row.message) {
            Ok(some) => {
                of.push((row.id, some.len()));
                messages.extend(some);
            }
            Err(unreadable) => {
                let (message, error) = *unreadable;
                give_up(store, sender, row.id, message, &error.to_string()).await?;
            }
        }
    }
    let answers = bus.publish_all(&messages).await;
    let mut answered = messages.into_iter().zip(answers);
    let mut sent = Vec::with_capacity(taken);
    let (mut kept, mut refused, mut outage) = (0usize, Vec::new(), None);
    for (id, many) in of {
        let answers = answered.by_ref().take(many);
        let mut unsent: Vec<_> =
            answers.filter_map(|(message, answer)| Some((message, answer.err()?))).collect();
        if let Some(at) = unsent.iter().position(|(_, error)| error.is_outage()) {
            outage = Some(unsent.swap_remove(at).1);
        } else if many > 1 && !unsent.is_empty() {
            // Each for itself the next time: what was sent is not sent again for the sake of the rest.
            let alone: Vec<_> = unsent.into_iter().map(|(message, _)| outbox_message(message)).collect();
            outbox::replace(store, id, sender, &alone).await?;
        } else if let Some((message, error)) = unsent.pop() {
            if error.is_verdict() && subject::stream_of(&message.subject) != Some(subject::DLQ) {
                refused.push((id, message, error));
            } else {
                tracing::error!(sender, subject = message.subject, %error, "a message of the outbox is refused");
                kept += 1;
            }
        } else {
            sent.push(id);
        }
    }
    outbox::remove(store, &sent).await?;
    metrics::counter!("openwatch_outbox_relayed_total", "sender" => sender).increment(sent.len() as u64);
    for (id, message, error) in refused {
        give_up(store, sender, id, message, &error.to_string()).await?;
    }
    if let Some(error) = outage {
        return Err(error.into());
    }
    if kept > 0 {
        // What we may not send may be ours to send tomorrow.
        metrics::counter!("openwatch_outbox_refused_total", "sender" => sender).increment(kept as u64);
    }
    Ok(Drained { taken, kept })
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
    if !outbox::give_up(&mut tx, id).await? {
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
