//! The corpus we ship, rule by rule: each is planned alone, its commands run for real on pretend hosts, and the
//! judge's verdict compared with what the fixture says. Fixtures: `own_corpus/<category>.yml`.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "in a test a broken set-up is a failed test")]

#[path = "own_corpus/host.rs"]
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use host::{Case, Host};
use openwatch_model::host::Platform;
use openwatch_model::outcome::Status;
use openwatch_model::scan::Selection;
use openwatch_rules::{Corpus, CorpusFile, Facts, Value, Variables, lint, read_dir};
use serde::Deserialize;

/// What makes a rule end each way.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectations {
    #[serde(default)]
    pass: Vec<Case>,
    #[serde(default)]
    fail: Vec<Case>,
    #[serde(default)]
    skipped: Vec<Case>,
}

const CATEGORIES: [&str; 8] =
    ["accounts", "filesystem", "kernel", "logging", "network", "packages", "services", "ssh"];

fn files() -> Vec<CorpusFile> {
    read_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rules")).unwrap()
}

fn corpus(set: &BTreeMap<String, String>) -> Corpus {
    Corpus::load(&files(), &Variables::builtin().with(set).unwrap())
}

fn expectations(category: &str) -> BTreeMap<String, Expectations> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/own_corpus/{category}.yml"));
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn facts(case: &Case) -> Facts {
    let (family, version) = if case.is_el() { ("rhel", "9.4") } else { ("debian", "12") };
    let usual: &[&str] = if case.is_el() { &[] } else { &["apt", "dpkg"] };
    let names = case.with.clone().unwrap_or_else(|| usual.iter().map(|name| (*name).to_owned()).collect());
    Facts {
        platform: Platform { family: family.into(), version: version.into(), name: String::new() },
        capabilities: names.into_iter().map(|name| (name, true)).collect(),
        ..Facts::default()
    }
}

fn only(rule: &str) -> Selection {
    Selection { framework: "*".into(), rules: vec![rule.to_owned()] }
}

/// Runs every fixture of one category; all that differ are told together.
fn check(category: &str) {
    let builtin = corpus(&BTreeMap::new());
    let mut wrong = Vec::new();
    for (rule, expectations) in expectations(category) {
        let wanted = [
            (Status::Pass, &expectations.pass),
            (Status::Fail, &expectations.fail),
            (Status::Skipped, &expectations.skipped),
        ];
        for (status, cases) in wanted {
            for (i, case) in cases.iter().enumerate() {
                let own = (!case.set.is_empty()).then(|| corpus(&case.set));
                let plan = own.as_ref().unwrap_or(&builtin).plan(&facts(case), &only(&rule));
                let host = Host::new(case);
                let judged = plan.judge(&host.observe(&plan.plan));
                let [outcome] = judged.outcomes.as_slice() else { panic!("{rule} alone is one outcome") };
                if outcome.status != status {
                    wrong.push(format!("{rule}: {} case {i} ended as {outcome:?}", status.as_str()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn accounts() {
    check("accounts");
}

#[test]
fn filesystem() {
    check("filesystem");
}

#[test]
fn kernel() {
    check("kernel");
}

#[test]
fn logging() {
    check("logging");
}

#[test]
fn network() {
    check("network");
}

#[test]
fn packages() {
    check("packages");
}

#[test]
fn services() {
    check("services");
}

#[test]
fn ssh() {
    check("ssh");
}

#[test]
fn every_rule_has_a_fixture_for_each_way_to_end() {
    let corpus = corpus(&BTreeMap::new());
    let rules: BTreeSet<(String, String)> =
        corpus.rules().map(|rule| (rule.category.clone(), rule.id.clone())).collect();
    let mut covered = BTreeSet::new();
    for category in CATEGORIES {
        for (rule, expectations) in expectations(category) {
            assert!(!expectations.pass.is_empty(), "{rule} has no passing host");
            assert!(!expectations.fail.is_empty(), "{rule} has no failing host");
            covered.insert((category.to_owned(), rule));
        }
    }
    assert_eq!(rules, covered);
    assert!(rules.len() >= 60, "{} rules", rules.len());
}

#[test]
fn the_corpus_is_clean_and_broad() {
    let findings = lint(&files());
    assert!(findings.is_empty(), "{findings:#?}");

    let corpus = corpus(&BTreeMap::new());
    let methods: BTreeSet<_> =
        corpus.rules().flat_map(|rule| rule.leaves()).map(|leaf| leaf.method.clone()).collect();
    assert!(methods.len() >= 12, "{methods:?}");
    for rule in corpus.rules() {
        assert!(
            rule.severity().is_some() && !rule.references.is_empty() && !rule.platforms.is_empty(),
            "{}",
            rule.id
        );
        assert_eq!(rule.path, format!("{}/{}.yml", rule.category, rule.id));
    }
}

/// Whatever machine this runs on, our scripts of both families are good shell, end soon and keep stderr quiet.
#[test]
#[cfg(target_os = "linux")]
fn scripts_are_quiet_and_quick_here() {
    let corpus = corpus(&BTreeMap::new());
    let ours: BTreeSet<&str> = corpus
        .rules()
        .flat_map(|rule| rule.leaves())
        .filter_map(|leaf| leaf.params.get("run").or_else(|| leaf.params.get("observed_command")))
        .map(|value| if let Value::Text(script) = value { script } else { panic!("a script is text") })
        .map(String::as_str)
        .collect();
    for script in &ours {
        let sh = |args: &[&str]| Command::new("sh").args(args).stdin(Stdio::null()).output().unwrap();
        let read = sh(&["-n", "-c", script]);
        assert!(read.status.success() && read.stderr.is_empty(), "{script}\n{read:?}");
        let started = Instant::now();
        let ran = sh(&["-c", script]);
        assert!(ran.stderr.is_empty(), "{script}\n{ran:?}");
        assert!(started.elapsed() < Duration::from_secs(60), "{script}");
    }
    assert!(ours.len() >= 50, "{}", ours.len());
}
