//! Drift: one row per completed scan, whether it moved anything or not.

use openwatch_model::drift::{Drift, DriftKind, Summary};
use openwatch_model::{HostId, ScanId, Timestamp};
use sqlx::PgExecutor;

use crate::page::{Page, Paged};
use crate::{Store, StoreError, Tx, words};

/// The drift of one scan.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftRow {
    /// The scan.
    pub scan: ScanId,
    /// Its host.
    pub host: HostId,
    /// Name of the host.
    pub host_name: String,
    /// What moved.
    pub drift: Drift,
    /// Policy whose thresholds were used.
    pub policy_version: String,
    /// When it was found.
    pub detected_at: Timestamp,
}

/// What the writer noted for drift: host, summary and policy of a completed scan. Called by drift, so that an event need
/// not be trusted for numbers.
///
/// # Errors
/// The database is away.
pub async fn summary(store: &Store, scan: ScanId) -> Result<Option<(HostId, Summary, String)>, StoreError> {
    let row = sqlx::query!(
        r#"select l.host_id, l.summary as "summary!", l.pass, l.fail, coalesce(s.policy_version, '') as "policy_version!"
           from scan_ledger l join scan s on s.id = l.scan_id
           where l.scan_id = $1 and l.summary is not null"#,
        scan.0
    )
    .fetch_optional(store.pool())
    .await?;
    row.map(|r| {
        let summary = crate::kept::read_summary(r.summary, r.pass, r.fail)
            .ok_or_else(|| StoreError::unknown_word("scan summary", &scan.to_string()))?;
        Ok((HostId(r.host_id), summary, r.policy_version))
    })
    .transpose()
}

/// Records the drift of a scan; `false` when it is on record already: the message is a replay. Called by drift, for what
/// is told.
///
/// # Errors
/// The scan does not exist, or is another host's.
pub async fn record(
    tx: &mut Tx<'_>,
    scan: ScanId,
    host: HostId,
    drift: &Drift,
    policy_version: &str,
) -> Result<bool, StoreError> {
    insert(tx.connection(), scan, host, drift, policy_version).await
}

/// [`record`] by itself, for what nobody is told of.
///
/// # Errors
/// See [`record`].
pub async fn record_alone(
    store: &Store,
    scan: ScanId,
    host: HostId,
    drift: &Drift,
    policy_version: &str,
) -> Result<bool, StoreError> {
    insert(store.pool(), scan, host, drift, policy_version).await
}

async fn insert(
    executor: impl PgExecutor<'_>,
    scan: ScanId,
    host: HostId,
    drift: &Drift,
    policy_version: &str,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "insert into drift (scan_id, host_id, kind, drift, policy_version, detected_at) values ($1, $2, $3, $4, $5, now())
         on conflict (scan_id) do nothing",
        scan.0,
        host.0,
        drift.kind.as_str(),
        serde_json::json!(drift),
        policy_version,
    )
    .execute(executor)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Which drift to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only of this host.
    pub host: Option<HostId>,
    /// Only of this kind.
    pub kind: Option<DriftKind>,
    /// Also scans that moved nothing.
    pub with_stable: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after: what was known at that time.
    pub as_of: Option<Timestamp>,
}

/// Drift, newest first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, filter: &Filter, page: &Page) -> Result<Paged<DriftRow>, StoreError> {
    let (after, after_id) = page.after();
    let rows = sqlx::query!(
        "select d.scan_id, d.host_id, h.name, d.kind, d.drift, d.policy_version, d.detected_at
         from drift d join host h on h.id = d.host_id
         where ($1::uuid is null or d.host_id = $1)
           and ($2::text is null or d.kind = $2)
           and ($3 or d.kind <> 'stable')
           and ($4::timestamptz is null or d.detected_at >= $4)
           and ($5::timestamptz is null or d.detected_at <= $5)
           and ($6::timestamptz is null or (d.detected_at, d.scan_id) < ($6, $7))
         order by d.detected_at desc, d.scan_id desc
         limit $8",
        filter.host.map(|h| h.0),
        filter.kind.map(DriftKind::as_str),
        filter.with_stable,
        filter.since,
        filter.as_of,
        after,
        after_id,
        page.fetch(),
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows
        .into_iter()
        .map(|r| {
            let drift: Drift = serde_json::from_value(r.drift)
                .map_err(|_| StoreError::unknown_word("drift", &r.scan_id.to_string()))?;
            Ok(DriftRow {
                scan: ScanId(r.scan_id),
                host: HostId(r.host_id),
                host_name: r.name,
                // The column is what is filtered on, so it has the last word.
                drift: Drift { kind: words::drift_kind(&r.kind)?, ..drift },
                policy_version: r.policy_version,
                detected_at: r.detected_at,
            })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    Ok(page.cut(rows, |row| (row.detected_at, row.scan.0)))
}
