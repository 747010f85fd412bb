//! Evidence: what was asked and what it said, cut to what is kept and cleaned of what cannot be stored.

use std::borrow::Cow;

use openwatch_model::harmless;
use openwatch_model::outcome::{CheckEvidence, EVIDENCE_RULE_CAP, EVIDENCE_STREAM_CAP, Evidence, Truncated};
use sha2::{Digest, Sha256};

use crate::method::{Answer, Step, answer_text};

/// Bytes kept of a value that stands alone (`expected`, `actual`).
const VALUE_CAP: usize = 4096;
/// Bytes kept of a sentence for a person.
const DETAIL_CAP: usize = 1000;

/// The record of one logical command.
pub(crate) fn record(
    method: &str,
    step: &Step,
    answer: &Answer<'_>,
    expected: Option<&str>,
) -> CheckEvidence {
    let mut check = CheckEvidence {
        method: clean(method, VALUE_CAP),
        command: clean(&step.command, EVIDENCE_STREAM_CAP),
        expected: expected.map(|text| clean(text, VALUE_CAP)),
        ..CheckEvidence::default()
    };
    match answer {
        Answer::Lost(why) => check.error = Some(why.as_str().to_owned()),
        Answer::Said { exit, stdout, stderr } => {
            check.exit_code = Some(*exit);
            let streams = [stdout, stderr].map(|bytes| storable(answer_text(Cow::Borrowed(bytes.as_ref()))));
            if streams.iter().any(|text| text.len() > EVIDENCE_STREAM_CAP) {
                check.truncated = Some(fingerprint(stdout, stderr));
            }
            let [stdout, stderr] = streams.map(|text| clip(&text, EVIDENCE_STREAM_CAP).to_owned());
            (check.stdout, check.stderr) = (stdout, stderr);
        }
    }
    check
}

/// A value next to the evidence it was read from.
pub(crate) fn value(text: &str) -> String {
    clean(text, VALUE_CAP)
}

/// One line for a person.
pub(crate) fn sentence(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    clip(&harmless::line(&words.join(" ")), DETAIL_CAP).to_owned()
}

/// Cuts a rule's evidence until its JSON is small enough to be accepted: long streams first, then commands, then whole
/// entries from the end. `raw` holds each entry's streams before any cut.
pub(crate) fn fit(mut checks: Vec<CheckEvidence>, raw: &[Answer<'_>]) -> Evidence {
    if size_at_most(&checks) <= EVIDENCE_RULE_CAP {
        return Evidence { checks };
    }
    let mut cap = EVIDENCE_STREAM_CAP;
    while size(&checks) > EVIDENCE_RULE_CAP && cap > 0 {
        cap /= 2;
        for (check, answer) in checks.iter_mut().zip(raw) {
            let Answer::Said { stdout, stderr, .. } = answer else { continue };
            if check.stdout.len() > cap || check.stderr.len() > cap {
                check.truncated.get_or_insert_with(|| fingerprint(stdout, stderr));
                check.stdout.truncate(clip(&check.stdout, cap).len());
                check.stderr.truncate(clip(&check.stderr, cap).len());
            }
        }
    }
    let mut cap = EVIDENCE_STREAM_CAP;
    while size(&checks) > EVIDENCE_RULE_CAP && cap > 0 {
        cap /= 2;
        for check in &mut checks {
            let texts = [Some(&mut check.command), check.expected.as_mut(), check.actual.as_mut()];
            for text in texts.into_iter().flatten() {
                text.truncate(clip(text, cap).len());
            }
        }
    }
    let mut left = size(&checks);
    while left > EVIDENCE_RULE_CAP {
        let Some(last) = checks.pop() else { break };
        // An entry and the comma before it.
        left = left.saturating_sub(size(&[last]) - size(&[]) + 1);
    }
    Evidence { checks }
}

/// More bytes than the JSON of these entries can have, without writing it: a byte of text becomes six at most, `\u0001`.
fn size_at_most(checks: &[CheckEvidence]) -> usize {
    /// Names, marks and numbers of one entry.
    const AROUND: usize = 512;
    let text = |check: &CheckEvidence| {
        let given = [&check.expected, &check.actual, &check.error].into_iter().flatten();
        let always = [&check.method, &check.command, &check.stdout, &check.stderr];
        given.chain(always).map(String::len).sum::<usize>()
    };
    AROUND + checks.iter().map(|check| AROUND + 6 * text(check)).sum::<usize>()
}

/// Bytes of the JSON that is stored.
fn size(checks: &[CheckEvidence]) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(r#"{"checks":}"#.len());
    match serde_json::to_writer(&mut count, checks) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

fn fingerprint(stdout: &[u8], stderr: &[u8]) -> Truncated {
    let sha256 = hex::encode(Sha256::new().chain_update(stdout).chain_update(stderr).finalize());
    Truncated { original_bytes: (stdout.len() + stderr.len()) as u64, sha256 }
}

fn clean(text: &str, cap: usize) -> String {
    clip(&storable(Cow::Borrowed(text)), cap).to_owned()
}

/// A database keeps any character but one.
fn storable(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { text }
}

/// At most this many bytes, ending where a character ends.
fn clip(text: &str, cap: usize) -> &str {
    &text[..text.floor_char_boundary(cap)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(stdout: Vec<u8>) -> Answer<'static> {
        Answer::Said { exit: 0, stdout: Cow::Owned(stdout), stderr: Cow::Owned(Vec::new()) }
    }

    fn of(stdout: Vec<u8>) -> CheckEvidence {
        record("command", &Step::whole("x"), &said(stdout), None)
    }

    #[test]
    fn a_stream_is_kept_up_to_its_cap() {
        let exact = of(vec![b'a'; EVIDENCE_STREAM_CAP]);
        assert!(exact.truncated.is_none() && exact.stdout.len() == EVIDENCE_STREAM_CAP);
        assert!(of([vec![b'a'; EVIDENCE_STREAM_CAP], b"\n".to_vec()].concat()).truncated.is_none());
        let over = vec![b'a'; EVIDENCE_STREAM_CAP + 4096];
        let cut = of(over.clone());
        let truncated = cut.truncated.unwrap();
        assert_eq!(cut.stdout.len(), EVIDENCE_STREAM_CAP);
        assert_eq!(truncated.original_bytes, over.len() as u64);
        assert_eq!(truncated.sha256, hex::encode(Sha256::digest(&over)));
    }

    #[test]
    fn text_is_cut_between_characters_and_can_be_stored() {
        let long = "é".repeat(EVIDENCE_STREAM_CAP);
        let cut = of([b"a".to_vec(), long.into_bytes()].concat());
        assert_eq!(cut.stdout.len(), EVIDENCE_STREAM_CAP - 1);
        assert_eq!(of(b"a\0b\xffc\n".to_vec()).stdout, "a\u{fffd}b\u{fffd}c");
        assert_eq!(sentence(" a\n b\u{1b}[0m\0 "), "a b\u{fffd}[0m\u{fffd}");
    }

    proptest! {
        #[test]
        fn what_surely_fits_fits(texts in prop::collection::vec("[\\x00-\\x22a\\\\é\\u{2028}]{0,40}", 1..9), exit in any::<i32>()) {
            let full = |text: &String| CheckEvidence {
                method: text.clone(),
                command: text.clone(),
                exit_code: Some(exit),
                stdout: text.clone(),
                stderr: text.clone(),
                expected: Some(text.clone()),
                actual: Some(text.clone()),
                truncated: Some(Truncated { original_bytes: u64::MAX, sha256: "f".repeat(64) }),
                error: Some(text.clone()),
            };
            let checks: Vec<_> = texts.iter().map(full).collect();
            prop_assert!(size(&checks) <= size_at_most(&checks));
            let json = serde_json::to_string(&Evidence { checks: checks.clone() }).unwrap();
            prop_assert_eq!(size(&checks), json.len());
        }
    }

    #[test]
    fn a_rule_never_keeps_more_than_its_cap() {
        for (count, byte, bytes) in
            [(6, b'a', 70_000), (6, 1u8, 66_000), (30, b'"', 66_000), (5000, b'x', 10)]
        {
            let raw: Vec<_> = (0..count).map(|_| said(vec![byte; bytes])).collect();
            let step = Step::whole("c".repeat(200));
            let checks: Vec<_> = raw.iter().map(|answer| record("command", &step, answer, None)).collect();
            let evidence = fit(checks, &raw);
            let json = serde_json::to_string(&evidence).unwrap();
            assert!(json.len() <= EVIDENCE_RULE_CAP, "{count} {byte} {}", json.len());
            assert!(evidence.checks.iter().all(|check| check.truncated.is_some()));
        }
    }
}
