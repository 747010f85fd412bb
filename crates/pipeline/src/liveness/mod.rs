//! Probes whether hosts answer: a TCP connection and a banner, without credentials. Only transitions are told.
//!
//! Any number of processes probe one fleet: each host is claimed by one of them at a time, and its answer counts only under
//! that claim. Its part `standing` tells a fleet that is down from probers that are cut off.

mod note;
mod standing;

use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::consume::Pulse;
use openwatch_model::policy::Policy;
use openwatch_store::liveness::{self as rows, Target};
use openwatch_store::{Store, StoreError};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::policy::PolicyWatch;

const STAGE: &str = "liveness";
/// A claimed host whose answer was never noted is due again after this.
const LEASE: Duration = Duration::from_secs(30);
/// Limit of one probe (seed).
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Longest sleep between looks at what is due: a new host is probed within this.
const LOOK: Duration = Duration::from_secs(2);
/// Probes under way get so long when the process is told to stop; the claims of the rest run out.
const LAST_WORDS: Duration = Duration::from_millis(1500);

/// What liveness may touch.
pub struct Liveness {
    /// Database, as `liveness`.
    pub store: Store,
    /// Intervals and thresholds.
    pub policy: PolicyWatch,
    /// Probes side by side.
    pub parallel: usize,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

impl Liveness {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        self.policy.wait(&self.pulse, &shutdown).await?;
        let mut probes = JoinSet::new();
        while !shutdown.is_cancelled() {
            self.pulse.tick();
            while probes.try_join_next().is_some() {}
            if let Err(error) = self.start_due(&mut probes).await {
                tracing::warn!(%error, "probing waits");
            }
            let pause = async {
                // With all slots taken, the next look comes as soon as one is free.
                if probes.len() >= self.parallel {
                    drop(probes.join_next().await)
                } else {
                    tokio::time::sleep(LOOK).await
                }
            };
            tokio::select! { () = shutdown.cancelled() => break, () = pause => {} }
        }
        let last_words = async { while probes.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LAST_WORDS, last_words).await;
        Ok(())
    }

    async fn start_due(&self, probes: &mut JoinSet<()>) -> Result<(), StageError> {
        let policy = self.policy.in_force().await?;
        standing::review(&self.store, &policy).await?;
        let room = self.parallel.saturating_sub(probes.len()) as u32;
        if room == 0 {
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        let due = rows::claim(&mut tx, &policy.maintenance, room, LEASE).await?;
        tx.commit().await?;
        for target in due {
            let (store, policy) = (self.store.clone(), policy.clone());
            probes.spawn(async move {
                if let Err(error) = probe(&store, &policy, &target).await {
                    tracing::warn!(%error, host.id = %target.host, "a probe's answer could not be noted");
                }
            });
        }
        Ok(())
    }
}

async fn probe(store: &Store, policy: &Arc<Policy>, target: &Target) -> Result<(), StoreError> {
    let outcome = openwatch_probe::probe(&target.address, target.port, PROBE_LIMIT).await;
    let answer = outcome.map_or_else(|error| error.as_str(), |_| "success");
    metrics::counter!("openwatch_probes_total", "outcome" => answer).increment(1);
    metrics::gauge!("openwatch_last_probe_timestamp_seconds")
        .set(OffsetDateTime::now_utc().unix_timestamp() as f64);
    if let Ok(took) = outcome {
        metrics::histogram!("openwatch_probe_seconds").record(took.as_secs_f64());
    }
    note::note(store, policy, target, outcome).await
}
