//! Scans: what was asked for and what came of it.

use std::cmp::Reverse;

use axum::extract::{Path, State};
use openwatch_model::ScanId;
use openwatch_model::scan::{Lane, RuleTiming, ScanState};
use openwatch_model::score::Score;
use openwatch_store::read::{self, RuleRow, ScanFilter, ScanRow, TransactionFilter, TransactionRow};
use openwatch_store::{Page as Part, Tx};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::{filter_host, page, part, past, word};
use crate::dto::{EvidenceView, Initiator, Page, Problem, Scan, ScanDetail, ScanRule};
use crate::error::{Code, Failure};
use crate::extract::{Id, Query, id};
use crate::state::Shared;

/// Scans on a page.
const LIMIT: u32 = 100;
/// Most changes shown of one scan: more than any corpus has rules.
const CHANGES: u32 = 20_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScansQuery {
    /// Only of this host: name or id.
    host: Option<String>,
    /// Only in this state: `queued`, `running`, `completed` or `failed`.
    state: Option<String>,
    /// Only those asked for by this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 100.
    limit: Option<u32>,
}

/// Scans, newest first.
#[utoipa::path(get, path = "/api/v1/scans", tag = "scans", params(ScansQuery), responses(
    (status = 200, description = "scans", body = Page<Scan>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Query(asked): Query<ScansQuery>,
) -> Result<axum::Json<Page<Scan>>, Failure> {
    let part = part(asked.cursor.as_deref(), asked.limit, LIMIT)?;
    let mut tx = api.begin_read().await?;
    let filter = ScanFilter {
        host: filter_host(&mut tx, asked.host.as_deref()).await?,
        state: word("state", asked.state.as_deref(), ScanState::ALL.map(|it| (it.as_str(), it)))?,
        as_of: past(asked.as_of, tx.now())?,
        ..ScanFilter::default()
    };
    Ok(axum::Json(page(read::scans(&mut tx, &filter, &part).await?, view)))
}

/// One scan: who asked, what came of it rule by rule, what it changed, and where the time went. Evidence is apart.
#[utoipa::path(get, path = "/api/v1/scans/{id}", tag = "scans", params(("id" = Uuid, Path, description = "the scan")), responses(
    (status = 200, description = "the scan", body = ScanDetail),
    (status = 404, description = "scan.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(State(api): Shared, Id(id): Id) -> Result<axum::Json<ScanDetail>, Failure> {
    let id = ScanId(id);
    let mut tx = api.begin_read().await?;
    let row = known_scan(&mut tx, id).await?;
    if row.found.is_none() {
        return Ok(axum::Json(ScanDetail {
            scan: view(row),
            rules: Vec::new(),
            changes: Vec::new(),
            timings: None,
        }));
    }
    let rules = read::verdicts(&mut tx, id).await?;
    let filter = TransactionFilter { scan: Some(id), ..TransactionFilter::default() };
    let mut changes = read::transactions(&mut tx, &filter, &Part::first(CHANGES)).await?.rows;
    changes.sort_unstable_by(|a, b| a.change.rule.cmp(&b.change.rule));
    let timings = slowest_first(read::timings(&mut tx, id).await?);
    let detail = ScanDetail {
        scan: view(row),
        rules: rules.into_iter().map(verdict).collect(),
        changes: changes.into_iter().map(change).collect(),
        timings,
    };
    Ok(axum::Json(detail))
}

/// What one rule ran in a scan and what it saw.
#[utoipa::path(get, path = "/api/v1/scans/{id}/rules/{rule}/evidence", tag = "scans", params(
    ("id" = Uuid, Path, description = "the scan"),
    ("rule" = String, Path, description = "id of the rule"),
), responses(
    (status = 200, description = "the evidence", body = EvidenceView),
    (status = 404, description = "scan.not_found or scan.evidence_not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn evidence(
    State(api): Shared,
    Path((scan, rule_id)): Path<(String, String)>,
) -> Result<axum::Json<EvidenceView>, Failure> {
    let scan = ScanId(id("id", &scan)?);
    let mut tx = api.begin_read().await?;
    known_scan(&mut tx, scan).await?;
    let mut measured = read::verdicts(&mut tx, scan).await?;
    measured.retain(|verdict| verdict.rule == rule_id);
    let found = read::evidence(&mut tx, &measured).await?.pop().ok_or_else(|| {
        Failure::new(
            Code::EvidenceNotFound,
            "the scan has no verdict on this rule; see `openwatch scans ID` or GET /api/v1/scans/{id}",
        )
    })?;
    Ok(axum::Json(EvidenceView { scan_id: scan.0, rule_id, sha256: found.hash, evidence: found.body }))
}

async fn known_scan(tx: &mut Tx<'_>, id: ScanId) -> Result<ScanRow, Failure> {
    let found = read::scan(tx, id).await?;
    found.ok_or_else(|| {
        Failure::new(Code::ScanNotFound, "no scan has this id; see `openwatch scans` or GET /api/v1/scans")
    })
}

fn slowest_first(mut rules: Vec<RuleTiming>) -> Option<Value> {
    rules.sort_by_key(|timing| Reverse(timing.duration_ms));
    let rules = rules
        .into_iter()
        .map(|timing| json!({"rule": timing.rule, "duration_ms": timing.duration_ms, "lane": timing.lane}));
    let rules: Vec<Value> = rules.collect();
    (!rules.is_empty()).then(|| json!({ "rules": rules }))
}

fn verdict(row: RuleRow) -> ScanRule {
    ScanRule {
        rule_id: row.rule,
        status: row.status,
        severity: row.severity,
        skip_reason: row.skip_reason,
        prior_status: None,
    }
}

fn change(row: TransactionRow) -> ScanRule {
    ScanRule {
        rule_id: row.change.rule,
        status: row.change.status,
        severity: row.change.severity,
        skip_reason: row.skip_reason,
        prior_status: row.change.prior_status,
    }
}

fn view(row: ScanRow) -> Scan {
    let counts = row.found.as_ref().map(|found| found.counts);
    let kind = if row.scheduled { Lane::Scheduled } else { Lane::Manual };
    Scan {
        id: row.id.0,
        host_id: row.host.0,
        host: row.host_name,
        state: row.state,
        initiator: Initiator { kind, actor: row.actor },
        selection: row.selection.into(),
        policy_version: row.policy_version,
        corpus: row.corpus,
        engine: row.engine,
        worker: row.worker,
        attempt: row.attempt,
        queued_at: row.queued_at,
        started_at: row.started_at,
        finished_at: row.finished_at,
        counts: counts.map(Into::into),
        score: counts.and_then(|counts| Score::of(counts).percent()),
        failure: row.failure.as_ref().map(|failure| failure.reason),
        failure_detail: row.failure.map(|failure| failure.detail).filter(|detail| !detail.is_empty()),
        unchanged: row.found.as_ref().is_some_and(|found| found.unchanged),
        changes: row.found.map_or(0, |found| found.changes),
        superseded: row.superseded,
    }
}
