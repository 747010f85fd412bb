//! The registry against the program that uses it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use openwatch_model::audit::{CATEGORIES, REGISTRY};

pub(crate) fn checkout() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Source of the program as it runs: without tests, and without the registry itself.
pub(crate) fn production(dir: &Path, into: &mut String) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            production(&path, into);
        } else if name.ends_with(".rs") && name != "tests.rs" && !path.ends_with("model/src/audit.rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Tests come last in a file.
            into.push_str(text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default());
        }
    }
}

// @spec audit
// @ac AC-01
#[test]
fn every_code_is_written_somewhere_in_the_program() {
    super::proves("AC-01");
    let mut text = String::new();
    for entry in fs::read_dir(checkout().join("crates")).unwrap() {
        production(&entry.unwrap().path().join("src"), &mut text);
    }
    let words: BTreeSet<_> = text
        .match_indices(" {")
        .map(|(end, _)| {
            let head = &text[..end];
            let start = head.rfind(|c: char| !c.is_alphanumeric()).map_or(0, |at| at + 1);
            &head[start..]
        })
        .collect();
    let unused: Vec<_> =
        REGISTRY.iter().filter(|entry| !words.contains(entry.name)).map(|entry| entry.code).collect();
    assert_eq!(unused, Vec::<&str>::new(), "nothing in the program ever writes these codes");
}

/// To renew: `UPDATE_SPECS=1 cargo test -p openwatch-tests --test it -- audit::registry`.
#[test]
fn the_printed_registry_is_current() {
    let mut text = String::from(
        "# Audit codes\n\nWritten from the registry in `crates/model/src/audit.rs`. Read them with `openwatch audit`, over REST \
         (`GET /api/v1/audit`, `/api/v1/audit/export` for CSV) or from the stream `OW_AUDIT`; `--code` takes a code or a category.\n",
    );
    for (category, about) in CATEGORIES {
        let _ = write!(
            text,
            "\n## {category}: {about}\n\n| code | severity | says | detail |\n|---|---|---|---|\n"
        );
        for entry in REGISTRY.iter().filter(|entry| entry.category() == *category) {
            let fields = entry.fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
            let (code, severity, about) = (entry.code, entry.severity.as_str(), entry.about.trim());
            let _ = writeln!(text, "| `{code}` | {severity} | {about} | {fields} |");
        }
    }
    let path = checkout().join("docs/AUDIT.md");
    if std::env::var_os("UPDATE_SPECS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/AUDIT.md is not current; UPDATE_SPECS=1 renews it");
}
