//! Reading the YAML of a policy, with nothing in it that could be read in two ways.

use openwatch_model::policy::{Policy, PolicyDocument, parse_version};
use openwatch_model::schedule::Clamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

/// Longest explanation that is passed on: a parser may quote the document, which an audit row should not repeat.
const DETAIL_LIMIT: usize = 600;

/// Only the version; everything else may be anything.
#[derive(Deserialize)]
struct VersionOnly {
    version: String,
    #[serde(flatten)]
    _rest: std::collections::BTreeMap<String, IgnoredAny>,
}

/// The version of a document, whatever else it says.
pub(super) fn version(document: &[u8]) -> Result<String, String> {
    let VersionOnly { version, .. } = parse(document)?;
    match parse_version(&version) {
        Some(_) => Ok(version),
        None => Err("`version` must be MAJOR.MINOR.PATCH".into()),
    }
}

/// The whole document, checked.
pub(super) fn document(document: &[u8]) -> Result<(Policy, Vec<Clamp>), String> {
    let document: PolicyDocument = parse(document)?;
    document.check().map_err(|problems| {
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        clip(problems.join("; "))
    })
}

fn parse<T: serde::de::DeserializeOwned>(document: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(document).map_err(|_| "the document is not UTF-8".to_owned())?;
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| clip(explain(&error)))
}

/// The library speaks to programmers where a limit of ours is hit; these words are for the author of a policy.
fn explain(error: &serde_saphyr::Error) -> String {
    let what = match error {
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
            format!("key `{}` is there twice", key.as_deref().unwrap_or("?"))
        }
        serde_saphyr::Error::Budget { breach, .. } => match breach {
            BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => {
                "anchors and aliases are not allowed: write the value out".to_owned()
            }
            BudgetBreach::Documents { .. } => "there must be one document, without `---` after it".to_owned(),
            _ => "it is nested deeper or has more entries than any policy".to_owned(),
        },
        other => return other.to_string(),
    };
    match error.location() {
        Some(at) => format!("{what} (line {}, column {})", at.line(), at.column()),
        None => what,
    }
}

/// One document, no anchors, no aliases, no merge keys, no repeated keys, nothing deeper than a policy is (POL-18).
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_anchors: 0,
            max_aliases: 0,
            max_merge_keys: 0,
            max_depth: 16,
            max_nodes: 50_000,
            max_events: 200_000,
        },
    }
}

fn clip(mut text: String) -> String {
    if text.len() > DETAIL_LIMIT {
        let end = (0..=DETAIL_LIMIT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let bad = [
            ("duplicate key", "version: 1.0.0\nversion: 1.0.1\n"),
            ("duplicate nested key", "version: 1.0.0\ntiers: {critical: 5, critical: 60}\n"),
            ("anchor", "version: &v 1.0.0\n"),
            ("alias", "version: 1.0.0\nvariables: {fleet: &f {a: b}, labels: {x=y: *f}}\n"),
            ("merge key", "version: 1.0.0\nvariables: {fleet: {<<: {a: b}}}\n"),
            ("unknown field", "version: 1.0.0\nteirs: {}\n"),
            ("unknown nested field", "version: 1.0.0\ndrift: {mojor: 1}\n"),
            ("two documents", "version: 1.0.0\n---\nversion: 2.0.0\n"),
            ("loose boolean", "version: 1.0.0\nmanual_scan_refreshes_schedule: yes\n"),
            ("not a mapping", "- 1\n"),
            ("unclosed", "version: [1\n"),
            ("no version", "tiers: {}\n"),
            ("bad version", "version: 1.0\n"),
            ("out of range", "version: 1.0.0\nexecutor_timeout_sec: 1\n"),
        ];
        for (what, text) in bad {
            assert!(document(text.as_bytes()).is_err(), "{what}");
        }
        assert!(document(b"version: 1.0.0 # \xff").is_err(), "not UTF-8");
        let deep = format!("version: 1.0.0\nvariables: {}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(document(deep.as_bytes()).is_err(), "deep");
        assert!(document(b"version: 1.0.0\n").is_ok());
    }

    #[test]
    fn explanations_speak_to_the_author() {
        let explained = [
            (
                "version: 1.0.0\ndrift: {major: 1, major: 2}\n",
                "key `major` is there twice (line 2, column 19)",
            ),
            (
                "version: &v 1.0.0\n",
                "anchors and aliases are not allowed: write the value out (line 1, column 13)",
            ),
        ];
        for (text, expect) in explained {
            assert_eq!(document(text.as_bytes()).unwrap_err(), expect);
        }
    }

    #[test]
    fn the_version_is_read_past_a_schema_that_does_not_fit() {
        assert_eq!(version(b"version: 1.2.3\nteirs: {a: [1, {b: c}]}\n"), Ok("1.2.3".into()));
        assert!(version(b"version: 1.2\n").is_err());
        assert!(version(b"version: 1.2.3\nversion: 1.2.4\n").is_err());
    }

    #[test]
    fn explanations_are_bounded() {
        let long = format!("version: 1.0.0\n{}: 1\n", "é".repeat(5000));
        assert!(document(long.as_bytes()).unwrap_err().len() <= DETAIL_LIMIT + 3);
    }
}
