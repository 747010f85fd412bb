//! Calls that wake the scheduler's loops before their time.

use openwatch_model::audit::PolicyReloadDone;
use openwatch_store::StoreError;
use openwatch_store::listen::{self, Wake};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{AGAIN, STAGE, Scheduler};
use crate::StageError;
use crate::out::Out;
use crate::policy::{Source, accept};

/// SIGHUP, beside the channels of the database.
const HANGUP: &str = "hangup";

/// What the loops wait for.
#[derive(Default)]
pub(super) struct Calls {
    /// Scans were queued, promoted or tried again.
    pub(super) scans: Notify,
    /// Hosts, wishes or a policy changed what is due.
    pub(super) schedule: Notify,
}

/// Passes on what the database calls, and re-reads the policy file when told to.
pub(super) async fn answer_calls(
    it: &Scheduler,
    calls: &Calls,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    while !shutdown.is_cancelled() {
        match it.store.listen(&[listen::SCAN, listen::SCHEDULE, listen::POLICY, listen::RELOAD]).await {
            // Calls made before listening were missed.
            Ok(mut listener) => {
                calls.scans.notify_one();
                calls.schedule.notify_one();
                while let Some(call) = next(it, &mut listener, shutdown).await {
                    match call.as_str() {
                        HANGUP => reload(it, false).await,
                        listen::RELOAD => reload(it, true).await,
                        listen::SCAN => calls.scans.notify_one(),
                        _ => calls.schedule.notify_one(),
                    }
                }
            }
            Err(error) => tracing::warn!(%error, "the scheduler listens again soon"),
        }
        let _ = tokio::time::timeout(AGAIN, shutdown.cancelled()).await;
    }
    Ok(())
}

/// The channel that was called; nothing when it is time to stop or to listen anew.
async fn next(
    it: &Scheduler,
    listener: &mut openwatch_store::Listener,
    shutdown: &CancellationToken,
) -> Option<String> {
    tokio::select! {
        () = shutdown.cancelled() => None,
        () = it.reload.notified() => Some(HANGUP.to_owned()),
        call = listener.recv() => match call {
            Ok(Wake::Call { channel, .. }) => Some(channel),
            Ok(Wake::Missed) | Err(_) => None,
        },
    }
}

/// `asked`: by a person who waits for a word, even if nothing changes.
async fn reload(it: &Scheduler, asked: bool) {
    let Some(path) = &it.policy_file else {
        tracing::info!("told to re-read the policy, but this scheduler was given no policy file");
        return;
    };
    match accept(&it.store, path, &it.signers, Source::Reload).await {
        Ok(accepted) if accepted.unchanged && asked => {
            if let Err(error) = unchanged(it, accepted.version).await {
                tracing::warn!(%error, "nobody could be told that the policy is the same as before");
            }
        }
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "the policy stays as it was"),
    }
}

async fn unchanged(it: &Scheduler, policy_version_active: String) -> Result<(), StoreError> {
    tracing::info!(policy = policy_version_active, "the policy file is the policy in force");
    let tx = it.store.begin().await?;
    let mut out = Out::new(STAGE, "policy").under(&policy_version_active);
    out.audit(&tx, &PolicyReloadDone { policy_version_active });
    out.commit(tx).await
}
