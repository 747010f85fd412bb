//! The REST API: hosts, credentials, scans, transactions, drift, alerts and the audit log over HTTP, with problem+json
//! errors, OpenAPI, metrics and health.
//!
//! **Knows**: axum, bearer tokens, what goes over the wire ([`dto`]).
//!
//! **Must never know**: SSH, how to decide anything, a key that signs or decrypts. It seals new credentials to the
//! vault's public key and cannot open them again; it writes neither results nor transactions, and leaves the schedule
//! to the scheduler.
//!
//! Start reading at [`run`], then the table of routes in `router.rs`, then `routes/scans.rs`.

pub mod auth;
mod csv;
pub mod dto;
mod envelope;
mod error;
mod extract;
mod guard;
mod health;
mod idempotency;
mod openapi;
mod router;
mod routes;
mod server;
mod snapshot;
mod state;
mod strangers;
mod trail;
mod validate;

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

pub use error::{Code, Fault};
pub use health::{Beat, Health};
pub use openapi::document;
pub use router::{health_router, router};
pub use server::{ApiConfig, ApiError, TlsFiles};
pub use state::{ApiDeps, InspectKey};
pub use trail::SENDER;

/// Serves the API until `shutdown`, then lets answers finish. `bound` is told the address, once.
///
/// # Errors
/// It cannot listen as configured.
pub async fn run(
    deps: ApiDeps,
    config: ApiConfig,
    bound: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), ApiError> {
    server::serve(router(deps, shutdown.clone()), &config, bound, shutdown).await
}

/// Serves health and metrics alone: for processes that serve no API.
///
/// # Errors
/// It cannot listen as configured.
pub async fn run_health(
    health: Health,
    metrics: Option<PrometheusHandle>,
    config: ApiConfig,
    bound: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), ApiError> {
    server::serve(health_router(health, metrics), &config, bound, shutdown).await
}
