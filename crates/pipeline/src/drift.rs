//! Says how far a completed scan moved its host's score: once per scan, from the numbers that the writer stored.

use openwatch_bus::consume::{self, Consumer, Options, Pulse};
use openwatch_bus::message::event::{Body, DriftDetected as DriftDetectedEvent, Event};
use openwatch_bus::{Bus, Message, Next};
use openwatch_model::audit::DriftDetected;
use openwatch_model::drift::detect;
use openwatch_model::{HostId, ScanId, Timestamp};
use openwatch_store::{Store, drift};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::error::{AWAY, next};
use crate::gate::database_gate;
use crate::out::Out;
use crate::policy::PolicyWatch;

const STAGE: &str = "drift";
const SLOTS: usize = 8;

/// What drift may touch.
pub struct Drift {
    /// Database, as `drift`.
    pub store: Store,
    /// Bus, as `drift`.
    pub bus: Bus,
    /// Thresholds of each scan's policy.
    pub policy: PolicyWatch,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

impl Drift {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        self.policy.wait(&self.pulse, &shutdown).await?;
        let mut options = Options::new(STAGE, Consumer::DRIFT, SLOTS).gate(database_gate(&self.store));
        options.pulse = self.pulse;
        let (store, policy) = (self.store, self.policy);
        let handle = move |message: Message| {
            let (store, policy) = (store.clone(), policy.clone());
            async move { handle(&store, &policy, &message).await }
        };
        Ok(consume::run(&self.bus, options, handle, shutdown).await?)
    }
}

async fn handle(store: &Store, policy: &PolicyWatch, message: &Message) -> Next {
    let event = match Event::decode(&message.headers, &message.payload) {
        Ok(event) => event,
        Err(error) => return Next::Reject { reason: error.to_string() },
    };
    // A superseded scan changed nothing, and a filtered one never moves the host's score.
    let (scan, applied_at) = match event.body {
        Body::ScanCompleted(it) if it.full && !it.superseded => (it.scan_id, it.finished_at),
        _ => return Next::Done,
    };
    match classify(store, policy, scan, applied_at, message).await {
        Ok(()) => Next::Done,
        Err(StageError::Store(error)) => next(error),
        Err(error) => {
            tracing::warn!(%error, "a drift waits");
            Next::Retry { after: AWAY }
        }
    }
}

async fn classify(
    store: &Store,
    policy: &PolicyWatch,
    scan: ScanId,
    applied_at: Timestamp,
    message: &Message,
) -> Result<(), StageError> {
    let Some((host, summary, version)) = drift::summary(store, scan).await? else { return Ok(()) };
    let thresholds = policy.version(&version).await?.thresholds;
    let found = detect(summary, thresholds);
    let kind = found.kind;
    let recorded = match kind.drift_type() {
        None => drift::record_alone(store, scan, host, &found, &version).await?,
        Some(drift_type) => {
            let mut tx = store.begin().await?;
            if !drift::record(&mut tx, scan, host, &found, &version).await? {
                return Ok(());
            }
            let mut out = Out::new(STAGE, scan.to_string()).under(&version).traced(message.trace);
            let event = DriftDetectedEvent::new(host, scan, version, found);
            out.audit(&tx, &audit(host, scan, drift_type, &event));
            // Alerts order drifts by this: it is when the score moved, not when we looked.
            out.event_at(&tx, Some(host), event, applied_at);
            out.commit(tx).await?;
            true
        }
    };
    if recorded {
        metrics::counter!("openwatch_drift_total", "kind" => kind.as_str()).increment(1);
    }
    Ok(())
}

/// Audit and event are built from one value, so their numbers cannot differ.
fn audit(host: HostId, scan: ScanId, drift_type: &'static str, event: &DriftDetectedEvent) -> DriftDetected {
    DriftDetected {
        host_id: host,
        scan_id: scan,
        drift_type,
        prior_score: event.prior_score,
        current_score: event.current_score,
        score_delta: event.score_delta,
        became_failing: event.drift.summary.became_failing,
        became_passing: event.drift.summary.became_passing,
        newly_observed_failing: event.drift.summary.newly_observed_failing,
    }
}
