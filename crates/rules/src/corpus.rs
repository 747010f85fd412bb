//! A corpus: every rule that could be read, and everything that could not.

use std::collections::{BTreeMap, BTreeSet};

use openwatch_model::outcome::{FrameworkRefs, Severity};
use openwatch_model::plan::{Observation, Plan};
use openwatch_model::scan::Selection;

use crate::facts::{self, Facts};
use crate::file::{CorpusFile, Problem, digest, position};
use crate::plan::{self, CheckPlan};
use crate::rule::{Rule, decode};
use crate::select;
use crate::variables::{Filled, Variables, fill, read_corpus_defaults};
use crate::yaml::{Fault, parse};

/// Rules with their variables filled in.
#[derive(Clone, Debug)]
pub struct Corpus {
    rules: BTreeMap<String, Rule>,
    unusable: BTreeMap<String, Unusable>,
    problems: Vec<Problem>,
    variables: BTreeMap<String, String>,
    digest: String,
}

/// A rule that cannot be measured. It still has an outcome: skipped, with this reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Unusable {
    /// From the file, else the file's name.
    pub id: String,
    /// Which file.
    pub path: String,
    /// Where it could be read.
    pub severity: Option<Severity>,
    /// Where they could be read.
    pub references: FrameworkRefs,
    /// Why it cannot be measured.
    pub reason: String,
}

impl Corpus {
    /// Reads rule files. A bad file never stops the others: it is a problem, and a skipped rule.
    pub fn load(files: &[CorpusFile], variables: &Variables) -> Self {
        let mut sorted: Vec<&CorpusFile> = files.iter().collect();
        sorted.sort();
        let (defaults, rules): (Vec<&CorpusFile>, Vec<&CorpusFile>) =
            sorted.into_iter().partition(|file| is_defaults(&file.path));
        let mut declared = BTreeMap::new();
        let mut problems = Vec::new();
        for file in defaults {
            let (values, faults) = read_corpus_defaults(&file.text);
            declared.extend(values);
            problems.extend(faults.into_iter().map(|fault| problem(file, fault.at, fault)));
        }
        let mut corpus = Self {
            rules: BTreeMap::new(),
            unusable: BTreeMap::new(),
            problems,
            variables: variables.over(declared),
            digest: digest(files),
        };
        for file in rules {
            corpus.load_rule(file);
        }
        let loaded: BTreeSet<String> = corpus.rules.keys().cloned().collect();
        corpus.unusable.retain(|id, _| !loaded.contains(id));
        corpus.problems.sort_by(|a, b| (&a.path, a.line, a.column).cmp(&(&b.path, b.line, b.column)));
        corpus
    }

    fn load_rule(&mut self, file: &CorpusFile) {
        let (filled, read) = read_rule(file, &self.variables);
        if let Some(first) = filled.undefined.values().min() {
            let names: Vec<&str> = filled.undefined.keys().map(String::as_str).collect();
            let reason = format!("no value for the variables {}", names.join(", "));
            let fault = Fault::new(*first, reason.as_str());
            self.problems.push(problem(
                file,
                *first,
                fault.hint("give them one in the policy or in defaults.yml"),
            ));
            self.leave_out(file, read.ok(), reason);
            return;
        }
        match read {
            Ok(rule) => {
                if let Some(first) = self.rules.insert(rule.id.clone(), rule) {
                    let message = format!("the rule {} is also in {}", first.id, file.path);
                    let fault = Fault::new(0, message).hint("only the last of the two, by path, is measured");
                    let (line, column) = (1, 1);
                    self.problems.push(Problem {
                        path: first.path,
                        line,
                        column,
                        message: fault.message,
                        hint: fault.hint,
                    });
                }
            }
            Err(faults) => {
                let reason = faults.first().map_or_else(String::new, |fault| fault.message.clone());
                for fault in faults {
                    self.problems.push(problem(file, filled.origin(fault.at), fault));
                }
                self.leave_out(file, None, format!("its file {} cannot be read: {reason}", file.path));
            }
        }
    }

    fn leave_out(&mut self, file: &CorpusFile, rule: Option<Rule>, reason: String) {
        let stem = file.path.rsplit('/').next().unwrap_or(&file.path);
        let stem = stem.strip_suffix(".yml").or_else(|| stem.strip_suffix(".yaml")).unwrap_or(stem);
        let id = rule.as_ref().map(|rule| rule.id.clone()).or_else(|| line_value(&file.text, "id"));
        let id = id.filter(|id| !id.chars().any(|c| c.is_whitespace() || c.is_control()) && id.len() <= 255);
        let severity = rule
            .as_ref()
            .and_then(Rule::severity)
            .or_else(|| line_value(&file.text, "severity").and_then(|word| Severity::parse(&word)));
        let unusable = Unusable {
            id: id.unwrap_or_else(|| stem.to_owned()),
            path: file.path.clone(),
            severity,
            references: rule.map(|rule| rule.references).unwrap_or_default(),
            reason,
        };
        self.unusable.insert(unusable.id.clone(), unusable);
    }

    /// Every rule that can be measured, by id.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values()
    }

    /// One rule that can be measured.
    pub fn rule(&self, id: &str) -> Option<&Rule> {
        self.rules.get(id)
    }

    /// The rules a selection asks for, by id, whatever the host.
    pub fn selected<'a>(&'a self, selection: &'a Selection) -> impl Iterator<Item = &'a Rule> {
        self.rules().filter(|rule| select::asked_rule(selection, rule))
    }

    /// Every rule that cannot be measured, by id.
    pub fn unusable(&self) -> impl Iterator<Item = &Unusable> {
        self.unusable.values()
    }

    /// What is wrong with the files, by path and place.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The values that were filled in.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// SHA-256 of the files as they were before variables were filled in, hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Every framework that some rule speaks to, with the number of those rules.
    pub fn frameworks(&self) -> BTreeMap<&str, usize> {
        let mut frameworks = BTreeMap::new();
        for id in self.rules.values().flat_map(|rule| rule.references.keys()) {
            *frameworks.entry(id.as_str()).or_default() += 1;
        }
        frameworks
    }

    /// What to run on a host before its rules can be chosen.
    pub fn probe_plan(&self) -> Plan {
        facts::probe_plan()
    }

    /// Reads the answers to [`Corpus::probe_plan`]; `overrides` replace what was found.
    pub fn facts(&self, observations: &[Observation], overrides: &BTreeMap<String, bool>) -> Facts {
        facts::facts(observations, overrides)
    }

    /// Chooses and compiles the selected rules for one host.
    pub fn plan(&self, facts: &Facts, selection: &Selection) -> CheckPlan {
        plan::compile(self, facts, selection)
    }
}

/// A corpus's own variables: a file at its top.
pub(crate) fn is_defaults(path: &str) -> bool {
    matches!(path, "defaults.yml" | "defaults.yaml")
}

/// Fills in a file's variables and reads it.
pub(crate) fn read_rule(
    file: &CorpusFile,
    variables: &BTreeMap<String, String>,
) -> (Filled, Result<Rule, Vec<Fault>>) {
    let filled = fill(&file.text, |name| variables.get(name).map(String::as_str));
    if let Some(at) = file.text.find('\u{fffd}') {
        let fault = Fault::new(at, "the file holds a replacement character, so it was probably not UTF-8");
        return (filled, Err(vec![fault.hint("save it as UTF-8")]));
    }
    let read = match parse(&filled.text) {
        Err(fault) => Err(vec![fault]),
        Ok(None) => Err(vec![Fault::new(0, "the file is empty")]),
        Ok(Some(document)) => decode(&document, &file.path),
    };
    (filled, read)
}

/// A fault, placed in the file as written.
pub(crate) fn problem(file: &CorpusFile, at: usize, fault: Fault) -> Problem {
    let (line, column) = position(&file.text, at);
    Problem { path: file.path.clone(), line, column, message: fault.message, hint: fault.hint }
}

/// The value of a top-level key in a file that cannot be read as a whole.
fn line_value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?.trim();
    let value = value.trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}
