//! One binary for every test that needs servers, files of the checkout, or the built program.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code outside #[test] functions is test code too"
)]

mod alerts;
mod api;
mod audit;
mod bench;
mod bench_alerts;
mod bench_apply;
mod bench_as_of;
mod bench_dispatch;
mod bench_fleet;
mod bus;
mod canary;
mod check;
mod compose;
mod credentials;
mod drift;
mod event_stream;
mod executor;
mod fuzz;
mod gentle;
mod host_keys;
mod jump;
mod layering;
mod liveness;
mod private;
mod remote;
mod remote_drop;
mod remote_host_key;
mod remote_hostile;
mod remote_login;
mod rotation;
mod rule_engine;
mod scheduler;
mod store;
mod tls;
mod trunk;
mod vault;
mod writer;
