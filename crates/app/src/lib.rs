//! The binary's parts.
//!
//! **Knows**: the command line, configuration, signals, how the stages are wired, and how a single machine keeps a private
//! PostgreSQL and NATS server.
//!
//! **Must never know**: anything that deserves a unit test elsewhere. It wires and shows, it decides nothing.
//!
//! Start reading at [`run::up`] (everything at once), then [`run::stages`] (who gets what).

#[expect(missing_docs, reason = "flattened groups of flags are documented where they are defined")]
pub mod cli;
pub mod client;
pub mod config;
pub mod corpus_files;
pub mod exit;
pub mod keydir;
pub mod links;
pub mod place;
pub mod private;
pub mod run;
pub mod tools;
