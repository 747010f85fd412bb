//! The engine against a second, plain reading of the rule language, over hosts in many states: same statuses, same
//! commands, same answers. So every observation that rules share says exactly what each rule's own command says.
#![cfg(test)]

mod dice;
mod host;
mod rules;
mod simple;
mod states;
mod walks;

use openwatch_model::Status;
use openwatch_model::scan::Selection;
use openwatch_rules::{Corpus, CorpusFile, Facts, Variables};

use dice::Dice;
use host::Host;

/// Both readings of every rule on one host; returns how many ended in each status.
fn compare(seed: u64, host: &Host, files: &[CorpusFile]) -> [usize; 4] {
    let corpus = Corpus::load(files, &Variables::builtin());
    assert_eq!(corpus.problems(), [], "the generated rules are readable");
    let plan = corpus.plan(&Facts::default(), &Selection::full());
    let judged = plan.judge(&host.observe(&plan.plan));
    let mut counts = [0; 4];
    for outcome in judged.outcomes {
        let rule = corpus.rule(&outcome.rule).unwrap();
        let check = rule.implementations[0].check.as_ref().unwrap();
        let plain = simple::read(host, check);
        let context = format!("seed {seed}, {check:?}\n{outcome:?}\n{plain:?}");
        assert_eq!(outcome.status, plain.status, "{context}");
        // A query shared by all packages knows installed from not, but not why a tool was not there.
        let exit =
            |command: &str, exit: i32| if command.contains("rpm -q") { i32::from(exit != 0) } else { exit };
        let ours = outcome.evidence.checks.iter().map(|c| {
            assert_eq!(c.error, None, "{context}");
            (c.command.clone(), exit(&c.command, c.exit_code.unwrap()), c.stdout.clone())
        });
        let theirs: Vec<_> = plain.ran.into_iter().map(|(c, e, out)| (c.clone(), exit(&c, e), out)).collect();
        assert_eq!(ours.collect::<Vec<_>>(), theirs, "{context}");
        counts[match outcome.status {
            Status::Pass => 0,
            Status::Fail => 1,
            Status::Skipped => 2,
            Status::Error => 3,
        }] += 1;
    }
    counts
}

fn hosts() -> u64 {
    if std::env::var_os("OPENWATCH_LONG").is_some() { 100 } else { 4 }
}

// @spec rule-engine
// @ac AC-06
#[test]
fn the_engine_and_a_plain_reading_agree_on_every_host() {
    println!("@spec rule-engine");
    println!("@ac AC-06");
    let mut all = [0; 4];
    for seed in 1..=hosts() {
        let mut dice = Dice::new(seed);
        let host = Host::new();
        states::set(&host, &mut dice);
        let files = rules::some(&host, &mut dice, 90);
        for (sum, count) in all.iter_mut().zip(compare(seed, &host, &files)) {
            *sum += count;
        }
    }
    println!("pass {}, fail {}, skipped {}, error {}", all[0], all[1], all[2], all[3]);
    assert!(all.iter().all(|count| *count > 0), "every status was met: {all:?}");
    assert!(all[0] * 6 > all[1] && all[1] * 6 > all[0], "neither verdict is rare: {all:?}");
}

#[test]
fn one_query_for_all_packages_says_what_each_own_command_says() {
    for kind in 0..if hosts() > 10 { 30 } else { 6 } {
        let seed = 1000 + kind as u64;
        let mut dice = Dice::new(seed);
        let host = Host::new();
        host::packages(&host, &mut dice, kind);
        let files: Vec<_> = rules::packages();
        compare(seed, &host, &files);
    }
}

/// How many walks of these rules are made for several of them.
fn shared_walks(files: &[CorpusFile]) -> usize {
    let corpus = Corpus::load(files, &Variables::builtin());
    let plan = corpus.plan(&Facts::default(), &Selection::full()).plan;
    plan.commands.iter().filter(|command| command.script.starts_with("# one walk of ")).count()
}

#[test]
fn one_walk_of_a_tree_says_what_each_own_walk_says() {
    let (mut all, mut shared) = ([0; 4], 0);
    for seed in 2000..2000 + hosts() * 2 {
        let mut dice = Dice::new(seed);
        let host = Host::new();
        walks::tree(&host, &mut dice);
        let files: Vec<_> = (0..20).map(|i| rules::file(i, &walks::check(&host, &mut dice))).collect();
        shared += shared_walks(&files);
        for (sum, count) in all.iter_mut().zip(compare(seed, &host, &files)) {
            *sum += count;
        }
    }
    println!("{shared} shared walks; pass {}, fail {}", all[0], all[1]);
    assert!(shared as u64 > hosts(), "{shared}");
    assert!(all[0] * 6 > all[1] && all[1] * 6 > all[0], "neither verdict is rare: {all:?}");
}

#[test]
fn the_query_understands_the_real_package_tools() {
    let names =
        ["bash", "Bash", "coreutils", "libc6", "rpm", "glibc", "no-such-package", "mail-transport-agent"];
    let checks = names.iter().flat_map(|name| {
        ["present", "absent"].map(|state| format!("method: package_state, name: {name}, state: {state}"))
    });
    let host = Host::new();
    for tool in ["dpkg", "dpkg-query", "rpm"] {
        if let Some(found) = ["/usr/bin", "/bin"]
            .iter()
            .map(|d| format!("{d}/{tool}"))
            .find(|p| std::path::Path::new(p).exists())
        {
            std::os::unix::fs::symlink(found, host.path("bin").join(tool)).unwrap();
        }
    }
    let checks: Vec<String> = checks.collect();
    let files: Vec<_> = checks.iter().enumerate().map(|(i, check)| rules::file(i, check)).collect();
    let [pass, fail, ..] = compare(0, &host, &files);
    assert_eq!((pass, fail), (names.len(), names.len()), "each is present or absent");
}
