//! The gate of an implementation: which capabilities a host must have.

use crate::yaml::{Kind, Node, Scalar};

/// A gate over capability names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// No gate.
    Absent,
    /// One capability.
    Name(String),
    /// Every one; none named holds.
    All(Vec<String>),
    /// At least one; none named does not hold.
    Any(Vec<String>),
    /// Not this one.
    Not(String),
    /// Cannot be read: choosing an implementation stops here with an error.
    Malformed(String),
}

impl When {
    pub(crate) fn of(node: &Node) -> Self {
        match (&node.kind, node.scalar()) {
            (_, Some(Scalar::Null)) => Self::Absent,
            (_, Some(Scalar::Text(name))) => Self::Name(name),
            (Kind::Map(entries), _) => Self::of_map(entries),
            _ => Self::Malformed(format!("it is {}, not a capability name or a map", node.noun())),
        }
    }

    fn of_map(entries: &[(Node, Node)]) -> Self {
        let key_of = |key: &Node| match key.scalar() {
            Some(Scalar::Text(text)) => Some(text),
            _ => None,
        };
        if entries.iter().any(|(key, _)| key_of(key).is_none()) {
            return Self::Malformed("one of its keys is not text".into());
        }
        let find = |name: &str| entries.iter().find(|(key, _)| key_of(key).as_deref() == Some(name));
        if let Some((_, list)) = find("all") {
            return names(list).map_or_else(|why| Self::Malformed(format!("all {why}")), Self::All);
        }
        if let Some((_, list)) = find("any") {
            return names(list).map_or_else(|why| Self::Malformed(format!("any {why}")), Self::Any);
        }
        match find("not").map(|(_, value)| value.scalar()) {
            Some(Some(Scalar::Text(name))) => Self::Not(name),
            Some(_) => Self::Malformed("not wants one capability name".into()),
            None => Self::Malformed("it has none of the keys all, any, not".into()),
        }
    }

    /// Whether it can only hold on a host that has this capability.
    pub(crate) fn demands(&self, capability: &str) -> bool {
        match self {
            Self::Name(name) => name == capability,
            Self::All(names) => names.iter().any(|name| name == capability),
            Self::Any(names) => !names.is_empty() && names.iter().all(|name| name == capability),
            Self::Absent | Self::Not(_) | Self::Malformed(_) => false,
        }
    }

    /// Every capability it names.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::Name(name) | Self::Not(name) => vec![name],
            Self::All(names) | Self::Any(names) => names.iter().map(String::as_str).collect(),
            Self::Absent | Self::Malformed(_) => Vec::new(),
        }
    }
}

impl std::fmt::Display for When {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => Ok(()),
            Self::Name(name) => f.write_str(name),
            Self::All(names) => write!(f, "all of {}", names.join(", ")),
            Self::Any(names) => write!(f, "any of {}", names.join(", ")),
            Self::Not(name) => write!(f, "not {name}"),
            Self::Malformed(why) => write!(f, "malformed: {why}"),
        }
    }
}

fn names(node: &Node) -> Result<Vec<String>, &'static str> {
    let Kind::List(items) = &node.kind else { return Err("wants a list of capability names") };
    items
        .iter()
        .map(|item| match item.scalar() {
            Some(Scalar::Text(name)) => Ok(name),
            _ => Err("holds something that is not a capability name"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    #[test]
    fn only_what_must_be_there_is_demanded() {
        for (gate, demanded) in [
            ("apt", true),
            ("{all: [gdm, apt]}", true),
            ("{any: [apt]}", true),
            ("{any: [apt, gdm]}", false),
            ("{any: []}", false),
            ("{not: apt}", false),
            ("gdm", false),
            ("~", false),
            ("{not: [apt]}", false),
        ] {
            assert_eq!(When::of(&parse(gate).unwrap().unwrap()).demands("apt"), demanded, "{gate}");
        }
    }

    #[test]
    fn grammar() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let good = [
            ("apt", When::Name("apt".into())),
            ("\"\"", When::Name(String::new())),
            ("~", When::Absent),
            ("{all: [a, b]}", When::All(list(&["a", "b"]))),
            ("{all: []}", When::All(Vec::new())),
            ("{any: [a]}", When::Any(list(&["a"]))),
            ("{not: a}", When::Not("a".into())),
            ("{not: z, any: [b], all: [a]}", When::All(list(&["a"]))),
            ("{not: z, any: [b]}", When::Any(list(&["b"]))),
        ];
        for (text, expected) in good {
            assert_eq!(When::of(&parse(text).unwrap().unwrap()), expected, "{text}");
        }
        for bad in [
            "[a]",
            "true",
            "5",
            "{}",
            "{some: a}",
            "{all: a}",
            "{any: [a, 1]}",
            "{not: [a]}",
            "{1: a, all: [a]}",
        ] {
            let when = When::of(&parse(bad).unwrap().unwrap());
            assert!(matches!(when, When::Malformed(_)), "{bad}: {when:?}");
        }
    }
}
