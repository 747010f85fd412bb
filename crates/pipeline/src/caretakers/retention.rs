//! Sweeps what has had its day: keys and ids of requests and messages, ended deliveries, corpora nobody names.

use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_bus::subject::BUCKET_CORPORA;
use openwatch_model::retention::CORPUS_HOURS;
use openwatch_store::retention::{self, Keep, Swept};
use openwatch_store::{Store, corpus};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::policy::PolicyWatch;

/// How often there is a sweep.
const EVERY: Duration = Duration::from_secs(10 * 60);

/// How long things are kept where a setting decides. The whole list is `openwatch_model::retention`.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Rows of the database.
    pub rows: Keep,
    /// A corpus that nothing names, from its publication on.
    pub corpora: Duration,
}

impl Default for Patience {
    /// As the registry says.
    fn default() -> Self {
        Self { rows: Keep::default(), corpora: Duration::from_secs(u64::from(CORPUS_HOURS) * 3600) }
    }
}

pub(super) async fn run(
    store: Store,
    bus: Bus,
    policy: PolicyWatch,
    patience: Patience,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        if let Err(error) = sweep(&store, &bus, &policy, &patience).await {
            tracing::warn!(%error, "sweeping waits");
        }
        let _ = tokio::time::timeout(EVERY, shutdown.cancelled()).await;
    }
}

async fn sweep(
    store: &Store,
    bus: &Bus,
    policy: &PolicyWatch,
    patience: &Patience,
) -> Result<(), StageError> {
    loop {
        let mut tx = store.begin().await?;
        let swept = retention::sweep(&mut tx, patience.rows).await?;
        tx.commit().await?;
        if swept == Swept::default() {
            break;
        }
        for (table, rows) in [
            ("idempotency_key", swept.idempotency_keys),
            ("inbox", swept.inbox),
            ("alert_delivery", swept.deliveries),
        ] {
            metrics::counter!("openwatch_swept_total", "table" => table).increment(rows);
        }
        tracing::debug!(?swept, "swept");
    }
    let named = match policy.in_force().await {
        Ok(policy) => policy.corpus.clone(),
        // Before the first policy there is nothing to sweep either.
        Err(StageError::Policy(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut tx = store.begin().await?;
    let before = tx.now() - patience.corpora;
    let unused = corpus::unused(&mut tx, before, named.as_deref()).await?;
    for digest in unused {
        // The bundle first: a row without a bundle would be a promise that cannot be kept.
        bus.delete_object(BUCKET_CORPORA, &digest).await?;
        corpus::remove(&mut tx, &digest).await?;
    }
    tx.commit().await?;
    Ok(())
}
