//! `rules lint`: what a rule's author should know before a host does.

use std::path::Path;

use openwatch_rules::{Finding, Level, lint};
use serde_json::json;

use crate::client::table;
use crate::corpus_files;
use crate::exit::Failure;

pub(super) fn run(dir: Option<&Path>, as_json: bool) -> Result<u8, Failure> {
    let files = corpus_files::load(dir)?;
    let findings = lint(&files);
    let errors = findings.iter().filter(|f| f.level == Level::Error).count();
    // As an editor, or a machine that annotates a change, can open it.
    let path = |f: &Finding| match dir {
        Some(dir) if dir.is_dir() => dir.join(&f.path).display().to_string(),
        Some(file) => file.display().to_string(),
        None => f.path.clone(),
    };
    if as_json {
        let row = |f: &Finding| {
            json!({
                "path": path(f), "line": f.line, "column": f.column, "code": f.code, "level": level(f),
                "message": f.message, "hint": f.hint,
            })
        };
        table::json(&findings.iter().map(row).collect::<Vec<_>>())?;
    } else {
        for f in &findings {
            let hint = f.hint.as_ref().map(|hint| format!("\n    {hint}")).unwrap_or_default();
            let (path, level) = (path(f), level(f));
            table::line(&format!("{path}:{}:{}: {level} {}: {}{hint}", f.line, f.column, f.code, f.message));
        }
        table::line(&format!(
            "{}, {}, {} of advice",
            table::count(files.len(), "file"),
            table::count(errors, "error"),
            table::count(findings.len() - errors, "piece")
        ));
        if files.iter().any(|file| file.text.contains("remediation:")) {
            table::line("parameters of remediations are not checked: nothing here runs them");
        }
    }
    Ok(u8::from(errors > 0))
}

fn level(finding: &Finding) -> &'static str {
    match finding.level {
        Level::Error => "error",
        Level::Advice => "advice",
    }
}
