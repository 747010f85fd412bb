//! `rules plan`: which commands a platform would run, and which rules share their answers.

use std::collections::BTreeMap;

use openwatch_model::scan::Selection;
use openwatch_rules::{CheckPlan, Corpus, Facts, capability_names, did_you_mean};
use serde_json::json;

use super::platform;
use crate::cli::RulesPlanArgs;
use crate::client::table;
use crate::exit::Failure;
use crate::tools::check::{known_capability, known_framework};

/// Characters of a command that a table shows; `--json` has all of it.
const COMMAND: usize = 90;

/// What sharing is worth.
struct Counts {
    rules: usize,
    decided: usize,
    checks: usize,
    commands: usize,
    probes: usize,
}

pub(super) fn run(corpus: &Corpus, args: &RulesPlanArgs) -> Result<(), Failure> {
    args.capabilities.iter().try_for_each(|name| known_capability(name))?;
    let framework = args.framework.clone().unwrap_or_else(|| "*".into());
    known_framework(&framework, corpus)?;
    let has = |name: &str| args.capabilities.iter().any(|c| c == name);
    let facts = Facts {
        platform: platform(&args.platform)?,
        capabilities: capability_names().map(|name| (name.to_owned(), has(name))).collect(),
        ..Facts::default()
    };
    let plan = corpus.plan(&facts, &Selection { framework, rules: args.rule_ids.clone() });
    if let Some(unknown) = plan.unknown_rules().first() {
        let near = did_you_mean(unknown, corpus.rules().map(|rule| rule.id.as_str()));
        return Err(Failure::usage(format!("there is no rule `{unknown}`{near}")));
    }
    let counts = Counts {
        rules: plan.rules().len(),
        decided: plan.rules().iter().filter(|r| r.decided().is_some()).count(),
        checks: plan.rules().iter().map(|r| r.commands().len()).sum(),
        commands: plan.plan.commands.len(),
        probes: corpus.probe_plan().commands.len(),
    };
    if args.json {
        return as_json(&plan, &counts);
    }
    as_table(&plan, &counts, args);
    Ok(())
}

fn as_json(plan: &CheckPlan, counts: &Counts) -> Result<(), Failure> {
    let commands: Vec<_> = plan
        .plan
        .commands
        .iter()
        .zip(plan.sharing())
        .map(|(c, rules)| {
            json!({
                "command": c.script, "limit_ms": c.limit.as_millis() as u64, "isolated": c.isolate, "rules": rules,
            })
        })
        .collect();
    let decided: Vec<_> = plan
        .rules()
        .iter()
        .filter_map(|r| {
            r.decided().map(|(status, why)| json!({ "rule": r.id(), "status": status, "reason": why }))
        })
        .collect();
    let counts = json!({
        "rules": counts.rules, "decided": counts.decided, "checks": counts.checks,
        "commands": counts.commands, "saved": counts.checks - counts.commands, "probes": counts.probes,
    });
    table::json(&json!({ "counts": counts, "commands": commands, "decided": decided }))
}

fn as_table(plan: &CheckPlan, counts: &Counts, args: &RulesPlanArgs) {
    let mut rows = table::new(&["#", "command", "rules that need its answer"]);
    for (i, (command, rules)) in plan.plan.commands.iter().zip(plan.sharing()).enumerate() {
        rows.add_row([i.to_string(), table::short(command.script.trim(), COMMAND), rules.join("\n")]);
    }
    table::print(&rows, "nothing would run");
    let Counts { rules, decided, checks, commands, probes } = counts;
    table::line(&format!(
        "{checks} checks of {} rules in {commands} commands, {} saved by sharing; {probes} probes come before",
        rules - decided,
        checks - commands
    ));
    if *decided == 0 {
        return;
    }
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, why) in plan.rules().iter().filter_map(|rule| rule.decided()) {
        let reason = if why.starts_with("not for this platform") { "not for this platform" } else { why };
        *reasons.entry(reason).or_default() += 1;
    }
    table::line(&format!("{decided} rules are decided without looking:"));
    for (reason, count) in reasons {
        table::line(&format!("  {count}: {reason}"));
    }
    if args.capabilities.is_empty() {
        table::line("no --capability was given, so nothing that is gated on one is in the plan");
    }
}
