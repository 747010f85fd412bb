//! Applying a result: what differs is written, and nothing else (design section 5).
//!
//! [`unchanged`] when the digest is the one of the scan before; else [`compare`], ask the model about each
//! difference, and [`write`]. All of it under the locks of [`crate::end::open`].

use std::collections::BTreeMap;

use openwatch_model::Severity;
use openwatch_model::Timestamp;
use openwatch_model::drift::Summary;
use openwatch_model::host::Platform;
use openwatch_model::scan::RuleTiming;
use openwatch_model::schedule::Backoff;
use openwatch_model::score::ComplianceState;
use openwatch_model::transaction::{Change, RuleState};
use uuid::Uuid;

use crate::end::{self, Entry, OpenScan, Source};
use crate::finding::{self, Finding};
use crate::{StoreError, Tx, words};

/// A measured scan, as it goes on record.
#[derive(Clone, Debug)]
pub struct Completion<'a> {
    /// Who measured.
    pub source: Source,
    /// Its outcomes, from [`finding::prepare`].
    pub findings: &'a [Finding],
    /// From [`finding::digest`].
    pub digest: [u8; 32],
    /// Scores before and after, and what moved.
    pub summary: &'a Summary,
    /// State of the host by this scan; a filtered scan leaves the host's state alone.
    pub state: ComplianceState,
    /// Operating system found.
    pub platform: &'a Platform,
    /// Capability probes.
    pub capabilities: &'a BTreeMap<String, bool>,
    /// How long each rule took.
    pub timings: &'a [RuleTiming],
}

/// What differs between a result and what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Findings that are new or differ in anything; of a filtered scan all.
    pub differences: Vec<Difference>,
    /// Rules that the full scan before had and this one has not.
    pub dropped: Vec<String>,
}

/// One finding that differs from what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Place among the findings.
    pub index: usize,
    /// What is stored; absent on first sight.
    pub prior: Option<RuleState>,
    returned: bool,
    differs: bool,
}

/// Compares a result with what is stored, in one statement that returns only what differs. Called by the writer.
///
/// # Errors
/// The database is away.
pub async fn compare(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    findings: &[Finding],
) -> Result<Comparison, StoreError> {
    let rules: Vec<String> = findings.iter().map(|f| f.rule.clone()).collect();
    let digests: Vec<Vec<u8>> = findings.iter().map(|f| f.digest.to_vec()).collect();
    let rows = sqlx::query!(
        r#"select n.place as "place?", r.rule_id as "rule_id?", r.status as "status?", r.severity as "severity?",
             coalesce(r.gone_after is not null, false) as "gone!",
             r.digest is distinct from n.digest as "differs!"
           from unnest($2::text[], $3::bytea[]) with ordinality as n (rule_id, digest, place)
           full join (select * from rule_state where host_id = $1) r on r.rule_id = n.rule_id
           where case
             when r.rule_id is null then true
             when n.rule_id is null then $4 and r.present_since is not null and r.gone_after is null
             -- A filtered scan counts its checks on each of its rules.
             else not $4 or r.digest <> n.digest or r.gone_after is not null or r.present_since is null
           end"#,
        open.host.0,
        &rules,
        &digests,
        open.selection.is_full(),
    )
    .fetch_all(tx.connection())
    .await?;
    let mut comparison = Comparison::default();
    for row in rows {
        match (row.place, row.rule_id) {
            (Some(place), _) => comparison.differences.push(Difference {
                index: usize::try_from(place - 1).unwrap_or_default(),
                prior: row.status.map(|status| RuleState {
                    status: words::status(&status),
                    severity: words::severity(row.severity.as_deref()),
                }),
                returned: row.gone && open.selection.is_full(),
                differs: row.differs,
            }),
            (None, Some(rule)) => comparison.dropped.push(rule),
            (None, None) => {}
        }
    }
    comparison.differences.sort_by_key(|d| d.index);
    comparison.dropped.sort();
    Ok(comparison)
}

/// Ends a full scan that found what the one before found: a ledger row says so, and no rule is touched. Called by the
/// writer when [`OpenScan::full_digest`] equals the scan's.
///
/// # Errors
/// See [`end::fail`].
pub async fn unchanged(tx: &mut Tx<'_>, open: &OpenScan, done: &Completion<'_>) -> Result<(), StoreError> {
    ledger(tx, open, done, 0, true).await?;
    move_host(tx, open, done).await?;
    settle(tx, open, done).await
}

/// Ends a scan and writes what differs: evidence, rule state, the transactions that the model made of the
/// differences, drop-outs and returns. Called by the writer.
///
/// # Errors
/// See [`end::fail`]; anything refused undoes all of it.
pub async fn write(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    done: &Completion<'_>,
    comparison: &Comparison,
    changes: &[Change],
) -> Result<(), StoreError> {
    ledger(tx, open, done, changes.len(), false).await?;
    let differing: Vec<&Finding> =
        comparison.differences.iter().filter_map(|d| done.findings.get(d.index)).collect();
    store_evidence(tx, &differing).await?;
    store_rules(tx, open, &differing).await?;
    append_transactions(tx, open, done.findings, changes).await?;
    if open.selection.is_full() {
        let returned: Vec<String> = comparison
            .differences
            .iter()
            .filter(|d| d.returned)
            .filter_map(|d| done.findings.get(d.index).map(|f| f.rule.clone()))
            .collect();
        close_gaps(tx, open, &returned).await?;
        drop_out(tx, open, &comparison.dropped).await?;
        move_host(tx, open, done).await?;
    } else {
        note_filtered(tx, open, comparison).await?;
    }
    settle(tx, open, done).await
}

async fn ledger(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    done: &Completion<'_>,
    changes: usize,
    unchanged: bool,
) -> Result<(), StoreError> {
    let full = open.selection.is_full();
    let timings = done
        .timings
        .iter()
        .map(|t| serde_json::json!({"rule": t.rule, "duration_ms": t.duration_ms, "lane": t.lane}));
    let entry = Entry {
        outcome: "completed",
        full_seq: Some(open.full_seq + i64::from(full)),
        counts: finding::counts(done.findings),
        critical_failing: finding::critical_failing(done.findings),
        state: Some(done.state),
        changes,
        unchanged,
        digest: Some(&done.digest),
        summary: Some(done.summary),
        rule_ids: (!full).then(|| done.findings.iter().map(|f| f.rule.clone()).collect()),
        timings: Some(timings.collect()),
    };
    end::close(tx, open, &done.source, &entry).await
}

/// Each distinct body once; in hash order, so that two hosts with the same news never wait for each other in a circle.
async fn store_evidence(tx: &mut Tx<'_>, findings: &[&Finding]) -> Result<(), StoreError> {
    let by_hash: BTreeMap<[u8; 32], &Finding> = findings.iter().map(|f| (f.evidence_hash, *f)).collect();
    let hashes: Vec<Vec<u8>> = by_hash.keys().map(|hash| hash.to_vec()).collect();
    let bodies: Vec<String> = by_hash.values().map(|f| f.evidence.clone()).collect();
    let bytes: Vec<i32> = by_hash.values().map(|f| f.evidence_bytes).collect();
    sqlx::query!(
        "insert into evidence (hash, body, bytes)
         select e.hash, e.body::jsonb, e.bytes
         from unnest($1::bytea[], $2::text[], $3::int[]) with ordinality as e (hash, body, bytes, place)
         where not exists (select from evidence known where known.hash = e.hash)
         order by e.place
         on conflict (hash) do nothing",
        &hashes,
        &bodies,
        &bytes,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn store_rules(tx: &mut Tx<'_>, open: &OpenScan, findings: &[&Finding]) -> Result<(), StoreError> {
    let full = open.selection.is_full();
    let rules: Vec<String> = findings.iter().map(|f| f.rule.clone()).collect();
    let statuses: Vec<String> = findings.iter().map(|f| f.state.status.as_str().to_owned()).collect();
    let severities: Vec<Option<String>> =
        findings.iter().map(|f| f.state.severity.map(|s| s.as_str().to_owned())).collect();
    let reasons: Vec<Option<String>> = findings.iter().map(|f| f.skip_reason.clone()).collect();
    let refs: Vec<String> = findings.iter().map(|f| f.framework_refs.clone()).collect();
    let hashes: Vec<Vec<u8>> = findings.iter().map(|f| f.evidence_hash.to_vec()).collect();
    let digests: Vec<Vec<u8>> = findings.iter().map(|f| f.digest.to_vec()).collect();
    let filtered = (!full).then_some(open);
    sqlx::query!(
        "insert into rule_state as r (host_id, rule_id, status, severity, skip_reason, framework_refs, evidence_hash, digest,
           first_seen_at, last_changed_at, first_seq, present_since,
           filtered_checks, filtered_number, filtered_scan, filtered_at)
         select $1, n.rule_id, n.status, n.severity, n.skip_reason, n.framework_refs::jsonb, n.evidence_hash, n.digest,
           $9, $9, $10, $10, case when $10::bigint is null then 1 else 0 end, $11, $12, $13
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
           as n (rule_id, status, severity, skip_reason, framework_refs, evidence_hash, digest)
         on conflict (host_id, rule_id) do update set
           status = excluded.status,
           severity = excluded.severity,
           skip_reason = excluded.skip_reason,
           framework_refs = excluded.framework_refs,
           evidence_hash = excluded.evidence_hash,
           digest = excluded.digest,
           last_changed_at = case
             when r.status <> excluded.status or r.severity is distinct from excluded.severity then excluded.last_changed_at
             else r.last_changed_at end,
           first_seq = coalesce(r.first_seq, excluded.first_seq),
           -- Back in a full scan: what it counted before it dropped out is folded, and it counts from here.
           checks_before = r.checks_before + case
             when excluded.present_since is not null and r.gone_after is not null then r.gone_after - r.present_since + 1
             else 0 end,
           present_since = case
             when excluded.present_since is not null and r.gone_after is not null then excluded.present_since
             else coalesce(r.present_since, excluded.present_since) end,
           gone_after = case when excluded.present_since is null then r.gone_after end,
           gone_number = case when excluded.present_since is null then r.gone_number end,
           gone_scan_id = case when excluded.present_since is null then r.gone_scan_id end,
           gone_at = case when excluded.present_since is null then r.gone_at end,
           filtered_checks = r.filtered_checks + excluded.filtered_checks,
           filtered_number = coalesce(excluded.filtered_number, r.filtered_number),
           filtered_scan = coalesce(excluded.filtered_scan, r.filtered_scan),
           filtered_at = coalesce(excluded.filtered_at, r.filtered_at)",
        open.host.0,
        &rules,
        &statuses,
        &severities as &[Option<String>],
        &reasons as &[Option<String>],
        &refs,
        &hashes,
        &digests,
        tx.now(),
        full.then_some(open.full_seq + 1),
        filtered.map(|o| o.number),
        filtered.map(|o| o.scan.0),
        filtered.map(|_| tx.now()),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn append_transactions(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    findings: &[Finding],
    changes: &[Change],
) -> Result<(), StoreError> {
    if changes.is_empty() {
        return Ok(());
    }
    let finding = |change: &Change| {
        let found = findings.binary_search_by(|f| f.rule.as_str().cmp(&change.rule)).ok();
        found
            .and_then(|at| findings.get(at))
            .ok_or_else(|| StoreError::unknown_word("rule of this scan", &change.rule))
    };
    let of = changes.iter().map(finding).collect::<Result<Vec<_>, _>>()?;
    let severity = |s: Option<Severity>| s.map(|s| s.as_str().to_owned());
    let ids: Vec<Uuid> = changes.iter().map(|_| tx.new_id()).collect();
    let rules: Vec<String> = changes.iter().map(|c| c.rule.clone()).collect();
    let kinds: Vec<String> = changes.iter().map(|c| c.kind.as_str().to_owned()).collect();
    let statuses: Vec<String> = changes.iter().map(|c| c.status.as_str().to_owned()).collect();
    let severities: Vec<Option<String>> = changes.iter().map(|c| severity(c.severity)).collect();
    let prior_statuses: Vec<Option<String>> =
        changes.iter().map(|c| c.prior_status.map(|s| s.as_str().to_owned())).collect();
    let prior_severities: Vec<Option<String>> = changes.iter().map(|c| severity(c.prior_severity)).collect();
    let reasons: Vec<Option<String>> = of.iter().map(|f| f.skip_reason.clone()).collect();
    let refs: Vec<String> = of.iter().map(|f| f.framework_refs.clone()).collect();
    let hashes: Vec<Vec<u8>> = of.iter().map(|f| f.evidence_hash.to_vec()).collect();
    sqlx::query!(
        "insert into transactions (id, host_id, rule_id, scan_id, host_number, change_kind, status, severity, prior_status,
           prior_severity, skip_reason, framework_refs, evidence_hash, occurred_at)
         select c.id, $1, c.rule_id, $2, $3, c.kind, c.status, c.severity, c.prior_status, c.prior_severity,
           c.skip_reason, c.framework_refs::jsonb, c.evidence_hash, $4
         from unnest($5::uuid[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[],
           $13::text[], $14::bytea[])
           as c (id, rule_id, kind, status, severity, prior_status, prior_severity, skip_reason, framework_refs, evidence_hash)",
        open.host.0,
        open.scan.0,
        open.number,
        tx.now(),
        &ids,
        &rules,
        &kinds,
        &statuses,
        &severities as &[Option<String>],
        &prior_statuses as &[Option<String>],
        &prior_severities as &[Option<String>],
        &reasons as &[Option<String>],
        &refs,
        &hashes,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

async fn close_gaps(tx: &mut Tx<'_>, open: &OpenScan, returned: &[String]) -> Result<(), StoreError> {
    if returned.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "update rule_gap set before_seq = $3 where host_id = $1 and rule_id = any($2) and before_seq is null",
        open.host.0,
        returned,
        open.full_seq + 1,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Freezes the rules that this full scan has no longer, as of the full scan before.
async fn drop_out(tx: &mut Tx<'_>, open: &OpenScan, dropped: &[String]) -> Result<(), StoreError> {
    let Some((number, scan, at)) = open.last_full else { return Ok(()) };
    if dropped.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "with gone as (
           update rule_state set gone_after = $3, gone_number = $4, gone_scan_id = $5, gone_at = $6
           where host_id = $1 and rule_id = any($2)
           returning host_id, rule_id
         )
         insert into rule_gap (host_id, rule_id, after_seq) select host_id, rule_id, $3 from gone",
        open.host.0,
        dropped,
        open.full_seq,
        number,
        scan.0,
        at,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The host as this full scan found it.
async fn move_host(tx: &mut Tx<'_>, open: &OpenScan, done: &Completion<'_>) -> Result<(), StoreError> {
    let counts = finding::counts(done.findings);
    let number = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    sqlx::query!(
        "update host_state
         set full_seq = full_seq + 1, applied_number = $2, full_number = $2, full_scan_id = $3, full_at = $4,
             full_digest = $5, pass = $6, fail = $7, skipped = $8, error = $9, critical_failing = $10,
             compliance_state = $11, platform = $12, capabilities = $13
         where host_id = $1",
        open.host.0,
        open.number,
        open.scan.0,
        tx.now(),
        &done.digest,
        number(counts.pass),
        number(counts.fail),
        number(counts.skipped),
        number(counts.error),
        number(finding::critical_failing(done.findings)),
        done.state.as_str(),
        serde_json::json!(done.platform),
        serde_json::json!(done.capabilities),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A filtered scan leaves the full scan's digest alone, unless it changed a rule: then the digest no longer says what is
/// stored, and the next full scan must compare.
async fn note_filtered(tx: &mut Tx<'_>, open: &OpenScan, comparison: &Comparison) -> Result<(), StoreError> {
    sqlx::query!(
        "update host_state set applied_number = $2, full_digest = case when $3 then null else full_digest end
         where host_id = $1",
        open.host.0,
        open.number,
        comparison.differences.iter().any(|d| d.differs),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// The scan's own row, and the end of the host's failures.
async fn settle(tx: &mut Tx<'_>, open: &OpenScan, done: &Completion<'_>) -> Result<(), StoreError> {
    let now: Timestamp = tx.now();
    sqlx::query!(
        "update scan set state = 'completed', finished_at = $2, worker = $3, engine = $4 where id = $1",
        open.scan.0,
        now,
        done.source.worker,
        done.source.engine,
    )
    .execute(tx.connection())
    .await?;
    if open.backoff != Backoff::default() {
        end::set_backoff(tx, open.host, Backoff::default(), None).await?;
    }
    Ok(())
}
