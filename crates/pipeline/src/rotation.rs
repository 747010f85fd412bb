//! Drives a rotation of the data-encryption key on a machine where one key directory serves all: makes the next key, waits
//! until everybody holds it, switches, waits until nothing needs the old one, takes it away.
//!
//! The files say how far it is, the database says it to people; each step is done in the files first and may be repeated.

use std::time::Duration;

use openwatch_model::audit::KeyRotationAdvanced;
use openwatch_model::rotation::{Known, Phase, Step, next_step};
use openwatch_store::rotation::{self, Rotation};
use openwatch_store::{Store, StoreError};
use openwatch_trust::KeyFileError;
use openwatch_trust::dek_files::DekFiles;
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::out::Out;

/// How often it is looked whether there is something to do.
const EVERY: Duration = Duration::from_secs(1);

/// Writes the derived key files of all processes anew.
pub type Reissue = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What the keeper may touch.
pub struct Keeper {
    /// Database, as `vault`.
    pub store: Store,
    /// The data-encryption keys.
    pub files: DekFiles,
    /// Gives every process what it may hold of them.
    pub reissue: Reissue,
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error("{0}")]
    Reissue(String),
}

impl Keeper {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Never: what cannot be done now is tried again.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        let mut told = String::new();
        while !shutdown.is_cancelled() {
            match self.step().await {
                Ok(()) => told.clear(),
                Err(error) if error.to_string() != told => {
                    tracing::warn!(%error, "the rotation of keys waits");
                    told = error.to_string();
                }
                Err(_) => {}
            }
            let _ = shutdown.run_until_cancelled(tokio::time::sleep(EVERY)).await;
        }
        Ok(())
    }

    async fn step(&self) -> Result<(), Trouble> {
        let mut tx = self.store.begin().await?;
        let Some(rotation) = rotation::newest(&mut tx).await? else { return Ok(()) };
        if rotation.phase == Phase::Done {
            return Ok(());
        }
        let holders = rotation::holders(&mut tx).await?;
        let next = rotation.next.as_deref();
        let left = rotation::left(&mut tx, next.unwrap_or_default()).await?;
        rotation::forget_silent(&mut tx).await?;
        let now = tx.now();
        tx.commit().await?;
        let switched_for = rotation.switched_at.map_or(Duration::ZERO, |at| (now - at).unsigned_abs());
        let known = Known {
            phase: rotation.phase,
            next,
            holders: &holders,
            left,
            switched_for,
            retire_after: rotation.retire_after,
        };
        match next_step(&known) {
            Step::Issue => {
                let next = self.files.begin()?.to_string();
                let old = self.files.load()?.current().to_string();
                (self.reissue)().map_err(Trouble::Reissue)?;
                self.note(&rotation, Phase::Issued, (&old, &next)).await
            }
            Step::Switch => {
                self.files.switch()?;
                (self.reissue)().map_err(Trouble::Reissue)?;
                self.note(&rotation, Phase::Switched, named(&rotation)).await
            }
            Step::Retire => {
                self.files.retire()?;
                (self.reissue)().map_err(Trouble::Reissue)?;
                self.note(&rotation, Phase::Done, named(&rotation)).await
            }
            Step::Wait(_) => Ok(()),
        }
    }

    async fn note(&self, rotation: &Rotation, to: Phase, (old, next): (&str, &str)) -> Result<(), Trouble> {
        let mut tx = self.store.begin().await?;
        if rotation::advance(&mut tx, rotation.id, to, (old, next)).await? {
            let mut out = Out::new("vault", format!("rotation.{}", rotation.id));
            let event = KeyRotationAdvanced {
                phase: to.as_str(),
                old_key_id: old.to_owned(),
                next_key_id: next.to_owned(),
                requested_by: rotation.requested_by.clone(),
            };
            out.audit(&tx, &event);
            out.commit(tx).await?;
            tracing::info!(phase = to.as_str(), old, next, "the data-encryption key is being rotated");
        }
        Ok(())
    }
}

fn named(rotation: &Rotation) -> (&str, &str) {
    (rotation.old.as_deref().unwrap_or_default(), rotation.next.as_deref().unwrap_or_default())
}
