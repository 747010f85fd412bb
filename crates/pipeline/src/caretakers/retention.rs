//! Sweeps what has had its day: keys and ids of requests and messages, ended deliveries, corpora nobody names.

use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_bus::subject::BUCKET_CORPORA;
use openwatch_store::retention::{self, Keep, Swept};
use openwatch_store::{Store, corpus};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::policy::PolicyWatch;

/// How often there is a sweep.
const EVERY: Duration = Duration::from_secs(10 * 60);
/// A corpus that nothing names is kept this long after its publication: longer than any job lives.
const CORPUS_KEPT: Duration = Duration::from_secs(7 * 86_400);

pub(super) async fn run(store: Store, bus: Bus, policy: PolicyWatch, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        if let Err(error) = sweep(&store, &bus, &policy).await {
            tracing::warn!(%error, "sweeping waits");
        }
        let _ = tokio::time::timeout(EVERY, shutdown.cancelled()).await;
    }
}

async fn sweep(store: &Store, bus: &Bus, policy: &PolicyWatch) -> Result<(), StageError> {
    loop {
        let mut tx = store.begin().await?;
        let swept = retention::sweep(&mut tx, Keep::default()).await?;
        tx.commit().await?;
        if swept == Swept::default() {
            break;
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
    let before = tx.now() - CORPUS_KEPT;
    let unused = corpus::unused(&mut tx, before, named.as_deref()).await?;
    for digest in unused {
        // The bundle first: a row without a bundle would be a promise that cannot be kept.
        bus.delete_object(BUCKET_CORPORA, &digest).await?;
        corpus::remove(&mut tx, &digest).await?;
    }
    tx.commit().await?;
    Ok(())
}
