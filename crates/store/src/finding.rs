//! A scan's outcomes made ready to be stored: checked as a whole before any transaction begins (TLW-17), each with the
//! digests by which the database tells what differs.

use std::borrow::Cow;

use openwatch_model::outcome::{Counts, EVIDENCE_RULE_CAP, Evidence};
use openwatch_model::transaction::RuleState;
use openwatch_model::{Outcome, Severity, Status};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// An outcome whose evidence is still its text: most of it is as it was, and nobody has to look into it.
pub type RawOutcome = Outcome<Box<RawValue>>;

/// Longest rule id.
const RULE_ID_CAP: usize = 256;
/// Longest one-line detail kept, in characters.
const DETAIL_CAP: usize = 4096;

/// One outcome, ready to be stored. Its texts are made when they are: most findings are as they were.
#[derive(Clone, Debug)]
pub struct Finding {
    outcome: RawOutcome,
    /// Of the evidence as received.
    pub(crate) evidence_bytes: i32,
    /// Of [`Finding::evidence`].
    pub(crate) evidence_hash: [u8; 32],
    /// Over everything that is stored of it.
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
    /// Evidence that is none.
    #[error("failed to accept the evidence of rule {rule}: it is not of the shape that evidence has")]
    Evidence {
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
            Self::Evidence { .. } => "invalid_result",
            Self::RuleId { .. } => "invalid_rule",
        }
    }

    /// The rule at fault.
    pub fn rule(&self) -> &str {
        match self {
            Self::EvidenceOversize { rule, .. }
            | Self::DuplicateRule { rule }
            | Self::Evidence { rule }
            | Self::RuleId { rule } => rule,
        }
    }
}

impl Finding {
    /// Rule id.
    pub fn rule(&self) -> &str {
        &self.outcome.rule
    }

    /// Status and severity.
    pub fn state(&self) -> RuleState {
        RuleState { status: self.outcome.status, severity: self.outcome.severity }
    }

    /// Why it was skipped, when it was.
    pub(crate) fn skip_reason(&self) -> Option<Cow<'_, str>> {
        skip_reason(&self.outcome)
    }

    /// As JSON.
    pub(crate) fn framework_refs(&self) -> String {
        let mut json = Vec::new();
        references(&mut json, &self.outcome);
        String::from_utf8(json).unwrap_or_default()
    }

    /// What is stored as evidence, as JSON.
    ///
    /// # Errors
    /// It is an object, but not what evidence is.
    pub(crate) fn evidence(&self) -> Result<String, Unacceptable> {
        if serde_json::from_str::<Evidence>(self.outcome.evidence.get()).is_err() {
            return Err(Unacceptable::Evidence { rule: self.rule().to_owned() });
        }
        let mut json = Vec::new();
        evidence(&mut json, &self.outcome);
        Ok(String::from_utf8(json).unwrap_or_default())
    }
}

/// Makes outcomes ready, in rule id order. Called by the writer.
///
/// # Errors
/// The first outcome that cannot be stored; nothing of the batch may be.
pub fn prepare(outcomes: Vec<RawOutcome>) -> Result<Vec<Finding>, Unacceptable> {
    // Thousands of small texts are written only to be hashed: into one buffer.
    let mut buffer = Vec::new();
    let mut findings =
        outcomes.into_iter().map(|outcome| one(outcome, &mut buffer)).collect::<Result<Vec<_>, _>>()?;
    findings.sort_by(|a, b| a.rule().cmp(b.rule()));
    match findings.windows(2).find(|pair| pair[0].rule() == pair[1].rule()) {
        Some(pair) => Err(Unacceptable::DuplicateRule { rule: pair[0].rule().to_owned() }),
        None => Ok(findings),
    }
}

fn one(outcome: RawOutcome, buffer: &mut Vec<u8>) -> Result<Finding, Unacceptable> {
    let rule = &outcome.rule;
    if rule.is_empty() || rule.len() > RULE_ID_CAP || rule.contains('\0') {
        return Err(Unacceptable::RuleId { rule: rule.chars().take(64).collect() });
    }
    if !outcome.evidence.get().starts_with('{') {
        return Err(Unacceptable::Evidence { rule: rule.clone() });
    }
    buffer.clear();
    let bytes = evidence(buffer, &outcome);
    if bytes > EVIDENCE_RULE_CAP {
        return Err(Unacceptable::EvidenceOversize { rule: rule.clone(), bytes });
    }
    let evidence_hash: [u8; 32] = Sha256::digest(&buffer).into();
    buffer.clear();
    references(buffer, &outcome);
    let mut digest = Sha256::new();
    field(&mut digest, outcome.status.as_str().as_bytes());
    field(&mut digest, outcome.severity.map_or("", Severity::as_str).as_bytes());
    field(&mut digest, skip_reason(&outcome).unwrap_or_default().as_bytes());
    field(&mut digest, buffer);
    digest.update(evidence_hash);
    Ok(Finding {
        outcome,
        evidence_bytes: i32::try_from(bytes).unwrap_or(i32::MAX),
        evidence_hash,
        digest: digest.finalize().into(),
    })
}

fn skip_reason(of: &RawOutcome) -> Option<Cow<'_, str>> {
    let reason = of.skip_reason.as_ref().filter(|_| of.status == Status::Skipped)?;
    Some(if reason.contains('\0') {
        reason.replace('\0', "\u{fffd}").into()
    } else {
        Cow::Borrowed(reason.as_str())
    })
}

/// Appends the framework references as JSON.
fn references(json: &mut Vec<u8>, of: &RawOutcome) {
    write(json, &of.framework_refs);
    without_nul(json);
}

/// Appends what is stored as evidence: the one-line detail goes with it, for both are what was found. Returns the bytes of
/// the evidence itself.
fn evidence(json: &mut Vec<u8>, of: &RawOutcome) -> usize {
    let detail =
        of.detail.char_indices().nth(DETAIL_CAP).map_or(of.detail.as_str(), |(end, _)| &of.detail[..end]);
    if !detail.is_empty() {
        json.extend_from_slice(br#"{"detail":"#);
        write(json, detail);
    }
    let text = of.evidence.get();
    // Its brace opened already, and may be all there is.
    match text.get(1..).map(str::trim_start).filter(|_| !detail.is_empty()) {
        Some("}") => json.push(b'}'),
        Some(fields) => {
            json.push(b',');
            json.extend_from_slice(fields.as_bytes());
        }
        None => json.extend_from_slice(text.as_bytes()),
    }
    without_nul(json);
    text.len()
}

fn write<T: Serialize + ?Sized>(json: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(json, value).expect("plain structs with string keys always serialise");
}

/// PostgreSQL's jsonb has no U+0000. It is replaced, and the evidence says so (TLW-31).
fn without_nul(json: &mut Vec<u8>) {
    if memchr::memmem::find(json, br"\u0000").is_none() {
        return;
    }
    let Ok(mut value) = serde_json::from_slice::<Value>(json) else { return };
    if replace_nul(&mut value)
        && let Some(fields) = value.as_object_mut()
    {
        fields.insert("nul_replaced".into(), Value::Bool(true));
    }
    json.clear();
    write(json, &value);
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
fn field(digest: &mut Sha256, text: &[u8]) {
    digest.update((text.len() as u64).to_be_bytes());
    digest.update(text);
}

/// What one number says about a whole full scan: the same again means that nothing changed. `outcomes` is the digest of
/// all outcomes as they came. Called by the writer.
///
/// The other way round it says nothing: equal outcomes that come in another order have another digest, are compared one
/// by one, and are found unchanged then. Variables act through the outcomes and their evidence.
pub fn digest(outcomes: &[u8; 32], corpus: &str, engine: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    field(&mut digest, corpus.as_bytes());
    field(&mut digest, engine.as_bytes());
    digest.update(outcomes);
    digest.finalize().into()
}

/// How many ended each way.
pub(crate) fn counts(findings: &[Finding]) -> Counts {
    Counts::of(findings.iter().map(|f| &f.outcome.status))
}

/// Critical rules that fail.
pub(crate) fn critical_failing(findings: &[Finding]) -> u32 {
    let critical =
        |f: &&Finding| f.outcome.status == Status::Fail && f.outcome.severity == Some(Severity::Critical);
    u32::try_from(findings.iter().filter(critical).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openwatch_model::outcome::CheckEvidence;

    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    fn outcome(rule: &str, stdout: &str) -> RawOutcome {
        let check =
            CheckEvidence { method: "command".into(), stdout: stdout.into(), ..CheckEvidence::default() };
        RawOutcome {
            rule: rule.into(),
            status: Status::Pass,
            severity: Some(Severity::High),
            detail: "as wanted".into(),
            skip_reason: Some("dropped unless skipped".into()),
            framework_refs: BTreeMap::new(),
            evidence: raw(&serde_json::to_string(&Evidence { checks: vec![check] }).unwrap()),
        }
    }

    #[test]
    fn exactly_the_cap_is_allowed() {
        let empty = outcome("r", "").evidence.get().len();
        // An empty stdout is left out altogether: its name and quotes count too.
        let room = EVIDENCE_RULE_CAP - empty - r#","stdout":"""#.len();
        assert!(prepare(vec![outcome("r", &"x".repeat(room))]).is_ok());
        let refused = prepare(vec![outcome("r", &"x".repeat(room + 1))]).unwrap_err();
        assert_eq!((refused.reason(), refused.rule()), ("evidence_oversize", "r"));
    }

    #[test]
    fn nul_is_replaced_and_flagged() {
        let finding = prepare(vec![outcome("r", "a\0b")]).unwrap().remove(0);
        let body: Value = serde_json::from_str(&finding.evidence().unwrap()).unwrap();
        assert_eq!(finding.evidence_hash, <[u8; 32]>::from(Sha256::digest(finding.evidence().unwrap())));
        assert_eq!(body["checks"][0]["stdout"], "a\u{fffd}b");
        assert_eq!((&body["nul_replaced"], &body["detail"]), (&Value::Bool(true), &Value::from("as wanted")));
        // The six characters backslash-u-0000 are no NUL.
        let said = vec![outcome("r", "a\\u0000b")];
        assert!(!prepare(said).unwrap()[0].evidence().unwrap().contains("nul_replaced"));
    }

    #[test]
    fn the_detail_goes_with_the_evidence() {
        let mut said = outcome("r", "");
        let with = r#"{"detail":"as wanted","checks":[{"method":"command"}]}"#;
        assert_eq!(prepare(vec![said.clone()]).unwrap()[0].evidence().unwrap(), with);
        for empty in ["{}", "{ }"] {
            said.evidence = raw(empty);
            assert_eq!(
                prepare(vec![said.clone()]).unwrap()[0].evidence().unwrap(),
                r#"{"detail":"as wanted"}"#
            );
        }
        said.detail = "ä".repeat(DETAIL_CAP + 1);
        let long = prepare(vec![said.clone()]).unwrap()[0].evidence().unwrap();
        assert_eq!(long.matches('ä').count(), DETAIL_CAP);
        (said.detail, said.evidence) = (String::new(), raw("{}"));
        assert_eq!(prepare(vec![said]).unwrap()[0].evidence().unwrap(), "{}");
    }

    #[test]
    fn evidence_is_what_evidence_is() {
        let mut said = outcome("r", "");
        for none in ["[]", "null", "7", "\"{\""] {
            said.evidence = raw(none);
            assert_eq!(prepare(vec![said.clone()]).unwrap_err().reason(), "invalid_result", "{none}");
        }
        said.evidence = raw(r#"{"checks":7}"#);
        assert!(matches!(prepare(vec![said]).unwrap()[0].evidence(), Err(Unacceptable::Evidence { .. })));
    }

    #[test]
    fn duplicates_and_bad_names_are_refused() {
        assert_eq!(prepare(vec![outcome("r", ""), outcome("r", "")]).unwrap_err().reason(), "duplicate_rule");
        assert_eq!(prepare(vec![outcome("", "")]).unwrap_err().reason(), "invalid_rule");
    }

    #[test]
    fn the_digest_follows_every_part() {
        let base = digest(&[1; 32], "c", "e");
        assert_eq!(base, digest(&[1; 32], "c", "e"));
        let others = [digest(&[2; 32], "c", "e"), digest(&[1; 32], "d", "e"), digest(&[1; 32], "c", "f")];
        assert!(others.iter().all(|other| *other != base));
        assert_ne!(digest(&[1; 32], "ce", ""), digest(&[1; 32], "c", "e"));
    }
}
