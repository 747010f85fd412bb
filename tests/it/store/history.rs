//! What no scan rewrites is derived; the past is told from history. Both must equal a model that writes every row.

use std::collections::BTreeMap;

use openwatch_model::scan::Selection;
use openwatch_model::{HostId, Outcome, ScanId, Severity, Status, Timestamp};
use openwatch_store::read;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::{Applied, Rig, outcome, with_output};

/// One rule, as a system would keep it that rewrites every row on every scan.
#[derive(Clone, Debug, PartialEq)]
struct Naive {
    status: Status,
    severity: Option<Severity>,
    check_count: u64,
    last_scan: ScanId,
    in_corpus: bool,
    changed_by: ScanId,
    says: u8,
    refs: u8,
}

/// What a rule found: its verdict, and which of a few outputs and references stand behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) status: Status,
    pub(crate) severity: Option<Severity>,
    says: u8,
    refs: u8,
}

/// A scan: full or filtered, and what each rule found; `None` is not in the corpus.
pub(crate) type Step = (bool, Vec<Option<Found>>);

const RULES: usize = 5;

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![
        4 => Just(Status::Pass),
        3 => Just(Status::Fail),
        1 => Just(Status::Skipped),
        1 => Just(Status::Error)
    ];
    let severity =
        prop_oneof![6 => Just(Some(Severity::High)), 1 => Just(Some(Severity::Low)), 1 => Just(None)];
    let found = (status, severity, 0..2_u8, 0..2_u8)
        .prop_map(|(status, severity, says, refs)| Some(Found { status, severity, says, refs }));
    let rule = prop_oneof![3 => found, 1 => Just(None)];
    (prop::bool::weighted(0.7), prop::collection::vec(rule, RULES))
}

/// As a worker would tell it.
pub(crate) fn measured(rule: usize, found: Found) -> Outcome {
    let mut it = with_output(&format!("rule-{rule}"), found.status, &found.says.to_string());
    it.severity = found.severity;
    it.framework_refs = BTreeMap::from([("cis".to_owned(), vec![found.refs.to_string()])]);
    it
}

async fn play(rig: &Rig, host: HostId, steps: &[Step]) -> Vec<(ScanId, Timestamp, BTreeMap<String, Naive>)> {
    let mut naive: BTreeMap<String, Naive> = BTreeMap::new();
    let mut moments = Vec::new();
    for (full, rules) in steps {
        let found: Vec<_> =
            rules.iter().enumerate().filter_map(|(n, rule)| Some(measured(n, (*rule)?))).collect();
        let selection = match full {
            true => Selection::full(),
            false => {
                Selection { framework: "*".into(), rules: found.iter().map(|o| o.rule.clone()).collect() }
            }
        };
        if !full && found.is_empty() {
            continue;
        }
        let scan = rig.queued(host, selection).await;
        let applied = rig.apply(scan, host, &found).await.unwrap();
        assert!(matches!(applied, Applied::Done { .. }), "{applied:?}");
        if *full {
            naive.values_mut().for_each(|rule| rule.in_corpus = false);
        }
        for it in &found {
            let new = Naive {
                status: it.status,
                severity: it.severity,
                check_count: 0,
                last_scan: scan,
                in_corpus: false,
                changed_by: scan,
                says: 0,
                refs: 0,
            };
            let rule = naive.entry(it.rule.clone()).or_insert(new);
            if (rule.status, rule.severity) != (it.status, it.severity) {
                rule.changed_by = scan;
            }
            (rule.status, rule.severity, rule.last_scan) = (it.status, it.severity, scan);
            rule.check_count += 1;
            rule.in_corpus |= full;
            rule.says = it.evidence.checks[0].stdout.parse().unwrap();
            rule.refs = it.framework_refs["cis"][0].parse().unwrap();
        }
        let at: Timestamp = sqlx::query_scalar("select applied_at from scan_ledger where scan_id = $1")
            .bind(scan.0)
            .fetch_one(&mut rig.look().await)
            .await
            .unwrap();
        moments.push((scan, at, naive.clone()));
    }
    moments
}

async fn check(rig: &Rig, host: HostId, steps: &[Step]) {
    let moments = play(rig, host, steps).await;
    let ends: BTreeMap<ScanId, Timestamp> = moments.iter().map(|(scan, at, _)| (*scan, *at)).collect();
    let mut tx = rig.api.begin_read().await.unwrap();
    let Some((_, _, naive)) = moments.last() else { return };
    let rows = read::rules(&mut tx, host, None).await.unwrap();
    assert_eq!(rows.iter().map(|r| &r.rule).collect::<Vec<_>>(), naive.keys().collect::<Vec<_>>());
    for row in rows {
        let want = &naive[&row.rule];
        let context = format!("{} after {steps:?}", row.rule);
        assert_eq!((row.status, row.severity), (want.status, want.severity), "{context}");
        assert_eq!(row.check_count, Some(want.check_count), "{context}");
        assert_eq!(row.last_scan, Some(want.last_scan), "{context}");
        assert_eq!(row.last_checked_at, Some(ends[&want.last_scan]), "{context}");
        assert_eq!(row.last_changed_at, ends[&want.changed_by], "{context}");
        assert_eq!(row.in_corpus, want.in_corpus, "{context}");
    }
    // Every moment of the past, from history alone.
    for (scan, at, naive) in &moments {
        let rows = read::rules(&mut tx, host, Some(*at)).await.unwrap();
        let evidence = read::evidence(&mut tx, &rows).await.unwrap();
        assert_eq!(rows.len(), naive.len());
        for (row, evidence) in rows.into_iter().zip(evidence) {
            let want = &naive[&row.rule];
            let says = evidence.body["checks"][0]["stdout"].as_str().unwrap().to_owned();
            assert_eq!(
                (says, row.framework_refs["cis"][0].clone()),
                (want.says.to_string(), want.refs.to_string()),
                "evidence and references of {} at {at} of {steps:?}",
                row.rule
            );
            assert_eq!(
                (row.status, row.severity, row.in_corpus, row.last_changed_at),
                (want.status, want.severity, want.in_corpus, ends[&want.changed_by]),
                "{} at {at} of {steps:?}",
                row.rule
            );
        }
        let mut verdicts: Vec<_> =
            read::verdicts(&mut tx, *scan).await.unwrap().into_iter().map(|v| (v.rule, v.status)).collect();
        verdicts.sort();
        let want: Vec<_> = naive
            .iter()
            .filter(|(_, n)| n.last_scan == *scan)
            .map(|(rule, n)| (rule.clone(), n.status))
            .collect();
        assert_eq!(verdicts, want, "verdicts of one scan of {steps:?}");
    }
}

#[tokio::test]
async fn the_view_equals_a_model_that_rewrites_every_row() {
    let rig = Rig::new().await;
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(step(), 1..9);
    for n in 0..40 {
        let steps = histories.new_tree(&mut runner).unwrap().current();
        let host = rig.host(&format!("host-{n}")).await;
        check(&rig, host, &steps).await;
    }
}

/// Few known rules are looked up one by one, many by reading all of the host's.
#[tokio::test]
async fn as_many_rules_as_move_at_once_end_the_same() {
    let rig = Rig::new().await;
    for rules in [50, 51, 200] {
        let all = |status, says, refs| -> Vec<Option<Found>> {
            vec![Some(Found { status, severity: Some(Severity::High), says, refs }); rules]
        };
        let half = all(Status::Skipped, 2, 1).into_iter().enumerate();
        let half = half.map(|(n, found)| found.filter(|_| n % 2 == 0)).collect();
        let steps = [
            (true, all(Status::Pass, 0, 0)),
            (true, all(Status::Fail, 1, 0)),
            (false, all(Status::Pass, 0, 0)),
            // The same verdicts, with other evidence behind them.
            (true, all(Status::Pass, 2, 1)),
            (true, half),
            (false, all(Status::Error, 2, 0)),
            (true, all(Status::Fail, 1, 1)),
        ];
        let host = rig.host(&format!("host-of-{rules}")).await;
        check(&rig, host, &steps).await;
    }
}

#[tokio::test]
async fn a_rule_that_returns_keeps_its_count_and_its_gap() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let here = |status| Some(Found { status, severity: None, says: 0, refs: 0 });
    let both = (true, vec![here(Status::Pass), here(Status::Pass)]);
    let one = (true, vec![here(Status::Pass), None]);
    let filtered = (false, vec![None, here(Status::Fail)]);
    let steps = [both.clone(), both.clone(), one.clone(), filtered, one, both.clone(), both];
    check(&rig, host, &steps).await;
}

#[tokio::test]
async fn a_filtered_scan_moves_no_score_but_a_full_one_after_it_compares_again() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let before = [outcome("a", Status::Pass), outcome("b", Status::Pass)];
    rig.scanned(host, &before).await;
    let only = Selection { framework: "*".into(), rules: vec!["a".into()] };
    let scan = rig.queued(host, only).await;
    rig.apply(scan, host, &[outcome("a", Status::Fail)]).await.unwrap();
    let mut tx = rig.api.begin_read().await.unwrap();
    let summary = openwatch_store::host::get(&mut tx, host).await.unwrap().unwrap();
    assert_eq!((summary.counts.pass, summary.counts.fail), (2, 0));
    drop(tx);
    // The same outcomes as the first scan, hence the same digest: still the rule must turn back.
    let (_, applied) = rig.scanned(host, &before).await;
    assert!(
        matches!(&applied, Applied::Done { changes, fast: false, .. } if changes.len() == 1),
        "{applied:?}"
    );
}

#[tokio::test]
async fn the_fleet_at_a_moment_is_the_sum_of_its_hosts() {
    let rig = Rig::new().await;
    let mut db = rig.look().await;
    let past = |days: u32| format!("now() - interval '{days} days'");
    // Scanned today, every few days, last year only, and not yet; one was not there then, one is not there now.
    for (name, scans) in
        [("daily", vec![400, 2, 1, 0]), ("slow", vec![90, 5]), ("forgotten", vec![300]), ("new", vec![])]
    {
        let host = rig.host(name).await;
        for (n, days) in scans.into_iter().enumerate() {
            let mut all = super::passing(10);
            all[..n].iter_mut().for_each(|o| *o = outcome(&o.rule, Status::Fail));
            let (scan, _) = rig.scanned(host, &all).await;
            let sql = format!("update scan_ledger set applied_at = {} where scan_id = '{scan}'", past(days));
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
        }
    }
    let (late, gone) = (rig.host("late").await, rig.host("gone").await);
    let sql = format!(
        "update host set created_at = {} where id <> '{late}';
         update host set deleted_at = {} where id = '{gone}'",
        past(500),
        past(100)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    let mut tx = rig.api.begin_read().await.unwrap();
    for (days, hosts, verified) in
        [(0, 5, 3), (1, 4, 3), (2, 4, 3), (4, 4, 3), (120, 5, 2), (350, 5, 1), (450, 5, 0)]
    {
        let at: Timestamp = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("select {}", past(days))))
            .fetch_one(&mut db)
            .await
            .unwrap();
        let fleet = read::fleet(&mut tx, Some(at)).await.unwrap();
        let each = read::hosts_at(&mut tx, at, &openwatch_store::host::Filter::default(), 10).await.unwrap();
        let mut sum =
            read::Fleet { by_state: fleet.by_state.keys().map(|s| (*s, 0)).collect(), ..Default::default() };
        for it in &each {
            *sum.by_state.entry(it.state).or_default() += 1;
            sum.rules.pass += it.counts.pass;
            sum.rules.fail += it.counts.fail;
        }
        // Of those that were never looked at, who has been there longest; then by name.
        sum.oldest = each
            .iter()
            .min_by_key(|it| (it.verified.map(|(_, at)| at), it.name == "late", &it.name))
            .map(|it| read::Oldest {
                host: it.host,
                name: it.name.clone(),
                verified_at: it.verified.map(|(_, at)| at),
            });
        assert_eq!(fleet, sum, "{days} days ago");
        assert_eq!(each.len(), hosts, "{days} days ago");
        assert_eq!(each.iter().filter(|it| it.verified.is_some()).count(), verified, "{days} days ago");
    }
}
