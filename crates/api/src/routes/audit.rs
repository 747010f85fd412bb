//! The audit log: pages of it, and all that fits a table.

use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse, Response};
use openwatch_model::audit::{CATEGORIES, Entry};
use openwatch_store::audit::{self, AuditRow, Filter};
use openwatch_store::{Page as Part, Tx};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::{clip, filter_host, page, part, word};
use crate::csv;
use crate::dto::{AuditEvent, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::Query;
use crate::state::Shared;

/// Events on a page.
const LIMIT: u32 = 200;
/// Events in a table.
const EXPORT_LIMIT: u32 = 10_000;
/// Says whether a table ends before the log does.
const TRUNCATED: HeaderName = HeaderName::from_static("openwatch-truncated");

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// Only this code, such as `scan.queued`, or this category, such as `scan`.
    code: Option<String>,
    /// Only this severity: `info`, `warning`, `error` or `critical`.
    severity: Option<String>,
    /// Only by this actor: the name of a stage, worker or token.
    actor: Option<String>,
    /// Only about this host: name or id.
    host: Option<String>,
    /// Only from this cause: the id of a scan or message.
    cause: Option<String>,
    /// Only of this request.
    correlation_id: Option<String>,
    /// Not before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// Before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    /// From the page before. A table begins here too.
    cursor: Option<String>,
    /// Most rows: 1 to 200 on a page, 1 to 10000 in a table.
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
    let filter = filter(&mut tx, asked).await?;
    Ok(axum::Json(page(audit::list(&mut tx, &filter, &part).await?, view)))
}

/// The audit log as a table in CSV, newest first. The header `openwatch-truncated` says whether more is left.
#[utoipa::path(get, path = "/api/v1/audit/export", tag = "audit", params(AuditQuery), responses(
    (status = 200, description = "events", body = String, content_type = "text/csv",
        headers(("openwatch-truncated" = bool, description = "whether the limit cut events off"))),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn export(State(api): Shared, Query(asked): Query<AuditQuery>) -> Result<Response, Failure> {
    let limit = asked.limit.or(Some(EXPORT_LIMIT));
    let mut part: Part = part(asked.cursor.as_deref(), limit, EXPORT_LIMIT)?;
    let mut tx = api.begin_read().await?;
    let filter = filter(&mut tx, asked).await?;
    let mut text = csv::line(&COLUMNS.map(str::to_owned));
    let mut left = part.limit;
    // Piece by piece: the rows of a whole table need not be here at once.
    let truncated = loop {
        part.limit = left.min(1000);
        let found = audit::list(&mut tx, &filter, &part).await?;
        left -= u32::try_from(found.rows.len()).unwrap_or(left);
        found.rows.into_iter().for_each(|row| text.push_str(&csv::line(&cells(row))));
        part.cursor = found.next;
        if left == 0 || found.next.is_none() {
            break found.next.is_some();
        }
    };
    let name = (header::CONTENT_DISPOSITION, "attachment; filename=\"audit.csv\"");
    let kind = (header::CONTENT_TYPE, "text/csv; charset=utf-8");
    Ok(([kind, name, (TRUNCATED, if truncated { "true" } else { "false" })], text).into_response())
}

async fn filter(tx: &mut Tx<'_>, asked: AuditQuery) -> Result<Filter, Failure> {
    let known = |text: &str| Entry::find(text).is_some() || CATEGORIES.iter().any(|(name, _)| *name == text);
    if let Some(code) = asked.code.as_deref().filter(|code| !known(code)) {
        let detail =
            format!("`{}` is no code and no category of the log; docs/AUDIT.md lists them", clip(code));
        return Err(Failure::field(Code::AuditQueryInvalid, "code", detail));
    }
    if asked.since.zip(asked.until).is_some_and(|(since, until)| since >= until) {
        return Err(Failure::field(Code::AuditQueryInvalid, "until", "must be after `since`"));
    }
    let words = ["info", "warning", "error", "critical"].map(|word| (word, ()));
    word("severity", asked.severity.as_deref(), words)?;
    Ok(Filter {
        host: filter_host(tx, asked.host.as_deref()).await?,
        code: asked.code,
        severity: asked.severity,
        actor: asked.actor,
        cause: asked.cause,
        correlation: asked.correlation_id,
        since: asked.since,
        until: asked.until,
    })
}

const COLUMNS: [&str; 12] = [
    "occurred_at",
    "id",
    "code",
    "severity",
    "actor_type",
    "actor",
    "resource_type",
    "resource_id",
    "correlation_id",
    "cause",
    "policy_version",
    "detail",
];

fn cells(row: AuditRow) -> [String; 12] {
    let event = view(row);
    let moment = event.occurred_at.format(&time::format_description::well_known::Rfc3339);
    [
        moment.unwrap_or_default(),
        event.id.to_string(),
        event.code,
        event.severity,
        event.actor_type,
        event.actor,
        event.resource_type.unwrap_or_default(),
        event.resource_id.unwrap_or_default(),
        event.correlation_id.unwrap_or_default(),
        event.cause.unwrap_or_default(),
        event.policy_version.unwrap_or_default(),
        event.detail.to_string(),
    ]
}

fn view(row: AuditRow) -> AuditEvent {
    let (resource_type, resource_id) =
        row.resource().map(|(kind, id)| (kind.to_owned(), id.to_owned())).unzip();
    AuditEvent {
        id: row.id,
        code: row.code,
        severity: row.severity,
        actor_type: row.actor_type,
        actor: row.actor,
        resource_type,
        resource_id,
        detail: row.detail,
        redactions: row.redactions,
        correlation_id: row.correlation,
        cause: row.cause,
        policy_version: row.policy_version,
        occurred_at: row.occurred_at,
    }
}
