//! From the tree of a file to a rule, telling every type that does not fit.

use std::collections::BTreeMap;

use super::{Check, Implementation, Leaf, Places, PlatformSpec, Rule, Value, When};
use crate::framework;
use crate::yaml::{Fault, Kind, Node, Scalar};

type Entries = [(Node, Node)];

const RULE_KEYS: &[&str] = &[
    "id",
    "title",
    "description",
    "rationale",
    "severity",
    "category",
    "tags",
    "references",
    "platforms",
    "implementations",
    "depends_on",
    "conflicts_with",
    "supersedes",
    "transactional",
];
const PLATFORM_KEYS: &[&str] = &["family", "min_version", "max_version", "derivatives"];
const IMPLEMENTATION_KEYS: &[&str] = &["when", "default", "check", "remediation"];

/// Decodes a document. Unknown keys are ignored; a known key of another type is a fault.
pub(crate) fn decode(document: &Node, path: &str) -> Result<Rule, Vec<Fault>> {
    let Kind::Map(top) = &document.kind else {
        return Err(vec![Fault::new(document.at, format!("a rule is a map, this is {}", document.noun()))]);
    };
    let mut faults = Vec::new();
    let f = &mut faults;
    let keys = top.iter().filter_map(|(key, _)| Some((key.text()?, key.at))).collect();
    let references = find(top, "references").filter(|node| !node.is_null());
    let rule = Rule {
        id: text(top, "id", f),
        path: path.to_owned(),
        title: text(top, "title", f),
        description: text(top, "description", f),
        rationale: text(top, "rationale", f),
        severity_text: text(top, "severity", f),
        category: text(top, "category", f),
        tags: texts(top, "tags", f),
        references: references
            .map(|node| framework::references(entries(node, "references", f)))
            .unwrap_or_default(),
        platforms: each(top, "platforms", f, platform),
        implementations: each(top, "implementations", f, implementation),
        depends_on: texts(top, "depends_on", f),
        conflicts_with: texts(top, "conflicts_with", f),
        supersedes: texts(top, "supersedes", f),
        transactional: flag(top, "transactional", true, f),
        places: Places {
            keys,
            empty_references: references
                .map(|node| framework::empty(entries(node, "references", &mut Vec::new())))
                .unwrap_or_default(),
            unread: unread(top),
        },
    };
    if rule.id.is_empty() && f.is_empty() {
        f.push(Fault::new(document.at, "the rule has no id").hint("name it after its file"));
    } else if rule.id.len() > 255 || rule.id.contains(|c: char| c.is_control() || c.is_whitespace()) {
        let at = rule.places.keys.get("id").copied().unwrap_or(document.at);
        f.push(Fault::new(at, "a rule id holds no blanks or control characters and is at most 255 bytes"));
    }
    if faults.is_empty() { Ok(rule) } else { Err(faults) }
}

/// Keys that are ignored: a misspelt `platforms` makes a rule one for every host.
fn unread(top: &Entries) -> Vec<(String, usize, &'static [&'static str])> {
    let mut found = Vec::new();
    let mut look = |map: &Entries, known: &'static [&'static str]| {
        let keys = map.iter().filter_map(|(key, _)| Some((key.text()?, key.at)));
        found
            .extend(keys.filter(|(key, _)| !known.contains(&key.as_str())).map(|(key, at)| (key, at, known)));
    };
    look(top, RULE_KEYS);
    for (name, known) in [("platforms", PLATFORM_KEYS), ("implementations", IMPLEMENTATION_KEYS)] {
        let Some(Node { kind: Kind::List(items), .. }) = find(top, name) else { continue };
        for item in items {
            if let Kind::Map(map) = &item.kind {
                look(map, known);
            }
        }
    }
    found
}

fn find<'a>(map: &'a Entries, name: &str) -> Option<&'a Node> {
    map.iter().find(|(key, _)| key.text().as_deref() == Some(name)).map(|(_, value)| value)
}

fn entries<'a>(node: &'a Node, name: &str, faults: &mut Vec<Fault>) -> &'a Entries {
    match &node.kind {
        Kind::Map(entries) => entries,
        _ => {
            faults.push(Fault::new(node.at, format!("{name} is {}, not a map", node.noun())));
            &[]
        }
    }
}

fn text(map: &Entries, name: &str, faults: &mut Vec<Fault>) -> String {
    let Some(node) = find(map, name) else { return String::new() };
    node.text().unwrap_or_else(|| {
        faults.push(Fault::new(node.at, format!("{name} is {}, not text", node.noun())));
        String::new()
    })
}

fn texts(map: &Entries, name: &str, faults: &mut Vec<Fault>) -> Vec<String> {
    each(map, name, faults, |node, faults| {
        node.text().unwrap_or_else(|| {
            faults.push(Fault::new(node.at, format!("{name} holds {}, not text", node.noun())));
            String::new()
        })
    })
}

fn each<T>(
    map: &Entries,
    name: &str,
    faults: &mut Vec<Fault>,
    read: impl Fn(&Node, &mut Vec<Fault>) -> T,
) -> Vec<T> {
    match find(map, name) {
        Some(Node { kind: Kind::List(items), .. }) => items.iter().map(|item| read(item, faults)).collect(),
        Some(node) if !node.is_null() => {
            faults.push(Fault::new(node.at, format!("{name} is {}, not a list", node.noun())));
            Vec::new()
        }
        _ => Vec::new(),
    }
}

/// A truth value; here, unlike in a parameter, `yes` and `no` are two.
fn flag(map: &Entries, name: &str, default: bool, faults: &mut Vec<Fault>) -> bool {
    let Some(node) = find(map, name) else { return default };
    match node.scalar() {
        Some(Scalar::Null) => default,
        Some(Scalar::Bool(value)) => value,
        Some(Scalar::Text(word)) if ["y", "Y", "yes", "on"].contains(&word.as_str()) => true,
        Some(Scalar::Text(word)) if ["n", "N", "no", "off"].contains(&word.as_str()) => false,
        _ => {
            faults.push(Fault::new(node.at, format!("{name} is {}, not true or false", node.noun())));
            default
        }
    }
}

fn version(map: &Entries, name: &str, faults: &mut Vec<Fault>) -> i64 {
    let Some(node) = find(map, name) else { return 0 };
    match node.scalar() {
        Some(Scalar::Null) => 0,
        Some(Scalar::Int(number)) => number,
        Some(Scalar::Float(number)) if number.is_finite() => number as i64,
        _ => {
            let fault = Fault::new(node.at, format!("{name} is {}, not a whole number", node.noun()));
            faults.push(fault.hint("write the major version without quotes"));
            0
        }
    }
}

fn platform(node: &Node, faults: &mut Vec<Fault>) -> PlatformSpec {
    let map = entries(node, "a platform", faults);
    PlatformSpec {
        family: text(map, "family", faults),
        min_version: version(map, "min_version", faults),
        max_version: version(map, "max_version", faults),
        derivatives: flag(map, "derivatives", true, faults),
    }
}

fn implementation(node: &Node, faults: &mut Vec<Fault>) -> Implementation {
    let map = entries(node, "an implementation", faults);
    Implementation {
        when: find(map, "when").map_or(When::Absent, When::of),
        default: flag(map, "default", false, faults),
        check: find(map, "check").filter(|node| !node.is_null()).map(|node| check(node, faults)),
        remedies: find(map, "remediation").map(remedies).unwrap_or_default(),
        at: node.at,
    }
}

fn check(node: &Node, faults: &mut Vec<Fault>) -> Check {
    let map = entries(node, "a check", faults);
    let checks = each(map, "checks", faults, check);
    if !checks.is_empty() {
        return Check::All(checks);
    }
    let method = text(map, "method", faults);
    if let Some((key, _)) = map.iter().find(|(key, _)| key.text().is_none()) {
        faults.push(Fault::new(key.at, "a parameter name is text"));
    }
    Check::One(leaf(method, node.at, map, &["method", "checks"]))
}

/// Everything in a block but these keys is a parameter.
fn leaf(method: String, at: usize, map: &Entries, keys: &[&str]) -> Leaf {
    let mut leaf = Leaf { method, params: BTreeMap::new(), at, places: BTreeMap::new() };
    for (key, value) in map {
        let Some(name) = key.text() else { continue };
        leaf.places.insert(name.clone(), key.at);
        if !keys.contains(&name.as_str()) {
            leaf.params.insert(name, Value::of(value));
        }
    }
    leaf
}

/// A remediation's steps. Nothing here runs them, so that one that cannot be read is left out.
fn remedies(node: &Node) -> Vec<Leaf> {
    let Kind::Map(map) = &node.kind else { return Vec::new() };
    let mechanism = find(map, "mechanism").and_then(Node::text).filter(|name| !name.is_empty());
    let own = mechanism.map(|name| leaf(name, node.at, map, &["mechanism", "steps"]));
    let steps = match find(map, "steps").map(|node| &node.kind) {
        Some(Kind::List(steps)) => steps.iter().flat_map(remedies).collect(),
        _ => Vec::new(),
    };
    own.into_iter().chain(steps).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    fn read(text: &str) -> Result<Rule, Vec<Fault>> {
        decode(&parse(text).unwrap().unwrap(), "x.yml")
    }

    #[test]
    fn defaults_and_conversions() {
        let rule = read(
            "id: 5\ntransactional: no\nplatforms: [{family: rhel, min_version: 8.0, extra: 1}]\n\
             implementations:\n  - default: yes\n    check: {checks: [], method: command, cmd: 'x', n: 0o10}\n\
             \x20 - check: {method: ignored, checks: [{method: a}, {checks: [{method: b}]}]}\n  - {}\n",
        )
        .unwrap();
        assert_eq!(rule.id, "5");
        assert!(!rule.transactional);
        assert_eq!((rule.platforms[0].min_version, rule.platforms[0].derivatives), (8, true));
        assert!(rule.implementations[0].default && !rule.implementations[1].default);
        let methods: Vec<_> = rule.leaves().map(|leaf| leaf.method.as_str()).collect();
        assert_eq!(methods, ["command", "a", "b"]);
        assert_eq!(rule.leaves().next().unwrap().params["n"], Value::Int(8));
        assert_eq!(rule.implementations[2].check, None);
        assert!(rule.severity().is_none());
    }

    #[test]
    fn a_wrong_type_is_a_fault_with_a_place() {
        let faults =
            read("id: x\nplatforms:\n  - {family: rhel, min_version: \"8\"}\ntags: one\n").unwrap_err();
        assert_eq!(faults.len(), 2);
        assert!(faults.iter().all(|fault| fault.at > 0));
        for bad in ["- a\n", "title: x\n", "id: a b\n", "id: {a: 1}\n", "id: x\nreferences: [a]\n"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
