//! Putting a policy in force, or refusing it.

use std::path::{Path, PathBuf};

use openwatch_bus::message::event::{PolicyAccepted, PolicyRejected};
use openwatch_model::audit::{
    PolicyClamped, PolicyLoaded, PolicyReloadRejected, PolicyRevocationsLoaded, PolicyRevokedKeyRejected,
    SchedulerStartupFailed,
};
use openwatch_store::counter::{self, Counter};
use openwatch_store::policy::{self as history, PolicyRow, RevocationRow};
use openwatch_store::{Store, StoreError, Tx};
use openwatch_trust::policy::{
    Accepted as InForce, PolicyRefused, RefusalClass, SignedDocument, VerifiedPolicy, read, verify,
};
use openwatch_trust::revocation::Revocations;

use super::{PolicyError, STAGE};
use crate::out::Out;
use crate::signers::{SignerFiles, SignersRefused, verified};
use crate::{SignerWatch, Signers, StageError};

/// Stands for the path of a policy that is in no file.
const IN_FORCE: &str = "in force";

/// When a policy was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// At start: a refusal ends the process.
    Boot,
    /// Later: a refusal changes nothing.
    Reload,
}

/// Reads the key files and the policy, verifies both, and puts them in force: first the list of revoked keys, which holds
/// whatever becomes of the policy, then the policy, each with its history row, audit and events in one `tx`. The same again
/// changes nothing.
///
/// # Errors
/// [`PolicyError::Refused`], which is audited first.
pub async fn accept(
    store: &Store,
    path: &Path,
    signers: &SignerWatch,
    source: Source,
) -> Result<VerifiedPolicy, StageError> {
    let refusal = match take_signers(store, signers).await? {
        Err(SignersRefused { path, refused }) => (path, refused),
        Ok(signers) => match take_policy(store, read(path), &signers).await? {
            Ok(verified) => return Ok(verified),
            Err(refused) => (path.to_owned(), refused),
        },
    };
    refuse(store, refusal, source).await
}

/// What [`accept`] is to a process that was given no policy file: it goes by the policy in force, if there is one that it
/// can verify itself.
///
/// # Errors
/// As [`accept`], at boot.
pub async fn accept_stored(store: &Store, signers: &SignerWatch) -> Result<VerifiedPolicy, StageError> {
    let refusal = match take_signers(store, signers).await? {
        Err(SignersRefused { path, refused }) => (path, refused),
        Ok(signers) => match verify_stored(store, &signers).await? {
            Ok(verified) => return Ok(verified),
            Err(refused) => (IN_FORCE.into(), refused),
        },
    };
    refuse(store, refusal, Source::Boot).await
}

async fn refuse(
    store: &Store,
    (path, refused): (PathBuf, PolicyRefused),
    source: Source,
) -> Result<VerifiedPolicy, StageError> {
    audit_refusal(store, &path, &refused, source).await?;
    Err(PolicyError::Refused { path, refused }.into())
}

async fn verify_stored(
    store: &Store,
    signers: &Signers,
) -> Result<Result<VerifiedPolicy, PolicyRefused>, StageError> {
    let mut tx = store.begin_read().await?;
    let Some(row) = history::in_force(&mut tx).await? else {
        return Ok(Err(PolicyRefused {
            class: RefusalClass::PolicyMissing,
            detail: "none was ever accepted; give the scheduler one with `--policy FILE`".to_owned(),
            fingerprint: None,
            attempted_version: None,
        }));
    };
    Ok(verify(&row.document, &row.signature, &signers.trusted, &signers.revoked, None))
}

/// Whose signatures count from now on: never fewer keys revoked than before, whoever accepted the list (POL-13).
async fn take_signers(
    store: &Store,
    signers: &SignerWatch,
) -> Result<Result<std::sync::Arc<Signers>, SignersRefused>, StageError> {
    let SignerFiles { trusted, list } = match signers.files() {
        Ok(files) => files,
        Err(refused) => return Ok(Err(refused)),
    };
    let mut tx = store.begin().await?;
    history::lock(&mut tx).await?;
    let stored = stored_list(&mut tx).await?;
    let Some(list) = list else {
        return Ok(Ok(signers.keep(Signers { trusted, revoked: stored })));
    };
    let revoked = match verified(&list, &trusted, &stored) {
        Ok(revoked) => revoked,
        Err(refused) => return Ok(Err(refused)),
    };
    if revoked != stored {
        let row = RevocationRow {
            sequence: revoked.sequence(),
            document: list.document,
            signature: list.signature,
        };
        history::revoke(&mut tx, &row, STAGE).await?;
        let told = PolicyRevocationsLoaded {
            sequence: revoked.sequence(),
            revoked: revoked.fingerprints().map(ToString::to_string).collect(),
        };
        let mut out = Out::new(STAGE, format!("revocations {}", revoked.sequence()));
        out.audit(&tx, &told);
        out.commit(tx).await?;
    }
    Ok(Ok(signers.keep(Signers { trusted, revoked })))
}

/// The list of revoked keys in force.
pub(super) async fn stored_list(tx: &mut Tx<'_>) -> Result<Revocations, StageError> {
    match history::revocations(tx).await? {
        Some(row) => Ok(Revocations::stored(&row.document).map_err(PolicyError::Revocations)?),
        None => Ok(Revocations::none()),
    }
}

async fn take_policy(
    store: &Store,
    read: Result<SignedDocument, PolicyRefused>,
    signers: &Signers,
) -> Result<Result<VerifiedPolicy, PolicyRefused>, StageError> {
    let mut tx = store.begin().await?;
    history::lock(&mut tx).await?;
    let active = history::in_force(&mut tx).await?;
    let in_force = active.as_ref().map(|a| InForce { version: &a.version, document: &a.document });
    let verdict = read.and_then(|signed| {
        verify(&signed.document, &signed.signature, &signers.trusted, &signers.revoked, in_force)
            .map(|verified| (verified, signed.signature))
    });
    let (verified, signature) = match verdict {
        Ok(verdict) => verdict,
        Err(refused) => return Ok(Err(refused)),
    };
    let row = PolicyRow {
        version: verified.version.clone(),
        document: verified.document.clone(),
        signature,
        key_fingerprint: verified.key_fingerprint.to_string(),
        loaded_by: STAGE.to_owned(),
        loaded_at: tx.now(),
        superseded_at: None,
    };
    let mut out = Out::new(STAGE, format!("policy {}", verified.version)).under(&verified.version);
    let loaded = PolicyLoaded {
        policy_type: "schedules",
        new_version: verified.version.clone(),
        previous_version: active.as_ref().map(|a| a.version.clone()),
        key_fingerprint: verified.key_fingerprint.to_string(),
    };
    if verified.unchanged {
        // Signed anew by another key: who starts later must find a signature that counts, also when the first one's key is
        // revoked.
        if active.is_some_and(|a| a.key_fingerprint != row.key_fingerprint) {
            history::sign_anew(&mut tx, &row).await?;
            out.audit(&tx, &loaded);
        }
        // A file that was refused may have been put right by taking the change back.
        out.event(&tx, None, PolicyAccepted { version: row.version, previous_version: None });
        out.commit(tx).await?;
        return Ok(Ok(verified));
    }
    // Nobody else decides meanwhile: the lock is held since before the version was compared.
    history::accept(&mut tx, &row).await?;
    out.audit(&tx, &loaded);
    let (version, previous_version) = (loaded.new_version, loaded.previous_version);
    out.event(&tx, None, PolicyAccepted { version, previous_version });
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
    out.audit_many(&tx, &clamped);
    out.flush(&mut tx).await?;
    counter::add(&mut tx, &[(Counter::Clamped, clamped.len() as u64)]).await?;
    tx.commit().await?;
    metrics::counter!("openwatch_policy_clamped_total").increment(clamped.len() as u64);
    tracing::info!(policy = verified.version, "policy in force");
    Ok(Ok(verified))
}

async fn audit_refusal(
    store: &Store,
    path: &Path,
    refused: &PolicyRefused,
    source: Source,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let active = history::in_force(&mut tx).await?.map(|a| a.version);
    let mut out = Out::new(STAGE, "policy");
    let reason = refused.class.as_str().to_owned();
    if refused.class == RefusalClass::RevokedKey {
        let key_fingerprint = refused.fingerprint.map(|key| key.to_string()).unwrap_or_default();
        let policy_version = refused.attempted_version.clone();
        out.audit(&tx, &PolicyRevokedKeyRejected { key_fingerprint, policy_version });
    }
    let attempted = refused.attempted_version.clone();
    match (source, active.clone()) {
        (Source::Reload, Some(active)) => {
            let event = PolicyReloadRejected {
                reason: reason.clone(),
                policy_version_attempted: attempted.clone(),
                policy_version_active: active,
            };
            out.audit(&tx, &event);
        }
        _ => {
            let policy_path = path.display().to_string();
            out.audit(&tx, &SchedulerStartupFailed { reason: reason.clone(), policy_path });
        }
    }
    out.event(&tx, None, PolicyRejected { reason, attempted_version: attempted, active_version: active });
    out.flush(&mut tx).await?;
    counter::add(&mut tx, &[(Counter::Refused, 1)]).await?;
    tx.commit().await?;
    metrics::counter!("openwatch_policy_refused_total").increment(1);
    Ok(())
}
