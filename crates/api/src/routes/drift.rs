//! Drift: how hosts' scores moved.

use axum::extract::State;
use openwatch_model::drift::DriftKind;
use openwatch_store::drift::{self, DriftRow, Filter};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::{filter_host, page, part, past, stretch, word};
use crate::dto::{Drift, Page, Problem};
use crate::error::Failure;
use crate::extract::Query;
use crate::state::Shared;

/// Rows on a page.
const LIMIT: u32 = 200;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DriftQuery {
    /// Only of this host: name or id.
    host: Option<String>,
    /// Only of this kind: `minor_worsening`, `major_worsening`, `improvement` or `stable`.
    kind: Option<String>,
    /// Not before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// What was known at this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 200.
    limit: Option<u32>,
}

/// Scans that moved their host's score, newest first. Stable ones are left out unless asked for.
#[utoipa::path(get, path = "/api/v1/drift", tag = "drift", params(DriftQuery), responses(
    (status = 200, description = "drift", body = Page<Drift>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Query(asked): Query<DriftQuery>,
) -> Result<axum::Json<Page<Drift>>, Failure> {
    let part = part(asked.cursor.as_deref(), asked.limit, LIMIT)?;
    let kind = word("kind", asked.kind.as_deref(), DriftKind::ALL.map(|it| (it.as_str(), it)))?;
    stretch(asked.since, None, asked.as_of)?;
    let mut tx = api.begin_read().await?;
    let filter = Filter {
        host: filter_host(&mut tx, asked.host.as_deref()).await?,
        kind,
        with_stable: kind == Some(DriftKind::Stable),
        since: asked.since,
        as_of: past(asked.as_of, tx.now())?,
    };
    Ok(axum::Json(page(drift::list(&mut tx, &filter, &part).await?, view)))
}

fn view(row: DriftRow) -> Drift {
    let score_delta = row.drift.delta_points();
    let summary = row.drift.summary;
    Drift {
        scan_id: row.scan.0,
        host_id: row.host.0,
        host: row.host_name,
        kind: row.drift.kind,
        score_before: summary.before.percent(),
        score_after: summary.after.percent(),
        score_delta,
        policy_version: row.policy_version,
        became_failing: summary.became_failing.into(),
        became_passing: summary.became_passing.into(),
        newly_observed_failing: summary.newly_observed_failing,
        rules_added: summary.rules_added,
        rules_removed: summary.rules_removed,
        low_confidence: summary.low_confidence,
        low_overlap: summary.low_overlap,
        detected_at: row.detected_at,
    }
}
