//! Transactions: what changed, when.

use axum::extract::State;
use openwatch_model::Timestamp;
use openwatch_store::read::{self, TransactionFilter, TransactionRow};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::{filter_host, page, part, past, stretch};
use crate::dto::{Page, Problem, Transaction};
use crate::error::Failure;
use crate::extract::Query;
use crate::state::Shared;

/// Transactions on a page.
const LIMIT: u32 = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TransactionsQuery {
    /// Only of this host: name or id.
    host: Option<String>,
    /// Only of this rule.
    rule: Option<String>,
    /// Not before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    since: Option<OffsetDateTime>,
    /// Before this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    until: Option<OffsetDateTime>,
    /// What was known at this moment.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 1000.
    limit: Option<u32>,
}

/// Recorded changes of rules on hosts, newest first.
#[utoipa::path(get, path = "/api/v1/transactions", tag = "transactions", params(TransactionsQuery), responses(
    (status = 200, description = "transactions", body = Page<Transaction>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Query(asked): Query<TransactionsQuery>,
) -> Result<axum::Json<Page<Transaction>>, Failure> {
    let part = part(asked.cursor.as_deref(), asked.limit, LIMIT)?;
    stretch(asked.since, asked.until, asked.as_of)?;
    let mut tx = api.begin_read().await?;
    let filter = TransactionFilter {
        host: filter_host(&mut tx, asked.host.as_deref()).await?,
        rule: asked.rule,
        since: asked.since,
        as_of: known_by(past(asked.as_of, tx.now())?, asked.until),
        ..TransactionFilter::default()
    };
    Ok(axum::Json(page(read::transactions(&mut tx, &filter, &part).await?, view)))
}

/// `until` excludes its moment, `as_of` includes it; times have microseconds.
fn known_by(as_of: Option<Timestamp>, until: Option<Timestamp>) -> Option<Timestamp> {
    let before = until.map(|until| until - std::time::Duration::from_micros(1));
    as_of.into_iter().chain(before).min()
}

fn view(row: TransactionRow) -> Transaction {
    Transaction {
        id: row.id,
        host_id: row.host.0,
        host: row.host_name,
        rule_id: row.change.rule,
        scan_id: row.scan.0,
        change_kind: row.change.kind,
        status: row.change.status,
        severity: row.change.severity,
        prior_status: row.change.prior_status,
        prior_severity: row.change.prior_severity,
        occurred_at: row.occurred_at,
    }
}
