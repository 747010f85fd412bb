//! The words of OpenWatch and the decisions it makes with them.
//!
//! **Knows**: hosts, rules, scans, jobs, results, transactions, drift, alerts and policies as plain values, and the
//! pure functions that lead from one to the next: [`schedule`], [`transaction`], [`drift`], [`alert`].
//!
//! **Must never know**: async, input or output, a clock, randomness, SQL, or any other crate of ours. Time comes in as
//! `now`, ids come in from outside.
//!
//! Start reading at [`scan`] (what is asked for and what comes back), then [`drift`].
//!
//! Types that derive serde are promised: their names and strings are in messages, tables and API answers.

pub mod alert;
pub mod audit;
pub mod channel;
pub mod credential;
pub mod drift;
pub mod failure;
pub mod harmless;
pub mod host;
pub mod ids;
pub mod liveness;
pub mod next_scan;
pub mod outcome;
pub mod plan;
pub mod policy;
pub mod reach;
pub mod retention;
pub mod rotation;
pub mod scan;
pub mod schedule;
pub mod score;
pub mod transaction;

pub use ids::{AlertId, ChannelId, CredentialId, HostId, ScanId};
pub use outcome::{Evidence, Outcome, Severity, Status};
pub use time::OffsetDateTime as Timestamp;
