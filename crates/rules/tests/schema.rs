//! The published schema of the rule format says what lint says.
#![cfg(test)]

use std::path::Path;

use openwatch_rules::{CorpusFile, Level, RULE_SCHEMA, lint, read_dir};
use serde_json::Value as Json;

const GOOD: &str = "\
id: good
title: t
description: d
rationale: r
severity: low
category: demo
references:
  cis: {rhel9: {section: '1.1'}, rhel8: [{section: '1.2'}]}
  nist_800_53: [AC-1]
platforms: [{family: rhel, min_version: 8, derivatives: false}]
implementations:
  - when: {all: [apt, dpkg]}
    check: {checks: [{method: command, run: x, expected_exit: 1}, {checks: [{method: file_exists, path: /a}]}]}
  - default: true
    check: {method: config_value, path: /a, key: k, expected: '', comparator: '<='}
    remediation: {steps: [{mechanism: config_set, path: /a, key: k, value: '', separator: ' = '}]}
";

fn validator() -> jsonschema::Validator {
    let schema: Json = serde_json::from_str(RULE_SCHEMA).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::validator_for(&schema).unwrap()
}

fn json(text: &str) -> Json {
    serde_saphyr::from_str(text).unwrap()
}

fn lint_errors(text: &str) -> Vec<&'static str> {
    let findings = lint(&[CorpusFile { path: "demo/good.yml".into(), text: text.into() }]);
    findings.into_iter().filter(|f| f.level == Level::Error).map(|f| f.code).collect()
}

#[test]
fn the_schema_and_lint_refuse_the_same_rules() {
    let validator = validator();
    assert!(validator.is_valid(&json(GOOD)), "{:?}", validator.validate(&json(GOOD)));
    assert_eq!(lint_errors(GOOD), [""; 0]);
    for (replace, with) in [
        ("title: t\n", ""),
        ("severity: low", "severity: urgent"),
        ("severity: low", "severity: low\ntags: one"),
        ("min_version: 8", "min_version: '8'"),
        ("{all: [apt, dpkg]}", "{some: [apt]}"),
        ("{all: [apt, dpkg]}", "[apt]"),
        ("default: true", "default: false"),
        ("when: {all: [apt, dpkg]}", "default: true"),
        ("[AC-1]", "[]"),
        ("method: command", "method: commands"),
        ("method: command, ", ""),
        ("run: x, ", ""),
        ("run: x", "run: x, expect: 1"),
        ("run: x", "run: 5"),
        ("expected_exit: 1", "expected_exit: '1'"),
        ("comparator: '<='", "comparator: '=<'"),
        ("path: /a, key", "key"),
        ("expected: ''", "expected: 5"),
        ("mechanism: config_set", "mechanism: config_sett"),
        ("separator: ' = '", "separator: ': '"),
    ] {
        let text = GOOD.replace(replace, with);
        assert!(text != GOOD, "{replace}");
        assert!(!validator.is_valid(&json(&text)), "the schema takes {with:?} for {replace:?}");
        assert!(!lint_errors(&text).is_empty(), "lint takes {with:?} for {replace:?}");
    }
}

#[test]
fn the_schema_and_lint_know_the_same_mechanisms() {
    let schema: Json = serde_json::from_str(RULE_SCHEMA).unwrap();
    let names = schema["$defs"]["remediation"]["properties"]["mechanism"]["enum"].as_array().unwrap();
    let told = |name: &str| {
        let text = GOOD.replace("mechanism: config_set, path: /a", &format!("mechanism: {name}, odd: /a"));
        let text = text.replace("severity: low", "severity: low\ntransactional: false");
        let files = [CorpusFile { path: "demo/good.yml".into(), text }];
        lint(&files).into_iter().find(|f| f.message.contains("odd")).map(|f| f.message)
    };
    for name in names {
        let name = name.as_str().unwrap();
        assert_eq!(told(name), Some(format!("{name} does not read odd")));
    }
    assert_eq!((names.len(), told("anything_else")), (31, None));
}

/// The rules we ship, and the reference rules where they are here.
#[test]
fn whole_corpora_are_valid() {
    let validator = validator();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["../../rules", "../../../shared/corpus/rules"] {
        let Ok(files) = read_dir(&root.join(dir)) else {
            println!("skipped: {dir} is not here");
            continue;
        };
        for file in files.iter().filter(|file| !file.path.starts_with("defaults.")) {
            let rule = json(&file.text);
            let errors: Vec<_> =
                validator.iter_errors(&rule).map(|e| format!("{e} at {}", e.instance_path())).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", file.path);
        }
    }
}

/// What the judge writes is what the published schema of evidence describes, clipped or not.
#[test]
fn evidence_is_as_published() {
    let schema = include_str!("../../../specs/schemas/evidence.json");
    let schema: serde_json::Value = serde_json::from_str(schema).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let checks = |truncated| openwatch_model::outcome::CheckEvidence {
        method: "command".into(),
        command: "id".into(),
        exit_code: Some(1),
        stdout: "out".into(),
        expected: Some("x".into()),
        truncated,
        ..Default::default()
    };
    let clipped = openwatch_model::outcome::Truncated { original_bytes: 70_000, sha256: "ab".repeat(32) };
    for truncated in [None, Some(clipped)] {
        let evidence = openwatch_model::Evidence { checks: vec![checks(truncated)] };
        let value = serde_json::to_value(&evidence).expect("JSON");
        assert!(validator.is_valid(&value), "{value}");
    }
    assert!(!validator.is_valid(&serde_json::json!({ "checks": [{ "command": "id" }] })));
}
