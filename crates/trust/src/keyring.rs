//! Who holds which key.
//!
//! Each process is given a file with exactly the keys that its part needs, and a type that can do exactly its part:
//!
//! | file | keys | can |
//! |---|---|---|
//! | [`SchedulerKeys`] | queue | sign jobs |
//! | [`ExecutorKeys`] | queue, executor | verify jobs; sign `started`, failures, `rejected` and questions to the vault |
//! | [`WriterKeys`] | executor, result root | verify every result |
//! | [`ApiKeys`] | public keys of the vault and the alerts stage | seal a new credential to the one, a new channel to the other |
//! | [`AlertsKeys`] | channel | open what the API sealed for channels |
//! | [`VaultKeys`] (no file: from the data-encryption keys) | all but queue and channel | answer workers, encrypt and decrypt |
//!
//! A file holds the keys of several data-encryption keys, one of them current: signers use that one, verifiers take any.
//! Derivations: HKDF-SHA256 of the data-encryption key, empty salt, 32 bytes, with the infos in `keyring/issued.rs`.

mod issued;
mod roles;

pub use roles::{
    AlertsKeys, ApiKeys, ExecutorKeys, KeyNames, SchedulerKeys, VaultKeys, WriterKeys, issue_alerts,
    issue_api, issue_executor, issue_scheduler, issue_writer,
};
