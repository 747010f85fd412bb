//! Results become rule state, transactions and a ledger row, once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use openwatch_model::drift::{SeverityCounts, Summary};
use openwatch_model::host::Platform;
use openwatch_model::scan::Selection;
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::transaction::ChangeKind;
use openwatch_model::{HostId, Severity, Status};
use openwatch_store::apply::{self, Completion};
use openwatch_store::audit::Columns;
use openwatch_store::end::{self, Ending, Found, Source};
use openwatch_store::outbox::{OutboxMessage, Told};
use openwatch_store::{StoreError, Tx, finding, host, read};

use super::{Applied, Rig, apply_result, as_sent, outcome, passing, with_output};

/// What a rule says now.
async fn evidence(tx: &mut Tx<'_>, host: HostId, rule: &str) -> read::EvidenceRow {
    let mut rules = read::rules(tx, host, None).await.unwrap();
    rules.retain(|row| row.rule == rule);
    read::evidence(tx, &rules).await.unwrap().remove(0)
}

/// What else a scan has on record, and these tests do not look at.
#[derive(Default)]
struct Nothing {
    summary: Summary,
    platform: Platform,
    capabilities: BTreeMap<String, bool>,
}

impl Nothing {
    fn but(&self, found: Found, digest: [u8; 32]) -> Completion<'_> {
        Completion {
            source: Source { attempt: 1, ..Source::default() },
            found,
            digest,
            summary: &self.summary,
            state: ComplianceState::Compliant,
            platform: &self.platform,
            capabilities: &self.capabilities,
            timings: &[],
        }
    }
}

const TRANSACTIONS: &str = "select count(*) from transactions";

fn kinds(applied: &Applied) -> Vec<(String, ChangeKind)> {
    match applied {
        Applied::Done { changes, .. } => changes.iter().map(|c| (c.rule.clone(), c.kind)).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_first_scan_sees_every_rule_for_the_first_time() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let (scan, applied) = rig.scanned(host, &passing(50)).await;
    assert_eq!(kinds(&applied).len(), 50);
    assert!(kinds(&applied).iter().all(|(_, kind)| *kind == ChangeKind::FirstSeen));
    assert_eq!(rig.number(TRANSACTIONS).await, 50);
    assert_eq!(rig.number("select count(*) from host_rule_state where check_count = 1").await, 50);

    let mut tx = rig.api.begin_read().await.unwrap();
    let summary = host::get(&mut tx, host).await.unwrap().unwrap();
    assert_eq!((summary.state, summary.counts.pass), (ComplianceState::Compliant, 50));
    assert_eq!(summary.verified.map(|(scan, _)| scan), Some(scan));
    let verdicts = read::verdicts(&mut tx, scan).await.unwrap();
    assert_eq!(verdicts.len(), 50);
    let evidence = evidence(&mut tx, host, "rule-0007").await;
    assert_eq!(
        (&evidence.body["detail"], &evidence.body["checks"][0]["command"]),
        (&"seen".into(), &"probe rule-0007".into())
    );
}

/// What was seen of a host without holding it may be over when its scan is to end: then nothing of it is done.
#[tokio::test]
async fn what_moved_since_it_was_seen_is_asked_again() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &passing(20)).await;
    let moves = [
        "update host_state set full_digest = null",
        "update host_state set full_digest = sha256('other')",
        "update host_state set full_seq = full_seq + 1",
        "update host_state set applied_number = applied_number + 1",
        "update host_state set compliance_state = 'critical'",
        "update scan set state = 'failed', failure_reason = 'lost', finished_at = now() where state = 'queued'; delete from open_scan",
    ];
    for moved in moves {
        let scan = rig.queued(host, Selection::full()).await;
        let text = "select coalesce(encode(full_digest, 'hex'), '') from host_state";
        let digest: String = sqlx::query_scalar(text).fetch_one(&mut rig.look().await).await.unwrap();
        let digest: [u8; 32] = hex::decode(&digest).unwrap().try_into().unwrap();
        let Some((moment, Ending::Open(open))) = end::glance(&rig.writer, scan, host).await.unwrap() else {
            panic!("it is under way: {moved}");
        };
        assert!(open.found_before(&digest), "{moved}");
        let nothing = Nothing::default();
        let done = nothing.but(open.found, digest);
        let messages = vec![OutboxMessage {
            message_id: "m".into(),
            subject: "ow.v1.evt.x".into(),
            headers: BTreeMap::new(),
            payload: vec![1],
            packed: true,
        }];
        let told = Told { sender: "writer", log: Columns::default(), messages };
        let everything = "select (select count(*) from scan_ledger) + (select count(*) from outbox)
                          + (select count(*) from scan where state = 'completed')";
        let before = rig.number(everything).await;
        let mut other = rig.look().await;
        let stood = "create table if not exists stood as select * from host_state";
        sqlx::raw_sql(stood).execute(&mut other).await.unwrap();
        let work = apply::unchanged(&rig.writer, &moment, &open, &done, &told);
        let ended = rig.meanwhile(moved, work).await;
        assert!(!ended.unwrap(), "{moved}");
        assert_eq!(rig.number(everything).await, before, "{moved}");
        let again = "update host_state h set full_digest = s.full_digest, full_seq = s.full_seq, applied_number = s.applied_number,
                       compliance_state = s.compliance_state from stood s where s.host_id = h.host_id;
                     update scan set state = 'failed', failure_reason = 'lost', finished_at = now() where state = 'queued';
                     delete from open_scan";
        sqlx::raw_sql(again).execute(&mut other).await.unwrap();
    }
}

#[tokio::test]
async fn an_identical_rescan_adds_a_ledger_row_and_nothing_else() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &passing(50)).await;
    let versions = "select sum(xmin::text::bigint)::bigint from rule_state";
    let before = rig.number(versions).await;
    let (scan, applied) = rig.scanned(host, &passing(50)).await;
    assert!(
        matches!(&applied, Applied::Done { changes, fast: true, .. } if changes.is_empty()),
        "{applied:?}"
    );
    assert_eq!(rig.number(TRANSACTIONS).await, 50);
    assert_eq!(rig.number("select count(*) from host_rule_state where check_count = 2").await, 50);
    assert_eq!(rig.number(versions).await, before, "no rule's row was rewritten");
    let mut tx = rig.api.begin_read().await.unwrap();
    let row = read::scan(&mut tx, scan).await.unwrap().unwrap();
    assert!(row.found.unwrap().unchanged);
    assert_eq!(read::verdicts(&mut tx, scan).await.unwrap().len(), 50);
    drop(tx);

    // The same outcomes in another order are other bytes: compared one by one, and the same.
    let mut turned = passing(50);
    turned.reverse();
    let (scan, applied) = rig.scanned(host, &turned).await;
    assert!(
        matches!(&applied, Applied::Done { changes, fast: false, .. } if changes.is_empty()),
        "{applied:?}"
    );
    assert_eq!(rig.number(versions).await, before, "no rule's row was rewritten");
    let mut tx = rig.api.begin_read().await.unwrap();
    assert!(read::scan(&mut tx, scan).await.unwrap().unwrap().found.unwrap().unchanged);
}

#[tokio::test]
async fn one_flip_is_one_transaction_with_both_scores() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let mut outcomes = passing(10);
    rig.scanned(host, &outcomes).await;
    outcomes[3] = outcome("rule-0003", Status::Fail);
    let (_, applied) = rig.scanned(host, &outcomes).await;
    assert_eq!(kinds(&applied), [("rule-0003".to_owned(), ChangeKind::StateChanged)]);
    let Applied::Done { summary, .. } = applied else { unreachable!() };
    assert_eq!((summary.before, summary.after), (Score { pass: 10, fail: 0 }, Score { pass: 9, fail: 1 }));
    assert_eq!(summary.became_failing, SeverityCounts { medium: 1, ..SeverityCounts::default() });

    // Severity alone, then status and severity together: one transaction each, status winning.
    outcomes[3].severity = Some(Severity::Critical);
    let (_, applied) = rig.scanned(host, &outcomes).await;
    assert_eq!(kinds(&applied), [("rule-0003".to_owned(), ChangeKind::SeverityChanged)]);
    outcomes[3] = outcome("rule-0003", Status::Error);
    let (_, applied) = rig.scanned(host, &outcomes).await;
    assert_eq!(kinds(&applied), [("rule-0003".to_owned(), ChangeKind::StateChanged)]);
}

#[tokio::test]
async fn evidence_that_moved_under_the_same_verdict_is_no_transaction() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &[with_output("r", Status::Pass, "one")]).await;
    let (_, applied) = rig.scanned(host, &[with_output("r", Status::Pass, "two")]).await;
    assert!(kinds(&applied).is_empty());
    let mut tx = rig.api.begin_read().await.unwrap();
    let evidence = evidence(&mut tx, host, "r").await;
    assert_eq!(evidence.body["checks"][0]["stdout"], "two");
    assert_eq!(rig.number("select count(*) from host_rule_state where check_count = 2").await, 1);
}

#[tokio::test]
async fn a_replay_changes_nothing_and_another_host_is_a_conflict() {
    let rig = Rig::new().await;
    let (host, other) = (rig.host("web-1").await, rig.host("web-2").await);
    let (scan, _) = rig.scanned(host, &passing(5)).await;
    for _ in 0..3 {
        assert_eq!(rig.apply(scan, host, &passing(5)).await.unwrap(), Applied::Replay);
    }
    assert_eq!(rig.apply(scan, other, &passing(5)).await.unwrap(), Applied::OtherHost);
    assert_eq!(rig.number("select count(*) from host_rule_state where check_count = 1").await, 5);
    assert_eq!(rig.number("select count(*) from scan_ledger").await, 1);
}

#[tokio::test]
async fn of_two_racing_replays_one_applies() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    for round in 0..10 {
        let scan = rig.queued(host, Selection::full()).await;
        let outcomes = vec![with_output("r", Status::Pass, &round.to_string())];
        let (a, b, c) = tokio::join!(
            rig.apply(scan, host, &outcomes),
            rig.apply(scan, host, &outcomes),
            rig.apply(scan, host, &outcomes)
        );
        let done = [a, b, c].into_iter().filter(|r| matches!(r, Ok(Applied::Done { .. }))).count();
        assert_eq!(done, 1);
    }
    assert_eq!(rig.number("select check_count from host_rule_state").await, 10);
}

#[tokio::test]
async fn a_late_result_of_an_older_scan_changes_no_state() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let late = rig.queued(host, Selection::full()).await;
    // Only a hand in the database lets two scans of a host be open: the key forbids it otherwise.
    sqlx::raw_sql(
        "alter table open_scan drop constraint open_scan_pkey;
         insert into open_scan (host_id, scan_id, unissued) select id, gen_random_uuid(), true from host;
         insert into scan (id, host_id, number, lane, trigger, actor, framework, policy_version, queued_at)
         select scan_id, host_id, 2, 'manual', 'manual', 't', '*', '1.0.0', now() from open_scan
         where scan_id not in (select id from scan)",
    )
    .execute(&mut rig.look().await)
    .await
    .unwrap();
    let newer: uuid::Uuid = sqlx::query_scalar("select id from scan where number = 2")
        .fetch_one(&mut rig.look().await)
        .await
        .unwrap();
    let newer = openwatch_model::ScanId(newer);
    rig.apply(newer, host, &[outcome("r", Status::Pass)]).await.unwrap();
    assert_eq!(rig.apply(late, host, &[outcome("r", Status::Fail)]).await.unwrap(), Applied::Superseded);
    let mut tx = rig.api.begin_read().await.unwrap();
    let rules = read::rules(&mut tx, host, None).await.unwrap();
    assert_eq!((rules[0].status, rules[0].check_count), (Status::Pass, Some(1)));
    assert!(read::scan(&mut tx, late).await.unwrap().unwrap().superseded);
}

#[tokio::test]
async fn what_the_database_refuses_leaves_nothing_behind() {
    let rig = Rig::new().await;
    let (host, other) = (rig.host("web-1").await, rig.host("web-2").await);
    let scan = rig.queued(host, Selection::full()).await;
    let said = as_sent(&passing(20));
    let findings = finding::prepare(said).unwrap();
    let mut tx = rig.writer.begin().await.unwrap();
    let Ending::Open(mut open) = end::open(&mut tx, scan, Some(host)).await.unwrap() else {
        panic!("it is open")
    };
    // The scan is of another host: the foreign key over both says no.
    open.host = other;
    let nothing = Nothing::default();
    let done = nothing.but(Found::of(&findings), [1; 32]);
    let comparison = apply::compare(&apply::known(&mut tx, &open).await.unwrap(), true, &findings);
    let changes = super::changes(&comparison, &findings);
    let refused = apply::write(&mut tx, &open, &done, &findings, &comparison, &changes).await.unwrap_err();
    assert_eq!(refused.reason(), "fk_violation", "{refused}");
    drop(tx);
    for table in [
        "select count(*) from transactions",
        "select count(*) from evidence",
        "select count(*) from scan_ledger",
    ] {
        assert_eq!(rig.number(table).await, 0, "{table}");
    }
    assert!(matches!(rig.apply(scan, host, &passing(20)).await, Ok(Applied::Done { .. })));
}

/// The same of rules that the host has: evidence, rules and log are one statement, after that of the ledger.
#[tokio::test]
async fn what_the_database_refuses_of_known_rules_leaves_nothing_behind() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    for (round, moved) in [3, 70].into_iter().enumerate() {
        rig.scanned(host, &passing(100)).await;
        let everything = "select md5(string_agg(all_rows, ',' order by all_rows)) = $1 from (
            select r::text as all_rows from rule_state r union all select e::text from evidence e
            union all select t::text from transactions t union all select l::text from scan_ledger l
            union all select h::text from host_state h) as everything";
        let sum: String = sqlx::query_scalar(sqlx::AssertSqlSafe(everything.replace(" = $1", "")))
            .fetch_one(&mut rig.look().await)
            .await
            .unwrap();
        let scan = rig.queued(host, Selection::full()).await;
        let mut outcomes = passing(100);
        outcomes[..moved]
            .iter_mut()
            .for_each(|o| *o = with_output(&o.rule, Status::Fail, &round.to_string()));
        let findings = finding::prepare(as_sent(&outcomes)).unwrap();
        let mut tx = rig.writer.begin().await.unwrap();
        let Ending::Open(open) = end::open(&mut tx, scan, Some(host)).await.unwrap() else {
            panic!("it is open")
        };
        let comparison = apply::compare(&apply::known(&mut tx, &open).await.unwrap(), true, &findings);
        let mut changes = super::changes(&comparison, &findings);
        assert_eq!(changes.len(), moved);
        // The last of them says that it changed, and from nothing: a check of the table says no.
        changes[moved - 1].prior_status = None;
        let nothing = Nothing::default();
        let done = nothing.but(Found::of(&findings), [1; 32]);
        let refused =
            apply::write(&mut tx, &open, &done, &findings, &comparison, &changes).await.unwrap_err();
        assert!(refused.to_string().contains("transactions_prior"), "{refused}");
        drop(tx);
        let same =
            sqlx::query_scalar::<_, bool>(everything).bind(&sum).fetch_one(&mut rig.look().await).await;
        assert!(same.unwrap(), "{moved} rules");
        let applied = rig.apply(scan, host, &outcomes).await.unwrap();
        assert_eq!(kinds(&applied).len(), moved);
    }
}

#[tokio::test]
async fn checks_guard_evidence_whoever_writes_it() {
    let rig = Rig::new().await;
    let mut look = rig.look().await;
    for (body, bytes) in [("[]", 2), ("null", 4), ("\"x\"", 3), ("{}", 262_145), ("{}", 1)] {
        let refused = sqlx::query("insert into evidence (hash, body, bytes) values ($1, $2::jsonb, $3)")
            .bind(vec![0u8; 32])
            .bind(serde_json::from_str::<serde_json::Value>(body).unwrap())
            .bind(bytes)
            .execute(&mut look)
            .await
            .map_err(StoreError::from);
        assert!(matches!(refused, Err(StoreError::Refused { .. })), "{body} {bytes}");
    }
}

#[tokio::test]
async fn nul_in_output_is_stored_as_a_replacement() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &[with_output("r", Status::Fail, "a\0b")]).await;
    let mut tx = rig.api.begin_read().await.unwrap();
    let evidence = evidence(&mut tx, host, "r").await;
    assert_eq!(evidence.body["checks"][0]["stdout"], "a\u{fffd}b");
    assert_eq!(evidence.body["nul_replaced"], true);
}

#[tokio::test]
async fn fifty_hosts_with_the_same_news_never_wait_in_a_circle() {
    let rig = Rig::new().await;
    let mut scans = Vec::new();
    for n in 0..50 {
        let host = rig.host(&format!("web-{n}")).await;
        scans.push((rig.queued(host, Selection::full()).await, host));
    }
    let outcomes = passing(100);
    let applied = futures::future::join_all(
        scans.iter().map(|(scan, host)| apply_result(&rig.writer, *scan, *host, &outcomes)),
    )
    .await;
    assert!(applied.iter().all(|r| matches!(r, Ok(Applied::Done { .. }))));
    assert_eq!(rig.number(TRANSACTIONS).await, 5000);
    assert_eq!(rig.number("select count(*) from evidence").await, 100, "each distinct body once");

    // The same of rules that all of them have already, some more and some fewer than are looked up one by one.
    for (distinct, news, moved) in [(140, "fewer", 40_i64), (220, "more", 80)] {
        let mut outcomes = passing(100);
        outcomes[..moved as usize].iter_mut().for_each(|o| *o = with_output(&o.rule, Status::Fail, news));
        let mut applied = Vec::new();
        for (_, host) in &scans {
            applied.push((rig.queued(*host, Selection::full()).await, *host));
        }
        let applied = futures::future::join_all(
            applied.iter().map(|(scan, host)| apply_result(&rig.writer, *scan, *host, &outcomes)),
        )
        .await;
        assert!(applied.iter().all(|r| matches!(r, Ok(Applied::Done { .. }))));
        assert_eq!(rig.number("select count(*) from evidence").await, distinct, "each distinct body once");
        let failing = "select count(*) from rule_state where status = 'fail'";
        assert_eq!(rig.number(failing).await, 50 * moved);
    }
}

#[tokio::test]
async fn a_thousand_rules_take_well_under_two_seconds() {
    let rig = Rig::new().await;
    let outcomes = passing(1000);
    let (mut first, mut same, mut one) = (Duration::MAX, Duration::MAX, Duration::MAX);
    for n in 0..5 {
        let host = rig.host(&format!("web-{n}")).await;
        let mut outcomes: Vec<_> =
            outcomes.iter().map(|o| with_output(&o.rule, o.status, &format!("{n}"))).collect();
        for (round, best) in [&mut first, &mut same, &mut one].into_iter().enumerate() {
            if round == 2 {
                outcomes[0] = outcome("rule-0000", Status::Fail);
            }
            let scan = rig.queued(host, Selection::full()).await;
            let start = Instant::now();
            rig.apply(scan, host, &outcomes).await.unwrap();
            *best = (*best).min(start.elapsed());
        }
    }
    println!("1000 rules: first seen {first:?}, unchanged {same:?}, one changed {one:?} (with preparing)");
    assert!(first < Duration::from_secs(2));
    assert!(same < first);
}
