//! Who holds which key.
//!
//! Each process is given a file with exactly the keys that its part needs, and a type that can do exactly its part:
//!
//! | file | keys | can |
//! |---|---|---|
//! | [`SchedulerKeys`] | queue | sign jobs |
//! | [`ExecutorKeys`] | queue, executor | verify jobs; sign `started`, failures, `rejected` and questions to the vault |
//! | [`WriterKeys`] | executor, result root | verify every result |
//! | [`ApiKeys`] | the vault's public key | seal a new credential to the vault |
//! | [`VaultKeys`] (no file: from the data-encryption keys) | all but queue | answer workers, encrypt and decrypt |
//!
//! A file holds the keys of several data-encryption keys, one of them current: signers use that one, verifiers take any.
//! Derivations: HKDF-SHA256 of the data-encryption key, empty salt, 32 bytes, with the infos in `keyring/issued.rs`.

mod issued;
mod roles;

pub use roles::{
    ApiKeys, ExecutorKeys, KeyNames, SchedulerKeys, VaultKeys, WriterKeys, issue_api, issue_executor,
    issue_scheduler, issue_writer,
};
