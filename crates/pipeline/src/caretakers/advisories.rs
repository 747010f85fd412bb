//! Messages that the server gave up on: copied to the dead letters, then taken out of their work queue.

use openwatch_bus::advisory::{Advisory, Ending};
use openwatch_bus::consume::{self, Consumer, Options};
use openwatch_bus::dead_letter::DeadLetter;
use openwatch_bus::{Bus, BusError, Message, Next, subject};
use openwatch_model::audit::MessageDeadLettered;
use openwatch_store::{Store, StoreError, inbox};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use crate::StageError;
use crate::error::{AWAY, next};
use crate::gate::database_gate;
use crate::out::Out;

const SLOTS: usize = 4;

pub(super) async fn run(store: Store, bus: Bus, shutdown: CancellationToken) -> Result<(), StageError> {
    let options = Options::new(STAGE, Consumer::ADVISORIES, SLOTS).gate(database_gate(&store));
    let consuming = bus.clone();
    let handle = move |message: Message| {
        let (store, bus) = (store.clone(), bus.clone());
        async move { handle(&store, &bus, &message).await }
    };
    Ok(consume::run(&consuming, options, handle, shutdown).await?)
}

async fn handle(store: &Store, bus: &Bus, message: &Message) -> Next {
    let advisory = match Advisory::decode(message) {
        Ok(advisory) => advisory,
        Err(error) => return Next::Reject { reason: error.to_string() },
    };
    if advisory.is_filed() {
        return Next::Done;
    }
    match file(store, bus, &advisory).await {
        Ok(()) => Next::Done,
        Err(Trouble::Store(error)) => next(error),
        Err(Trouble::Bus(error)) => {
            tracing::warn!(%error, "a lost message waits to be filed");
            Next::Retry { after: AWAY }
        }
    }
}

enum Trouble {
    Store(StoreError),
    Bus(BusError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<BusError> for Trouble {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

/// The letter is safe in the outbox before the message is deleted; a crash between the two does both again harmlessly.
async fn file(store: &Store, bus: &Bus, advisory: &Advisory) -> Result<(), Trouble> {
    let Some(stored) = bus.message_at(&advisory.stream, advisory.sequence).await? else { return Ok(()) };
    let reason = match advisory.ending {
        Ending::MaxDeliveries => format!("delivered {} times without an end", advisory.deliveries),
        Ending::Terminated => advisory.reason.clone(),
    };
    let stage = advisory.consumer.clone();
    let cause = format!("{}.{}.{}", advisory.stream, advisory.sequence, stage);
    let mut tx = store.begin().await?;
    if inbox::first_time(&mut tx, STAGE, &cause).await? {
        let mut out = Out::new(STAGE, cause);
        let event = MessageDeadLettered {
            stream: advisory.stream.clone(),
            subject: stored.subject.clone(),
            stage: stage.clone(),
            deliveries: advisory.deliveries,
            reason: reason.clone(),
        };
        out.audit(&tx, &event);
        out.send(
            DeadLetter::of_stored(STAGE, &advisory.stream, stored, advisory.deliveries, &reason).encode(),
        );
        out.commit(tx).await?;
        metrics::counter!("openwatch_dead_lettered_total", "stage" => stage).increment(1);
    }
    if advisory.stream == subject::JOBS {
        bus.delete_message(&advisory.stream, advisory.sequence).await?;
    }
    Ok(())
}
