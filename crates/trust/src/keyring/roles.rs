//! One type per process: what it can do is what it may do.

use std::path::Path;

use openwatch_model::credential::Secret;
use openwatch_model::{ChannelId, CredentialId, ScanId};
use zeroize::Zeroizing;

use super::issued::{Issued, Role, Use};
use crate::crypt::{self, DecryptError};
use crate::files::KeyFileError;
use crate::mac::{self, Domain, MacError, ResultKey, Signed};
use crate::seal::{self, SealError};
use crate::{Deks, KeyId};

/// Ids of the keys that somebody holds.
pub trait KeyNames {
    /// The key id that new things are made with.
    fn current(&self) -> KeyId;

    /// Every key id held, sorted: what `doctor` compares.
    fn key_ids(&self) -> Vec<KeyId>;
}

/// What every key file has in common.
macro_rules! key_file {
    ($(#[$doc:meta])* $name:ident, $role:ident, $issue:ident) => {
        $(#[$doc])*
        pub struct $name(Issued);

        #[doc = concat!("Derives [`", stringify!($name), "`]; save or replace them where their process will read them.")]
        pub fn $issue(deks: &Deks) -> $name {
            $name(Issued::derive(Role::$role, deks))
        }

        impl KeyNames for $name {
            fn current(&self) -> KeyId {
                self.0.current()
            }

            fn key_ids(&self) -> Vec<KeyId> {
                self.0.ids()
            }
        }

        impl $name {
            /// Reads an issued file.
            ///
            /// # Errors
            /// When it is missing, open to group or others, issued for another process, or damaged.
            pub fn load(path: &Path) -> Result<Self, KeyFileError> {
                Issued::load(Role::$role, path).map(Self)
            }

            /// Writes a new file of mode 0600.
            ///
            /// # Errors
            /// When it exists or cannot be written.
            pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
                self.0.save(path)
            }

            /// Puts a file of mode 0600 in the place of an earlier one, in one step.
            ///
            /// # Errors
            /// When it cannot be written; the earlier one is then still there.
            pub fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
                self.0.replace(path)
            }

        }
    };
}

key_file! {
    /// The scheduler's keys: the only ones whose holder is meant to sign jobs.
    SchedulerKeys, Scheduler, issue_scheduler
}

impl SchedulerKeys {
    /// Signs a job: the exact payload bytes and the lane of its subject (`manual`, `scheduled`).
    pub fn sign_job(&self, lane: &str, payload: &[u8]) -> Signed {
        let tag = mac::sign(self.0.signing(Use::Queue), Domain::Job, &[lane.as_bytes(), payload]);
        Signed { kid: self.0.current(), tag }
    }
}

key_file! {
    /// A worker's keys. They prove that it is a worker; they can sign no outcome and open no secret.
    ExecutorKeys, Executor, issue_executor
}

impl ExecutorKeys {
    /// Verifies a job in constant time; before anything else is done with it (JOB-06).
    ///
    /// # Errors
    /// `UnknownKey` or `Mismatch`.
    pub fn verify_job(&self, lane: &str, payload: &[u8], signed: &Signed) -> Result<(), MacError> {
        verify(&self.0, Use::Queue, Domain::Job, &[lane.as_bytes(), payload], signed)
    }

    /// Signs what a worker says in its own name: `started`, a failure, `rejected`. Never outcomes.
    pub fn sign_result(&self, part: &str, subject: &str, payload: &[u8]) -> Signed {
        let fields = [part.as_bytes(), subject.as_bytes(), payload];
        self.sign(Domain::WorkerResult, &fields)
    }

    /// Signs a question to the vault: its exact bytes.
    pub fn sign_request(&self, request: &[u8]) -> Signed {
        self.sign(Domain::VaultRequest, &[request])
    }

    /// Verifies that the vault gave this answer to this question. A sealed secret proves itself by opening, but a refusal
    /// ends a job, and must not come from whoever else can publish to the inbox.
    ///
    /// # Errors
    /// `UnknownKey` or `Mismatch`.
    pub fn verify_answer(&self, request: &[u8], answer: &[u8], signed: &Signed) -> Result<(), MacError> {
        verify(&self.0, Use::Executor, Domain::VaultAnswer, &[request, answer], signed)
    }

    fn sign(&self, domain: Domain, fields: &[&[u8]]) -> Signed {
        Signed { kid: self.0.current(), tag: mac::sign(self.0.signing(Use::Executor), domain, fields) }
    }
}

key_file! {
    /// The writer's keys: it can verify every result.
    WriterKeys, Writer, issue_writer
}

impl WriterKeys {
    /// Verifies what a worker says in its own name.
    ///
    /// # Errors
    /// `UnknownKey` or `Mismatch`.
    pub fn verify_worker(
        &self,
        part: &str,
        subject: &str,
        payload: &[u8],
        signed: &Signed,
    ) -> Result<(), MacError> {
        let fields = [part.as_bytes(), subject.as_bytes(), payload];
        verify(&self.0, Use::Executor, Domain::WorkerResult, &fields, signed)
    }

    /// Verifies outcomes: only a worker to which the vault released the secret of this attempt could have signed them.
    ///
    /// # Errors
    /// `UnknownKey` or `Mismatch`.
    pub fn verify_attempt(
        &self,
        (scan, attempt): (ScanId, u32),
        part: &str,
        subject: &str,
        payload: &[u8],
        signed: &Signed,
    ) -> Result<(), MacError> {
        let root = self.0.get(signed.kid, Use::ResultRoot).ok_or(MacError::UnknownKey)?;
        ResultKey::derive(signed.kid, root, scan, attempt).verify(part, subject, payload, signed)
    }
}

key_file! {
    /// The API's keys: public ones. It can give secrets to the vault and never read one back.
    ApiKeys, Api, issue_api
}

impl ApiKeys {
    /// Seals a new secret to the vault under the id of its credential.
    ///
    /// # Errors
    /// When the key file holds an impossible public key.
    pub fn seal_credential(&self, secret: &Secret, credential: CredentialId) -> Result<Vec<u8>, SealError> {
        let public = self.0.signing(Use::VaultPublic).bytes();
        seal::seal_credential(self.0.current(), public, secret, credential)
    }

    /// Seals what it takes to reach a channel to the alerts stage, under the id of the channel.
    ///
    /// # Errors
    /// When the key file holds an impossible public key.
    pub fn seal_channel(&self, target: &[u8], channel: ChannelId) -> Result<Vec<u8>, SealError> {
        seal::seal_channel(self.0.current(), self.0.signing(Use::ChannelPublic).bytes(), target, channel)
    }
}

key_file! {
    /// The alerts stage's keys: it reads what the API sealed for its channels, and nothing else.
    AlertsKeys, Alerts, issue_alerts
}

impl AlertsKeys {
    /// Opens what the API sealed for this channel.
    ///
    /// # Errors
    /// When it was sealed for another channel or another installation, or was altered.
    pub fn open_channel(&self, sealed: &[u8], channel: ChannelId) -> Result<Zeroizing<Vec<u8>>, SealError> {
        seal::open_channel(|kid| self.0.get(kid, Use::ChannelPrivate), sealed, channel)
    }

    /// Seals the same again to the current key; for a rotation.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn reseal_channel(&self, sealed: &[u8], channel: ChannelId) -> Result<Vec<u8>, SealError> {
        let plain = self.open_channel(sealed, channel)?;
        seal::seal_channel(self.0.current(), self.0.signing(Use::ChannelPublic).bytes(), &plain, channel)
    }
}

/// The vault's keys, derived in memory from the data-encryption keys. There is no file of them.
pub struct VaultKeys(Issued);

impl KeyNames for VaultKeys {
    fn current(&self) -> KeyId {
        self.0.current()
    }

    fn key_ids(&self) -> Vec<KeyId> {
        self.0.ids()
    }
}

impl VaultKeys {
    /// Derives them; the data-encryption keys may be dropped afterwards.
    pub fn new(deks: &Deks) -> Self {
        Self(Issued::derive(Role::Vault, deks))
    }

    /// Verifies a worker's question: its exact bytes.
    ///
    /// # Errors
    /// `UnknownKey` or `Mismatch`.
    pub fn verify_request(&self, request: &[u8], signed: &Signed) -> Result<(), MacError> {
        verify(&self.0, Use::Executor, Domain::VaultRequest, &[request], signed)
    }

    /// Signs the answer to a question, with the key that the question was signed with: the worker that asked has it,
    /// whatever rotation is under way. Call it only after [`VaultKeys::verify_request`].
    ///
    /// # Errors
    /// `UnknownKey` when the question was signed with a key that is not loaded.
    pub fn sign_answer(&self, request: &[u8], asked: &Signed, answer: &[u8]) -> Result<Signed, MacError> {
        let key = self.0.get(asked.kid, Use::Executor).ok_or(MacError::UnknownKey)?;
        Ok(Signed { kid: asked.kid, tag: mac::sign(key, Domain::VaultAnswer, &[request, answer]) })
    }

    /// Makes the key that will sign the outcomes of this attempt.
    pub fn result_key(&self, scan: ScanId, attempt: u32) -> ResultKey {
        ResultKey::derive(self.0.current(), self.0.signing(Use::ResultRoot), scan, attempt)
    }

    /// Opens what the API sealed for this credential.
    ///
    /// # Errors
    /// When it was sealed for another credential or another vault, or was altered.
    pub fn open_credential(&self, sealed: &[u8], credential: CredentialId) -> Result<Secret, SealError> {
        seal::open_credential(|kid| self.0.get(kid, Use::VaultPrivate), sealed, credential)
    }

    /// Encrypts one column of a credential for the table.
    pub fn encrypt_column(&self, plaintext: &[u8], credential: CredentialId, column: &str) -> Vec<u8> {
        crypt::encrypt(self.0.current(), self.0.signing(Use::Column), plaintext, credential, column)
    }

    /// Decrypts one column of a credential.
    ///
    /// # Errors
    /// When it was encrypted for another row or column or with a key that is not loaded, or was altered.
    pub fn decrypt_column(
        &self,
        ciphertext: &[u8],
        credential: CredentialId,
        column: &str,
    ) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
        crypt::decrypt(|kid| self.0.get(kid, Use::Column), ciphertext, credential, column)
    }
}

fn verify(keys: &Issued, of: Use, domain: Domain, fields: &[&[u8]], signed: &Signed) -> Result<(), MacError> {
    mac::verify(keys.get(signed.kid, of).ok_or(MacError::UnknownKey)?, domain, fields, &signed.tag)
}

#[cfg(test)]
mod tests;
