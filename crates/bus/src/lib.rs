//! NATS: how the stages hand work over to one another.
//!
//! **Knows**: subjects, streams, users, envelopes and their versions, the topology (as data in `nats/`), *the* consume
//! loop, publishing, request and reply, the object store, dead letters.
//!
//! **Must never know**: SQL, SSH, and decisions: what a message means for a host is `model`'s and the stages' business.
//!
//! Start reading at [`Bus`], then [`consume::run`] (the one loop every stage runs in) and [`message`] (what is said).

pub mod advisory;
mod connect;
pub mod consume;
pub mod dead_letter;
mod error;
pub mod message;
pub mod object;
pub mod pack;
mod publish;
mod request;
pub mod stream;
pub mod subject;
pub mod tail;
pub mod topology;
pub mod trace;
pub mod user;

pub use connect::{Bus, BusOptions, Tls};
pub use consume::{Message, Next};
pub use error::{BusError, DecodeError};
pub use publish::{Outgoing, Published};
pub use request::{Question, serve};
pub use topology::Profile;
pub use user::User;
