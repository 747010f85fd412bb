//! `defaults.yml` at the top of a corpus: variables its rules need beyond the built-in ones, or with other values.

use std::collections::BTreeMap;

use super::{VariableKind, builtin_variables, is_name};
use crate::corpus::problem;
use crate::file::{CorpusFile, Problem};
use crate::yaml::{Fault, Kind, Node, Scalar, parse};

/// Reads a file of a site's own values, written as a corpus's `defaults.yml` is.
///
/// # Errors
/// Everything that is wrong with it; then none of its values should be used.
pub fn site_values(file: &CorpusFile) -> Result<BTreeMap<String, String>, Vec<Problem>> {
    let (values, faults) = read(&file.text);
    if faults.is_empty() {
        return Ok(values);
    }
    Err(faults.into_iter().map(|fault| problem(file, fault.at, fault)).collect())
}

/// Reads the `variables` map of a defaults file: the good ones, and what is wrong with the others.
pub(crate) fn read(text: &str) -> (BTreeMap<String, String>, Vec<Fault>) {
    let mut values = BTreeMap::new();
    let mut faults = Vec::new();
    match parse(text) {
        Err(fault) => faults.push(fault),
        Ok(None) => {}
        Ok(Some(Node { kind: Kind::Map(entries), .. })) => {
            let section = entries.into_iter().find(|(key, _)| key.text().as_deref() == Some("variables"));
            match section.map(|(_, section)| section) {
                Some(Node { kind: Kind::Map(entries), .. }) => {
                    for (key, value) in entries {
                        match variable(&key, &value) {
                            Ok((name, value)) => _ = values.insert(name, value),
                            Err(fault) => faults.push(fault),
                        }
                    }
                }
                Some(other) if !other.is_null() => {
                    faults.push(Fault::new(other.at, format!("variables is {}, not a map", other.noun())));
                }
                _ => {}
            }
        }
        Ok(Some(other)) => {
            faults.push(Fault::new(other.at, "a defaults file is a map with the key variables"));
        }
    }
    (values, faults)
}

fn variable(key: &Node, value: &Node) -> Result<(String, String), Fault> {
    let name = key.text().filter(|name| is_name(name));
    let name = name.ok_or_else(|| {
        Fault::new(key.at, "not a variable name")
            .hint("an ASCII letter, then letters, digits and underscores")
    })?;
    let wanted = builtin_variables().iter().find(|b| b.name == name).map(|b| b.kind);
    let (kind, text) = match &value.kind {
        Kind::List(members) => (VariableKind::List, list(&name, members)?),
        Kind::Map(_) => {
            return Err(Fault::new(value.at, format!("{name} is a map; a variable is one value")));
        }
        Kind::Scalar { .. } => match value.scalar() {
            Some(Scalar::Int(number)) => (VariableKind::Integer, number.to_string()),
            Some(Scalar::Null) | None => {
                return Err(
                    Fault::new(value.at, format!("{name} has no value")).hint("quote an empty text: \"\"")
                );
            }
            Some(Scalar::Float(number)) => (VariableKind::Text, number.to_string()),
            Some(_) => (VariableKind::Text, value.text().unwrap_or_default()),
        },
    };
    match wanted {
        Some(wanted) if wanted != kind => {
            let hint = match wanted {
                VariableKind::Integer => "write the number without quotes",
                VariableKind::Text => "quote it",
                VariableKind::List => "write a list",
            };
            Err(Fault::new(value.at, format!("{name} is {}", value.noun())).hint(hint))
        }
        _ => Ok((name, text)),
    }
}

fn list(name: &str, members: &[Node]) -> Result<String, Fault> {
    let mut texts = Vec::new();
    for member in members {
        let text = if member.is_null() { None } else { member.text() };
        let text = text.filter(|t| !t.is_empty() && !t.contains(|c: char| c == ',' || c.is_whitespace()));
        texts.push(text.ok_or_else(|| {
            Fault::new(member.at, format!("a member of {name} is empty, nested, or holds a comma or a space"))
        })?);
    }
    Ok(texts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_those_of_the_built_ins() {
        let text = "variables:\n  pam_faillock_deny: 4\n  root_umask: \"027\"\n  authorized_services: [a, b]\n  \
                    authorized_local_accounts: []\n  mine: true\nother: 1\n";
        let (values, faults) = read(text);
        assert_eq!(faults, []);
        let pairs: Vec<_> = values.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("authorized_local_accounts", ""),
            ("authorized_services", "a,b"),
            ("mine", "true"),
            ("pam_faillock_deny", "4"),
            ("root_umask", "027"),
        ];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn a_value_of_another_type_is_refused_and_the_rest_stays() {
        for bad in [
            "root_umask: 027",
            "pam_faillock_deny: \"4\"",
            "authorized_services: a",
            "authorized_services: [\"a b\"]",
            "authorized_services: [~]",
            "x: ~",
            "x: {a: 1}",
            "1x: 1",
        ] {
            let (values, faults) = read(&format!("variables:\n  {bad}\n  fine: 1\n"));
            assert_eq!((values.len(), faults.len()), (1, 1), "{bad}");
        }
    }
}
