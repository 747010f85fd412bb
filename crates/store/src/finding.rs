//! A scan's outcomes made ready to be stored: checked as a whole before any transaction begins (TLW-17), each with the
//! digests by which the database tells what differs.

use std::collections::BTreeMap;

use openwatch_model::outcome::{Counts, EVIDENCE_RULE_CAP};
use openwatch_model::scan::Selection;
use openwatch_model::transaction::RuleState;
use openwatch_model::{Outcome, Severity, Status};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Longest rule id.
const RULE_ID_CAP: usize = 256;
/// Longest one-line detail kept, in characters.
const DETAIL_CAP: usize = 4096;

/// One outcome, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub(crate) rule: String,
    pub(crate) state: RuleState,
    pub(crate) skip_reason: Option<String>,
    pub(crate) framework_refs: String,
    pub(crate) evidence: String,
    pub(crate) evidence_bytes: i32,
    pub(crate) evidence_hash: [u8; 32],
    pub(crate) digest: [u8; 32],
}

/// Outcomes that are refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// One rule's evidence is over 256 KiB.
    #[error(
        "failed to accept the evidence of rule {rule}: {bytes} bytes, and {EVIDENCE_RULE_CAP} are allowed"
    )]
    EvidenceOversize {
        /// The rule.
        rule: String,
        /// Its evidence's size.
        bytes: usize,
    },
    /// Two outcomes of one rule.
    #[error("failed to accept two outcomes of rule {rule}")]
    DuplicateRule {
        /// The rule.
        rule: String,
    },
    /// A rule id that is empty, too long, or holds a NUL.
    #[error("failed to accept the rule id {rule:?}")]
    RuleId {
        /// Its beginning.
        rule: String,
    },
}

impl Unacceptable {
    /// The reason of `writer.apply.failed`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EvidenceOversize { .. } => "evidence_oversize",
            Self::DuplicateRule { .. } => "duplicate_rule",
            Self::RuleId { .. } => "invalid_rule",
        }
    }

    /// The rule at fault.
    pub fn rule(&self) -> &str {
        match self {
            Self::EvidenceOversize { rule, .. } | Self::DuplicateRule { rule } | Self::RuleId { rule } => {
                rule
            }
        }
    }
}

impl Finding {
    /// Rule id.
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// Status and severity.
    pub fn state(&self) -> RuleState {
        self.state
    }
}

/// Makes outcomes ready, in rule id order. Called by the writer before it begins a transaction.
///
/// # Errors
/// The first outcome that cannot be stored; nothing of the batch may be.
pub fn prepare(outcomes: &[Outcome]) -> Result<Vec<Finding>, Unacceptable> {
    let mut findings = outcomes.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    findings.sort_by(|a, b| a.rule.cmp(&b.rule));
    match findings.windows(2).find(|pair| pair[0].rule == pair[1].rule) {
        Some(pair) => Err(Unacceptable::DuplicateRule { rule: pair[0].rule.clone() }),
        None => Ok(findings),
    }
}

fn one(outcome: &Outcome) -> Result<Finding, Unacceptable> {
    let rule = outcome.rule.clone();
    if rule.is_empty() || rule.len() > RULE_ID_CAP || rule.contains('\0') {
        return Err(Unacceptable::RuleId { rule: rule.chars().take(64).collect() });
    }
    let evidence = serde_json::to_string(&outcome.evidence).unwrap_or_else(|_| "{}".into());
    if evidence.len() > EVIDENCE_RULE_CAP {
        return Err(Unacceptable::EvidenceOversize { rule, bytes: evidence.len() });
    }
    let evidence_bytes = i32::try_from(evidence.len()).unwrap_or(i32::MAX);
    let detail: String = outcome.detail.chars().take(DETAIL_CAP).collect();
    let evidence = without_nul(with_detail(evidence, &detail));
    let skip_reason = outcome
        .skip_reason
        .as_ref()
        .filter(|_| outcome.status == Status::Skipped)
        .map(|r| r.replace('\0', "\u{fffd}"));
    let framework_refs =
        without_nul(serde_json::to_string(&outcome.framework_refs).unwrap_or_else(|_| "{}".into()));
    let state = RuleState { status: outcome.status, severity: outcome.severity };
    let evidence_hash: [u8; 32] = Sha256::digest(&evidence).into();
    let mut digest = Sha256::new();
    field(&mut digest, state.status.as_str());
    field(&mut digest, state.severity.map_or("", Severity::as_str));
    field(&mut digest, skip_reason.as_deref().unwrap_or_default());
    field(&mut digest, &framework_refs);
    digest.update(evidence_hash);
    let digest = digest.finalize().into();
    Ok(Finding { rule, state, skip_reason, framework_refs, evidence, evidence_bytes, evidence_hash, digest })
}

/// The one-line detail goes with the evidence: both are what was found.
fn with_detail(evidence: String, detail: &str) -> String {
    if detail.is_empty() {
        return evidence;
    }
    let rest = &evidence[1..];
    let comma = if rest == "}" { "" } else { "," };
    format!("{{\"detail\":{}{comma}{rest}", Value::from(detail))
}

/// PostgreSQL's jsonb has no U+0000. It is replaced, and the evidence says so (TLW-31).
fn without_nul(json: String) -> String {
    if !json.contains("\\u0000") {
        return json;
    }
    let Ok(mut value) = serde_json::from_str::<Value>(&json) else { return "{}".into() };
    if replace_nul(&mut value)
        && let Some(fields) = value.as_object_mut()
    {
        fields.insert("nul_replaced".into(), Value::Bool(true));
    }
    value.to_string()
}

fn replace_nul(value: &mut Value) -> bool {
    match value {
        Value::String(text) if text.contains('\0') => {
            *text = text.replace('\0', "\u{fffd}");
            true
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| replace_nul(item) | found),
        Value::Object(fields) => {
            let named = fields.keys().any(|name| name.contains('\0'));
            if named {
                *fields = std::mem::take(fields)
                    .into_iter()
                    .map(|(k, v)| (k.replace('\0', "\u{fffd}"), v))
                    .collect();
            }
            fields.values_mut().fold(named, |found, item| replace_nul(item) | found)
        }
        _ => false,
    }
}

/// Length before content, so that no two lists of fields read the same.
fn field(digest: &mut Sha256, text: &str) {
    digest.update((text.len() as u64).to_be_bytes());
    digest.update(text);
}

/// What one number says about a whole scan: the same digest means that nothing changed. Called by the writer.
pub fn digest(
    findings: &[Finding],
    corpus: &str,
    selection: &Selection,
    engine: &str,
    variables: &BTreeMap<String, String>,
) -> [u8; 32] {
    let mut digest = Sha256::new();
    field(&mut digest, corpus);
    field(&mut digest, &selection.framework);
    digest.update((selection.rules.len() as u64).to_be_bytes());
    selection.rules.iter().for_each(|rule| field(&mut digest, rule));
    field(&mut digest, engine);
    digest.update((variables.len() as u64).to_be_bytes());
    for (name, value) in variables {
        field(&mut digest, name);
        field(&mut digest, value);
    }
    for finding in findings {
        field(&mut digest, &finding.rule);
        digest.update(finding.digest);
    }
    digest.finalize().into()
}

/// How many ended each way.
pub fn counts(findings: &[Finding]) -> Counts {
    Counts::of(findings.iter().map(|f| &f.state.status))
}

/// Critical rules that fail.
pub fn critical_failing(findings: &[Finding]) -> u32 {
    let critical =
        |f: &&Finding| f.state.status == Status::Fail && f.state.severity == Some(Severity::Critical);
    u32::try_from(findings.iter().filter(critical).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use openwatch_model::Evidence;
    use openwatch_model::outcome::CheckEvidence;

    use super::*;

    fn outcome(rule: &str, stdout: &str) -> Outcome {
        let check =
            CheckEvidence { method: "command".into(), stdout: stdout.into(), ..CheckEvidence::default() };
        Outcome {
            rule: rule.into(),
            status: Status::Pass,
            severity: Some(Severity::High),
            detail: "as wanted".into(),
            skip_reason: Some("dropped unless skipped".into()),
            framework_refs: BTreeMap::new(),
            evidence: Evidence { checks: vec![check] },
        }
    }

    #[test]
    fn exactly_the_cap_is_allowed() {
        let empty = serde_json::to_string(&outcome("r", "").evidence).unwrap().len();
        // An empty stdout is left out altogether: its name and quotes count too.
        let room = EVIDENCE_RULE_CAP - empty - r#","stdout":"""#.len();
        assert!(prepare(&[outcome("r", &"x".repeat(room))]).is_ok());
        let refused = prepare(&[outcome("r", &"x".repeat(room + 1))]).unwrap_err();
        assert_eq!((refused.reason(), refused.rule()), ("evidence_oversize", "r"));
    }

    #[test]
    fn nul_is_replaced_and_flagged() {
        let finding = prepare(&[outcome("r", "a\0b")]).unwrap().remove(0);
        let body: Value = serde_json::from_str(&finding.evidence).unwrap();
        assert_eq!(body["checks"][0]["stdout"], "a\u{fffd}b");
        assert_eq!((&body["nul_replaced"], &body["detail"]), (&Value::Bool(true), &Value::from("as wanted")));
        // The six characters backslash-u-0000 are no NUL.
        let literal = prepare(&[outcome("r", "a\\u0000b")]).unwrap().remove(0);
        assert!(!literal.evidence.contains("nul_replaced"));
    }

    #[test]
    fn duplicates_and_bad_names_are_refused() {
        assert_eq!(prepare(&[outcome("r", ""), outcome("r", "")]).unwrap_err().reason(), "duplicate_rule");
        assert_eq!(prepare(&[outcome("", "")]).unwrap_err().reason(), "invalid_rule");
    }

    #[test]
    fn the_digest_follows_every_part_and_no_order() {
        let base = prepare(&[outcome("a", "1"), outcome("b", "2")]).unwrap();
        let turned = prepare(&[outcome("b", "2"), outcome("a", "1")]).unwrap();
        let other = prepare(&[outcome("a", "1"), outcome("b", "3")]).unwrap();
        let of = |findings: &[Finding], corpus: &str, engine: &str| {
            digest(findings, corpus, &Selection::full(), engine, &BTreeMap::new())
        };
        assert_eq!(of(&base, "c", "e"), of(&turned, "c", "e"));
        assert_ne!(of(&base, "c", "e"), of(&other, "c", "e"));
        assert_ne!(of(&base, "c", "e"), of(&base, "d", "e"));
        assert_ne!(of(&base, "c", "e"), of(&base, "c", "f"));
    }
}
