//! The frame of a rule: its fields, its gates, its defaults.

use openwatch_model::outcome::Severity;

use super::{Report, key_place};
use crate::nearest::nearest;
use crate::probes;
use crate::rule::{Rule, When};

pub(super) fn check(rule: &Rule, report: &mut Report<'_>) {
    for (name, value) in [
        ("title", &rule.title),
        ("description", &rule.description),
        ("rationale", &rule.rationale),
        ("severity", &rule.severity_text),
        ("category", &rule.category),
    ] {
        if value.trim().is_empty() {
            report.error(
                key_place(rule, name),
                "E001",
                format!("the rule has no {name}"),
                &format!("write a `{name}:` line; people read it in reports"),
            );
        }
    }
    let words = [Severity::Low, Severity::Medium, Severity::High, Severity::Critical];
    if !rule.severity_text.is_empty() && !words.iter().any(|word| word.as_str() == rule.severity_text) {
        let message = format!("there is no severity {:?}", rule.severity_text);
        report.error(key_place(rule, "severity"), "E002", message, "one of low, medium, high, critical");
    }
    for (key, at, known) in &rule.places.unread {
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("read are {}", known.join(", ")),
        };
        report.advice(*at, "W105", format!("nobody reads the key {key}"), &hint);
    }
    check_file_name(rule, report);
    check_implementations(rule, report);
    for (name, at) in &rule.places.empty_references {
        report.error(
            *at,
            "E012",
            format!("the references to {name} are empty"),
            "name a control, or drop the key",
        );
    }
}

fn check_file_name(rule: &Rule, report: &mut Report<'_>) {
    let path = report.path().to_owned();
    let (dirs, name) = path.rsplit_once('/').unwrap_or(("", &path));
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    if stem != rule.id {
        let message = format!("the rule {} is in a file named {name}", rule.id);
        report.error(key_place(rule, "id"), "E006", message, "name the file after the rule");
    }
    let dir = dirs.rsplit('/').next().unwrap_or_default();
    if !dir.is_empty() && !rule.category.is_empty() && dir != rule.category {
        let message = format!("the category is {}, the directory {dir}", rule.category);
        report.error(key_place(rule, "category"), "E007", message, "make the two the same");
    }
}

fn check_implementations(rule: &Rule, report: &mut Report<'_>) {
    let at = key_place(rule, "implementations");
    if rule.implementations.is_empty() {
        report.error(at, "E003", "the rule has no implementation", "list at least one, with a check");
        return;
    }
    let defaults = rule.implementations.iter().filter(|i| i.default).count();
    let ungated = rule.implementations.iter().any(|i| !i.default && i.when == When::Absent);
    if defaults > 1 {
        report.error(at, "E004", format!("{defaults} implementations are the default"), "keep one");
    } else if defaults == 0 && ungated {
        report.error(
            at,
            "E004",
            "no implementation is the default",
            "mark the ungated one with default: true",
        );
    }
    for implementation in &rule.implementations {
        if let When::Malformed(why) = &implementation.when {
            let hint = "a capability name, or one of all, any, not";
            report.error(implementation.at, "E013", format!("the gate cannot be read: {why}"), hint);
        }
        for name in implementation.when.names().into_iter().filter(|name| !probes::is_known(name)) {
            let message = format!("there is no capability {name:?}");
            let near = nearest(name, probes::capability_names());
            let hint = match near {
                Some(near) => format!("the gate would never hold; did you mean {near}?"),
                None => "the gate would never hold".into(),
            };
            report.error(implementation.at, "E008", message, &hint);
        }
    }
}
