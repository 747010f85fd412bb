//! Which rules step back for others, and in which order the rest is observed. Order never changes a verdict.

use std::collections::{BTreeMap, BTreeSet};

use crate::rule::Rule;

/// What ordering decided about a set of rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Order<'r> {
    /// Rules to measure: dependencies first, then by id.
    pub(crate) run: Vec<&'r str>,
    /// Rule to the one that supersedes it, the alphabetically first where several do.
    pub(crate) superseded: BTreeMap<&'r str, &'r str>,
    /// Rules in a dependency cycle, or depending on one.
    pub(crate) cyclic: BTreeSet<&'r str>,
    /// Pairs that are said to contradict each other and are both measured.
    pub(crate) conflicts: BTreeSet<(&'r str, &'r str)>,
}

/// Orders rules. Ids that are not in the set are ignored.
pub(crate) fn order<'r>(rules: impl IntoIterator<Item = &'r Rule>) -> Order<'r> {
    let all: BTreeMap<&str, &Rule> = rules.into_iter().map(|rule| (rule.id.as_str(), rule)).collect();
    let mut order = Order::default();
    for rule in all.values() {
        for target in &rule.supersedes {
            if let Some((target, _)) =
                all.get_key_value(target.as_str()).filter(|(target, _)| **target != rule.id)
            {
                order.superseded.entry(target).or_insert(&rule.id);
            }
        }
    }
    let active: BTreeMap<&str, &Rule> =
        all.into_iter().filter(|(id, _)| !order.superseded.contains_key(id)).collect();
    let known = |ids: &'r [String]| -> BTreeSet<&'r str> {
        ids.iter().map(String::as_str).filter(|id| active.contains_key(id)).collect()
    };
    for (id, rule) in &active {
        order
            .conflicts
            .extend(known(&rule.conflicts_with).into_iter().map(|other| (*id.min(&other), *id.max(&other))));
    }
    let mut waiting: BTreeMap<&str, BTreeSet<&str>> =
        active.iter().map(|(id, rule)| (*id, known(&rule.depends_on))).collect();
    let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, dependencies) in &waiting {
        for dependency in dependencies {
            dependents.entry(dependency).or_default().push(id);
        }
    }
    let mut ready: BTreeSet<&str> =
        waiting.iter().filter(|(_, dependencies)| dependencies.is_empty()).map(|(id, _)| *id).collect();
    while let Some(id) = ready.pop_first() {
        waiting.remove(id);
        order.run.push(id);
        for dependent in dependents.get(id).into_iter().flatten() {
            if let Some(dependencies) = waiting.get_mut(dependent) {
                dependencies.remove(id);
                if dependencies.is_empty() {
                    ready.insert(dependent);
                }
            }
        }
    }
    order.cyclic = waiting.into_keys().collect();
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::decode;
    use crate::yaml::parse;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|text| decode(&parse(text).unwrap().unwrap(), "x.yml").unwrap()).collect()
    }

    #[test]
    fn dependencies_come_first_and_ties_are_alphabetical() {
        let rules = rules(&["{id: c}", "{id: a, depends_on: [z, z, gone]}", "{id: z}", "{id: b}"]);
        assert_eq!(order(&rules).run, ["b", "c", "z", "a"]);
    }

    #[test]
    fn cycles_and_what_hangs_on_them() {
        let rules = rules(&[
            "{id: a, depends_on: [b]}",
            "{id: b, depends_on: [a]}",
            "{id: c, depends_on: [b]}",
            "{id: d, depends_on: [d]}",
            "{id: e}",
        ]);
        let order = order(&rules);
        assert_eq!(order.run, ["e"]);
        assert_eq!(order.cyclic.into_iter().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    }

    #[test]
    fn the_first_claimant_supersedes() {
        let rules = rules(&["{id: z, supersedes: [m, gone]}", "{id: b, supersedes: [m]}", "{id: m}"]);
        let order = order(&rules);
        assert_eq!(order.superseded, BTreeMap::from([("m", "b")]));
        assert_eq!(order.run, ["b", "z"]);
        assert_eq!(super::order(&self::rules(&["{id: s, supersedes: [s]}"])).run, ["s"]);
    }

    #[test]
    fn conflicts_are_told_once_and_both_run() {
        let rules = rules(&["{id: b, conflicts_with: [a]}", "{id: a, conflicts_with: [b, gone]}"]);
        let order = order(&rules);
        assert_eq!(order.conflicts.into_iter().collect::<Vec<_>>(), [("a", "b")]);
        assert_eq!(order.run.len(), 2);
    }
}
