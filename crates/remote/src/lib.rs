//! SSH, and nothing else: dial a host, check its key, log in, become root, run a plan in one batched session.
//!
//! **Knows**: the SSH protocol, host keys and `known_hosts` text, POSIX shells and sudo as far as it takes to run many
//! commands over one channel and tell their answers apart.
//!
//! **Must never know**: what an answer means (verdicts are `rules`'), SQL, NATS, or any file. Nothing is ever written to
//! disk here, and a key or password is only seen between [`Connection::login`] and the end of [`Session::run`].
//!
//! Start reading at [`connect`], then [`Connection::login`], then [`Session::run`]. What travels over the wire is in
//! `script` (what we send) and `frame` (what comes back); both are pure.

mod algorithms;
mod auth;
mod board;
mod classify;
mod connection;
mod dial;
mod elevate;
mod error;
mod exec;
mod fallback;
mod feeder;
mod frame;
mod guard;
mod host_key;
mod jump;
pub mod known_hosts;
mod lane;
mod pairing;
mod pass;
mod private_key;
mod run;
mod script;
mod session;
mod shell;
mod wire;

pub use connection::{Connection, Limits, Target, connect, connect_through};
pub use error::RemoteError;
#[doc(hidden)]
pub use frame::read_frames;
pub use host_key::{HostKeyPolicy, Trust, fingerprint};
pub use jump::Jump;
pub use private_key::inspect_key;
pub use run::CLEARING;
pub use session::{Caps, OUTPUT_RULE_CAP, OnObservation, RunOptions, Session};
