//! `rules lint|list|show|plan|publish`.

use std::collections::BTreeMap;
use std::path::Path;

use openwatch_bus::User;
use openwatch_model::host::Platform;
use openwatch_model::scan::Selection;
use openwatch_rules::{Corpus, Facts, Level, Variables, capability_names, lint};
use openwatch_store::Role;
use serde_json::json;

use crate::cli::RulesCommand;
use crate::client::table;
use crate::config::{Flags, load};
use crate::corpus_files;
use crate::exit::Failure;
use crate::run::connect;
use crate::run::up::note_publication;

/// Runs a `rules` command. The exit code: 1 when lint finds errors.
///
/// # Errors
/// 64 for a directory or a rule that is not there.
pub async fn run(command: RulesCommand) -> Result<u8, Failure> {
    match command {
        RulesCommand::Lint { dir, json } => lint_dir(dir.as_deref(), json),
        RulesCommand::List { rules, json } => list(&corpus(rules.as_deref())?, json).map(|()| 0),
        RulesCommand::Show { id, rules, json } => show(&corpus(rules.as_deref())?, &id, json).map(|()| 0),
        RulesCommand::Plan { platform, capabilities, rules, json } => {
            plan(&corpus(rules.as_deref())?, &platform, &capabilities, json).map(|()| 0)
        }
        RulesCommand::Publish { dir, database, nats, keys } => {
            let files = corpus_files::load(dir.as_deref())?;
            tell_problems(&Corpus::load(&files, &Variables::builtin()));
            let settings = load(Flags::of_publish(database, nats, keys))?;
            let keys = connect::keys(&settings)?;
            let bus = connect::bus(&settings, &keys, User::Admin).await?;
            let store = connect::store(&settings, Role::Api, 1).await?;
            let published = note_publication(&store, &bus, &keys, &files).await?;
            table::line(&format!("{} rules published as {}", published.rules, published.digest));
            Ok(0)
        }
    }
}

fn corpus(dir: Option<&Path>) -> Result<Corpus, Failure> {
    let corpus = Corpus::load(&corpus_files::load(dir)?, &Variables::builtin());
    tell_problems(&corpus);
    Ok(corpus)
}

/// Says what is wrong with files, on stderr; the rest of the corpus goes on.
pub fn tell_problems(corpus: &Corpus) {
    for problem in corpus.problems() {
        eprintln!("openwatch: {problem}");
    }
}

fn lint_dir(dir: Option<&Path>, as_json: bool) -> Result<u8, Failure> {
    let files = corpus_files::load(dir)?;
    let findings = lint(&files);
    let errors = findings.iter().filter(|f| f.level == Level::Error).count();
    if as_json {
        let rows: Vec<_> = findings
            .iter()
            .map(|f| {
                let level = if f.level == Level::Error { "error" } else { "advice" };
                json!({ "path": f.path, "line": f.line, "column": f.column, "code": f.code, "level": level, "message": f.message, "hint": f.hint })
            })
            .collect();
        table::json(&rows)?;
    } else {
        for f in &findings {
            let hint = f.hint.as_ref().map(|hint| format!("\n    {hint}")).unwrap_or_default();
            table::line(&format!("{}:{}:{}: {} {}{hint}", f.path, f.line, f.column, f.code, f.message));
        }
        table::line(&format!(
            "{} files, {errors} errors, {} to look at",
            files.len(),
            findings.len() - errors
        ));
    }
    Ok(u8::from(errors > 0))
}

fn list(corpus: &Corpus, as_json: bool) -> Result<(), Failure> {
    if as_json {
        let rows: Vec<_> = corpus
            .rules()
            .map(|r| json!({ "id": r.id, "title": r.title, "severity": r.severity_text, "category": r.category, "tags": r.tags, "references": r.references }))
            .collect();
        return table::json(&rows);
    }
    let mut rows = table::new(&["rule", "severity", "category", "title"]);
    for rule in corpus.rules() {
        rows.add_row([&rule.id, &rule.severity_text, &rule.category, &rule.title]);
    }
    table::print(&rows, "no rules");
    table::line(&format!("{} rules, digest {}", corpus.rules().count(), corpus.digest()));
    Ok(())
}

fn show(corpus: &Corpus, id: &str, as_json: bool) -> Result<(), Failure> {
    let rule = corpus.rule(id).ok_or_else(|| {
        let why =
            corpus.unusable().find(|u| u.id == id).map(|u| format!(": {}", u.reason)).unwrap_or_default();
        Failure::usage(format!("there is no usable rule `{id}`{why}"))
    })?;
    let platforms: Vec<_> = rule
        .platforms
        .iter()
        .map(|p| {
            let bound = |sign: &str, version: i64| {
                if version == 0 { String::new() } else { format!(" {sign}{version}") }
            };
            format!("{}{}{}", p.family, bound(">=", p.min_version), bound("<=", p.max_version))
        })
        .collect();
    if as_json {
        let methods: Vec<_> = rule.leaves().map(|leaf| leaf.method.as_str()).collect();
        return table::json(&json!({
            "id": rule.id, "path": rule.path, "title": rule.title, "description": rule.description,
            "rationale": rule.rationale, "severity": rule.severity_text, "category": rule.category, "tags": rule.tags,
            "references": rule.references, "platforms": platforms, "methods": methods,
        }));
    }
    table::line(&format!(
        "{}: {}\n{}, {}, {}",
        rule.id, rule.title, rule.severity_text, rule.category, rule.path
    ));
    table::line(&format!("\n{}\n\n{}", rule.description.trim(), rule.rationale.trim()));
    table::line(&format!(
        "\nplatforms: {}",
        if platforms.is_empty() { "all".into() } else { platforms.join(", ") }
    ));
    for (framework, controls) in &rule.references {
        table::line(&format!("{framework}: {}", controls.join(", ")));
    }
    for leaf in rule.leaves() {
        table::line(&format!("check: {}", leaf.method));
    }
    Ok(())
}

fn plan(corpus: &Corpus, platform: &str, capabilities: &[String], as_json: bool) -> Result<(), Failure> {
    let (family, version) = platform.split_once(' ').unwrap_or((platform, ""));
    let known: Vec<_> = capability_names().collect();
    if let Some(unknown) = capabilities.iter().find(|c| !known.contains(&c.as_str())) {
        return Err(Failure::usage(format!(
            "unknown capability `{unknown}`; known are {}",
            known.join(", ")
        )));
    }
    let capabilities: BTreeMap<String, bool> =
        known.iter().map(|k| ((*k).to_owned(), capabilities.iter().any(|c| c == k))).collect();
    let platform =
        Platform { family: family.to_lowercase(), version: version.to_owned(), name: platform.to_owned() };
    let facts = Facts { platform, capabilities, ..Facts::default() };
    let plan = corpus.plan(&facts, &Selection::full());
    let sharing = plan.sharing();
    if as_json {
        let commands: Vec<_> = plan
            .plan
            .commands
            .iter()
            .zip(&sharing)
            .map(|(c, rules)| json!({ "command": c.script, "limit_ms": c.limit.as_millis() as u64, "isolated": c.isolate, "rules": rules }))
            .collect();
        let decided: Vec<_> = plan
            .rules()
            .iter()
            .filter_map(|r| {
                r.decided().map(|(status, why)| json!({ "rule": r.id(), "status": status, "reason": why }))
            })
            .collect();
        return table::json(&json!({ "commands": commands, "decided": decided }));
    }
    let mut rows = table::new(&["#", "command", "rules"]);
    for (i, (command, rules)) in plan.plan.commands.iter().zip(&sharing).enumerate() {
        let first = command.script.lines().next().unwrap_or_default();
        let short: String = first.chars().take(90).collect();
        rows.add_row([i.to_string(), short, rules.join(", ")]);
    }
    table::print(&rows, "nothing would run");
    let decided = plan.rules().iter().filter(|r| r.decided().is_some()).count();
    table::line(&format!(
        "{} rules, {decided} decided without looking, {} commands",
        plan.rules().len(),
        plan.plan.commands.len()
    ));
    Ok(())
}
