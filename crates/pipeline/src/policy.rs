//! The policy in force: accepted once by the scheduler, re-read and re-verified by every process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openwatch_bus::message::event::PolicyRejected;
use openwatch_model::audit::{
    Actor, PolicyClamped, PolicyLoaded, PolicyReloadRejected, PolicyRevokedKeyRejected,
    SchedulerStartupFailed,
};
use openwatch_model::policy::Policy;
use openwatch_store::policy::{self as history, PolicyRow};
use openwatch_store::{Store, StoreError};
use openwatch_trust::policy::{
    Accepted as InForce, PolicyRefused, RefusalClass, VerifiedPolicy, read, verify,
};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::corpus::Signers;
use crate::out::Out;

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
    /// Told to stop while waiting for one.
    #[error("failed to find a policy in force before being told to stop")]
    None,
}

/// When a policy was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// At start: a refusal ends the process.
    Boot,
    /// Later: a refusal changes nothing.
    Reload,
}

/// Reads, verifies and puts a policy in force: history row, audit and events in one `tx`. The same policy again changes
/// nothing.
///
/// # Errors
/// [`PolicyError::Refused`], which is audited first.
pub async fn accept(
    store: &Store,
    path: &Path,
    signers: &Signers,
    source: Source,
) -> Result<VerifiedPolicy, StageError> {
    let mut tx = store.begin().await?;
    let active = history::in_force(&mut tx).await?;
    let in_force = active.as_ref().map(|a| InForce { version: &a.version, document: &a.document });
    let verdict = read(path).and_then(|signed| {
        verify(&signed.document, &signed.signature, &signers.trusted, &signers.revoked, in_force)
            .map(|verified| (verified, signed.signature))
    });
    let (verified, signature) = match verdict {
        Ok(verdict) => verdict,
        Err(refused) => {
            drop(tx);
            audit_refusal(store, path, &refused, active.map(|a| a.version), source).await?;
            return Err(PolicyError::Refused { path: path.to_owned(), refused }.into());
        }
    };
    if verified.unchanged {
        return Ok(verified);
    }
    let mut out = Out::new(STAGE, format!("policy {}", verified.version)).under(&verified.version);
    let row = PolicyRow {
        version: verified.version.clone(),
        document: verified.document.clone(),
        signature,
        key_fingerprint: verified.key_fingerprint.to_string(),
        loaded_by: STAGE.to_owned(),
        loaded_at: tx.now(),
        superseded_at: None,
    };
    let previous_version = match history::accept(&mut tx, &row).await? {
        history::Accepted::InForce { previous } => previous,
        history::Accepted::Unchanged => return Ok(verified),
        // Somebody else was faster with a higher one: then that is the policy to follow.
        history::Accepted::Regression { active } => {
            tracing::warn!(
                policy = verified.version,
                active,
                "a newer policy came into force in the same moment"
            );
            return Ok(verified);
        }
    };
    out.audit(
        &mut tx,
        &PolicyLoaded {
            policy_type: "schedules",
            new_version: verified.version.clone(),
            previous_version,
            key_fingerprint: verified.key_fingerprint.to_string(),
        },
    )
    .await?;
    let clamped: Vec<_> = verified
        .clamps
        .iter()
        .map(|clamp| PolicyClamped {
            tier: clamp.tier.as_str(),
            original_minutes: clamp.original_minutes,
            clamped_minutes: clamp.clamped_minutes,
            clamp_kind: clamp.kind,
        })
        .collect();
    metrics::counter!("openwatch_policy_clamped_total").increment(clamped.len() as u64);
    out.audit_many(&mut tx, &clamped).await?;
    out.commit(tx).await?;
    tracing::info!(policy = verified.version, "policy in force");
    Ok(verified)
}

async fn audit_refusal(
    store: &Store,
    path: &Path,
    refused: &PolicyRefused,
    active: Option<String>,
    source: Source,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let mut out = Out::new(STAGE, "policy").by(Actor::Stage(STAGE));
    let reason = refused.class.as_str().to_owned();
    if refused.class == RefusalClass::RevokedKey {
        let key_fingerprint = refused.detail.clone();
        let policy_version = refused.attempted_version.clone();
        out.audit(&mut tx, &PolicyRevokedKeyRejected { key_fingerprint, policy_version }).await?;
    }
    let attempted = refused.attempted_version.clone();
    let active_version = active.clone();
    match (source, active) {
        (Source::Reload, Some(active)) => {
            let event = PolicyReloadRejected {
                reason: reason.clone(),
                policy_version_attempted: attempted.clone(),
                policy_version_active: active,
            };
            out.audit(&mut tx, &event).await?;
        }
        _ => {
            let policy_path = path.display().to_string();
            out.audit(&mut tx, &SchedulerStartupFailed { reason: reason.clone(), policy_path }).await?;
        }
    }
    metrics::counter!("openwatch_policy_refused_total").increment(1);
    out.event(&tx, None, PolicyRejected { reason, attempted_version: attempted, active_version });
    out.commit(tx).await
}

/// The policy in force, as one process sees it. Cheap to clone.
#[derive(Clone)]
pub struct PolicyWatch {
    store: Store,
    signers: Arc<Signers>,
    /// Verified policies by version: a scan's thresholds are those of the version in its job.
    known: Arc<Mutex<BTreeMap<String, Arc<Policy>>>>,
}

impl PolicyWatch {
    /// Over this database, trusting these signers.
    pub fn new(store: Store, signers: Arc<Signers>) -> Self {
        Self { store, signers, known: Arc::default() }
    }

    /// The policy in force now: the highest version ever accepted, verified by this process.
    ///
    /// # Errors
    /// None accepted yet, one that does not verify here, or no database.
    pub async fn in_force(&self) -> Result<Arc<Policy>, StageError> {
        let mut tx = self.store.begin_read().await?;
        let row = history::in_force(&mut tx).await?.ok_or(PolicyError::None)?;
        self.verified(row)
    }

    /// The policy of a version: that in force when the version is unknown, so that an old scan is never without.
    ///
    /// # Errors
    /// As [`PolicyWatch::in_force`].
    pub async fn version(&self, version: &str) -> Result<Arc<Policy>, StageError> {
        if let Some(known) = self.known(version) {
            return Ok(known);
        }
        let mut tx = self.store.begin_read().await?;
        match history::get(&mut tx, version).await? {
            Some(row) => self.verified(row),
            None => self.in_force().await,
        }
    }

    /// Waits for a first policy.
    ///
    /// # Errors
    /// As [`PolicyWatch::in_force`], but no policy only when told to stop.
    pub async fn wait(&self, shutdown: &CancellationToken) -> Result<Arc<Policy>, StageError> {
        let mut told = false;
        loop {
            match self.in_force().await {
                Err(StageError::Policy(PolicyError::None)) if !shutdown.is_cancelled() => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!("no policy is in force yet; waiting for the scheduler to accept one");
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

    fn verified(&self, row: PolicyRow) -> Result<Arc<Policy>, StageError> {
        if let Some(known) = self.known(&row.version) {
            return Ok(known);
        }
        let verified =
            verify(&row.document, &row.signature, &self.signers.trusted, &self.signers.revoked, None)
                .map_err(PolicyError::Stored)?;
        let policy = Arc::new(verified.policy);
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(row.version, policy.clone());
        Ok(policy)
    }
}
