//! Tells people: events become alerts, alerts become deliveries, silences run out.

mod channel;
mod deliver;
mod deliverer;
mod guard;
mod route;

use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_bus::consume::{self, Consumer, Options, Pulse};
use openwatch_bus::message::event::AlertUpdated;
use openwatch_model::alert::AlertState;
use openwatch_model::audit::AlertUnsilencedAuto;
use openwatch_store::{Store, StoreError, alert, alert_life};
use openwatch_trust::AlertsKeys;
use time::format_description::well_known::Rfc3339;
use tokio_util::sync::CancellationToken;

use self::deliver::Deliveries;
use crate::StageError;
use crate::gate::database_gate;
use crate::keys::Held;
use crate::out::Out;
use crate::policy::PolicyWatch;

pub(crate) const STAGE: &str = "alerts";
const SLOTS: usize = 8;
/// How often silences that ended, and alerts kept back for long enough, are looked for.
const SWEEP: Duration = Duration::from_secs(5);
/// Alerts woken at once.
const SWEEP_BATCH: u32 = 100;
/// Limit of one try of a delivery.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// What alerts may touch.
pub struct Alerts {
    /// Database, as `alerts`.
    pub store: Store,
    /// Bus, as `alerts`.
    pub bus: Bus,
    /// What opens the targets of channels.
    pub keys: Held<AlertsKeys>,
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
        self.policy.wait(&self.pulse, &shutdown).await?;
        let deliveries = Deliveries { store: self.store.clone(), bus: self.bus.clone(), keys: self.keys };
        let delivering = deliveries.run(shutdown.clone());
        let waking = sweep(self.store.clone(), shutdown.clone());
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

async fn sweep(store: Store, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let swept = async {
            let more = [
                wake_silenced(&store).await?,
                release_withheld(&store).await?,
                resolve_orphaned(&store).await?,
            ];
            Ok::<_, StoreError>(more.contains(&true))
        };
        match swept.await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "silences wait for the database"),
        }
        let _ = tokio::time::timeout(SWEEP, shutdown.cancelled()).await;
    }
}

/// Ends silences whose time is over: what is still open then is told as it stands now. Whether there may be more.
async fn wake_silenced(store: &Store) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    let rearmed = alert_life::rearm_expired(&mut tx, SWEEP_BATCH).await?;
    if rearmed.is_empty() {
        return Ok(false);
    }
    let mut out = Out::new(STAGE, "silences");
    for it in &rearmed {
        let format = |at: openwatch_model::Timestamp| at.format(&Rfc3339).ok();
        let silenced_until = it.silenced_until.and_then(format);
        out.audit(&tx, &AlertUnsilencedAuto { alert_id: it.id, silenced_until });
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
            route::tell_again(&mut tx, &alert, "unsilenced").await?;
        }
    }
    out.commit(tx).await?;
    Ok(rearmed.len() == SWEEP_BATCH as usize)
}

/// Tells of alerts that were kept back because they came and went, and have stayed since. Whether there may be more.
async fn release_withheld(store: &Store) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    let lasting = alert_life::release_withheld(&mut tx, SWEEP_BATCH).await?;
    for alert in &lasting {
        route::tell_again(&mut tx, alert, "opened").await?;
    }
    tx.commit().await?;
    Ok(lasting.len() == SWEEP_BATCH as usize)
}

/// Ends alerts of hosts that were removed or are probed no more, and good news that is old. Whether there may be more.
async fn resolve_orphaned(store: &Store) -> Result<bool, StoreError> {
    let mut tx = store.begin().await?;
    let resolved = alert::resolve_orphaned(&mut tx, SWEEP_BATCH).await?;
    if resolved.is_empty() {
        return Ok(false);
    }
    let mut out = Out::new(STAGE, "orphans");
    let now = tx.now();
    for (host, it) in &resolved {
        route::tell_resolved(&mut tx, &mut out, (*host, now), it).await?;
    }
    out.commit(tx).await?;
    Ok(resolved.len() == SWEEP_BATCH as usize)
}
