//! The audit log.

use axum::extract::State;
use openwatch_store::audit::{self, AuditRow, Filter};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::{filter_host, page, part};
use crate::dto::{AuditEvent, Page, Problem};
use crate::error::Failure;
use crate::extract::Query;
use crate::state::Shared;

/// Events on a page.
const LIMIT: u32 = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only this code, such as `scan.queued`.
    code: Option<String>,
    /// Only about this host: name or id.
    host: Option<String>,
    /// Only from this cause: the id of a scan or message.
    cause: Option<String>,
    /// Not before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// Before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 200.
    limit: Option<u32>,
}

/// The audit log, newest first.
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(AuditQuery), responses(
    (status = 200, description = "events", body = Page<AuditEvent>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Query(asked): Query<AuditQuery>,
) -> Result<axum::Json<Page<AuditEvent>>, Failure> {
    let part = part(asked.cursor.as_deref(), asked.limit, LIMIT)?;
    let mut tx = api.begin_read().await?;
    let filter = Filter {
        code: asked.code,
        host: filter_host(&mut tx, asked.host.as_deref()).await?,
        cause: asked.cause,
        since: asked.since,
        until: asked.until,
    };
    Ok(axum::Json(page(audit::list(&mut tx, &filter, &part).await?, view)))
}

fn view(row: AuditRow) -> AuditEvent {
    AuditEvent {
        id: row.id,
        code: row.code,
        severity: row.severity,
        actor_type: row.actor_type,
        actor: row.actor,
        detail: row.detail,
        correlation_id: row.correlation,
        occurred_at: row.occurred_at,
    }
}
