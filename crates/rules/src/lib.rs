//! The rule language: what a rule file says, what has to be observed to judge it, and what the observations mean.
//!
//! **Knows**: YAML, rule files, variables, platforms, capabilities, check methods, verdicts and evidence.
//!
//! **Must never know**: SSH, NATS, SQL, or how a command is run. It hands out a [`Plan`](openwatch_model::plan::Plan)
//! and is handed [`Observation`](openwatch_model::plan::Observation)s; the only input it reads itself is a directory
//! of rule files ([`read_dir`]).
//!
//! Start reading at [`Corpus`]: `Corpus::load` → `probe_plan` → `facts` → `Corpus::plan` → `CheckPlan::judge`.
//! The check methods live in `method`, one file each family.

mod corpus;
mod evidence;
mod facts;
mod file;
mod framework;
mod judge;
mod lint;
mod method;
mod nearest;
mod order;
mod plan;
mod platform;
mod probes;
mod rule;
mod select;
mod shell;
mod variables;
mod yaml;

pub use corpus::{Corpus, Unusable};
pub use facts::{Facts, facts, probe_plan};
pub use file::{CorpusFile, Problem, ReadError, read_dir};
pub use judge::Judged;
pub use lint::{Finding, Level, lint};
pub use nearest::{did_you_mean, nearest};
pub use plan::{CheckPlan, PlannedRule};
pub use probes::capability_names;
pub use rule::{Check, Implementation, Leaf, PlatformSpec, Rule, Value, When};
pub use variables::{
    Builtin, VariableError, VariableKind, Variables, builtin_variables, site_values, template_names,
};

/// Names the meaning of rules: it changes when the same rules and observations could give another verdict, so that
/// a scan by a newer engine is never mistaken for "nothing changed".
pub const ENGINE_VERSION: &str = "openwatch-rules/1";

/// JSON Schema (2020-12) of one rule file, as data.
pub const RULE_SCHEMA: &str = include_str!("../../../specs/schemas/rule.json");
