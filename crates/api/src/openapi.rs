//! The promise of the API, generated from the handlers and their types.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::routes::{
    admin, alert_moves, alerts, ask, audit, channels, credentials, deliveries, drift, events, host_changes,
    host_edit, host_keys, hosts, keys, policy, scans, schedule, status, tokens, transactions,
};
use crate::{dto, router};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "OpenWatch",
        description = "Continuous compliance of Linux hosts. Times are RFC 3339 in UTC. Errors are problem+json; match on `code`. \
            Listings are paged: give `next_cursor` back as `cursor`. Unknown fields and parameters are refused."
    ),
    paths(
        hosts::list, host_changes::create, host_changes::import, hosts::show, host_edit::change, host_changes::remove, host_keys::list, host_keys::accept, hosts::rules,
        schedule::begin, schedule::end,
        credentials::list, credentials::create, credentials::show, credentials::change, credentials::remove,
        keys::show, keys::rotate,
        ask::create, ask::create_for_host, scans::list, scans::show, scans::evidence,
        policy::show, policy::reload, policy::snapshot, status::show, transactions::list, drift::list,
        alerts::list, alerts::show, alert_moves::acknowledge, alert_moves::silence, alert_moves::unsilence, alert_moves::resolve,
        alert_moves::dismiss, audit::list, audit::export,
        events::follow, admin::metrics, admin::letters, admin::replay, admin::discard,
        channels::list, channels::create, channels::change, channels::remove, channels::set_target, channels::test,
        deliveries::list, deliveries::list_all, deliveries::replay, deliveries::show,
        tokens::list, tokens::create, tokens::revoke,
        router::live, router::ready, router::render,
    ),
    components(schemas(dto::Problem)),
    modifiers(&Bearer, &Names),
    security(("bearer" = []))
)]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        openapi.components.get_or_insert_default().add_security_scheme("bearer", scheme);
    }
}

/// Handlers are named within their module; operations need names of their own: `hosts_list`.
struct Names;

impl Modify for Names {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        for item in openapi.paths.paths.values_mut() {
            for operation in
                [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
            {
                let tag = operation.tags.iter().flatten().next().cloned().unwrap_or_default();
                let name = operation.operation_id.take().unwrap_or_default();
                operation.operation_id = Some(format!("{tag}_{name}"));
            }
        }
    }
}

static JSON: LazyLock<String> = LazyLock::new(|| {
    let text = Document::openapi().to_pretty_json();
    text.expect("a document of our own types is JSON") + "\n"
});

/// The document, as committed in `specs/openapi.json`.
pub fn document() -> &'static str {
    &JSON
}

/// Serves it.
pub(crate) async fn serve() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// To renew: `UPDATE_SPECS=1 cargo test -p openwatch-api openapi`.
    #[test]
    fn the_committed_copy_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../specs/openapi.json");
        if std::env::var_os("UPDATE_SPECS").is_some() {
            std::fs::write(path, document()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == document(), "specs/openapi.json is not current; UPDATE_SPECS=1 renews it");
    }

    #[test]
    fn every_operation_tells_how_it_fails_and_has_a_name_of_its_own() {
        let document: serde_json::Value = serde_json::from_str(document()).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} twice");
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(!summary.is_empty(), "{method} {path} has no summary");
            }
        }
        assert!(names.len() > 30);
    }
}
