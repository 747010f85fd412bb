//! Host keys that a worker has seen: those it believed on first contact, and the one it did not believe.

use openwatch_model::audit::HostKeyAccepted;
use openwatch_model::host::KnownKey;
use openwatch_model::scan::{Failure, FailureReason, ScanResult};
use openwatch_model::{HostId, ScanId};
use openwatch_store::end::OpenScan;
use openwatch_store::known_key::{self, Learned};
use openwatch_store::{StoreError, Tx};

use crate::out::Out;

/// Puts the keys of first contacts on record. Only of a result that proves that the vault answered its attempt.
///
/// Another key may have come first, of a contact at the same time: then this one was not the host, and the failure that
/// its scan ends with comes back (HKV-05).
pub(super) async fn learn_all(
    tx: &mut Tx<'_>,
    out: &mut Out,
    open: &OpenScan,
    result: &ScanResult,
) -> Result<Option<Failure>, StoreError> {
    if let Some((host, key)) = &result.learned_jump_key
        && let Some((address, port)) = known_key::place(tx, *host).await?
        && let Some(failure) = learn(tx, out, *host, (&address, port), key, result.scan).await?
    {
        return Ok(Some(failure));
    }
    if let Some(key) = &result.learned_key
        && let Some((address, port)) = known_key::place(tx, open.host).await?
    {
        return learn(tx, out, open.host, (&address, port), key, result.scan).await;
    }
    Ok(None)
}

/// Keeps the key that was not believed, for a person to judge.
pub(super) async fn note_shown(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    result: &ScanResult,
) -> Result<(), StoreError> {
    // What cannot be a key is not worth keeping.
    let Some((key, fingerprint)) =
        result.shown_key.as_ref().and_then(|key| Some((key, openwatch_remote::fingerprint(key)?)))
    else {
        return Ok(());
    };
    match known_key::place(tx, open.host).await? {
        Some((address, port)) => known_key::shown(tx, (&address, port), key, &fingerprint, result.scan).await,
        None => Ok(()),
    }
}

async fn learn(
    tx: &mut Tx<'_>,
    out: &mut Out,
    host: HostId,
    (address, port): (&str, u16),
    key: &KnownKey,
    scan: ScanId,
) -> Result<Option<Failure>, StoreError> {
    let fingerprint = openwatch_remote::fingerprint(key).unwrap_or_default();
    match known_key::learn(tx, address, port, key, &fingerprint).await? {
        Learned::New => {
            let accepted = HostKeyAccepted {
                host_id: host,
                algorithm: key.algorithm.clone(),
                fingerprint,
                replaced: None,
                accepted_by: "first contact".to_owned(),
            };
            out.audit(tx, &accepted);
            Ok(None)
        }
        Learned::Same => Ok(None),
        Learned::Different => {
            known_key::shown(tx, (address, port), key, &fingerprint, scan).await?;
            let detail = format!(
                "{address}:{port} showed {} {fingerprint} on first contact, but another key was on record first",
                key.algorithm
            );
            Ok(Some(Failure { reason: FailureReason::HostKeyMismatch, detail, rule: None }))
        }
    }
}
