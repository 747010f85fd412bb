//! Sends what waits in the outbox: one relayer per sender among all processes.
//!
//! Publish, wait for the acks, delete. A crash between any two repeats the same messages under the same ids.

use std::time::Duration;

use openwatch_bus::{Bus, BusError};
use openwatch_store::listen::{self, Wake};
use openwatch_store::{RelayLock, Store, StoreError, outbox};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::out::outgoing;

/// Rows taken at once: as many as one atomic batch holds.
const BATCH: u32 = 1000;
/// How often the outbox is looked at when nobody called.
const POLL: Duration = Duration::from_secs(1);
/// How long to wait before another try when the lock is held, the bus or the database is away.
const PAUSE: Duration = Duration::from_millis(500);

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
    while !shutdown.is_cancelled() {
        match relay(&store, &bus, sender, &shutdown).await {
            Ok(()) => {}
            Err(StageError::Store(error)) if error.is_transient() => {
                tracing::warn!(sender, %error, "the outbox waits for the database");
            }
            Err(StageError::Bus(error)) => tracing::warn!(sender, %error, "the outbox waits for the bus"),
            Err(error) => return Err(error),
        }
        let _ = tokio::time::timeout(PAUSE, shutdown.cancelled()).await;
    }
    Ok(())
}

async fn relay(
    store: &Store,
    bus: &Bus,
    sender: &'static str,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    let Some(mut lock) = RelayLock::try_take(store, sender).await? else { return Ok(()) };
    let mut listener = store.listen(&[listen::OUTBOX]).await?;
    tracing::debug!(sender, "relaying the outbox");
    loop {
        lock.check().await?;
        while drain(store, bus, sender).await? == BATCH as usize {}
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

/// Sends one batch; returns how many rows were taken.
async fn drain(store: &Store, bus: &Bus, sender: &'static str) -> Result<usize, StageError> {
    let rows = outbox::take(store, sender, BATCH).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let taken = rows.len();
    let (ids, messages): (Vec<_>, Vec<_>) =
        rows.into_iter().map(|row| (row.id, outgoing(row.message))).unzip();
    let answers = bus.publish_all(&messages).await;
    let mut sent = Vec::with_capacity(taken);
    let mut failed: Option<BusError> = None;
    for ((id, message), answer) in ids.into_iter().zip(&messages).zip(answers) {
        match answer {
            Ok(_) => sent.push(id),
            Err(error) => {
                if !error.is_outage() {
                    tracing::error!(sender, subject = message.subject, %error, "a message of the outbox is refused");
                }
                failed = Some(error);
            }
        }
    }
    outbox::remove(store, &sent).await?;
    metrics::counter!("openwatch_outbox_relayed_total", "sender" => sender).increment(sent.len() as u64);
    match failed {
        Some(error) if error.is_outage() => Err(error.into()),
        // Refused messages stay and are counted; the others must not wait for them, and nobody spins over them.
        Some(_) => {
            metrics::counter!("openwatch_outbox_refused_total", "sender" => sender).increment(1);
            Ok(sent.len().min(taken - 1))
        }
        None => Ok(taken),
    }
}
