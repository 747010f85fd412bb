//! Our own corpus on a real host: every verdict is the same however its commands were run.

use std::collections::BTreeMap;

use openwatch_model::Outcome;
use openwatch_model::scan::Selection;
use openwatch_rules::{Corpus, Variables, read_dir};

use super::*;

/// Rule and verdict. Not the sentence that goes with it: it may quote what changes by itself on a busy machine.
fn verdicts(outcomes: &[Outcome]) -> BTreeMap<String, &'static str> {
    outcomes.iter().map(|o| (o.rule.clone(), o.status.as_str())).collect()
}

async fn judged(sshd: &Sshd, corpus: &Corpus, isolate: bool) -> (BTreeMap<String, &'static str>, RunReport) {
    let mut session = login(sshd).await;
    let options = RunOptions::within(Duration::from_secs(300));
    let mut probes = corpus.probe_plan();
    probes.commands.iter_mut().for_each(|c| c.isolate = isolate);
    let (answers, _) = session.run(&probes, &options, &sshd.secret()).await.expect("probes");
    let facts = corpus.facts(&answers, &BTreeMap::new());
    let mut checks = corpus.plan(&facts, &Selection::full());
    checks.plan.commands.iter_mut().for_each(|c| c.isolate |= isolate);
    let (observations, report) = session.run(&checks.plan, &options, &sshd.secret()).await.expect("runs");
    session.close().await;
    let lost: Vec<_> = observations.iter().filter(|o| matches!(o, Observation::Lost(_))).collect();
    assert!(lost.is_empty(), "{lost:?}");
    (verdicts(&checks.judge(&observations).outcomes), report)
}

// @spec remote-session
// @ac AC-02
#[tokio::test(flavor = "multi_thread")]
async fn the_same_verdicts_fast_isolated_and_one_execution_each() {
    proves("AC-02");
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rules");
    let corpus = Corpus::load(&read_dir(&dir).expect("our rules"), &Variables::builtin());
    let usual = Options::new().start();
    let single = Options::new().force_command("exec sh -c \"$SSH_ORIGINAL_COMMAND\" </dev/null").start();
    let (fast, report) = judged(&usual, &corpus, false).await;
    assert!(fast.len() >= 60 && report.fallback.is_none(), "{} rules, {report:?}", fast.len());
    for status in ["pass", "fail"] {
        assert!(fast.values().any(|v| *v == status), "no rule says {status}");
    }
    let (isolated, report) = judged(&usual, &corpus, true).await;
    assert_eq!((report.fallback, report.restarts), (None, 0));
    let (each, report) = judged(&single, &corpus, false).await;
    assert!(report.fallback.is_some() && report.executions > 60, "{report:?}");
    for (rule, verdict) in &fast {
        assert_eq!(isolated.get(rule), Some(verdict), "{rule}, isolated");
        assert_eq!(each.get(rule), Some(verdict), "{rule}, one execution each");
    }
}
