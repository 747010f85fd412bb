//! Tells people: events become alerts, alerts become deliveries, silences run out.

mod deliver;
mod route;

use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_bus::consume::{self, Consumer, Options, Pulse};
use openwatch_bus::message::event::AlertUpdated;
use openwatch_model::alert::AlertState;
use openwatch_model::audit::AlertUnsilencedAuto;
use openwatch_store::{Store, StoreError, alert_life};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::gate::database_gate;
use crate::out::Out;
use crate::policy::PolicyWatch;

pub(crate) const STAGE: &str = "alerts";
const SLOTS: usize = 8;
/// How often expired silences are looked for.
const SILENCE_SWEEP: Duration = Duration::from_secs(5);
/// Silences ended at once.
const SILENCE_BATCH: u32 = 100;

/// What alerts may touch.
pub struct Alerts {
    /// Database, as `alerts`.
    pub store: Store,
    /// Bus, as `alerts`.
    pub bus: Bus,
    /// The repeat window.
    pub policy: PolicyWatch,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

impl Alerts {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        self.policy.wait(&shutdown).await?;
        let delivering = deliver::run(self.store.clone(), shutdown.clone());
        let waking = wake_silenced(self.store.clone(), shutdown.clone());
        let mut options = Options::new(STAGE, Consumer::ALERTS, SLOTS).gate(database_gate(&self.store));
        options.pulse = self.pulse;
        let (store, policy) = (self.store, self.policy);
        let handle = move |message| {
            let (store, policy) = (store.clone(), policy.clone());
            async move { route::handle(&store, &policy, &message).await }
        };
        let routing = consume::run(&self.bus, options, handle, shutdown);
        let (routed, (), ()) = tokio::join!(routing, delivering, waking);
        Ok(routed?)
    }
}

async fn wake_silenced(store: Store, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = wake(&store).await {
            tracing::warn!(%error, "silences wait for the database");
        }
        let _ = tokio::time::timeout(SILENCE_SWEEP, shutdown.cancelled()).await;
    }
}

async fn wake(store: &Store) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let rearmed = alert_life::rearm_expired(&mut tx, SILENCE_BATCH).await?;
    if rearmed.is_empty() {
        return Ok(());
    }
    let mut out = Out::new(STAGE, "silences");
    for it in &rearmed {
        let format =
            |at: openwatch_model::Timestamp| at.format(&time::format_description::well_known::Rfc3339).ok();
        let silenced_until = it.silenced_until.and_then(format);
        out.audit(&mut tx, &AlertUnsilencedAuto { alert_id: it.id, silenced_until }).await?;
        if let Some(alert) = alert_life::get(&mut tx, it.id).await? {
            out.event(
                &tx,
                it.host,
                AlertUpdated {
                    alert_id: it.id,
                    kind: alert.kind,
                    severity: alert.severity,
                    host_id: it.host,
                    state: alert.state,
                    prior_state: AlertState::Silenced,
                    occurrences: alert.occurrences,
                },
            );
        }
    }
    out.commit(tx).await
}
