//! Finds scans that should have been heard of: their job is gone, or their worker is. Tries again, and at last ends them,
//! so that every dispatched scan ends.

use std::time::Duration;

use openwatch_bus::consume::{Consumer, Pulse};
use openwatch_bus::message::job;
use openwatch_bus::{Bus, BusError, subject};
use openwatch_model::audit::ScanRescued;
use openwatch_model::scan::{Failure, FailureReason, JOB_MAX_AGE, ScanState};
use openwatch_store::end::{self, Ending, Source};
use openwatch_store::rescue::{self, Overdue, Patience};
use openwatch_store::{Role, Store, StoreError, outbox};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use crate::ending;
use crate::out::Out;

/// How often overdue scans are looked for.
const LOOK: Duration = Duration::from_secs(5);
/// A queued scan is looked after once its job has been out this long; a relay needs seconds.
const QUEUED: Duration = Duration::from_secs(15);
/// A running scan is overdue this long after its time limit: twice the consumers' ack wait.
const RUNNING: Duration = Duration::from_secs(60);
/// Attempts that may be lost before a scan is given up. A promotion makes a new attempt too, and costs none of these.
const LIVES: u32 = 3;
/// Scans looked at in one round.
const BATCH: u32 = 100;

pub(super) async fn run(store: Store, bus: Bus, pulse: Pulse, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        pulse.tick();
        match shutdown.run_until_cancelled(look(&store, &bus)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(Trouble::Store(error))) => tracing::warn!(%error, "rescuing waits for the database"),
            // Whether a job or a result is lost cannot be told while the bus is away.
            Some(Err(Trouble::Bus(error))) => tracing::warn!(%error, "rescuing waits for the bus"),
        }
        let _ = tokio::time::timeout(LOOK, shutdown.cancelled()).await;
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

async fn look(store: &Store, bus: &Bus) -> Result<(), Trouble> {
    let mut tx = store.begin().await?;
    let now = tx.now();
    let overdue = rescue::overdue(&mut tx, Patience { queued: QUEUED, running: RUNNING }, BATCH).await?;
    tx.commit().await?;
    for it in overdue {
        let lost = match it.state {
            ScanState::Running => true,
            _ if now - it.issued_at > JOB_MAX_AGE => true,
            _ => job_is_gone(store, bus, &it).await?,
        };
        if lost && !result_waits(bus, &it).await? {
            rescue_one(store, &it).await?;
        }
    }
    Ok(())
}

/// A worker has spoken and the writer has not heard it yet: then nothing is lost, however long the writer is away.
async fn result_waits(bus: &Bus, it: &Overdue) -> Result<bool, BusError> {
    let Some(last) = bus.last_message(subject::RESULTS, &subject::results(it.host, it.scan)).await? else {
        return Ok(false);
    };
    let writer = bus.consumer_info(Consumer::WRITER.stream, Consumer::WRITER.name).await?;
    Ok(last.sequence > writer.ack_floor)
}

/// Neither in the outbox nor the last message of its subject. A job in a worker's hands is still in the stream.
async fn job_is_gone(store: &Store, bus: &Bus, it: &Overdue) -> Result<bool, Trouble> {
    let id = job::message_id(it.scan, it.attempt);
    let mut tx = store.begin().await?;
    if outbox::waits(&mut tx, Role::Scheduler.as_str(), &id, it.issued_at).await? {
        return Ok(false);
    }
    drop(tx);
    let last = bus.last_message(subject::JOBS, &subject::job(it.lane, it.host)).await?;
    Ok(last.is_none_or(|stored| stored.header("Nats-Msg-Id") != Some(id.as_str())))
}

async fn rescue_one(store: &Store, it: &Overdue) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let Ending::Open(open) = end::open(&mut tx, it.scan, None).await? else { return Ok(()) };
    // Locked now: it may have moved on since it was found.
    if open.attempt != it.attempt || open.state != it.state {
        return Ok(());
    }
    let mut out = Out::new(STAGE, it.scan.to_string()).under(&open.policy_version);
    if open.rescues + 1 < LIVES {
        let attempt = rescue::retry(&mut tx, &open).await?;
        tracing::warn!(scan.id = %it.scan, attempt, "a scan was not heard of and is tried again");
        metrics::counter!("openwatch_scans_rescued_total").increment(1);
        out.audit(&tx, &ScanRescued { scan_id: it.scan, host_id: open.host, attempt });
    } else {
        let failure = Failure {
            reason: FailureReason::Lost,
            detail: format!("no result came back over {LIVES} attempts"),
            rule: None,
        };
        let source = Source { attempt: open.attempt, worker: None, engine: None };
        ending::fail(&mut tx, &mut out, &open, &source, &failure).await?;
    }
    out.commit(tx).await
}
