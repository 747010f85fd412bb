//! The stages: each takes a message or a due row, asks `model`, writes through `store`, and sends on through `bus`.
//!
//! **Knows**: the order of things within a hand-over, and what a crash at any point of it leaves behind.
//!
//! **Must never know**: SQL text, subjects as strings, HTTP handlers; no stage imports another. What a stage may touch is
//! the fields of its struct: the executor has no `Store`.
//!
//! Start reading at [`scheduler`], then follow a scan: [`executor`], [`vault`], [`writer`], [`drift`], [`alerts`].

pub mod alerts;
pub mod caretakers;
pub mod corpus;
pub mod drift;
mod ending;
mod error;
pub mod executor;
mod gate;
pub mod keys;
pub mod liveness;
pub mod loaded;
pub mod measure;
mod out;
pub mod policy;
mod release;
pub mod rotation;
pub mod scheduler;
pub mod signers;
pub mod trail;
pub mod vault;
pub mod writer;

pub use corpus::Signers;
pub use error::StageError;
pub use signers::{SignerWatch, SignersRefused};
