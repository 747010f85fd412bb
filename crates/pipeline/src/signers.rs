//! Whose signatures count, as one process knows it: from its key files, read again when told to.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use openwatch_trust::TrustedKeys;
use openwatch_trust::policy::PolicyRefused;
use openwatch_trust::revocation::Revocations;

use crate::Signers;

/// What the key files say.
#[derive(Clone, Debug)]
pub struct SignerFiles {
    /// Keys that count.
    pub trusted: TrustedKeys,
    /// Keys that no longer count, where there is such a list.
    pub list: Option<SignedList>,
}

/// A list of revoked keys as it lies there.
#[derive(Clone, Debug)]
pub struct SignedList {
    /// Where.
    pub path: PathBuf,
    /// Its exact bytes.
    pub document: Vec<u8>,
    /// The signature file's exact bytes.
    pub signature: Vec<u8>,
}

/// Key files that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to use {}: {refused}", path.display())]
pub struct SignersRefused {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    pub refused: PolicyRefused,
}

impl SignersRefused {
    /// A list that is not taken over.
    pub fn list(path: &Path, error: &openwatch_trust::revocation::RevocationsRefused) -> Self {
        Self { path: path.to_owned(), refused: error.into() }
    }
}

type Read = dyn Fn() -> Result<SignerFiles, SignersRefused> + Send + Sync;

/// Whose signatures count now. Cheap to clone.
#[derive(Clone)]
pub struct SignerWatch {
    read: Arc<Read>,
    current: Arc<RwLock<Option<Arc<Signers>>>>,
}

impl SignerWatch {
    /// Reads with this; nothing is read yet.
    pub fn new(read: impl Fn() -> Result<SignerFiles, SignersRefused> + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), current: Arc::default() }
    }

    /// Whose signatures count; read from the files by the first who asks.
    ///
    /// # Errors
    /// The files cannot be used.
    pub fn current(&self) -> Result<Arc<Signers>, SignersRefused> {
        if let Some(known) = self.current.read().unwrap_or_else(PoisonError::into_inner).clone() {
            return Ok(known);
        }
        let files = (self.read)()?;
        let revoked = match &files.list {
            Some(list) => verified(list, &files.trusted, &Revocations::none())?,
            None => Revocations::none(),
        };
        Ok(self.keep(Signers { trusted: files.trusted, revoked }))
    }

    /// Whose signatures count, as the files say now: keys come and go while a process runs. Files that cannot be used, and a
    /// list of revoked keys that is older than the one known, change nothing.
    ///
    /// # Errors
    /// The files cannot be used, and never could.
    pub fn fresh(&self) -> Result<Arc<Signers>, SignersRefused> {
        let known = self.current()?;
        let read = (self.read)().and_then(|files| {
            let revoked = match &files.list {
                Some(list) => verified(list, &files.trusted, &known.revoked)?,
                None => known.revoked.clone(),
            };
            Ok(Signers { trusted: files.trusted, revoked })
        });
        Ok(match read {
            Ok(signers) => self.keep(signers),
            Err(error) => {
                tracing::warn!(%error, "the signers from before stay");
                known
            }
        })
    }

    /// What the files say now; what counts does not change by this.
    pub(crate) fn files(&self) -> Result<SignerFiles, SignersRefused> {
        (self.read)()
    }

    /// From now on these count.
    pub(crate) fn keep(&self, signers: Signers) -> Arc<Signers> {
        let signers = Arc::new(signers);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(signers.clone());
        signers
    }
}

/// A list that follows the one in force.
pub(crate) fn verified(
    list: &SignedList,
    trusted: &TrustedKeys,
    in_force: &Revocations,
) -> Result<Revocations, SignersRefused> {
    Revocations::verify(&list.document, &list.signature, trusted, in_force)
        .map_err(|error| SignersRefused::list(&list.path, &error))
}
