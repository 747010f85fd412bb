//! Check blocks against the contracts of their methods: a parameter that nobody reads is a question nobody asks.

use super::Report;
use crate::method::{self, CONTRACTS, Contract, Stop};
use crate::nearest::nearest;
use crate::rule::{Leaf, Rule, Value};

pub(super) fn check(rule: &Rule, report: &mut Report<'_>) {
    for implementation in &rule.implementations {
        match &implementation.check {
            None => {
                let hint = "add check: with a method; the rule would end in error";
                report.error(implementation.at, "E010", "the implementation has no check", hint);
            }
            Some(check) => check.leaves().for_each(|leaf| check_leaf(leaf, report)),
        }
    }
}

fn check_leaf(leaf: &Leaf, report: &mut Report<'_>) {
    let method = leaf.method.as_str();
    let Some(contract) = Contract::of(method) else {
        let message = if method.is_empty() {
            "the check names no method".into()
        } else {
            format!("there is no method {method:?}")
        };
        let near = nearest(method, CONTRACTS.iter().map(|contract| contract.method));
        let hint = near.map_or_else(
            || "the methods are listed in specs/schemas/rule.json".to_owned(),
            |near| format!("did you mean {near}?"),
        );
        report.error(leaf.at, "E010", message, &hint);
        return;
    };
    let mut complete = true;
    for name in contract.required.iter().filter(|name| !leaf.params.contains_key(**name)) {
        complete = false;
        report.error(leaf.at, "E010", format!("{method} wants {name}"), &format!("add {name}: to the check"));
    }
    if !contract.one_of.is_empty() && !contract.one_of.iter().any(|name| leaf.params.contains_key(*name)) {
        complete = false;
        report.error(
            leaf.at,
            "E010",
            format!("{method} wants one of {}", contract.one_of.join(", ")),
            "add one of them to the check",
        );
    }
    for name in leaf.params.keys().filter(|name| !contract.knows(name)) {
        report.error(
            leaf.place(name),
            "E010",
            format!("{method} does not read {name}"),
            &match nearest(name, contract.params()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("it reads {}", contract.params().collect::<Vec<_>>().join(", ")),
            },
        );
    }
    for (name, words) in contract.words {
        let Some(value) = leaf.params.get(*name) else { continue };
        if !matches!(value, Value::Text(text) if words.contains(&text.as_str())) {
            let hint = format!("one of {}", words.join(", "));
            report.error(leaf.place(name), "E011", format!("{name} does not know this value"), &hint);
        }
    }
    if complete {
        check_types(leaf, report);
    }
}

/// Values whose type makes a check error, or silently makes it another check.
fn check_types(leaf: &Leaf, report: &mut Report<'_>) {
    if let Err(Stop::Broken(why)) = method::compile(leaf) {
        report.error(leaf.at, "E016", why, "the rule would end in error on every host");
        return;
    }
    for name in ["expected", "expected_output", "expected_stdout", "authorized", "mode", "owner", "group"] {
        if let Some(value) = leaf.params.get(name).filter(|value| !matches!(value, Value::Text(_))) {
            let message = format!("{name} is {}, not text, and would be read as empty", value.noun());
            report.error(leaf.place(name), "E016", message, "quote it");
        }
    }
    for name in ["enabled", "active"] {
        if let Some(value) = leaf.params.get(name).filter(|value| !matches!(value, Value::Bool(_))) {
            let message = format!("{name} is {}, and would be read as false", value.noun());
            report.error(leaf.place(name), "E016", message, "write true or false without quotes");
        }
    }
    for name in ["expected_exit", "not_assessable_exit"] {
        if let Some(value) = leaf.params.get(name).filter(|value| !matches!(value, Value::Int(_))) {
            let message = format!("{name} is {}, not a whole number", value.noun());
            report.error(leaf.place(name), "E016", message, "write the number without quotes");
        }
    }
}
