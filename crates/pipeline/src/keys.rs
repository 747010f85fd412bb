//! Keys that a running process holds: they may change under it, and it says which ones it has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openwatch_bus::Bus;
use openwatch_bus::message::vault::Holding;
use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC};
use openwatch_bus::subject::VAULT_RELEASE;
use openwatch_model::rotation::Holder;
use openwatch_store::{Store, StoreError, rotation};
use openwatch_trust::ExecutorKeys;
use openwatch_trust::keyring::KeyNames;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::StageError;

/// Keys that may be replaced while a stage runs.
pub type Held<K> = watch::Receiver<Arc<K>>;

/// How often a process says what it holds.
const EVERY: Duration = Duration::from_secs(30);
/// How soon again when nobody heard it: a process that starts with the others may be there before the vault.
const AGAIN: Duration = Duration::from_secs(1);
/// Kind of key that such a message is told apart by, in its header.
pub(crate) const HOLDING: &str = "holding";

/// Says in the database which keys a process holds: at once, when they change, every half minute, and soon again when that failed.
///
/// # Errors
/// Never; a database that is away is asked again.
pub async fn report<K: KeyNames>(
    store: Store,
    role: &'static str,
    process: String,
    mut keys: Held<K>,
    shutdown: CancellationToken,
) -> Result<(), StageError> {
    while !shutdown.is_cancelled() {
        let holder = holder(role, &process, &**keys.borrow_and_update());
        let told = noted(&store, &holder).await;
        if let Err(error) = &told {
            tracing::debug!(%error, "the keys held could not be reported");
        }
        pause(&mut keys, told.is_ok(), &shutdown).await;
    }
    Ok(())
}

/// The same for a worker, which has no database: the vault notes it.
///
/// # Errors
/// Never; a vault that is away is asked again.
pub async fn report_to_vault(
    bus: Bus,
    process: String,
    mut keys: Held<ExecutorKeys>,
    shutdown: CancellationToken,
) -> Result<(), StageError> {
    while !shutdown.is_cancelled() {
        let (headers, payload) = {
            let keys = keys.borrow_and_update();
            let Holder { process, current, key_ids, .. } = holder("executor", &process, &**keys);
            let payload = Holding { worker: process, current, key_ids }.encode();
            let signed = keys.sign_request(&payload);
            let headers = [
                (KEY_ID, signed.kid.to_string()),
                (MAC, signed.tag.to_string()),
                (KEY_KIND, HOLDING.to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value));
            (headers, payload)
        };
        let asked = bus.request(VAULT_RELEASE, &headers, payload, Duration::from_secs(5));
        let told = shutdown.run_until_cancelled(asked).await;
        if let Some(Err(error)) = &told {
            tracing::debug!(%error, "the keys held could not be reported");
        }
        pause(&mut keys, matches!(told, Some(Ok(_))), &shutdown).await;
    }
    Ok(())
}

async fn pause<K>(keys: &mut Held<K>, told: bool, shutdown: &CancellationToken) {
    let changed = async {
        if keys.changed().await.is_err() {
            // Nobody will ever change them.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = tokio::time::sleep(if told { EVERY } else { AGAIN }) => {}
        () = changed => {}
    }
}

fn holder<K: KeyNames>(role: &str, process: &str, keys: &K) -> Holder {
    Holder {
        role: role.to_owned(),
        process: process.to_owned(),
        current: keys.current().to_string(),
        key_ids: keys.key_ids().iter().map(ToString::to_string).collect(),
    }
}

/// Notes what a process holds.
pub(crate) async fn noted(store: &Store, holder: &Holder) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    rotation::hold(&mut tx, holder).await?;
    tx.commit().await
}

/// What a worker said of itself, in the vault's words.
pub(crate) fn holder_of(payload: &Bytes) -> Option<Holder> {
    let Holding { worker, current, key_ids } = Holding::decode(payload).ok()?;
    let process: String = worker.chars().filter(|c| !c.is_control()).take(128).collect();
    let known = (1..=16).contains(&key_ids.len()) && !process.is_empty();
    known.then(|| Holder { role: "executor".to_owned(), process, current, key_ids })
}
