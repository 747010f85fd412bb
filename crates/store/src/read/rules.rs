//! Rules of a host: now, at a time, or as a scan found them.

use std::collections::BTreeMap;

use openwatch_model::outcome::FrameworkRefs;
use openwatch_model::{HostId, ScanId, Severity, Status, Timestamp};
use serde_json::Value;

use crate::{StoreError, Tx, words};

/// A moment in a host's history: the newest scan applied up to then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// The host.
    pub host: HostId,
    /// That scan.
    pub scan: ScanId,
    /// Its place among the host's scans.
    pub number: i64,
    /// When it was applied.
    pub at: Timestamp,
    pub(crate) full_seq: i64,
    pub(crate) rule_ids: Option<Vec<String>>,
}

/// One rule on one host.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleRow {
    /// Rule id.
    pub rule: String,
    /// Verdict.
    pub status: Status,
    /// Severity.
    pub severity: Option<Severity>,
    /// Why it was skipped.
    pub skip_reason: Option<String>,
    /// Framework references.
    pub framework_refs: FrameworkRefs,
    /// When it was seen first.
    pub first_seen_at: Timestamp,
    /// When its status or severity changed last.
    pub last_changed_at: Timestamp,
    /// When it was measured last; of the past, when the scan of that moment was applied.
    pub last_checked_at: Option<Timestamp>,
    /// Which scan that was.
    pub last_scan: Option<ScanId>,
    /// How often it was measured; of the present only.
    pub check_count: Option<u64>,
    /// Whether the host's newest full scan had it.
    pub in_corpus: bool,
    evidence_hash: Vec<u8>,
}

/// Where a host stood at a time; nothing before its first applied scan. Called by readers of the past.
///
/// # Errors
/// The database is away.
pub async fn point(tx: &mut Tx<'_>, host: HostId, at: Timestamp) -> Result<Option<Point>, StoreError> {
    let row = sqlx::query!(
        "select scan_id, number, full_seq, applied_at from scan_ledger
         where host_id = $1 and outcome = 'completed' and applied_at <= $2
         order by applied_at desc, number desc limit 1",
        host.0,
        at
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|r| Point {
        host,
        scan: ScanId(r.scan_id),
        number: r.number,
        at: r.applied_at,
        full_seq: r.full_seq,
        rule_ids: None,
    }))
}

/// A host's rules, now or at a time, by rule id. Rules that dropped out of the corpus are marked. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn rules(tx: &mut Tx<'_>, host: HostId, at: Option<Timestamp>) -> Result<Vec<RuleRow>, StoreError> {
    match at {
        None => now(tx, host).await,
        Some(at) => match point(tx, host, at).await? {
            Some(point) => then(tx, &point).await,
            None => Ok(Vec::new()),
        },
    }
}

/// What a scan found, rule by rule; empty when it applied nothing. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn verdicts(tx: &mut Tx<'_>, scan: ScanId) -> Result<Vec<RuleRow>, StoreError> {
    let row = sqlx::query!(
        "select host_id, number, full_seq, applied_at, rule_ids from scan_ledger where scan_id = $1 and outcome = 'completed'",
        scan.0
    )
    .fetch_optional(tx.connection())
    .await?;
    let Some(row) = row else { return Ok(Vec::new()) };
    let filtered = row.rule_ids.is_some();
    let point = Point {
        host: HostId(row.host_id),
        scan,
        number: row.number,
        at: row.applied_at,
        full_seq: row.full_seq,
        rule_ids: row.rule_ids,
    };
    let mut rules = then(tx, &point).await?;
    // A full scan measured the corpus of its time and nothing else.
    rules.retain(|rule| filtered || rule.in_corpus);
    Ok(rules)
}

async fn now(tx: &mut Tx<'_>, host: HostId) -> Result<Vec<RuleRow>, StoreError> {
    let rows = sqlx::query!(
        r#"select rule_id as "rule_id!", current_status as "status!", severity, skip_reason, framework_refs as "framework_refs!",
             first_seen_at as "first_seen_at!", last_changed_at as "last_changed_at!", last_checked_at, last_scan_id,
             check_count as "check_count!", in_corpus as "in_corpus!", evidence_hash as "evidence_hash!"
           from host_rule_state where host_id = $1 order by rule_id"#,
        host.0
    )
    .fetch_all(tx.connection())
    .await?;
    let rules = rows.into_iter().map(|r| RuleRow {
        rule: r.rule_id,
        status: words::status(&r.status),
        severity: words::severity(r.severity.as_deref()),
        skip_reason: r.skip_reason,
        framework_refs: serde_json::from_value(r.framework_refs).unwrap_or_default(),
        first_seen_at: r.first_seen_at,
        last_changed_at: r.last_changed_at,
        last_checked_at: r.last_checked_at,
        last_scan: r.last_scan_id.map(ScanId),
        check_count: Some(r.check_count.max(0).unsigned_abs()),
        in_corpus: r.in_corpus,
        evidence_hash: r.evidence_hash,
    });
    Ok(rules.collect())
}

async fn then(tx: &mut Tx<'_>, point: &Point) -> Result<Vec<RuleRow>, StoreError> {
    let rows = sqlx::query!(
        r#"select t.rule_id, t.status, t.severity, t.occurred_at, r.first_seen_at,
             case when v.host_number is null then t.skip_reason else v.skip_reason end as skip_reason,
             coalesce(v.framework_refs, t.framework_refs) as "framework_refs!",
             coalesce(v.evidence_hash, t.evidence_hash) as "evidence_hash!",
             coalesce(r.first_seq <= $3, false) and not exists (
               select from rule_gap g
               where g.host_id = r.host_id and g.rule_id = t.rule_id and g.after_seq < $3
                 and (g.before_seq is null or g.before_seq > $3)) as "in_corpus!"
           from (
             select distinct on (t.rule_id) t.* from transactions t
             where t.host_id = $1 and t.host_number <= $2 and ($4::text[] is null or t.rule_id = any($4))
             order by t.rule_id, t.host_number desc) t
           join rule_state r on r.host_id = t.host_id and r.rule_id = t.rule_id
           -- What moved since, under the same verdict.
           left join lateral (
             select * from rule_revision v
             where v.host_id = $1 and v.rule_id = t.rule_id and v.host_number > t.host_number and v.host_number <= $2
             order by v.host_number desc limit 1) v on true
           order by t.rule_id"#,
        point.host.0,
        point.number,
        point.full_seq,
        point.rule_ids.as_deref(),
    )
    .fetch_all(tx.connection())
    .await?;
    let rules = rows.into_iter().map(|r| RuleRow {
        rule: r.rule_id,
        status: words::status(&r.status),
        severity: words::severity(r.severity.as_deref()),
        skip_reason: r.skip_reason,
        framework_refs: serde_json::from_value(r.framework_refs).unwrap_or_default(),
        first_seen_at: r.first_seen_at,
        last_changed_at: r.occurred_at,
        last_checked_at: (point.rule_ids.is_some() || r.in_corpus).then_some(point.at),
        last_scan: (point.rule_ids.is_some() || r.in_corpus).then_some(point.scan),
        check_count: None,
        in_corpus: r.in_corpus,
        evidence_hash: r.evidence_hash,
    });
    Ok(rules.collect())
}

/// Evidence of one rule.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidenceRow {
    /// SHA-256 of the stored text, hex.
    pub hash: String,
    /// Evidence, with the one-line `detail`; see `specs/schemas/evidence.json`.
    pub body: Value,
    /// Its size as received.
    pub bytes: u64,
}

/// Evidence of rules that were read in the same `tx`, in their order. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn evidence(tx: &mut Tx<'_>, rules: &[RuleRow]) -> Result<Vec<EvidenceRow>, StoreError> {
    let hashes: Vec<Vec<u8>> = rules.iter().map(|rule| rule.evidence_hash.clone()).collect();
    let rows = sqlx::query!("select hash, body, bytes from evidence where hash = any($1)", &hashes)
        .fetch_all(tx.connection())
        .await?;
    let known: BTreeMap<_, _> = rows.into_iter().map(|r| (r.hash, (r.body, r.bytes))).collect();
    let one = |rule: &RuleRow| {
        // A foreign key keeps what a rule refers to.
        let (body, bytes) = known.get(&rule.evidence_hash).cloned().unwrap_or_default();
        EvidenceRow {
            hash: hex::encode(&rule.evidence_hash),
            body,
            bytes: u64::try_from(bytes).unwrap_or_default(),
        }
    };
    Ok(rules.iter().map(one).collect())
}
