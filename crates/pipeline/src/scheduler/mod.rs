//! Turns the clock and people's wishes into signed jobs. The only signer of jobs and the only writer of the schedule.

mod due;
mod issue;
mod reschedule;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_bus::consume::Pulse;
use openwatch_store::Store;
use openwatch_store::listen::{self, Wake};
use openwatch_trust::SchedulerKeys;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::due::{RateWindow, fall_due};
use self::issue::issue_all;
use crate::policy::{PolicyWatch, Source, accept};
use crate::{Signers, StageError};

const STAGE: &str = "scheduler";
/// Time between passes over the due rows when nobody calls (seed).
const TICK: Duration = Duration::from_secs(60);
/// How soon scans that could not be issued are looked at again.
const ISSUE_AGAIN: Duration = Duration::from_secs(2);
/// Rows claimed at once (seed).
const BATCH: u32 = 100;

/// What the scheduler may touch.
pub struct Scheduler {
    /// Database, as `scheduler`.
    pub store: Store,
    /// Bus, as `scheduler`.
    pub bus: Bus,
    /// Signs jobs.
    pub keys: SchedulerKeys,
    /// Whose policies count.
    pub signers: Arc<Signers>,
    /// The signed policy; absent means that somebody else puts it in force.
    pub policy_file: Option<PathBuf>,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
    /// Told to re-read the policy file.
    pub reload: Arc<tokio::sync::Notify>,
}

impl Scheduler {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Without a usable policy at start; later only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        if let Some(path) = &self.policy_file {
            accept(&self.store, path, &self.signers, Source::Boot).await?;
        }
        let policy = PolicyWatch::new(self.store.clone(), self.signers.clone());
        policy.wait(&shutdown).await?;
        let consuming =
            reschedule::run(self.store.clone(), self.bus.clone(), policy.clone(), shutdown.clone());
        let dispatching = dispatch_loop(&self, &policy, &shutdown);
        tokio::try_join!(consuming, dispatching)?;
        Ok(())
    }
}

async fn dispatch_loop(
    it: &Scheduler,
    policy: &PolicyWatch,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    let mut listener = None;
    let mut next_tick = Instant::now();
    let mut window = RateWindow::default();
    while !shutdown.is_cancelled() {
        it.pulse.tick();
        let due = Instant::now() >= next_tick;
        match pass(it, policy, due, &mut window).await {
            Ok(left) => {
                if due {
                    next_tick = Instant::now() + TICK;
                }
                let wait =
                    if left { ISSUE_AGAIN } else { next_tick.saturating_duration_since(Instant::now()) };
                // Health wants a sign of life more often than a tick.
                if wake(&it.store, &mut listener, wait.min(Duration::from_secs(15)), it, shutdown).await {
                    next_tick = Instant::now();
                }
            }
            Err(StageError::Store(error)) if error.is_transient() => {
                tracing::warn!(%error, "dispatching waits for the database");
                listener = None;
                let _ = tokio::time::timeout(ISSUE_AGAIN, shutdown.cancelled()).await;
            }
            // SCH-13: a bad round is told and the loop goes on; the policy was verified before the loop began.
            Err(error) => {
                metrics::counter!("openwatch_scheduler_tick_errors_total").increment(1);
                tracing::error!(%error, "a round of the scheduler failed");
                let _ = tokio::time::timeout(ISSUE_AGAIN, shutdown.cancelled()).await;
            }
        }
    }
    Ok(())
}

/// One round: dispatch what is due when it is time, then issue whatever has no job. Whether something is left over.
async fn pass(
    it: &Scheduler,
    policy: &PolicyWatch,
    due: bool,
    window: &mut RateWindow,
) -> Result<bool, StageError> {
    let policy = policy.in_force().await?;
    let mut left = false;
    if due {
        left = fall_due(&it.store, &policy, window).await?;
    }
    Ok(issue_all(it, &policy).await? || left)
}

/// Waits for a call or the end of `wait`. Whether hosts may have come under schedule.
async fn wake(
    store: &Store,
    listener: &mut Option<openwatch_store::Listener>,
    wait: Duration,
    it: &Scheduler,
    shutdown: &CancellationToken,
) -> bool {
    if listener.is_none() {
        *listener = store.listen(&[listen::SCAN, listen::SCHEDULE, listen::POLICY]).await.ok();
        // Calls made before listening were missed.
        return listener.is_some();
    }
    let Some(calls) = listener.as_mut() else { return false };
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(wait) => false,
        () = it.reload.notified() => {
            if let Some(path) = &it.policy_file
                && let Err(error) = accept(store, path, &it.signers, Source::Reload).await
            {
                tracing::error!(%error, "the policy stays as it was");
            }
            true
        }
        call = calls.recv() => match call {
            Ok(Wake::Call { channel, .. }) => channel != listen::SCAN,
            Ok(Wake::Missed) => true,
            Err(_) => {
                *listener = None;
                true
            }
        },
    }
}
