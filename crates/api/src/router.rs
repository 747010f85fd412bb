//! The table of routes.

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::auth::Permission as P;
use crate::dto::HealthReport;
use crate::envelope::{count, envelope};
use crate::extract::BODY_LIMIT;
use crate::guard::need;
use crate::health::Health;
use crate::openapi;
use crate::routes::{
    admin, alert_moves, alerts, ask, audit, channels, credentials, deliveries, drift, events, host_changes,
    host_edit, host_keys, hosts, keys as key_routes, policy, scans, schedule, status, tokens, transactions,
};
use crate::state::{Api, ApiDeps};
use crate::strangers::Strangers;

/// Everything the API answers.
pub fn router(deps: ApiDeps, stop: CancellationToken) -> Router {
    let ApiDeps { store, bus, keys, health, metrics, inspect_key } = deps;
    let api = Arc::new(Api {
        store,
        bus,
        followers: Arc::new(Semaphore::new(events::FOLLOWERS)),
        stop,
        metrics: metrics.clone(),
        strangers: Strangers::default(),
        keys,
        inspect_key,
    });
    let v1 = guarded(&api).with_state(api);
    enveloped(
        Router::new()
            .nest("/api/v1", v1)
            .merge(open(health, metrics))
            .route("/openapi.json", get(openapi::serve)),
    )
}

/// Health and metrics alone: for processes that serve no API.
pub fn health_router(health: Health, metrics: Option<PrometheusHandle>) -> Router {
    enveloped(open(health, metrics))
}

fn enveloped(routes: Router) -> Router {
    routes
        .route_layer(from_fn(count))
        .layer(CatchPanicLayer::new())
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(envelope))
}

fn guarded(api: &Arc<Api>) -> Router<Arc<Api>> {
    let may = |permission, methods| need(api, permission, methods);
    Router::new()
        .route(
            "/hosts",
            may(P::HostRead, get(hosts::list)).merge(may(P::HostWrite, post(host_changes::create))),
        )
        .route("/hosts:import", may(P::HostWrite, post(host_changes::import)))
        .route(
            "/hosts/{host}",
            may(P::HostRead, get(hosts::show))
                .merge(may(P::HostWrite, patch(host_edit::change)))
                .merge(may(P::HostDelete, delete(host_changes::remove))),
        )
        .route("/hosts/{host}/accept-key", may(P::HostKeyAccept, post(host_keys::accept)))
        .route("/hosts/{host}/keys", may(P::HostRead, get(host_keys::list)))
        .route("/hosts/{host}/maintenance", may(P::HostWrite, post(schedule::begin).delete(schedule::end)))
        .route("/hosts/{host}/rules", may(P::HostRead, get(hosts::rules)))
        .route("/hosts/{host}/scans", may(P::ScanExecute, post(ask::create_for_host)))
        .route(
            "/credentials",
            may(P::CredentialRead, get(credentials::list))
                .merge(may(P::CredentialWrite, post(credentials::create))),
        )
        .route(
            "/credentials/{credential}",
            may(P::CredentialRead, get(credentials::show))
                .merge(may(P::CredentialWrite, patch(credentials::change).delete(credentials::remove))),
        )
        .route("/keys", may(P::CredentialRead, get(key_routes::show)))
        .route("/keys:rotate", may(P::CredentialWrite, post(key_routes::rotate)))
        .route("/scans", may(P::ScanRead, get(scans::list)).merge(may(P::ScanExecute, post(ask::create))))
        .route("/scans/{id}", may(P::ScanRead, get(scans::show)))
        .route("/scans/{id}/rules/{rule}/evidence", may(P::ScanRead, get(scans::evidence)))
        .route("/policy", may(P::PolicyRead, get(policy::show)))
        .route("/policy/reload", may(P::PolicyReload, post(policy::reload)))
        .route("/scheduler", may(P::PolicyRead, get(policy::snapshot)))
        .route("/status", may(P::ScanRead, get(status::show)))
        .route("/transactions", may(P::ScanRead, get(transactions::list)))
        .route("/drift", may(P::ScanRead, get(drift::list)))
        .route("/alerts", may(P::AlertRead, get(alerts::list)))
        .route(
            "/alerts/{target}",
            may(P::AlertRead, get(alerts::show)).merge(may(P::AlertWrite, post(alert_moves::act))),
        )
        .route("/events", may(P::ScanRead, get(events::follow)))
        .route("/admin/metrics", may(P::AdminRead, get(admin::metrics)))
        .route("/admin/dead-letters", may(P::AdminRead, get(admin::letters)))
        .route("/admin/dead-letters/{target}", may(P::AdminWrite, post(admin::act)))
        .route("/audit", may(P::AuditRead, get(audit::list)))
        .route("/audit/export", may(P::AuditRead, get(audit::export)))
        .route(
            "/channels",
            may(P::ChannelRead, get(channels::list)).merge(may(P::ChannelWrite, post(channels::create))),
        )
        .route("/channels/{channel}", may(P::ChannelWrite, patch(channels::change).delete(channels::remove)))
        .route("/channels/{channel}/target", may(P::ChannelWrite, put(channels::set_target)))
        .route("/channels/{channel}/test", may(P::ChannelWrite, post(channels::test)))
        .route("/channels/{channel}/deliveries", may(P::ChannelRead, get(deliveries::list)))
        .route("/channels/{channel}/deliveries:replay", may(P::ChannelWrite, post(deliveries::replay)))
        .route("/deliveries", may(P::ChannelRead, get(deliveries::list_all)))
        .route("/channels/{channel}/deliveries/{delivery}", may(P::ChannelRead, get(deliveries::show)))
        .route(
            "/tokens",
            may(P::TokenRead, get(tokens::list)).merge(may(P::TokenWrite, post(tokens::create))),
        )
        .route("/tokens/{token}", may(P::TokenWrite, delete(tokens::revoke)))
}

fn open(health: Health, metrics: Option<PrometheusHandle>) -> Router {
    Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(health)
        .merge(Router::new().route("/metrics", get(render)).with_state(metrics))
}

/// Whether the loops of this process still turn.
#[utoipa::path(get, path = "/health/live", tag = "health", security(()), responses(
    (status = 200, description = "alive", body = HealthReport),
    (status = 503, description = "a loop has stopped turning", body = HealthReport),
))]
pub(crate) async fn live(State(health): State<Health>) -> Response {
    told(health.live())
}

/// Whether what this process depends on answers.
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()), responses(
    (status = 200, description = "ready", body = HealthReport),
    (status = 503, description = "a dependency does not answer", body = HealthReport),
))]
pub(crate) async fn ready(State(health): State<Health>) -> Response {
    told(health.ready().await)
}

fn told(report: HealthReport) -> Response {
    let status = if report.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(report)).into_response()
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()), responses(
    (status = 200, description = "metrics", body = String, content_type = "text/plain"),
))]
pub(crate) async fn render(State(metrics): State<Option<PrometheusHandle>>) -> Response {
    match metrics {
        Some(handle) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::Request;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(router: &Router, method: &str, path: &str) -> (u16, String, String) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let kind = answer.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), BODY_LIMIT).await.unwrap();
        (status, kind, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn health_answers_alone_and_everything_else_is_a_problem() {
        let health = Health::new();
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let router = health_router(health.clone(), Some(metrics));
        assert_eq!(ask(&router, "GET", "/health/live").await.0, 200);
        assert_eq!(ask(&router, "GET", "/health/ready").await.0, 200);
        let (status, kind, _) = ask(&router, "GET", "/metrics").await;
        assert_eq!((status, kind.as_str()), (200, "text/plain; version=0.0.4"));

        health.require("nats", || async { Err("nats://user:secret@bus".into()) });
        let (status, _, body) = ask(&router, "GET", "/health/ready").await;
        assert!(status == 503 && body.contains("nats") && !body.contains("secret"), "{body}");
        health.watch("writer", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(ask(&router, "GET", "/health/live").await.0, 503);

        for (method, path, status, code) in [
            ("GET", "/api/v1/hosts", 404, "resource.not_found"),
            ("POST", "/health/live", 405, "request.method_not_allowed"),
        ] {
            let (told, kind, body) = ask(&router, method, path).await;
            assert_eq!((told, kind.as_str()), (status, "application/problem+json"));
            assert!(body.contains(code), "{body}");
        }
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_a_problem_and_not_a_broken_connection() {
        async fn broken() {
            panic!("on purpose")
        }
        let router = enveloped(Router::new().route("/broken", get(broken)));
        let (status, _, body) = ask(&router, "GET", "/broken").await;
        assert!(status == 500 && body.contains("server.internal") && !body.contains("on purpose"), "{body}");
    }
}
