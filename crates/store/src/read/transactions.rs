//! The transaction log.

use openwatch_model::outcome::FrameworkRefs;
use openwatch_model::transaction::Change;
use openwatch_model::{HostId, ScanId, Timestamp};
use uuid::Uuid;

use crate::page::{Page, Paged};
use crate::{StoreError, Tx, words};

/// One transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct TransactionRow {
    /// Id; ordered by time.
    pub id: Uuid,
    /// Host.
    pub host: HostId,
    /// Name of the host.
    pub host_name: String,
    /// Scan that saw it.
    pub scan: ScanId,
    /// What changed.
    pub change: Change,
    /// Why it was skipped.
    pub skip_reason: Option<String>,
    /// Framework references at that time.
    pub framework_refs: FrameworkRefs,
    /// When it was recorded.
    pub occurred_at: Timestamp,
}

/// Which transactions to list.
#[derive(Clone, Debug, Default)]
pub struct TransactionFilter {
    /// Only of this host.
    pub host: Option<HostId>,
    /// Only of this rule.
    pub rule: Option<String>,
    /// Only of this scan.
    pub scan: Option<ScanId>,
    /// At that time or later.
    pub since: Option<Timestamp>,
    /// At that time or before: what was known then.
    pub as_of: Option<Timestamp>,
}

/// Transactions, newest first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn transactions(
    tx: &mut Tx<'_>,
    filter: &TransactionFilter,
    page: &Page,
) -> Result<Paged<TransactionRow>, StoreError> {
    let (_, after_id) = page.after();
    // Ids are made of the transaction's time, so their order is the log's.
    let rows = sqlx::query!(
        "select t.id, t.host_id, h.name, t.scan_id, t.rule_id, t.change_kind, t.status, t.severity, t.prior_status,
           t.prior_severity, t.skip_reason, t.framework_refs, t.occurred_at
         from transactions t join host h on h.id = t.host_id
         where ($1::uuid is null or t.host_id = $1)
           and ($2::text is null or t.rule_id = $2)
           and ($3::uuid is null or t.scan_id = $3)
           and ($4::timestamptz is null or t.occurred_at >= $4)
           and ($5::timestamptz is null or t.occurred_at <= $5)
           and ($6::uuid is null or t.id < $6)
         order by t.id desc
         limit $7",
        filter.host.map(|h| h.0),
        filter.rule,
        filter.scan.map(|s| s.0),
        filter.since,
        filter.as_of,
        after_id,
        page.fetch(),
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows
        .into_iter()
        .map(|r| {
            Ok(TransactionRow {
                id: r.id,
                host: HostId(r.host_id),
                host_name: r.name,
                scan: ScanId(r.scan_id),
                change: Change {
                    rule: r.rule_id,
                    kind: words::change_kind(&r.change_kind)?,
                    status: words::status(&r.status),
                    severity: words::severity(r.severity.as_deref()),
                    prior_status: r.prior_status.as_deref().map(words::status),
                    prior_severity: words::severity(r.prior_severity.as_deref()),
                },
                skip_reason: r.skip_reason,
                framework_refs: serde_json::from_value(r.framework_refs).unwrap_or_default(),
                occurred_at: r.occurred_at,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(page.cut(rows, |row| (row.occurred_at, row.id)))
}
