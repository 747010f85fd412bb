//! The policy in force: accepted once by the scheduler, re-read and re-verified by every process.

mod accept;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openwatch_bus::consume::Pulse;
use openwatch_model::policy::Policy;
use openwatch_store::Store;
use openwatch_store::policy::{self as history, PolicyRow};
use openwatch_trust::policy::{PolicyRefused, verify};
use openwatch_trust::revocation::{Revocations, RevocationsRefused};
use tokio_util::sync::CancellationToken;

pub use self::accept::{Source, accept, accept_stored};
use crate::{SignerWatch, SignersRefused, StageError};

const STAGE: &str = "scheduler";
/// How often a process that waits for a first policy looks.
const WAIT: Duration = Duration::from_millis(500);

/// Why there is no policy to follow.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Refused; what was in force, if anything, stays.
    #[error("failed to accept the policy {}: {refused}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        refused: PolicyRefused,
    },
    /// What the database holds does not verify here.
    #[error("failed to follow the policy in force: {0}; are the trusted keys of this process up to date?")]
    Stored(PolicyRefused),
    /// The list of revoked keys that the database holds cannot be read.
    #[error("failed to follow the stored list of revoked keys: {0}")]
    Revocations(RevocationsRefused),
    /// The key files of this process cannot be used.
    #[error(transparent)]
    Signers(#[from] SignersRefused),
    /// None was ever accepted.
    #[error("no policy is in force yet; the scheduler accepts one")]
    None,
}

/// The policy in force, as one process sees it. Cheap to clone.
#[derive(Clone)]
pub struct PolicyWatch {
    store: Store,
    signers: SignerWatch,
    /// Verified policies by version: a scan's thresholds are those of the version in its job.
    known: Arc<Mutex<BTreeMap<String, Arc<Policy>>>>,
}

impl PolicyWatch {
    /// Over this database, trusting these signers.
    pub fn new(store: Store, signers: SignerWatch) -> Self {
        Self { store, signers, known: Arc::default() }
    }

    /// The policy in force now: the highest version ever accepted, verified by this process.
    ///
    /// # Errors
    /// None accepted yet, one that does not verify here, or no database.
    pub async fn in_force(&self) -> Result<Arc<Policy>, StageError> {
        let mut tx = self.store.begin_read().await?;
        let row = history::in_force(&mut tx).await?.ok_or(PolicyError::None)?;
        if let Some(known) = self.known(&row.version) {
            return Ok(known);
        }
        let revoked = accept::stored_list(&mut tx).await?;
        self.verified(row, &revoked)
    }

    /// The policy of a version: that in force when the version is unknown or its key was revoked since, so that an old
    /// scan is never without.
    ///
    /// # Errors
    /// As [`PolicyWatch::in_force`].
    pub async fn version(&self, version: &str) -> Result<Arc<Policy>, StageError> {
        if let Some(known) = self.known(version) {
            return Ok(known);
        }
        let mut tx = self.store.begin_read().await?;
        let stored = history::get(&mut tx, version).await?;
        let revoked = accept::stored_list(&mut tx).await?;
        drop(tx);
        match stored.map(|row| self.verified(row, &revoked)) {
            Some(Ok(policy)) => Ok(policy),
            Some(Err(error)) => {
                tracing::warn!(policy = version, %error, "an older policy does not count any more");
                self.in_force().await
            }
            None => self.in_force().await,
        }
    }

    /// Waits for a first policy that this process can follow. One that it cannot verify may only be early: the key that signed
    /// it comes into the key files while processes run.
    ///
    /// # Errors
    /// As [`PolicyWatch::in_force`], but no policy only when told to stop.
    pub async fn wait(&self, pulse: &Pulse, shutdown: &CancellationToken) -> Result<Arc<Policy>, StageError> {
        let mut told = String::new();
        loop {
            pulse.tick();
            match self.in_force().await {
                Err(StageError::Policy(reason @ (PolicyError::None | PolicyError::Stored(_))))
                    if !shutdown.is_cancelled() =>
                {
                    let reason = reason.to_string();
                    if told != reason {
                        tracing::warn!(%reason, "waiting for a policy to follow");
                        told = reason;
                    }
                }
                Err(StageError::Store(error)) if error.is_transient() && !shutdown.is_cancelled() => {
                    tracing::warn!(%error, "waiting for the database");
                }
                other => return other,
            }
            let _ = tokio::time::timeout(WAIT, shutdown.cancelled()).await;
        }
    }

    fn known(&self, version: &str) -> Option<Arc<Policy>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(version).cloned()
    }

    fn verified(&self, row: PolicyRow, revoked: &Revocations) -> Result<Arc<Policy>, StageError> {
        let signers = self.signers.fresh().map_err(PolicyError::Signers)?;
        let revoked = signers.revoked.merged(revoked);
        let verified = verify(&row.document, &row.signature, &signers.trusted, &revoked, None)
            .map_err(PolicyError::Stored)?;
        let policy = Arc::new(verified.policy);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(row.version, policy.clone());
        Ok(policy)
    }
}
