//! Holds `specs/*.spec.yaml` against the tests.
//!
//! `specs` alone checks the sources: every criterion has a test marked with it, no mark names something unknown, no
//! constraint is without a criterion. `specs LOG` also reads the output of `cargo test -- --show-output` and wants a
//! *passing* test for each criterion, recognised by the two lines that it prints.

#![allow(clippy::print_stdout, reason = "a command line tool")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    id: String,
    constraints: Vec<Constraint>,
    acceptance_criteria: Vec<Criterion>,
}

#[derive(Deserialize)]
struct Constraint {
    id: String,
}

#[derive(Deserialize)]
struct Criterion {
    id: String,
    references_constraints: Vec<String>,
}

/// Spec id and criterion id.
type Mark = (String, String);

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let log = std::env::args().nth(1);
    match check(&root, log.as_deref()) {
        Ok(criteria) if log.is_some() => println!("specs: {criteria} criteria, each with a passing test"),
        Ok(criteria) => println!("specs: {criteria} criteria, each with a test"),
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("specs: {problem}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn check(root: &Path, log: Option<&str>) -> Result<usize, Vec<String>> {
    let mut problems = Vec::new();
    let mut criteria = BTreeSet::new();
    for path in files(&root.join("specs"), "spec.yaml") {
        match std::fs::read_to_string(&path)
            .map_err(|e| e.to_string())
            .and_then(|text| serde_saphyr::from_str::<File>(&text).map_err(|e| e.to_string()))
        {
            Ok(file) => read_spec(file.spec, &mut criteria, &mut problems),
            Err(error) => problems.push(format!("{}: {error}", path.display())),
        }
    }
    let mut marked: BTreeMap<Mark, usize> = BTreeMap::new();
    for path in files(&root.join("crates"), "rs").into_iter().chain(files(&root.join("tests"), "rs")) {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        for mark in marks(text.lines().filter_map(|line| line.trim().strip_prefix("// "))) {
            if !criteria.contains(&mark) {
                problems.push(format!("{}: marks {} {}, which no spec has", path.display(), mark.0, mark.1));
            }
            *marked.entry(mark).or_default() += 1;
        }
    }
    let passed = log.map(|path| passed(path, &mut problems));
    for mark in &criteria {
        match &passed {
            _ if !marked.contains_key(mark) => problems.push(format!("{} {} has no test", mark.0, mark.1)),
            Some(passed) if !passed.contains(mark) => {
                problems.push(format!("{} {} has no passing test", mark.0, mark.1));
            }
            _ => {}
        }
    }
    if problems.is_empty() { Ok(criteria.len()) } else { Err(problems) }
}

fn read_spec(spec: Spec, criteria: &mut BTreeSet<Mark>, problems: &mut Vec<String>) {
    let mut orphans: BTreeSet<_> = spec.constraints.into_iter().map(|c| c.id).collect();
    let known = orphans.clone();
    for criterion in spec.acceptance_criteria {
        for constraint in &criterion.references_constraints {
            orphans.remove(constraint);
            if !known.contains(constraint) {
                problems
                    .push(format!("{} {} speaks of {constraint}, which is not there", spec.id, criterion.id));
            }
        }
        if !criteria.insert((spec.id.clone(), criterion.id.clone())) {
            problems.push(format!("{} {} stands twice", spec.id, criterion.id));
        }
    }
    problems.extend(orphans.iter().map(|c| format!("{} {c} has no criterion", spec.id)));
}

/// Reads `@spec X` lines, each followed by one or more `@ac AC-NN`.
fn marks<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Mark> {
    let mut spec = None;
    let mut found = Vec::new();
    for line in lines {
        if let Some(id) = line.strip_prefix("@spec ") {
            spec = Some(id.trim().to_owned());
        } else if let (Some(spec), Some(ac)) = (&spec, line.strip_prefix("@ac ")) {
            found.push((spec.clone(), ac.trim().to_owned()));
        }
    }
    found
}

/// Marks printed by tests that passed: those under `successes:`, not those under `failures:`.
fn passed(log: &str, problems: &mut Vec<String>) -> BTreeSet<Mark> {
    let Ok(text) = std::fs::read_to_string(log) else {
        problems.push(format!("{log} cannot be read; `make test` writes it"));
        return BTreeSet::new();
    };
    let mut in_successes = false;
    let printed = text.lines().filter(|line| {
        match line.trim_end() {
            "successes:" => in_successes = true,
            "failures:" => in_successes = false,
            _ => {}
        }
        in_successes
    });
    marks(printed.map(str::trim)).into_iter().collect()
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(&format!(".{ending}")) {
            found.push(path);
        }
    }
    found.sort();
    found
}
