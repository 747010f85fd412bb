//! What differs between a result and what is stored.

use std::collections::{BTreeMap, HashMap};

use openwatch_model::transaction::RuleState;

use crate::end::OpenScan;
use crate::finding::Finding;
use crate::{StoreError, Tx, words};

/// A rule of a host as it is stored.
#[derive(Clone, Debug)]
pub struct Known {
    rule_id: String,
    status: String,
    severity: Option<String>,
    digest: Vec<u8>,
    /// It dropped out, and has not come back.
    gone: bool,
    /// A full scan had it once.
    counted: bool,
}

impl Known {
    /// The last full scan had it.
    fn is_present(&self) -> bool {
        self.counted && !self.gone
    }

    fn state(&self) -> RuleState {
        RuleState { status: words::status(&self.status), severity: words::severity(self.severity.as_deref()) }
    }
}

/// What differs between a result and what is stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Findings that are new or differ in anything; of a filtered scan all.
    pub differences: Vec<Difference>,
    /// Rules that the full scan before had and this one has not.
    pub dropped: Vec<String>,
}

impl Comparison {
    /// Nothing at all differs: no rule came, went, or says or proves anything else.
    pub fn is_silent(&self) -> bool {
        self.dropped.is_empty() && !self.differences.iter().any(|d| d.differs || d.returned)
    }
}

/// One finding that differs from what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Place among the findings.
    pub index: usize,
    /// What is stored; absent on first sight.
    pub prior: Option<RuleState>,
    pub(super) returned: bool,
    pub(super) differs: bool,
}

/// All rules of the scan's host. Called by the writer while it still reads the result; the locks of [`crate::end::open`] are
/// held.
///
/// # Errors
/// The database is away.
pub async fn known(tx: &mut Tx<'_>, open: &OpenScan) -> Result<Vec<Known>, StoreError> {
    let rows = sqlx::query_as!(
        Known,
        r#"select rule_id, status, severity, digest, gone_after is not null as "gone!", present_since is not null as "counted!"
           from rule_state where host_id = $1"#,
        open.host.0,
    );
    Ok(rows.fetch_all(tx.connection()).await?)
}

/// What rules were at the host's newest full scan that filtered scans have changed since; absent where that one had not seen
/// them. Nearly always nothing, and then nothing is asked. Called by the writer for full scans, whose drift is from the one
/// before; the locks of [`crate::end::open`] are held.
///
/// # Errors
/// The database is away.
pub async fn before_filtered(
    tx: &mut Tx<'_>,
    open: &OpenScan,
) -> Result<BTreeMap<String, Option<RuleState>>, StoreError> {
    let full = open.full_number();
    if !open.selection.is_full() || open.full_digest.is_some() || open.applied_number <= full {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query!(
        "select distinct on (rule_id) rule_id, prior_status, prior_severity from transactions
         where host_id = $1 and host_number > $2 order by rule_id, host_number",
        open.host.0,
        full,
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(rows.into_iter().map(|r| (r.rule_id, prior(r.prior_status, r.prior_severity))).collect())
}

/// What rules that were errors at the host's newest full scan had last been seen to be at a full scan, where it was a scan that
/// had lost checks on the way which made them errors: it saw nothing of them. Absent where none had ever seen one. Called by
/// the writer for full scans; the locks of [`crate::end::open`] are held.
///
/// # Errors
/// The database is away.
pub async fn before_lost(
    tx: &mut Tx<'_>,
    open: &OpenScan,
    rules: &[String],
) -> Result<BTreeMap<String, Option<RuleState>>, StoreError> {
    if rules.is_empty() {
        return Ok(BTreeMap::new());
    }
    // From a full scan at which a rule was an error to the full scan before the one that lost it, until it was none.
    let rows = sqlx::query!(
        r#"with recursive back (rule_id, full_number, status, severity) as (
             select rule.id, $3::bigint, 'error', null::text from unnest($2::text[]) rule (id)
             union all
             select back.rule_id, seen.number, first.prior_status, first.prior_severity from back
             cross join lateral (
               select t.scan_id, t.host_number from transactions t
               where t.host_id = $1 and t.rule_id = back.rule_id and t.host_number <= back.full_number
                 and t.status = 'error' and t.change_kind <> 'severity_changed'
               order by t.host_number desc limit 1
             ) lost
             join scan_ledger l on l.scan_id = lost.scan_id and l.summary @> '{"low_confidence": true}'
             cross join lateral (
               select coalesce(max(f.number), 0) as number from scan_ledger f
               where f.host_id = $1 and f.number < lost.host_number and f.is_full and f.outcome = 'completed'
             ) seen
             cross join lateral (
               select t.prior_status, t.prior_severity from transactions t
               where t.host_id = $1 and t.rule_id = back.rule_id and t.host_number > seen.number
               order by t.host_number limit 1
             ) first
             where back.status = 'error'
           )
           select distinct on (rule_id) rule_id as "rule_id!", status, severity from back
           where full_number < $3 order by rule_id, full_number"#,
        open.host.0,
        rules,
        open.full_number(),
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(rows.into_iter().map(|r| (r.rule_id, prior(r.status, r.severity))).collect())
}

fn prior(status: Option<String>, severity: Option<String>) -> Option<RuleState> {
    Some(RuleState { status: words::status(&status?), severity: words::severity(severity.as_deref()) })
}

/// Compares the findings of a `full` scan, or of a filtered one, with what is known, by the digests of what is stored of each
/// rule. Called by the writer.
pub fn compare(known: &[Known], full: bool, findings: &[Finding]) -> Comparison {
    let mut known: HashMap<&str, &Known> = known.iter().map(|it| (it.rule_id.as_str(), it)).collect();
    let mut comparison = Comparison::default();
    for (index, finding) in findings.iter().enumerate() {
        let Some(prior) = known.remove(finding.rule()) else {
            let new = Difference { index, prior: None, returned: false, differs: true };
            comparison.differences.push(new);
            continue;
        };
        let differs = prior.digest != finding.digest;
        // A filtered scan counts its checks on each of its rules.
        if !full || differs || !prior.is_present() {
            let returned = prior.gone && full;
            comparison.differences.push(Difference { index, prior: Some(prior.state()), returned, differs });
        }
    }
    if full {
        let dropped = known.into_values().filter(|it| it.is_present());
        comparison.dropped = dropped.map(|it| it.rule_id.clone()).collect();
        comparison.dropped.sort();
    }
    comparison
}

#[cfg(test)]
mod tests {
    use openwatch_model::{Severity, Status};

    use super::*;
    use crate::finding::{RawOutcome, prepare};

    fn findings(rules: &[&str]) -> Vec<Finding> {
        let of = |rule: &&str| {
            let text = format!(
                r#"{{"rule":"{rule}","status":"pass","severity":"high","detail":"","framework_refs":{{}},"evidence":{{}}}}"#
            );
            serde_json::from_str::<RawOutcome>(&text).unwrap()
        };
        prepare(rules.iter().map(of).collect()).unwrap()
    }

    /// As the scan before left it.
    fn stored(finding: &Finding) -> Known {
        Known {
            rule_id: finding.rule().to_owned(),
            status: "pass".to_owned(),
            severity: Some("high".to_owned()),
            digest: finding.digest.to_vec(),
            gone: false,
            counted: true,
        }
    }

    #[test]
    fn only_what_is_not_as_it_was_differs() {
        let before = findings(&["back", "gone", "left", "moved", "out", "same", "seen"]);
        let known = |it: &Finding| {
            let mut known = stored(it);
            match it.rule() {
                "moved" => known.digest = vec![7; 32],
                "back" | "gone" => known.gone = true,
                "seen" => known.counted = false,
                _ => {}
            }
            known
        };
        let known: Vec<_> = before.iter().map(known).collect();
        let now = findings(&["back", "moved", "new", "same", "seen"]);
        let prior = Some(RuleState { status: Status::Pass, severity: Some(Severity::High) });
        let difference = |index, prior, returned, differs| Difference { index, prior, returned, differs };
        let full = compare(&known, true, &now);
        let back = difference(0, prior, true, false);
        let moved = difference(1, prior, false, true);
        let new = difference(2, None, false, true);
        // A filtered scan saw it, no full one did.
        let seen = difference(4, prior, false, false);
        assert_eq!(full.differences, [back, moved, new, seen]);
        assert_eq!(full.dropped, ["left", "out"]);
        assert!(!full.is_silent());
        // A filtered scan ends no gap, and nothing drops out of it; it counts a check on each of its rules.
        let filtered = compare(&known, false, &now);
        let same = difference(3, prior, false, false);
        assert_eq!(filtered.differences, [difference(0, prior, false, false), moved, new, same, seen]);
        assert_eq!(filtered.dropped, Vec::<String>::new());
        let as_before: Vec<_> = before.iter().map(stored).collect();
        assert!(compare(&as_before, true, &before).is_silent());
    }
}
