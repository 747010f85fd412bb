//! From a corpus, a host's facts and a selection to the distinct commands that answer every rule.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use openwatch_model::outcome::{FrameworkRefs, Severity, Status};
use openwatch_model::plan::Plan;
use openwatch_model::scan::Selection;

use crate::corpus::Corpus;
use crate::facts::Facts;
use crate::method::{self, Judge, Source, Step, Stop, View, Walk};
use crate::order::order;
use crate::platform;
use crate::rule::{Leaf, Rule};
use crate::select::{self, Choice};
use crate::shell;

/// What to run on one host, and how to judge it.
pub struct CheckPlan {
    /// Distinct commands; many rules may share one.
    pub plan: Plan,
    pub(crate) rules: Vec<PlannedRule>,
    pub(crate) unknown_rules: Vec<String>,
}

/// One selected rule.
pub struct PlannedRule {
    pub(crate) id: String,
    pub(crate) severity: Option<Severity>,
    pub(crate) references: FrameworkRefs,
    pub(crate) implementation: Option<usize>,
    pub(crate) work: Work,
}

pub(crate) enum Work {
    /// Known without looking.
    Decided { status: Status, detail: String },
    /// Judged from observations, in order; all have to hold.
    Checks(Vec<PlannedCheck>),
}

pub(crate) enum PlannedCheck {
    Ready(ReadyCheck),
    /// Ends the rule when its turn comes.
    Stop(Stop),
}

pub(crate) struct ReadyCheck {
    pub(crate) method: String,
    pub(crate) expected: Option<String>,
    pub(crate) steps: Vec<Step>,
    /// The observation of each step.
    pub(crate) observations: Vec<usize>,
    pub(crate) judge: Judge,
}

impl PlannedRule {
    /// Rule id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Which implementation was chosen, by position; none when the rule is decided without looking.
    pub fn implementation(&self) -> Option<usize> {
        self.implementation
    }

    /// The outcome and the reason, where they are known without looking at the host.
    pub fn decided(&self) -> Option<(Status, &str)> {
        match &self.work {
            Work::Decided { status, detail } => Some((*status, detail)),
            Work::Checks(_) => None,
        }
    }

    /// The logical commands that its evidence would name, with the index of the observation that answers each.
    pub fn commands(&self) -> Vec<(&str, usize)> {
        let steps = |check: &'_ ReadyCheck| check.steps.len();
        self.ready()
            .flat_map(|c| (0..steps(c)).map(|i| (c.steps[i].command.as_str(), c.observations[i])))
            .collect()
    }

    /// Indices of the observations it may need, each once, in order.
    pub fn observations(&self) -> Vec<usize> {
        let mut indices: Vec<usize> =
            self.ready().flat_map(|check| check.observations.iter().copied()).collect();
        indices.sort_unstable();
        indices.dedup();
        indices
    }

    fn steps_mut(&mut self) -> impl Iterator<Item = &mut Step> {
        let checks = match &mut self.work {
            Work::Checks(checks) => checks.as_mut_slice(),
            Work::Decided { .. } => &mut [],
        };
        checks.iter_mut().flat_map(|check| match check {
            PlannedCheck::Ready(ready) => ready.steps.as_mut_slice(),
            PlannedCheck::Stop(_) => &mut [],
        })
    }

    fn ready(&self) -> impl Iterator<Item = &ReadyCheck> {
        let checks = match &self.work {
            Work::Checks(checks) => checks.as_slice(),
            Work::Decided { .. } => &[],
        };
        checks
            .iter()
            .filter_map(|check| if let PlannedCheck::Ready(ready) = check { Some(ready) } else { None })
    }
}

impl CheckPlan {
    /// Every selected rule, by id.
    pub fn rules(&self) -> &[PlannedRule] {
        &self.rules
    }

    /// Rule ids that were asked for and are not in the corpus.
    pub fn unknown_rules(&self) -> &[String] {
        &self.unknown_rules
    }

    /// For each command of the plan, the rules that share its answer.
    pub fn sharing(&self) -> Vec<Vec<&str>> {
        let mut sharing = vec![Vec::new(); self.plan.commands.len()];
        for rule in &self.rules {
            for index in rule.observations() {
                sharing[index].push(rule.id.as_str());
            }
        }
        sharing
    }
}

/// Compiles a corpus for one host.
pub(crate) fn compile(corpus: &Corpus, facts: &Facts, selection: &Selection) -> CheckPlan {
    let selected: BTreeMap<&str, &Rule> = corpus
        .rules()
        .filter(|rule| select::asked_rule(selection, rule))
        .map(|rule| (rule.id.as_str(), rule))
        .collect();
    let order = order(selected.values().copied());
    let mut commands = Commands::default();
    let mut rules: BTreeMap<&str, PlannedRule> = BTreeMap::new();
    for (id, by) in &order.superseded {
        let detail = format!("superseded by {by}");
        rules.insert(id, decided(selected[id], Status::Skipped, detail));
    }
    for id in &order.cyclic {
        let detail = "it is in a dependency cycle, or depends on one".to_owned();
        rules.insert(id, decided(selected[id], Status::Skipped, detail));
    }
    for id in &order.run {
        rules.insert(id, plan_rule(selected[id], facts, &mut commands));
    }
    let unusable = corpus.unusable().filter(|it| select::asked(selection, &it.id, it.references.keys()));
    for it in unusable {
        rules.insert(
            &it.id,
            PlannedRule {
                id: it.id.clone(),
                severity: it.severity,
                references: it.references.clone(),
                implementation: None,
                work: Work::Decided { status: Status::Skipped, detail: it.reason.clone() },
            },
        );
    }
    for step in rules.values_mut().flat_map(PlannedRule::steps_mut) {
        if matches!(&step.view, View::Walk(walk) if !commands.shares(walk)) {
            step.view = View::Whole;
        }
    }
    let known = |id: &String| corpus.rule(id).is_some() || corpus.unusable().any(|it| it.id == *id);
    CheckPlan {
        plan: commands.plan(),
        rules: rules.into_values().collect(),
        unknown_rules: selection.rules.iter().filter(|id| !known(id)).cloned().collect(),
    }
}

fn decided(rule: &Rule, status: Status, detail: String) -> PlannedRule {
    planned(rule, None, Work::Decided { status, detail })
}

fn planned(rule: &Rule, implementation: Option<usize>, work: Work) -> PlannedRule {
    PlannedRule {
        id: rule.id.clone(),
        severity: rule.severity(),
        references: rule.references.clone(),
        implementation,
        work,
    }
}

/// The platform gate comes before the implementation's, so that a broken gate on a foreign rule is a skip.
fn plan_rule(rule: &Rule, facts: &Facts, commands: &mut Commands) -> PlannedRule {
    if let Some(lost) = facts.platform_lost.filter(|_| !rule.platforms.is_empty()) {
        let detail = format!("the operating system could not be read: {}", lost.as_str());
        return decided(rule, Status::Error, detail);
    }
    if !platform::applies(&rule.platforms, &facts.platform) {
        let (host, targets) = (platform::label(&facts.platform), platform::targets(&rule.platforms));
        return decided(
            rule,
            Status::Skipped,
            format!("not for this platform: {host}; the rule is for {targets}"),
        );
    }
    match select::choose(&rule.implementations, facts) {
        Choice::Nothing => {
            decided(rule, Status::Skipped, "none of its implementations is for this host".into())
        }
        Choice::Undecidable(why) => decided(rule, Status::Error, why),
        Choice::Take(chosen) => {
            let Some(check) = &rule.implementations[chosen].check else {
                return decided(rule, Status::Error, "the chosen implementation has no check".into());
            };
            let mut checks = Vec::new();
            for leaf in check.leaves() {
                let check = plan_check(leaf, commands);
                let ends = matches!(check, PlannedCheck::Stop(_));
                checks.push(check);
                if ends {
                    break;
                }
            }
            planned(rule, Some(chosen), Work::Checks(checks))
        }
    }
}

fn plan_check(leaf: &Leaf, commands: &mut Commands) -> PlannedCheck {
    match method::compile(leaf) {
        Err(stop) => PlannedCheck::Stop(stop),
        Ok(ready) => PlannedCheck::Ready(ReadyCheck {
            method: leaf.method.clone(),
            expected: leaf.text("expected").map(str::to_owned),
            observations: ready.steps.iter().map(|step| commands.index(step.source())).collect(),
            steps: ready.steps,
            judge: ready.judge,
        }),
    }
}

/// Distinct scripts in the order they were first needed.
#[derive(Default)]
struct Commands {
    scripts: Vec<String>,
    indices: HashMap<String, usize>,
    /// Where the query for packages stands, and whom it asks about.
    packages: Option<(usize, BTreeSet<String>)>,
    /// For each tree, where its walk stands, and the scripts that make it.
    walks: BTreeMap<String, (usize, BTreeMap<String, Walk>)>,
}

impl Commands {
    fn index(&mut self, source: Source<'_>) -> usize {
        let next = self.scripts.len();
        match source {
            Source::Package(name) => {
                let (index, names) = self.packages.get_or_insert_with(|| (next, BTreeSet::new()));
                names.insert(name.to_owned());
                let index = *index;
                if index == next {
                    self.scripts.push(String::new());
                }
                index
            }
            Source::Walk(walk) => {
                let (index, walks) =
                    self.walks.entry(walk.tree.clone()).or_insert_with(|| (next, BTreeMap::new()));
                if walks.is_empty() {
                    self.scripts.push(walk.script.clone());
                }
                walks.entry(walk.script.clone()).or_insert_with(|| walk.clone());
                *index
            }
            Source::Script(script) => {
                if let Some(index) = self.indices.get(script) {
                    return *index;
                }
                self.scripts.push(script.to_owned());
                self.indices.insert(script.to_owned(), next);
                next
            }
        }
    }

    /// Whether another script makes the same walk.
    fn shares(&self, walk: &Walk) -> bool {
        self.walks.get(&walk.tree).is_some_and(|(_, walks)| walks.len() > 1)
    }

    fn plan(&self) -> Plan {
        let mut commands: Vec<_> = self.scripts.iter().map(|script| shell::command(script)).collect();
        if let Some((index, names)) = &self.packages {
            let script = method::package_query(names.iter().map(String::as_str));
            commands[*index] = shell::long_command(script, 1);
        }
        for (index, walks) in self.walks.values().filter(|(_, walks)| walks.len() > 1) {
            commands[*index] = shell::long_command(method::shared_walk(walks.values()), walks.len());
        }
        Plan { commands }
    }
}
