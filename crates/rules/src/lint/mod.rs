//! Lint: what a rule's author should know before a host does. Loading is lenient, lint is not.

mod advice;
mod checks;
mod remedies;
mod script;
mod structure;

use std::collections::BTreeMap;

use crate::corpus::{Corpus, is_defaults, read_rule};
use crate::file::{CorpusFile, position};
use crate::nearest::nearest;
use crate::order::order;
use crate::rule::Rule;
use crate::variables::{Filled, Variables};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The rule breaks a promise of the format, or cannot be measured.
    Error,
    /// The rule can be measured; a person should look.
    Advice,
}

/// One thing lint found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which file.
    pub path: String,
    /// Line in the file as written, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Stable name of the constraint: `E…` are errors, `W…` advice.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// How much it matters.
    pub level: Level,
}

/// Checks a corpus, with the built-in variables and its own. Sorted by file and place.
pub fn lint(files: &[CorpusFile]) -> Vec<Finding> {
    let corpus = Corpus::load(files, &Variables::builtin());
    let mut findings: Vec<Finding> = corpus
        .problems()
        .iter()
        .cloned()
        .map(|problem| Finding {
            path: problem.path,
            line: problem.line,
            column: problem.column,
            code: "E000",
            message: problem.message,
            hint: problem.hint,
            level: Level::Error,
        })
        .collect();
    let mut places = BTreeMap::new();
    for file in files.iter().filter(|file| !is_defaults(&file.path)) {
        let (filled, Ok(rule)) = read_rule(file, corpus.variables()) else { continue };
        let mut report = Report { file, filled: &filled, findings: &mut findings };
        structure::check(&rule, &mut report);
        checks::check(&rule, &mut report);
        remedies::check(&rule, &mut report);
        advice::check(&rule, &mut report);
        let at = |key: &str| rule.places.keys.get(key).map_or(0, |at| filled.origin(*at));
        places.insert(rule.id.clone(), (file, at("depends_on"), at("conflicts_with"), at("supersedes")));
    }
    check_relations(&corpus, &places, &mut findings);
    findings.sort_by(|a, b| (&a.path, a.line, a.column, a.code).cmp(&(&b.path, b.line, b.column, b.code)));
    findings.dedup();
    findings
}

type RelationPlaces<'f> = BTreeMap<String, (&'f CorpusFile, usize, usize, usize)>;

/// What rules say about each other.
fn check_relations(corpus: &Corpus, places: &RelationPlaces<'_>, findings: &mut Vec<Finding>) {
    let order = order(corpus.rules());
    for rule in corpus.rules() {
        let Some((file, depends, conflicts, supersedes)) = places.get(&rule.id) else { continue };
        let mut told = |at: usize, code, level, message: String, hint: &str| {
            let (line, column) = position(&file.text, at);
            findings.push(Finding {
                path: file.path.clone(),
                line,
                column,
                code,
                message,
                hint: Some(hint.to_owned()),
                level,
            });
        };
        if order.cyclic.contains(rule.id.as_str()) {
            told(
                *depends,
                "E015",
                Level::Error,
                "the rule is in a dependency cycle, or depends on one".into(),
                "it would be skipped on every host; drop one depends_on of the cycle",
            );
        }
        for (at, ids) in
            [(depends, &rule.depends_on), (conflicts, &rule.conflicts_with), (supersedes, &rule.supersedes)]
        {
            for id in ids.iter().filter(|id| corpus.rule(id).is_none()) {
                let near = nearest(id, corpus.rules().map(|rule| rule.id.as_str()));
                let hint = match near {
                    Some(near) => format!("did you mean {near}?"),
                    None => "drop the name, or add the rule".into(),
                };
                told(*at, "W103", Level::Advice, format!("there is no rule {id} in this corpus"), &hint);
            }
        }
        for (one, other) in order.conflicts.iter().filter(|(one, _)| *one == rule.id) {
            let at = if rule.conflicts_with.iter().any(|id| id == other) { *conflicts } else { 0 };
            let message = format!("{one} and {other} contradict each other, and both are measured");
            told(at, "W104", Level::Advice, message, "let one supersede the other, or gate them apart");
        }
    }
}

/// Where the parts of lint put what they find.
pub(crate) struct Report<'a> {
    file: &'a CorpusFile,
    filled: &'a Filled,
    findings: &'a mut Vec<Finding>,
}

impl Report<'_> {
    pub(crate) fn path(&self) -> &str {
        &self.file.path
    }

    pub(crate) fn error(&mut self, at: usize, code: &'static str, message: impl Into<String>, hint: &str) {
        self.push(at, code, Level::Error, message.into(), hint);
    }

    pub(crate) fn advice(&mut self, at: usize, code: &'static str, message: impl Into<String>, hint: &str) {
        self.push(at, code, Level::Advice, message.into(), hint);
    }

    fn push(&mut self, at: usize, code: &'static str, level: Level, message: String, hint: &str) {
        let (line, column) = position(&self.file.text, self.filled.origin(at));
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.findings.push(Finding {
            path: self.file.path.clone(),
            line,
            column,
            code,
            message,
            hint,
            level,
        });
    }
}

/// Where a top-level key stands.
pub(crate) fn key_place(rule: &Rule, key: &str) -> usize {
    rule.places.keys.get(key).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests;
