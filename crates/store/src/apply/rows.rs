//! The rows that a result writes, set-based. What a statement is given is put together apart from it, so that this can be done
//! while the server works on the one before.

use std::borrow::Cow;
use std::collections::BTreeMap;

use openwatch_model::Severity;
use openwatch_model::transaction::Change;
use uuid::Uuid;

use crate::end::OpenScan;
use crate::finding::Finding;
use crate::{Moment, StoreError, Tx};

/// Each distinct body once; in hash order, so that two hosts with the same news never wait for each other in a circle.
pub(super) struct Bodies<'a> {
    hashes: Vec<&'a [u8]>,
    bodies: Vec<String>,
    bytes: Vec<i32>,
}

impl<'a> Bodies<'a> {
    pub(super) fn of(findings: impl Iterator<Item = &'a Finding>) -> Result<Self, StoreError> {
        let by_hash: BTreeMap<&[u8], _> = findings.map(|f| (f.evidence_hash.as_slice(), f)).collect();
        Ok(Self {
            bodies: by_hash.values().map(|f| f.evidence()).collect::<Result<_, _>>()?,
            bytes: by_hash.values().map(|f| f.evidence_bytes).collect(),
            hashes: by_hash.into_keys().collect(),
        })
    }
}

/// What is stored of findings, a list for each column.
pub(super) struct Rules<'a> {
    ids: Vec<&'a str>,
    statuses: Vec<&'a str>,
    severities: Vec<Option<&'a str>>,
    reasons: Vec<Option<Cow<'a, str>>>,
    references: Vec<String>,
    evidence: Vec<&'a [u8]>,
    digests: Vec<&'a [u8]>,
}

impl<'a> Rules<'a> {
    pub(super) fn of(findings: &[&'a Finding]) -> Self {
        let all = findings.iter();
        Self {
            ids: all.clone().map(|f| f.rule()).collect(),
            statuses: all.clone().map(|f| f.state().status.as_str()).collect(),
            severities: all.clone().map(|f| f.state().severity.map(Severity::as_str)).collect(),
            reasons: all.clone().map(|f| f.skip_reason()).collect(),
            references: all.clone().map(|f| f.framework_refs()).collect(),
            evidence: all.clone().map(|f| f.evidence_hash.as_slice()).collect(),
            digests: all.map(|f| f.digest.as_slice()).collect(),
        }
    }
}

/// Writes rules that the host had not had before. Nobody else adds any: the host is locked.
pub(super) async fn add_rules(tx: &mut Tx<'_>, open: &OpenScan, rules: &Rules<'_>) -> Result<(), StoreError> {
    if rules.ids.is_empty() {
        return Ok(());
    }
    let full = open.selection.is_full();
    let filtered = (!full).then_some(open);
    sqlx::query!(
        "insert into rule_state (host_id, rule_id, status, severity, skip_reason, framework_refs, evidence_hash, digest,
           first_seen_at, last_changed_at, first_seq, present_since,
           filtered_checks, filtered_number, filtered_scan, filtered_at)
         select $1, n.rule_id, n.status, n.severity, n.skip_reason, n.framework_refs::jsonb, n.evidence_hash, n.digest,
           $9, $9, $10, $10, case when $10::bigint is null then 1 else 0 end, $11, $12, $13
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
           as n (rule_id, status, severity, skip_reason, framework_refs, evidence_hash, digest)",
        open.host.0,
        &rules.ids as &[&str],
        &rules.statuses as &[&str],
        &rules.severities as &[Option<&str>],
        &rules.reasons as &[Option<Cow<'_, str>>],
        &rules.references,
        &rules.evidence as &[&[u8]],
        &rules.digests as &[&[u8]],
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

/// What the model made of the differences, a list for each column.
pub(super) struct Log<'a> {
    ids: Vec<Uuid>,
    rules: Vec<&'a str>,
    kinds: Vec<&'a str>,
    statuses: Vec<&'a str>,
    severities: Vec<Option<&'a str>>,
    prior_statuses: Vec<Option<&'a str>>,
    prior_severities: Vec<Option<&'a str>>,
    reasons: Vec<Option<Cow<'a, str>>>,
    references: Vec<String>,
    evidence: Vec<&'a [u8]>,
}

impl<'a> Log<'a> {
    pub(super) fn of(
        moment: &Moment,
        findings: &'a [Finding],
        changes: &'a [Change],
    ) -> Result<Self, StoreError> {
        let finding = |change: &Change| {
            let found = findings.binary_search_by(|f| f.rule().cmp(&change.rule)).ok();
            found
                .and_then(|at| findings.get(at))
                .ok_or_else(|| StoreError::unknown_word("rule of this scan", &change.rule))
        };
        let of = changes.iter().map(finding).collect::<Result<Vec<_>, _>>()?;
        let severity = |s: Option<Severity>| s.map(Severity::as_str);
        let all = changes.iter();
        Ok(Self {
            ids: all.clone().map(|_| moment.new_id()).collect(),
            rules: all.clone().map(|c| c.rule.as_str()).collect(),
            kinds: all.clone().map(|c| c.kind.as_str()).collect(),
            statuses: all.clone().map(|c| c.status.as_str()).collect(),
            severities: all.clone().map(|c| severity(c.severity)).collect(),
            prior_statuses: all.clone().map(|c| c.prior_status.map(|s| s.as_str())).collect(),
            prior_severities: all.map(|c| severity(c.prior_severity)).collect(),
            reasons: of.iter().map(|f| f.skip_reason()).collect(),
            references: of.iter().map(|f| f.framework_refs()).collect(),
            evidence: of.iter().map(|f| f.evidence_hash.as_slice()).collect(),
        })
    }
}

/// Up to so many rules of a host are looked up one by one; for more, all that it has are read.
const FEW: usize = 50;

/// Stores the evidence of everything that differs, writes rules that the host has (of a full scan those that differ, whatever
/// differs of them; of a filtered scan all, since it counts them), and appends to the log what the model made of the differences,
/// and what moved under the same verdict, so that a look back finds the evidence of its moment. One statement: each of its own
/// would be one more wait for the server.
///
/// Whether a body is known is asked for each by itself, so that no plan joins with the whole table: plans are kept, and the first
/// ones are made while there is nothing in it. That each is looked up by key is seen to by the connection
/// ([`crate::Role`]).
pub(super) async fn move_rules(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    bodies: &Bodies<'_>,
    rules: &Rules<'_>,
    log: &Log<'_>,
    revised: &Rules<'_>,
) -> Result<(), StoreError> {
    if bodies.hashes.is_empty() {
        return Ok(());
    }
    let full = open.selection.is_full();
    let filtered = (!full).then_some(open);
    macro_rules! moved {
        ($few:tt) => {
            sqlx::query!(
                "with stored as (
                   insert into evidence (hash, body, bytes)
                   select e.hash, e.body::jsonb, e.bytes
                   from unnest($14::bytea[], $15::text[], $16::int[]) with ordinality as e (hash, body, bytes, place)
                   where (select true from evidence known where known.hash = e.hash) is null
                   order by e.place
                   on conflict (hash) do nothing
                 ),
                 logged as (
                   insert into transactions (id, host_id, rule_id, scan_id, host_number, change_kind, status, severity,
                     prior_status, prior_severity, skip_reason, framework_refs, evidence_hash, occurred_at)
                   select c.id, $1, c.rule_id, $17, $18, c.kind, c.status, c.severity, c.prior_status, c.prior_severity,
                     c.skip_reason, c.framework_refs::jsonb, c.evidence_hash, $9
                   from unnest($19::uuid[], $20::text[], $21::text[], $22::text[], $23::text[], $24::text[], $25::text[],
                     $26::text[], $27::text[], $28::bytea[])
                     as c (id, rule_id, kind, status, severity, prior_status, prior_severity, skip_reason, framework_refs,
                       evidence_hash)
                 ),
                 revised as (
                   insert into rule_revision (host_id, rule_id, host_number, skip_reason, framework_refs, evidence_hash)
                   select $1, n.rule_id, $18, n.skip_reason, n.framework_refs::jsonb, n.evidence_hash
                   from unnest($29::text[], $30::text[], $31::text[], $32::bytea[])
                     as n (rule_id, skip_reason, framework_refs, evidence_hash)
                 )
                 update rule_state r set
                   status = n.status,
                   severity = n.severity,
                   skip_reason = n.skip_reason,
                   framework_refs = n.framework_refs::jsonb,
                   evidence_hash = n.evidence_hash,
                   digest = n.digest,
                   last_changed_at = case
                     when r.status <> n.status or r.severity is distinct from n.severity then $9 else r.last_changed_at end,
                   first_seq = coalesce(r.first_seq, $10),
                   -- Back in a full scan: what it counted before it dropped out is folded, and it counts from here.
                   checks_before = r.checks_before + case
                     when $10::bigint is not null and r.gone_after is not null then r.gone_after - r.present_since + 1 else 0 end,
                   present_since = case
                     when $10 is not null and r.gone_after is not null then $10 else coalesce(r.present_since, $10) end,
                   gone_after = case when $10 is null then r.gone_after end,
                   gone_number = case when $10 is null then r.gone_number end,
                   gone_scan_id = case when $10 is null then r.gone_scan_id end,
                   gone_at = case when $10 is null then r.gone_at end,
                   filtered_checks = r.filtered_checks + case when $10 is null then 1 else 0 end,
                   filtered_number = coalesce($11, r.filtered_number),
                   filtered_scan = coalesce($12, r.filtered_scan),
                   filtered_at = coalesce($13, r.filtered_at)
                 from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
                   as n (rule_id, status, severity, skip_reason, framework_refs, evidence_hash, digest)
                 where r.host_id = $1 and r.rule_id = n.rule_id"
                    + $few,
                open.host.0,
                &rules.ids as &[&str],
                &rules.statuses as &[&str],
                &rules.severities as &[Option<&str>],
                &rules.reasons as &[Option<Cow<'_, str>>],
                &rules.references,
                &rules.evidence as &[&[u8]],
                &rules.digests as &[&[u8]],
                tx.now(),
                full.then_some(open.full_seq + 1),
                filtered.map(|o| o.number),
                filtered.map(|o| o.scan.0),
                filtered.map(|_| tx.now()),
                &bodies.hashes as &[&[u8]],
                &bodies.bodies,
                &bodies.bytes,
                open.scan.0,
                open.number,
                &log.ids,
                &log.rules as &[&str],
                &log.kinds as &[&str],
                &log.statuses as &[&str],
                &log.severities as &[Option<&str>],
                &log.prior_statuses as &[Option<&str>],
                &log.prior_severities as &[Option<&str>],
                &log.reasons as &[Option<Cow<'_, str>>],
                &log.references,
                &log.evidence as &[&[u8]],
                &revised.ids as &[&str],
                &revised.reasons as &[Option<Cow<'_, str>>],
                &revised.references,
                &revised.evidence as &[&[u8]],
            )
            .execute(tx.connection())
        };
    }
    if rules.ids.len() <= FEW {
        moved!(" and r.rule_id = any($2)").await?;
    } else {
        moved!("").await?;
    }
    Ok(())
}

/// Ends the gaps of rules that are back in the corpus.
pub(super) async fn close_gaps(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    returned: &[String],
) -> Result<(), StoreError> {
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
pub(super) async fn drop_out(tx: &mut Tx<'_>, open: &OpenScan, dropped: &[String]) -> Result<(), StoreError> {
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
