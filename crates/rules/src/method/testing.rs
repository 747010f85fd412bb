//! For the tests of methods: a check from YAML, and answers without a host.

use std::collections::BTreeMap;

use openwatch_model::Status;
use openwatch_model::plan::{Done, Lost, Observation};

use super::{Answers, Ready, Stop, Verdict, compile};
use crate::rule::{Check, Leaf, decode};
use crate::yaml::parse;

/// A check from flow YAML without the outer braces.
pub(crate) fn leaf(check: &str) -> Leaf {
    let rule = format!("{{id: x, implementations: [{{default: true, check: {{{check}}}}}]}}");
    let rule = decode(&parse(&rule).unwrap().unwrap(), "x.yml").unwrap();
    match rule.implementations.into_iter().next().unwrap().check.unwrap() {
        Check::One(leaf) => leaf,
        Check::All(_) => panic!("one check expected"),
    }
}

pub(crate) fn ready(check: &str) -> Ready {
    match compile(&leaf(check)) {
        Ok(ready) => ready,
        Err(stop) => panic!("{check}: {stop:?}"),
    }
}

pub(crate) fn stop(check: &str) -> Stop {
    match compile(&leaf(check)) {
        Ok(_) => panic!("{check} compiles"),
        Err(stop) => stop,
    }
}

pub(crate) fn done(exit: i32, stdout: &str) -> Observation {
    Observation::Done(Done { exit, stdout: stdout.as_bytes().to_vec(), ..Done::default() })
}

/// Commands, as evidence would name them.
pub(crate) fn commands(check: &str) -> Vec<String> {
    ready(check).steps.into_iter().map(|step| step.command).collect()
}

/// Judges a check; steps without an answer were never needed, or the verdict is lost.
pub(crate) fn judge(check: &str, answers: &[(i32, &str)]) -> Verdict {
    judge_by(check, answers).0
}

/// The verdict, and how many steps it took.
pub(crate) fn judge_by(check: &str, answers: &[(i32, &str)]) -> (Verdict, usize) {
    let ready = ready(check);
    let lost = Observation::Lost(Lost::Connection);
    let given: BTreeMap<usize, Observation> =
        answers.iter().enumerate().map(|(i, (exit, stdout))| (i, done(*exit, stdout))).collect();
    let observations = (0..ready.steps.len()).map(|i| given.get(&i).unwrap_or(&lost)).collect();
    let mut answers = Answers::new(&ready.steps, observations);
    let verdict = (ready.judge)(&mut answers).unwrap_or_else(|lost| Verdict {
        status: Status::Error,
        detail: format!("{lost:?}"),
        actual: None,
    });
    (verdict, answers.asked.len())
}

/// Status letters: `p`, `f`, `s`, `e`.
pub(crate) fn status(check: &str, answers: &[(i32, &str)]) -> char {
    match judge(check, answers).status {
        Status::Pass => 'p',
        Status::Fail => 'f',
        Status::Skipped => 's',
        Status::Error => 'e',
    }
}
