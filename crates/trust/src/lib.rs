//! Keys and what they prove.
//!
//! **Knows**: the data-encryption key and everything derived from it, the tags on jobs and results, sealing a secret to
//! one recipient, encrypting credentials at rest, signatures over policies, corpora and webhooks, NATS identities, API
//! tokens, and the certificates that the parts of an installation show one another.
//!
//! **Must never know**: NATS, SQL, SSH, or any file that is not a key, a policy or a signature. It takes no clock, and no
//! error, log or `Debug` of it carries secret material.
//!
//! Start reading at [`keyring`] (who holds which key), then [`mac`] and [`seal`] (what a worker may prove and learn),
//! then [`policy`].

pub mod authority;
pub mod corpus;
pub mod crypt;
pub mod dek;
pub mod dek_files;
pub mod dsse;
pub mod files;
pub mod keyring;
pub mod mac;
pub mod nats_user;
pub mod policy;
pub mod revocation;
pub mod seal;
pub mod signer;
pub mod token;
pub mod webhook;

mod encoding;
mod key;

#[cfg(test)]
mod canary;

pub use dek::{Dek, Deks, KeyId};
pub use files::KeyFileError;
pub use keyring::{AlertsKeys, ApiKeys, ExecutorKeys, SchedulerKeys, VaultKeys, WriterKeys};
pub use mac::{MacError, ResultKey, Signed, Tag};
pub use signer::{Fingerprint, PolicyKey, TrustedKeys};
