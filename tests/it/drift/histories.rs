//! Random histories through writer and drift: what was stored is what inverting the log gives.

use std::collections::{BTreeMap, BTreeSet};

use openwatch_model::drift::{Summary, Thresholds, detect};
use openwatch_model::scan::Selection;
use openwatch_model::score::Score;
use openwatch_model::transaction::ChangeKind;
use openwatch_model::{Outcome, Status};
use openwatch_store::{Page, Role, Tx, read};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::store::history::{Step, measured, step};

type Verdicts = BTreeMap<String, Status>;

fn score<'a>(statuses: impl Iterator<Item = &'a Status>) -> Score {
    statuses.fold(Score::default(), |mut score, status| {
        match status {
            Status::Pass => score.pass += 1,
            Status::Fail => score.fail += 1,
            Status::Skipped | Status::Error => {}
        }
        score
    })
}

/// A full scan.
struct Full {
    /// Its id after those of the filtered scans since the full one before.
    scans: Vec<ScanId>,
    /// What its rules were known to be at that one.
    known: Verdicts,
    /// What those that it sees had last been seen to be at one, where their checks were lost at that one.
    seen: Verdicts,
}

/// What was known of a rule.
fn told(all: &Verdicts, of: &Outcome) -> Option<(String, Status)> {
    all.get(&of.rule).map(|status| (of.rule.clone(), *status))
}

/// Scans a host as the steps say; where a step says so, the checks of two rules are lost on the way.
async fn play(stages: &Stages, host: HostId, steps: &[(Step, bool)]) -> Vec<Full> {
    let (mut known, mut full_scans) = (Verdicts::new(), Vec::new());
    let (mut at_full, mut since) = (Verdicts::new(), Vec::new());
    let (mut seen, mut lost) = (Verdicts::new(), BTreeSet::new());
    for ((full, rules), losing) in steps {
        let numbered = rules.iter().enumerate();
        let mut found: Vec<_> = numbered.filter_map(|(n, rule)| Some(measured(n, (*rule)?))).collect();
        for it in found.iter_mut().take(if *losing { 2 } else { 0 }) {
            it.status = Status::Error;
        }
        if found.is_empty() {
            continue;
        }
        let named = found.iter().map(|it| it.rule.clone());
        let selection = match full {
            true => Selection::full(),
            false => Selection { framework: "*".to_owned(), rules: named.clone().collect() },
        };
        since.push(stages.scanned_losing(host, selection, &found, u32::from(*losing)).await);
        for it in &found {
            let prior = known.insert(it.rule.clone(), it.status);
            if it.status != Status::Error {
                lost.remove(&it.rule);
            } else if prior != Some(Status::Error) && *losing {
                lost.insert(it.rule.clone());
            }
        }
        if *full {
            let last = |it: &Outcome| if it.status == Status::Error { &at_full } else { &seen };
            full_scans.push(Full {
                scans: std::mem::take(&mut since),
                known: found.iter().filter_map(|it| told(&at_full, it)).collect(),
                seen: found.iter().filter_map(|it| told(last(it), it)).collect(),
            });
            at_full.clone_from(&known);
            seen.extend(known.clone().into_iter().filter(|(rule, _)| !lost.contains(rule)));
        }
    }
    full_scans
}

/// What the rules of the last of these scans were before the first, told from the log alone: what it found, turned back by
/// the transactions of all of them.
async fn inverted(tx: &mut Tx<'_>, scans: &[ScanId]) -> (Verdicts, Verdicts) {
    let found = read::verdicts(tx, *scans.last().unwrap()).await.unwrap();
    let after: Verdicts = found.into_iter().map(|row| (row.rule, row.status)).collect();
    let mut before = after.clone();
    for scan in scans.iter().rev() {
        let filter = read::TransactionFilter { scan: Some(*scan), ..read::TransactionFilter::default() };
        for row in read::transactions(tx, &filter, &Page::first(1000)).await.unwrap().rows {
            match row.change.kind {
                ChangeKind::FirstSeen => {
                    before.remove(&row.change.rule);
                }
                ChangeKind::StateChanged if after.contains_key(&row.change.rule) => {
                    before.insert(row.change.rule, row.change.prior_status.unwrap());
                }
                ChangeKind::StateChanged | ChangeKind::SeverityChanged => {}
            }
        }
    }
    (before, after)
}

// @spec drift-detector
// @ac AC-15
#[tokio::test(flavor = "multi_thread")]
async fn drift_from_what_was_stored_is_drift_from_turning_the_log_back() {
    proves("AC-15");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec((step(), prop::bool::weighted(0.4)), 2..9);
    let (mut scans, mut found_again, mut kinds) = (0, 0, BTreeMap::<String, u32>::new());
    for round in 0..6 {
        let many: Vec<_> = (0..5).map(|_| histories.new_tree(&mut runner).unwrap().current()).collect();
        let played = many.iter().enumerate().map(async |(n, steps)| {
            let host = stages.host(&format!("host-{round}-{n}"), 22).await;
            play(&stages, host, steps).await
        });
        let played = futures::future::join_all(played).await;
        for (steps, full) in
            many.iter().zip(played).flat_map(|(steps, scans)| scans.into_iter().map(move |it| (steps, it)))
        {
            let scan = *full.scans.last().unwrap();
            let (kind, stored) = detected(&stages, scan).await;
            let api = stages.store(Role::Api).await;
            let (before, after) = inverted(&mut api.begin_read().await.unwrap(), &full.scans).await;
            assert_eq!(before, full.known, "of {scan} in {steps:?}");
            let summary = Summary {
                before: score(full.seen.values()),
                after: score(after.values()),
                ..Summary::default()
            };
            let stored_as = |score: Score| serde_json::json!({"pass": score.pass, "fail": score.fail});
            assert_eq!(
                (&stored["before"], &stored["after"]),
                (&stored_as(summary.before), &stored_as(summary.after)),
                "of {scan} in {steps:?}"
            );
            let derived = detect(summary, Thresholds::default());
            assert_eq!(kind, derived.kind.as_str(), "{steps:?}");
            scans += 1;
            found_again += u32::from(full.seen != full.known);
            *kinds.entry(kind).or_default() += 1;
        }
    }
    println!("{scans} full scans, {found_again} with checks found again: {kinds:?}");
    assert!(scans > 60 && found_again > 10 && kinds.len() >= 3, "{scans} {found_again} {kinds:?}");
}
