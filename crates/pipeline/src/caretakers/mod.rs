//! Caretakers: loops that no message wakes. Each is named for what it takes care of.

mod advisories;
pub mod relay;
mod rescuer;
pub mod retention;

use openwatch_bus::Bus;
use openwatch_bus::consume::Pulse;
use openwatch_store::Store;
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::policy::PolicyWatch;

pub(crate) const STAGE: &str = "caretaker";

/// What the caretakers may touch.
pub struct Caretakers {
    /// Database, as `caretaker`.
    pub store: Store,
    /// Bus, as `caretaker`.
    pub bus: Bus,
    /// Names the corpus that must not be swept.
    pub policy: PolicyWatch,
    /// How long things are kept.
    pub patience: retention::Patience,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

impl Caretakers {
    /// Runs rescuer, advisories and retention until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        let rescuing = rescuer::run(self.store.clone(), self.bus.clone(), self.pulse, shutdown.clone());
        let sweeping = retention::run(
            self.store.clone(),
            self.bus.clone(),
            self.policy,
            self.patience,
            shutdown.clone(),
        );
        let listening = advisories::run(self.store, self.bus, shutdown);
        let ((), (), listened) = tokio::join!(rescuing, sweeping, listening);
        listened
    }
}
