//! `rules show`: one rule, whole.

use openwatch_rules::{Check, Corpus, Implementation, Leaf, Rule, Value, When, did_you_mean};
use serde_json::{Value as Json, json};

use crate::client::table;
use crate::exit::Failure;

pub(super) fn run(corpus: &Corpus, id: &str, as_json: bool) -> Result<(), Failure> {
    let rule = corpus.rule(id).ok_or_else(|| missing(corpus, id))?;
    if as_json {
        return table::json(&json!({
            "id": rule.id, "path": rule.path, "title": rule.title, "description": rule.description,
            "rationale": rule.rationale, "severity": rule.severity_text, "category": rule.category, "tags": rule.tags,
            "references": rule.references, "platforms": rule.targets(),
            "depends_on": rule.depends_on, "conflicts_with": rule.conflicts_with, "supersedes": rule.supersedes,
            "implementations": rule.implementations.iter().map(implementation).collect::<Vec<_>>(),
        }));
    }
    for line in lines(rule) {
        table::line(&line);
    }
    Ok(())
}

fn missing(corpus: &Corpus, id: &str) -> Failure {
    match corpus.unusable().find(|u| u.id == id) {
        Some(unusable) => Failure::usage(format!("the rule `{id}` cannot be used: {}", unusable.reason)),
        None => {
            let near = did_you_mean(id, corpus.rules().map(|rule| rule.id.as_str()));
            Failure::usage(format!("there is no rule `{id}`{near}\n  `openwatch rules list` names them"))
        }
    }
}

fn lines(rule: &Rule) -> Vec<String> {
    let mut lines = vec![
        format!("{}: {}", rule.id, rule.title),
        format!("{}, {}, {}", rule.severity_text, rule.category, rule.path),
        format!("\n{}\n\n{}\n", rule.description.trim(), rule.rationale.trim()),
    ];
    let targets = rule.targets();
    lines.push(format!("platforms: {}", if targets.is_empty() { "all" } else { &targets }));
    if !rule.tags.is_empty() {
        lines.push(format!("tags: {}", rule.tags.join(", ")));
    }
    for (framework, controls) in &rule.references {
        lines.push(format!("{framework}: {}", controls.join(", ")));
    }
    for (word, ids) in [
        ("after", &rule.depends_on),
        ("contradicts", &rule.conflicts_with),
        ("takes the place of", &rule.supersedes),
    ] {
        if !ids.is_empty() {
            lines.push(format!("{word}: {}", ids.join(", ")));
        }
    }
    for implementation in &rule.implementations {
        let gate = match (&implementation.default, &implementation.when) {
            (true, _) => "by default".to_owned(),
            (false, When::Absent) => "always".to_owned(),
            (false, when) => format!("with {when}"),
        };
        lines.push(format!("\nchecked {gate}:"));
        for leaf in implementation.check.iter().flat_map(Check::leaves) {
            lines.push(format!("  {}", leaf.method));
            lines.extend(leaf.params.iter().map(|(name, value)| format!("    {name}: {}", text(value))));
        }
    }
    lines
}

/// A value on one line, or as a block below its name.
fn text(value: &Value) -> String {
    match value {
        Value::Text(text) if text.trim_end().contains('\n') => {
            text.trim_end().lines().map(|line| format!("\n      {line}")).collect()
        }
        Value::Text(text) => text.trim_end().to_owned(),
        other => plain(other).to_string(),
    }
}

fn implementation(it: &Implementation) -> Json {
    let check = |leaf: &Leaf| {
        let params: serde_json::Map<_, _> =
            leaf.params.iter().map(|(name, value)| (name.clone(), plain(value))).collect();
        json!({ "method": leaf.method, "params": params })
    };
    let when = (it.when != When::Absent).then(|| it.when.to_string());
    json!({
        "when": when,
        "default": it.default,
        "checks": it.check.iter().flat_map(Check::leaves).map(check).collect::<Vec<_>>(),
    })
}

fn plain(value: &Value) -> Json {
    match value {
        Value::Null | Value::Timestamp => Json::Null,
        Value::Bool(it) => json!(it),
        Value::Int(it) => json!(it),
        Value::Float(it) => json!(it),
        Value::Text(it) => json!(it),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(map) => map.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
    }
}
