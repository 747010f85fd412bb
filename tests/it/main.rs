//! One binary for every test that needs servers, files of the checkout, or the built program.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "test code outside #[test] functions is test code too")]

mod bench;
mod compose;
mod layering;
mod private;
mod api;
mod store;
mod remote;
mod remote_drop;
mod remote_host_key;
mod remote_hostile;
mod remote_login;
mod bus;
mod executor;
mod writer;
mod drift;
mod alerts;
mod liveness;
mod trunk;
mod scheduler;
mod vault;
