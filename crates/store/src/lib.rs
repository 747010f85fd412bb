//! The truth, in PostgreSQL.
//!
//! **Knows**: every table and every statement on it. One file per aggregate; statements are checked against a real
//! database when they are written (`scripts/sqlx-prepare`) and rows become words of the model before they leave.
//!
//! **Must never know**: NATS, SSH, HTTP, keys, or a decision beyond what one statement must do atomically. A stage
//! begins a [`Tx`], reads, asks the model, writes, commits; or looks, asks, and has one statement do it if what it saw still
//! holds. The decision stays visible in the stage.
//!
//! Start reading at [`schedule`] (a host falls due), then [`scan`], [`end`] and [`apply`] (a scan ends), then [`read`].

pub mod alert;
pub mod alert_life;
pub mod apply;
pub mod audit;
pub mod channel;
mod connect;
pub mod corpus;
pub mod counter;
pub mod credential;
pub mod delivery;
mod doorbell;
pub mod drift;
pub mod end;
mod error;
pub mod finding;
pub mod host;
pub mod idempotency;
pub mod inbox;
mod kept;
pub mod known_key;
pub mod ledger;
pub mod listen;
pub mod liveness;
pub mod migrate;
pub mod outbox;
pub mod page;
pub mod policy;
pub mod read;
mod relay;
pub mod rescue;
pub mod retention;
pub mod rotation;
pub mod scan;
pub mod schedule;
pub mod standing;
pub mod token;
mod tx;
pub mod vault;
mod words;

pub use connect::{Reach, Role, Store, StoreOptions, reach};
pub use error::StoreError;
pub use listen::{Listener, Wake};
pub use migrate::{SchemaState, migrate, schema_state};
pub use page::{Cursor, Page, Paged};
pub use relay::Relay;
pub use tx::{Moment, Tx};
