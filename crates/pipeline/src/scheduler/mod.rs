//! Turns the clock and people's wishes into signed jobs. The only signer of jobs and the only writer of the schedule.
//!
//! Time is always the database's: any number of schedulers agree on what is due, whatever their own clocks say.

mod calls;
mod due;
mod issue;
mod reschedule;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_bus::consume::Pulse;
use openwatch_store::counter::{self, Counter};
use openwatch_store::{Store, StoreError};
use openwatch_trust::SchedulerKeys;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::calls::{Calls, answer_calls};
use self::due::fall_due;
use self::issue::issue_all;
use crate::keys::Held;
use crate::policy::{PolicyWatch, Source, accept, accept_stored};
use crate::{SignerWatch, StageError};

const STAGE: &str = "scheduler";
/// Time between passes over the due rows when nobody calls (seed).
const TICK: Duration = Duration::from_secs(60);
/// How soon a round that failed or was left unfinished is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Health wants a sign of life more often than a tick.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// Rows claimed at once (seed).
const BATCH: u32 = 100;

/// What the scheduler may touch.
pub struct Scheduler {
    /// Database, as `scheduler`.
    pub store: Store,
    /// Bus, as `scheduler`.
    pub bus: Bus,
    /// Signs jobs.
    pub keys: Held<SchedulerKeys>,
    /// Whose policies count.
    pub signers: SignerWatch,
    /// The signed policy; without one, the scheduler goes by what others put in force before it started.
    pub policy_file: Option<PathBuf>,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
    /// Told to re-read the policy file.
    pub reload: Arc<Notify>,
}

impl Scheduler {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Without a usable policy at start; later only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        match &self.policy_file {
            Some(path) => accept(&self.store, path, &self.signers, Source::Boot).await?,
            None => accept_stored(&self.store, &self.signers).await?,
        };
        let policy = PolicyWatch::new(self.store.clone(), self.signers.clone());
        let calls = Calls::default();
        let consuming =
            reschedule::run(self.store.clone(), self.bus.clone(), policy.clone(), shutdown.clone());
        // Side by side: a person's scan gets its job at once, however many hosts are being dispatched.
        tokio::try_join!(
            consuming,
            dispatch_loop(&self, &policy, &calls, &shutdown),
            issue_loop(&self, &policy, &calls, &shutdown),
            answer_calls(&self, &calls, &shutdown),
        )?;
        Ok(())
    }
}

/// Dispatches what is due: at start, every minute, when hosts come under schedule, and again soon when a rate limit
/// leaves some over.
async fn dispatch_loop(
    it: &Scheduler,
    policy: &PolicyWatch,
    calls: &Calls,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    // The first call comes when calls are heard; without a database there is nothing to do anyway.
    let _ = tokio::time::timeout(AGAIN, calls.schedule.notified()).await;
    while !shutdown.is_cancelled() {
        it.pulse.tick();
        let round = async { fall_due(it, &*policy.in_force().await?).await };
        let wait = match round.await {
            Ok(again) => again.unwrap_or(TICK),
            Err(error) => told(it, "dispatching", &error).await,
        };
        let next = Instant::now() + wait;
        while Instant::now() < next {
            it.pulse.tick();
            let nap = next.saturating_duration_since(Instant::now()).min(SIGN_OF_LIFE);
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = calls.schedule.notified() => break,
                () = tokio::time::sleep(nap) => {}
            }
        }
    }
    Ok(())
}

/// Signs a job for every scan that was queued without one, as soon as there is one.
async fn issue_loop(
    it: &Scheduler,
    policy: &PolicyWatch,
    calls: &Calls,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    while !shutdown.is_cancelled() {
        let round = async { issue_all(it, &*policy.in_force().await?).await };
        let wait = match round.await {
            Ok(true) => AGAIN,
            Ok(false) => SIGN_OF_LIFE,
            Err(error) => told(it, "issuing jobs", &error).await,
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = calls.scans.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

/// SCH-13: a bad round is told, counted, and the loop goes on; the policy was verified before the loops began.
async fn told(it: &Scheduler, what: &str, error: &StageError) -> Duration {
    if matches!(error, StageError::Store(error) if error.is_transient()) {
        tracing::warn!(%error, "{what} waits for the database");
        return AGAIN;
    }
    metrics::counter!("openwatch_scheduler_tick_errors_total").increment(1);
    tracing::error!(%error, "{what}: a round of the scheduler failed");
    if let Err(error) = counted(&it.store).await {
        tracing::warn!(%error, "a round that failed was not counted for everybody");
    }
    AGAIN
}

async fn counted(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    counter::add(&mut tx, &[(Counter::TickErrors, 1)]).await?;
    tx.commit().await
}
