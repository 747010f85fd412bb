//! `rules list`: which rules there are, narrowed down.

use openwatch_model::scan::Selection;
use openwatch_rules::{Corpus, Leaf, Rule};
use serde_json::json;

use super::platform;
use crate::cli::RulesListArgs;
use crate::client::table;
use crate::exit::Failure;
use crate::tools::check::{known_framework, severities};

pub(super) fn run(corpus: &Corpus, args: &RulesListArgs) -> Result<(), Failure> {
    let framework = args.framework.clone().unwrap_or_else(|| "*".into());
    known_framework(&framework, corpus)?;
    let selection = Selection { framework, rules: Vec::new() };
    let severities = severities(&args.severities)?;
    let host = args.platform.as_deref().map(platform).transpose()?;
    let is_wanted = |rule: &&Rule| {
        (severities.is_empty() || rule.severity().is_some_and(|s| severities.contains(&s)))
            && args.category.as_ref().is_none_or(|category| rule.category == *category)
            && args.tag.as_ref().is_none_or(|tag| rule.tags.contains(tag))
            && host.as_ref().is_none_or(|host| rule.is_for(host))
    };
    let rules: Vec<&Rule> = corpus.selected(&selection).filter(is_wanted).collect();
    if args.json {
        let row = |r: &&Rule| {
            json!({
                "id": r.id, "title": r.title, "severity": r.severity_text, "category": r.category, "tags": r.tags,
                "references": r.references, "platforms": r.targets(), "methods": methods(r),
            })
        };
        return table::json(&rules.iter().map(row).collect::<Vec<_>>());
    }
    let mut rows = table::new(&["rule", "severity", "category", "platforms", "title"]);
    for rule in &rules {
        rows.add_row([&rule.id, &rule.severity_text, &rule.category, &rule.targets(), &rule.title]);
    }
    table::print(&rows, "no rule fits");
    table::line(&format!("{} rules of {}, digest {}", rules.len(), corpus.rules().count(), corpus.digest()));
    Ok(())
}

fn methods(rule: &Rule) -> Vec<&str> {
    let mut methods: Vec<&str> = rule.leaves().map(|leaf: &Leaf| leaf.method.as_str()).collect();
    methods.sort_unstable();
    methods.dedup();
    methods
}
