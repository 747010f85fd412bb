//! Which implementation of a rule is for a host, and which rules a scan asks for.

use openwatch_model::scan::Selection;

use crate::Facts;
use crate::framework;
use crate::rule::{Implementation, Rule, When};

/// The outcome of choosing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This one, by position.
    Take(usize),
    /// No gate matched and there is no default.
    Nothing,
    /// It cannot be decided.
    Undecidable(String),
}

/// Walks the implementations: the first ungated or matching one that is no default, else the first default.
pub(crate) fn choose(implementations: &[Implementation], facts: &Facts) -> Choice {
    let mut default = None;
    for (i, implementation) in implementations.iter().enumerate() {
        if implementation.default {
            default = default.or(Some(i));
            continue;
        }
        match holds(&implementation.when, facts) {
            Ok(true) => return Choice::Take(i),
            Ok(false) => {}
            Err(why) => return Choice::Undecidable(why),
        }
    }
    default.map_or(Choice::Nothing, Choice::Take)
}

fn holds(when: &When, facts: &Facts) -> Result<bool, String> {
    let has = |name: &String| match facts.unknown.get(name) {
        Some(lost) => Err(format!("capability {name} could not be probed: {}", lost.as_str())),
        None => Ok(facts.capabilities.get(name).copied().unwrap_or(false)),
    };
    match when {
        When::Absent => Ok(true),
        When::Name(name) => has(name),
        When::Not(name) => Ok(!has(name)?),
        When::All(names) => decided(names.iter().map(has), false),
        When::Any(names) => decided(names.iter().map(has), true),
        When::Malformed(why) => Err(format!("its gate cannot be read: {why}")),
    }
}

/// The value that decides if any has it, else the opposite; an unknown matters only where nothing decided.
fn decided(values: impl Iterator<Item = Result<bool, String>>, deciding: bool) -> Result<bool, String> {
    let mut unknown = None;
    for value in values {
        match value {
            Ok(value) if value == deciding => return Ok(deciding),
            Ok(_) => {}
            Err(why) => unknown = unknown.or(Some(why)),
        }
    }
    unknown.map_or(Ok(!deciding), Err)
}

/// Whether a scan asks for a rule with this id and these references.
pub(crate) fn asked(
    selection: &Selection,
    id: &str,
    frameworks: impl IntoIterator<Item = impl AsRef<str>>,
) -> bool {
    let by_id = selection.rules.is_empty() || selection.rules.iter().any(|wanted| wanted == id);
    by_id
        && (selection.framework == "*"
            || frameworks.into_iter().any(|id| framework::answers(id.as_ref(), &selection.framework)))
}

/// Whether a scan asks for a rule.
pub(crate) fn asked_rule(selection: &Selection, rule: &Rule) -> bool {
    asked(selection, &rule.id, rule.references.keys())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openwatch_model::plan::Lost;

    use super::*;

    fn gated(when: When) -> Implementation {
        Implementation { when, default: false, check: None, remedies: Vec::new(), at: 0 }
    }

    fn default() -> Implementation {
        Implementation { default: true, ..gated(When::Absent) }
    }

    fn facts(names: &[&str]) -> Facts {
        let capabilities = names.iter().map(|n| ((*n).to_owned(), true)).collect();
        Facts { capabilities, ..Facts::default() }
    }

    fn name(name: &str) -> When {
        When::Name(name.into())
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn pinned_selections() {
        let (a, b) = (Choice::Take(0), Choice::Take(1));
        let cases = [
            (vec![gated(name("sshd_config_d")), default()], vec!["sshd_config_d"], &a),
            (vec![gated(name("sshd_config_d")), default()], vec![], &b),
            (vec![default()], vec![], &a),
            (vec![gated(When::All(list(&["a", "b"]))), default()], vec!["a", "b"], &a),
            (vec![gated(When::All(list(&["a", "b"]))), default()], vec!["a"], &b),
            (vec![gated(When::All(vec![])), default()], vec![], &a),
            (vec![gated(When::Any(vec![])), default()], vec![], &b),
            (vec![gated(When::Any(list(&["x", "y"]))), default()], vec!["x"], &a),
            (vec![gated(When::Any(list(&["x", "y"]))), default()], vec![], &b),
            (vec![gated(When::Not("legacy".into())), default()], vec![], &a),
            (vec![gated(When::Not("legacy".into())), default()], vec!["legacy"], &b),
            (vec![gated(name("missing"))], vec![], &Choice::Nothing),
            (vec![gated(name(""))], vec![], &Choice::Nothing),
            (vec![], vec![], &Choice::Nothing),
            (vec![default(), gated(name("x"))], vec!["x"], &b),
            (vec![default(), default()], vec![], &a),
            (vec![gated(When::Absent), gated(name("x"))], vec!["x"], &a),
            (vec![gated(name("x")), gated(When::Malformed("m".into()))], vec!["x"], &a),
            (vec![Implementation { default: true, ..gated(When::Malformed("m".into())) }], vec![], &a),
        ];
        for (implementations, capabilities, expected) in cases {
            assert_eq!(&choose(&implementations, &facts(&capabilities)), expected, "{implementations:?}");
        }
        let malformed = [gated(When::Malformed("m".into())), gated(name("x")), default()];
        assert!(matches!(choose(&malformed, &facts(&["x"])), Choice::Undecidable(_)));
    }

    #[test]
    fn an_unprobed_capability_matters_only_where_it_decides() {
        let mut facts = facts(&["a"]);
        facts.unknown = BTreeMap::from([("u".to_owned(), Lost::Timeout)]);
        let choice = |when| choose(&[gated(when), default()], &facts);
        assert!(
            matches!(choice(name("u")), Choice::Undecidable(why) if why.contains("u could not be probed: timeout"))
        );
        assert!(matches!(choice(When::Not("u".into())), Choice::Undecidable(_)));
        assert!(matches!(choice(When::All(list(&["a", "u"]))), Choice::Undecidable(_)));
        assert_eq!(choice(When::All(list(&["u", "b"]))), Choice::Take(1));
        assert_eq!(choice(When::Any(list(&["u", "a"]))), Choice::Take(0));
        assert_eq!(choice(name("a")), Choice::Take(0));
    }

    #[test]
    fn selections() {
        let select = |framework: &str, rules: &[&str]| Selection {
            framework: framework.into(),
            rules: rules.iter().map(|r| (*r).to_owned()).collect(),
        };
        let refs = ["cis_rhel9", "nist_800_53"];
        assert!(asked(&Selection::full(), "r", refs));
        assert!(asked(&Selection::full(), "r", [""; 0]));
        assert!(asked(&select("CIS-rhel9", &[]), "r", refs));
        assert!(asked(&select("cis", &["r"]), "r", refs));
        assert!(!asked(&select("cis", &["q"]), "r", refs));
        assert!(!asked(&select("stig", &[]), "r", refs));
    }
}
