//! A rule as its file says it, typed but not yet applied to any host.

mod check;
mod decode;
mod value;
mod when;

use std::collections::BTreeMap;

use openwatch_model::host::Platform;
use openwatch_model::outcome::{FrameworkRefs, Severity};

pub use check::{Check, Leaf};
pub use value::Value;
pub use when::When;

pub(crate) use decode::decode;

use crate::platform;

/// One thing to measure.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Identity; unique in a corpus.
    pub id: String,
    /// File it came from.
    pub path: String,
    /// One line for a person.
    pub title: String,
    /// What is measured.
    pub description: String,
    /// Why it matters.
    pub rationale: String,
    /// As written; see [`Rule::severity`].
    pub severity_text: String,
    /// A topic such as `audit`; by convention the name of the file's directory.
    pub category: String,
    /// Free words.
    pub tags: Vec<String>,
    /// Framework id to controls.
    pub references: FrameworkRefs,
    /// Where it applies; empty: everywhere.
    pub platforms: Vec<PlatformSpec>,
    /// Ways to measure it, tried in order.
    pub implementations: Vec<Implementation>,
    /// Rules that should be measured before it. Never changes a verdict.
    pub depends_on: Vec<String>,
    /// Rules that contradict it.
    pub conflicts_with: Vec<String>,
    /// Rules that are not measured where this one is.
    pub supersedes: Vec<String>,
    /// Whether its remediation can be undone as a whole. No scan looks at it.
    pub transactional: bool,
    /// Where things stand in the file, for lint.
    pub(crate) places: Places,
}

/// One platform a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlatformSpec {
    /// `ID` of os-release, or `redhat`.
    pub family: String,
    /// Lowest major version; 0: no bound.
    pub min_version: i64,
    /// Highest major version, inclusive; 0: no bound.
    pub max_version: i64,
    /// Whether rebuilds of the family count.
    pub derivatives: bool,
}

/// One way to measure a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Implementation {
    /// Its gate.
    pub when: When,
    /// Used when no gate matched; its own gate is ignored.
    pub default: bool,
    /// What to look at. Absent: the rule ends in error.
    pub check: Option<Check>,
    /// The steps of its remediation, each with its mechanism as method. A scan never runs any; lint reads them.
    pub(crate) remedies: Vec<Leaf>,
    pub(crate) at: usize,
}

/// Byte offsets in the filled text, and references that say nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Places {
    pub(crate) keys: BTreeMap<String, usize>,
    pub(crate) empty_references: Vec<(String, usize)>,
    /// Keys that nobody reads, with the place and the keys that are read there.
    pub(crate) unread: Vec<(String, usize, &'static [&'static str])>,
}

impl Rule {
    /// Its severity, where it is one of the four words.
    pub fn severity(&self) -> Option<Severity> {
        Severity::parse(&self.severity_text)
    }

    /// Its platforms in words: `rhel 8-9, ubuntu >=22`; empty when it is for all.
    pub fn targets(&self) -> String {
        platform::targets(&self.platforms)
    }

    /// Whether it is for this platform; a platform of unknown family is never told off.
    pub fn is_for(&self, host: &Platform) -> bool {
        platform::applies(&self.platforms, host)
    }

    /// Every leaf check of every implementation, in order.
    pub fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        self.implementations.iter().filter_map(|i| i.check.as_ref()).flat_map(Check::leaves)
    }
}
