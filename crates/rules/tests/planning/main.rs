//! From rule files to outcomes through the public API, without a host: what is shared, what a lost answer does, what
//! is skipped and why, and what evidence keeps.
#![cfg(test)]

use std::collections::BTreeMap;

use openwatch_model::host::Platform;
use openwatch_model::outcome::{Outcome, Status};
use openwatch_model::plan::{Command, Done, Lost, Observation};
use openwatch_model::scan::Selection;
use openwatch_rules::{CheckPlan, Corpus, CorpusFile, Facts, Variables};

mod laws;
mod left_out;
mod lost;

/// A rule file: id, more top-level lines, and one default check in flow style.
fn rule(id: &str, more: &str, check: &str) -> CorpusFile {
    let text = format!(
        "id: {id}\ntitle: t\nseverity: high\n{more}\nreferences: {{cis: {{rhel9: {{section: '1.1'}}}}}}\n\
         implementations:\n  - default: true\n    check: {{{check}}}\n"
    );
    CorpusFile { path: format!("demo/{id}.yml"), text }
}

fn load(files: &[CorpusFile]) -> Corpus {
    Corpus::load(files, &Variables::builtin())
}

fn rhel() -> Facts {
    let platform = Platform { family: "rhel".into(), version: "9.4".into(), name: String::new() };
    Facts { platform, ..Facts::default() }
}

fn plan(files: &[CorpusFile]) -> CheckPlan {
    load(files).plan(&rhel(), &Selection::full())
}

fn done(exit: i32, stdout: &str) -> Observation {
    Observation::Done(Done { exit, stdout: stdout.as_bytes().to_vec(), ..Done::default() })
}

/// Outcomes by rule, with each command answered by its text; what has no answer is lost.
fn outcomes(files: &[CorpusFile], answers: &[(&str, Observation)]) -> BTreeMap<String, Outcome> {
    let plan = plan(files);
    let answer = |script: &str| {
        let found = answers.iter().find(|(text, _)| *text == script).map(|(_, answer)| answer.clone());
        found.unwrap_or(Observation::Lost(Lost::Connection))
    };
    let observations: Vec<_> = plan.plan.commands.iter().map(|c| answer(&c.script)).collect();
    plan.judge(&observations).outcomes.into_iter().map(|o| (o.rule.clone(), o)).collect()
}

fn one(check: &str, answers: &[(&str, Observation)]) -> Outcome {
    outcomes(&[rule("r", "", check)], answers).remove("r").unwrap()
}

#[test]
fn one_observation_serves_every_rule_that_needs_it() {
    let files = [
        rule("a", "", "method: sshd_effective_config, key: Port, expected: '22'"),
        rule("b", "", "method: sshd_effective_config, key: UsePAM, expected: 'yes'"),
        rule("c", "", "method: audit_rule_exists, rule: '-w /a -p wa'"),
        rule("d", "", "method: audit_rule_exists, rule: '-w /b -p wa'"),
        rule("e", "", "method: kernel_module_state, name: cramfs"),
        rule("f", "", "method: kernel_module_state, name: dccp"),
        rule("g", "", "method: command, run: 'id -u'"),
        rule(
            "h",
            "",
            "checks: [{method: command, run: 'id -u'}, {method: grub_parameter, key: audit, expected: '1'}]",
        ),
        rule("i", "", "method: grub_parameter, key: slub_debug, expected: P"),
    ];
    let plan = plan(&files);
    let scripts: Vec<_> = plan.plan.commands.iter().map(|c| c.script.as_str()).collect();
    let expected = [
        "sshd -T 2>/dev/null",
        "auditctl -l 2>/dev/null",
        "lsmod 2>/dev/null",
        "modprobe -n --show-depends 'cramfs' 2>&1",
        "modprobe -n --show-depends 'dccp' 2>&1",
        "id -u",
        "cat /proc/cmdline 2>/dev/null",
        "grep 'GRUB_CMDLINE_LINUX' /etc/default/grub 2>/dev/null",
    ];
    assert_eq!(scripts, expected);
    assert_eq!(plan.sharing()[..3], [vec!["a", "b"], vec!["c", "d"], vec!["e", "f"]]);
    assert_eq!(plan.sharing()[6], ["h", "i"]);
    let b = &plan.rules()[1];
    assert_eq!(b.commands(), [("sshd -T 2>/dev/null | grep -i '^usepam '", 0)]);
    let judged = plan.judge(&[done(0, "port 22\nusepam no\n")]);
    let statuses: Vec<_> = judged.outcomes.iter().map(|o| o.status.as_str()).collect();
    assert_eq!(statuses, ["pass", "fail", "error", "error", "error", "error", "error", "error", "error"]);
    assert_eq!(judged.rule_observations[7], ("h".to_owned(), vec![5, 6, 7]));
    let evidence = &judged.outcomes[1].evidence.checks[0];
    assert_eq!(evidence.command, "sshd -T 2>/dev/null | grep -i '^usepam '");
    assert_eq!((evidence.stdout.as_str(), evidence.exit_code), ("usepam no", Some(0)));
    assert_eq!((evidence.expected.as_deref(), evidence.actual.as_deref()), (Some("yes"), Some("no")));
}

#[test]
fn several_checks_all_have_to_hold() {
    let exists = |path: &str| format!("{{method: file_exists, path: {path}}}");
    let three = format!("checks: [{}, {{checks: [{}, {}]}}]", exists("/a"), exists("/b"), exists("/c"));
    let answers = |exits: [i32; 3]| {
        [
            ("[ -e '/a' ]", done(exits[0], "")),
            ("[ -e '/b' ]", done(exits[1], "")),
            ("[ -e '/c' ]", done(exits[2], "")),
        ]
    };
    for (exits, status) in [([0, 0, 0], Status::Pass), ([0, 1, 0], Status::Fail), ([1, 1, 1], Status::Fail)] {
        let outcome = one(&three, &answers(exits));
        assert_eq!((outcome.status, outcome.evidence.checks.len()), (status, 3));
    }
    let mixed = format!("checks: [{}, {{method: command, cmd: x}}]", exists("/a"));
    let outcome = one(&mixed, &[("[ -e '/a' ]", done(1, "")), ("x", done(0, ""))]);
    let methods: Vec<_> = outcome.evidence.checks.iter().map(|c| c.method.as_str()).collect();
    assert_eq!((outcome.status, methods), (Status::Fail, vec!["file_exists", "command"]));
}

#[test]
fn a_check_that_cannot_be_assessed_or_breaks_decides_and_keeps_what_was_seen() {
    let with = |second: &str| {
        format!("checks: [{{method: command, cmd: a}}, {second}, {{method: command, cmd: z}}]")
    };
    let a = ("a", done(1, "finding\n"));
    let skipped = one(
        &with("{method: command, cmd: b, not_assessable_exit: 3}"),
        &[a.clone(), ("b", done(3, "why\n"))],
    );
    assert_eq!((skipped.status, skipped.evidence.checks.len()), (Status::Skipped, 2));
    assert!(
        skipped.detail.starts_with("why; before that: exit 1")
            && skipped.skip_reason == Some(skipped.detail.clone())
    );
    let undeclared = "{method: set_compare, observed_command: o, authorized: ''}";
    assert_eq!(one(&with(undeclared), std::slice::from_ref(&a)).status, Status::Skipped);
    assert_eq!(one(&with("{method: nonsense}"), std::slice::from_ref(&a)).status, Status::Error);
    assert_eq!(one(&with("{method: command, cmd: lost}"), &[a]).status, Status::Error);
    // Nothing behind the end is observed.
    assert_eq!(plan(&[rule("r", "", &with(undeclared))]).plan.commands.len(), 1);
}

#[test]
fn gates_come_in_order_and_say_why() {
    let text = |when: &str, platforms: &str| CorpusFile {
        path: "r.yml".into(),
        text: format!(
            "id: r\nplatforms: {platforms}\nimplementations:\n  - {{when: {when}, check: {{method: command, cmd: x}}}}\n"
        ),
    };
    let decided = |when: &str, platforms: &str| {
        let plan = plan(&[text(when, platforms)]);
        let (status, why) = plan.rules()[0].decided().unwrap();
        (status, why.to_owned())
    };
    let (status, why) = decided("[broken]", "[{family: ubuntu, min_version: 22}]");
    assert_eq!(
        (status, why.as_str()),
        (Status::Skipped, "not for this platform: RHEL 9.4; the rule is for ubuntu >=22")
    );
    assert_eq!(decided("[broken]", "[{family: rhel}]").0, Status::Error);
    let (status, why) = decided("gdm", "[]");
    assert_eq!((status, why.as_str()), (Status::Skipped, "none of its implementations is for this host"));
    let (mut facts, corpus) = (rhel(), load(&[text("gdm", "[]")]));
    facts.unknown.insert("gdm".into(), Lost::Timeout);
    assert_eq!(corpus.plan(&facts, &Selection::full()).rules()[0].decided().unwrap().0, Status::Error);
}

#[test]
fn selections_by_framework_and_by_rule() {
    let mut nist = rule("b", "", "method: command, cmd: x");
    nist.text = nist.text.replace("{cis: {rhel9: {section: '1.1'}}}", "{nist_800_53: [AC-1]}");
    let corpus = load(&[rule("a", "", "method: command, cmd: x"), nist]);
    let ids = |framework: &str, rules: &[&str]| {
        let rules = rules.iter().map(|r| (*r).to_owned()).collect();
        let plan = corpus.plan(&rhel(), &Selection { framework: framework.into(), rules });
        let ids = plan.rules().iter().map(|r| r.id().to_owned()).collect::<Vec<_>>().join(" ");
        (ids, plan.unknown_rules().join(" "))
    };
    let is = |ids: &str, unknown: &str| (ids.to_owned(), unknown.to_owned());
    assert_eq!(ids("*", &[]), is("a b", ""));
    assert_eq!(ids("CIS", &[]), is("a", ""));
    assert_eq!(ids("nist-800-53", &[]), is("b", ""));
    assert_eq!(ids("*", &["b", "gone"]), is("b", "gone"));
    assert_eq!(ids("stig", &["a"]), is("", ""));
    assert_eq!(corpus.frameworks(), BTreeMap::from([("cis_rhel9", 1), ("nist_800_53", 1)]));
}

#[test]
fn variables_come_from_the_built_ins_the_corpus_and_the_caller() {
    let file = rule("r", "", "method: command, cmd: 'check {{ password_remember }} {{ site }}'");
    let defaults = CorpusFile {
        path: "defaults.yml".into(),
        text: "variables: {password_remember: 7, site: a}\n".into(),
    };
    let command = |files: &[CorpusFile], overrides: &[(&str, &str)]| {
        let overrides = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let corpus = Corpus::load(files, &Variables::builtin().with(&overrides).unwrap());
        let plan = corpus.plan(&rhel(), &Selection::full());
        (plan.plan.commands.first().map(|c| c.script.clone()), corpus.digest().to_owned())
    };
    let (none, _) = command(std::slice::from_ref(&file), &[]);
    assert_eq!(none, None);
    let both = [defaults, file];
    let (theirs, digest) = command(&both, &[]);
    assert_eq!(theirs.as_deref(), Some("check 7 a"));
    let (ours, same) = command(&both, &[("password_remember", "9")]);
    assert_eq!(ours.as_deref(), Some("check 9 a"));
    assert_eq!(digest, same, "the digest names the files, not the values");
}

#[test]
fn commands_carry_their_limit_and_isolation() {
    let plan = plan(&[
        rule("a", "", "method: command, cmd: 'find / -xdev -nouser'"),
        rule("b", "", "method: command, cmd: 'sleep 1 & wait'"),
        rule("c", "", "method: command, cmd: 'id'"),
    ]);
    let limits: Vec<_> =
        plan.plan.commands.iter().map(|c| (c.limit > Command::DEFAULT_LIMIT, c.isolate)).collect();
    assert_eq!(limits, [(true, false), (false, true), (false, false)]);
}
