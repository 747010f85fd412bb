//! Rule variables: built-in defaults, what a corpus declares, and what its user says.

mod corpus_defaults;
mod defaults;
mod template;

use std::collections::BTreeMap;

pub use defaults::{Builtin, builtin_variables};

pub(crate) use corpus_defaults::read as read_corpus_defaults;
pub use corpus_defaults::site_values;
pub use template::template_names;
pub(crate) use template::{Filled, fill};

/// What a variable's value has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariableKind {
    /// A whole number.
    Integer,
    /// Any text.
    Text,
    /// Members joined with commas, no spaces around them.
    List,
}

/// A variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VariableError {
    /// Templates could never mention it.
    #[error("use variable {name:?}: a name is an ASCII letter followed by letters, digits and underscores")]
    BadName {
        /// The name.
        name: String,
    },
    /// The rules want a number here.
    #[error("use variable {name}: {value:?} is not a whole number")]
    NotInteger {
        /// The name.
        name: String,
        /// The value.
        value: String,
    },
    /// A member of a list that could never match.
    #[error("use variable {name}: list member {member:?} is empty or has spaces around it")]
    BadMember {
        /// The name.
        name: String,
        /// The member.
        member: String,
    },
}

/// Values for a corpus's templates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variables {
    overrides: BTreeMap<String, String>,
}

impl Variables {
    /// Nothing but the defaults.
    pub fn builtin() -> Self {
        Self { overrides: BTreeMap::new() }
    }

    /// These values on top of what there is; the caller merges tiers, later ones last. All problems are told.
    pub fn with(mut self, overrides: &BTreeMap<String, String>) -> Result<Self, Vec<VariableError>> {
        let errors: Vec<_> = overrides.iter().filter_map(|(name, value)| check(name, value).err()).collect();
        if errors.is_empty() {
            self.overrides.extend(overrides.clone());
            Ok(self)
        } else {
            Err(errors)
        }
    }

    /// Every value: built-in, then the corpus's own defaults, then the overrides.
    pub(crate) fn over(&self, corpus: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, String> =
            builtin_variables().iter().map(|b| (b.name.to_owned(), b.default.to_owned())).collect();
        all.extend(corpus);
        all.extend(self.overrides.clone());
        all
    }
}

fn check(name: &str, value: &str) -> Result<(), VariableError> {
    if !is_name(name) {
        return Err(VariableError::BadName { name: name.to_owned() });
    }
    match builtin_variables().iter().find(|b| b.name == name).map(|b| b.kind) {
        Some(_) | None if value.is_empty() => Ok(()),
        Some(VariableKind::Integer) if value.trim().parse::<i64>().is_err() => {
            Err(VariableError::NotInteger { name: name.to_owned(), value: value.to_owned() })
        }
        Some(VariableKind::List) => match value.split(',').find(|m| m.is_empty() || m.trim() != *m) {
            Some(member) => {
                Err(VariableError::BadMember { name: name.to_owned(), member: member.to_owned() })
            }
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// An ASCII letter, then letters, digits and underscores.
pub(crate) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Variables, Vec<VariableError>> {
        Variables::builtin().with(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn there_are_51_distinct_built_ins() {
        let names: std::collections::BTreeSet<_> = builtin_variables().iter().map(|b| b.name).collect();
        assert_eq!((names.len(), builtin_variables().len()), (51, 51));
        let lists = builtin_variables().iter().filter(|b| b.kind == VariableKind::List);
        assert!(lists.clone().count() == 7 && lists.clone().all(|b| b.default.is_empty()));
    }

    #[test]
    fn values_are_checked_against_their_kind() {
        let good = [
            ("pam_faillock_deny", "5"),
            ("pam_faillock_deny", " -5 "),
            ("pam_faillock_deny", ""),
            ("root_umask", "027"),
            ("root_umask", "anything: goes"),
            ("authorized_services", ""),
            ("authorized_services", "sshd,chronyd"),
            ("unknown_name", "x"),
        ];
        for (name, value) in good {
            assert!(with(name, value).is_ok(), "{name}={value}");
        }
        let bad = [
            ("pam_faillock_deny", "five"),
            ("authorized_services", "sshd, chronyd"),
            ("authorized_services", "sshd,"),
            ("1st", "x"),
            ("a.b", "x"),
            ("", "x"),
        ];
        for (name, value) in bad {
            assert!(with(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn later_tiers_win() {
        let variables = with("pam_faillock_deny", "5").unwrap();
        let all = variables.over(BTreeMap::from([
            ("pam_faillock_deny".to_owned(), "4".to_owned()),
            ("ssh_max_sessions".to_owned(), "7".to_owned()),
        ]));
        assert_eq!(all["pam_faillock_deny"], "5");
        assert_eq!(all["ssh_max_sessions"], "7");
        assert_eq!(all["ssh_max_auth_tries"], "4");
    }
}
