//! Probes whether hosts answer: a TCP connection and a banner, without credentials. Only transitions are told.

use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::consume::Pulse;
use openwatch_bus::message::event::HostConnectivity;
use openwatch_model::audit::ConnectivityChecked;
use openwatch_model::liveness::{ProbeOutcome, Reachability, jittered, observe};
use openwatch_model::policy::Policy;
use openwatch_store::liveness::{self as rows, Target};
use openwatch_store::{Store, StoreError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::out::Out;
use crate::policy::PolicyWatch;

const STAGE: &str = "liveness";
/// Probes side by side (requirements LIV-22).
const PARALLEL: usize = 50;
/// A claimed host whose answer was never noted is due again after this.
const LEASE: Duration = Duration::from_secs(30);
/// Limit of one probe (seed).
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// Longest sleep between looks at what is due: a new host is probed within this.
const LOOK: Duration = Duration::from_secs(2);

/// What liveness may touch.
pub struct Liveness {
    /// Database, as `liveness`.
    pub store: Store,
    /// Intervals and thresholds.
    pub policy: PolicyWatch,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

impl Liveness {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        self.policy.wait(&shutdown).await?;
        let mut probes = JoinSet::new();
        while !shutdown.is_cancelled() {
            self.pulse.tick();
            while probes.try_join_next().is_some() {}
            if let Err(error) = self.start_due(&mut probes).await {
                tracing::warn!(%error, "probing waits");
            }
            let pause = async {
                // With all slots taken, the next look comes as soon as one is free.
                if probes.len() >= PARALLEL {
                    drop(probes.join_next().await)
                } else {
                    tokio::time::sleep(LOOK).await
                }
            };
            tokio::select! { () = shutdown.cancelled() => break, () = pause => {} }
        }
        // A probe ends within its limit, and its answer is worth noting.
        while probes.join_next().await.is_some() {}
        Ok(())
    }

    async fn start_due(&self, probes: &mut JoinSet<()>) -> Result<(), StageError> {
        let policy = self.policy.in_force().await?;
        let room = PARALLEL.saturating_sub(probes.len()) as u32;
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
    let answer = if outcome.is_ok() { "success" } else { "failure" };
    metrics::counter!("openwatch_probes_total", "outcome" => answer).increment(1);
    note(store, policy, target, outcome).await
}

/// State, transition, audit and event in one `tx` under the row's lock.
async fn note(
    store: &Store,
    policy: &Policy,
    target: &Target,
    outcome: ProbeOutcome,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let Some(prior) = rows::lock(&mut tx, target.host).await? else { return Ok(()) };
    let (next, moved) = observe(prior, outcome, policy.liveness_threshold);
    let again = tx.now() + jittered(target.host, policy.liveness_interval);
    // A doubtful host is asked again soon: an outage is decided in seconds, not in two intervals.
    let doubtful = outcome.is_err() && next.status != Reachability::Unreachable;
    let again = if doubtful { tx.now() + PROBE_LIMIT } else { again };
    let transition = rows::save(&mut tx, target.host, next, moved, outcome, again).await?;
    let mut out = Out::new(STAGE, format!("{}.{transition}", target.host));
    if moved {
        metrics::counter!("openwatch_liveness_transitions_total").increment(1);
        let response_time_ms = outcome.ok().map(|took| took.as_secs_f64() * 1000.0);
        out.audit(
            &mut tx,
            &ConnectivityChecked {
                host_id: target.host,
                ssh_accessible: outcome.is_ok(),
                response_time_ms,
                new_status: next.status,
            },
        )
        .await?;
        out.event(
            &tx,
            Some(target.host),
            HostConnectivity {
                host_id: target.host,
                prior: prior.status,
                status: next.status,
                transition,
                response_time_ms,
                error: outcome.err(),
            },
        );
    }
    out.commit(tx).await
}
