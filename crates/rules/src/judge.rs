//! From observations to outcomes. A rule with a lost answer is an error, never a pass and never a fail.

use openwatch_model::outcome::{Evidence, OUTPUT_RULE_CAP, Outcome, Status};
use openwatch_model::plan::{Lost, Observation};

use crate::evidence::{fit, record, sentence, value};
use crate::method::{Answer, Answers, Stop};
use crate::plan::{CheckPlan, PlannedCheck, PlannedRule, ReadyCheck, Work};

/// What a host's observations came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// One per selected rule, by rule id.
    pub outcomes: Vec<Outcome>,
    /// For each outcome, the observations its rule may use: for timing, and for counting what was lost.
    pub rule_observations: Vec<(String, Vec<usize>)>,
    /// The first rule that printed more than may be read of one: then the scan fails as a whole.
    pub oversize: Option<String>,
}

impl CheckPlan {
    /// Judges the answers to [`CheckPlan::plan`]. Answers that are missing are lost.
    pub fn judge(&self, observations: &[Observation]) -> Judged {
        let mut judged = Judged::default();
        for rule in &self.rules {
            let (outcome, said) = outcome(rule, observations);
            if judged.oversize.is_none() && said > OUTPUT_RULE_CAP {
                judged.oversize = Some(rule.id.clone());
            }
            judged.rule_observations.push((rule.id.clone(), rule.observations()));
            judged.outcomes.push(outcome);
        }
        judged
    }
}

/// The bytes of a rule's own commands. What others said in a shared observation, and what found no room beside the
/// others, is not its doing.
fn said(answers: &[Answer<'_>]) -> usize {
    let bytes = |answer: &Answer<'_>| match answer {
        Answer::Said { stdout, stderr, .. } => stdout.len() + stderr.len(),
        Answer::Lost(Lost::TooMuchOutput) => OUTPUT_RULE_CAP + 1,
        Answer::Lost(_) => 0,
    };
    answers.iter().map(bytes).sum()
}

/// With the bytes that its own commands said.
fn outcome(rule: &PlannedRule, observations: &[Observation]) -> (Outcome, usize) {
    let mut raw = Vec::new();
    let (status, detail, evidence) = match &rule.work {
        Work::Decided { status, detail } => (*status, detail.clone(), Evidence::default()),
        Work::Checks(checks) => judge_checks(checks, observations, &mut raw),
    };
    let detail = sentence(&detail);
    let outcome = Outcome {
        rule: rule.id.clone(),
        status,
        severity: rule.severity,
        skip_reason: (status == Status::Skipped).then(|| detail.clone()),
        detail,
        framework_refs: rule.references.clone(),
        evidence,
    };
    (outcome, said(&raw))
}

/// All have to hold. A failed check does not stop the others; one that cannot be assessed or breaks decides the rule.
/// `raw` takes every answer that was asked for.
fn judge_checks<'a>(
    checks: &'a [PlannedCheck],
    observations: &'a [Observation],
    raw: &mut Vec<Answer<'a>>,
) -> (Status, String, Evidence) {
    let mut status = Status::Pass;
    let mut details = Vec::new();
    let mut records = Vec::new();
    for check in checks {
        let (found, detail) = match check {
            PlannedCheck::Stop(Stop::Broken(why)) => (Status::Error, why.clone()),
            PlannedCheck::Stop(Stop::NotAssessable(why)) => (Status::Skipped, why.clone()),
            PlannedCheck::Ready(ready) => {
                let (found, detail, answers) = judge_one(ready, observations);
                for (entry, answer) in answers {
                    records.push(entry);
                    raw.push(answer);
                }
                (found, detail)
            }
        };
        match found {
            Status::Pass => details.push(detail),
            Status::Fail => {
                status = Status::Fail;
                details.push(detail);
            }
            Status::Skipped | Status::Error => {
                // What failed before stays readable, though it no longer counts.
                if status == Status::Fail {
                    return (
                        found,
                        format!("{detail}; before that: {}", details.join("; ")),
                        fit(records, raw),
                    );
                }
                return (found, detail, fit(records, raw));
            }
        }
    }
    (status, details.join("; "), fit(records, raw))
}

type Recorded<'a> = Vec<(openwatch_model::outcome::CheckEvidence, Answer<'a>)>;

fn judge_one<'a>(check: &'a ReadyCheck, observations: &'a [Observation]) -> (Status, String, Recorded<'a>) {
    const LOST: &Observation = &Observation::Lost(Lost::Connection);
    let given = check.observations.iter().map(|index| observations.get(*index).unwrap_or(LOST)).collect();
    let mut answers = Answers::new(&check.steps, given);
    let verdict = (check.judge)(&mut answers);
    let record = |(step, answer): (usize, Answer<'a>)| {
        (record(&check.method, &check.steps[step], &answer, check.expected.as_deref()), answer)
    };
    let mut recorded: Recorded<'a> = answers.asked.into_iter().map(record).collect();
    match verdict {
        Ok(verdict) => {
            if let (Some((entry, _)), Some(actual)) = (recorded.last_mut(), &verdict.actual) {
                entry.actual = Some(value(actual));
            }
            (verdict.status, verdict.detail, recorded)
        }
        Err(lost) => {
            let command = sentence(&check.steps[lost.step].command).chars().take(200).collect::<String>();
            (Status::Error, format!("no answer ({}) from: {command}", lost.why.as_str()), recorded)
        }
    }
}
