//! Alerts open once, close when they should, and are delivered once per channel.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType, NewAlert};
use openwatch_model::channel::ChannelKind;
use openwatch_model::drift::{Summary, Thresholds, detect};
use openwatch_model::liveness::{ProbeError, Reachability, observe};
use openwatch_model::policy::Maintenance;
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::{ChannelId, HostId, Timestamp};
use openwatch_store::alert::{self, Opened};
use openwatch_store::alert_life::{self, Filter, Moved};
use openwatch_store::channel::{self, NewChannel, Sealed};
use openwatch_store::delivery::{self, Measured, Try};
use openwatch_store::{Page, Role, Store, drift, liveness, read};
use serde_json::json;

use super::{Rig, outcome, passing};

const HOUR: Duration = Duration::from_secs(3600);

fn down(host: HostId, occurred_at: Timestamp) -> NewAlert {
    NewAlert {
        kind: AlertType::HostUnreachable,
        severity: AlertSeverity::High,
        host: Some(host),
        title: "host does not answer".into(),
        body: String::new(),
        occurred_at,
    }
}

async fn open(store: &Store, alert: &NewAlert, ttl: Duration) -> Opened {
    let mut tx = store.begin().await.unwrap();
    let tags = BTreeMap::from([("severity".to_owned(), alert.severity.as_str().to_owned())]);
    let opened = alert::open(&mut tx, alert, &tags, ttl, None).await.unwrap();
    tx.commit().await.unwrap();
    opened
}

#[tokio::test]
async fn a_repeat_counts_up_and_a_new_outage_opens_a_new_alert() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Alerts).await;
    let host = rig.host("web-1").await;
    let at = Timestamp::from_unix_timestamp(1_800_000_000).unwrap();
    let Opened::New { id, transition: 1 } = open(&store, &down(host, at), HOUR).await else {
        panic!("it is new")
    };
    let again = open(&store, &down(host, at), HOUR).await;
    assert_eq!(
        again,
        Opened::Repeated { id, transition: 1, severity: AlertSeverity::High, occurrences: 2, notify: false }
    );
    let worse = NewAlert { severity: AlertSeverity::Critical, ..down(host, at) };
    assert_eq!(
        open(&store, &worse, HOUR).await,
        Opened::Repeated {
            id,
            transition: 2,
            severity: AlertSeverity::Critical,
            occurrences: 3,
            notify: true
        }
    );
    assert!(matches!(
        open(&store, &down(host, at), Duration::ZERO).await,
        Opened::Repeated { transition: 3, notify: true, .. }
    ));

    let mut tx = store.begin().await.unwrap();
    assert!(
        alert::resolve_open(&mut tx, Some(host), &[AlertType::HostUnreachable], at - HOUR)
            .await
            .unwrap()
            .is_empty(),
        "an older recovery closes nothing"
    );
    let resolved = alert::resolve_open(&mut tx, Some(host), &[AlertType::HostUnreachable], at).await.unwrap();
    assert_eq!((resolved.len(), resolved[0].id, resolved[0].prior), (1, id, AlertState::Active));
    tx.commit().await.unwrap();
    let next = open(&store, &down(host, at + HOUR), HOUR).await;
    assert!(matches!(next, Opened::New { id: other, .. } if other != id), "{next:?}");

    let mut tx = rig.api.begin_read().await.unwrap();
    let history = alert_life::history(&mut tx, id).await.unwrap();
    let opened = history[0].changed_at;
    let states: Vec<_> = history.into_iter().map(|t| t.state).collect();
    assert_eq!(states, [AlertState::Active, AlertState::Active, AlertState::Active, AlertState::Resolved]);
    let open_only = Filter { open: true, ..Filter::default() };
    assert_eq!(alert_life::list(&mut tx, &open_only, &Page::first(10)).await.unwrap().rows.len(), 1);
    assert_eq!(read::fleet(&mut tx, None).await.unwrap().open_alerts[&AlertSeverity::High], 1);

    // It got worse later.
    let then = Filter { as_of: Some(opened), ..Filter::default() };
    let rows = alert_life::list(&mut tx, &then, &Page::first(10)).await.unwrap().rows;
    assert_eq!(rows.iter().map(|it| (it.id, it.severity)).collect::<Vec<_>>(), [(id, AlertSeverity::High)]);
    assert_eq!(rows[0].tags["severity"], "high", "as its tags say");
    let critical = Filter { severity: Some(AlertSeverity::Critical), ..then };
    assert_eq!(alert_life::list(&mut tx, &critical, &Page::first(10)).await.unwrap().rows, []);
    let open = read::fleet(&mut tx, Some(opened)).await.unwrap().open_alerts;
    assert_eq!(open.into_iter().collect::<Vec<_>>(), [(AlertSeverity::High, 1)]);
    let now = alert_life::get(&mut tx, id).await.unwrap().unwrap();
    assert_eq!((now.severity, now.tags["severity"].as_str()), (AlertSeverity::Critical, "critical"));
}

#[tokio::test]
async fn the_cursor_refuses_what_came_late() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Alerts).await;
    let host = Some(rig.host("web-1").await);
    let mut tx = store.begin().await.unwrap();
    let now = tx.now();
    for (host, at, moves) in
        [(host, now, true), (host, now, true), (host, now - HOUR, false), (None, now - HOUR, true)]
    {
        assert_eq!(alert::advance_cursor(&mut tx, host, "connectivity", at).await.unwrap(), moves);
    }
    assert!(alert::advance_cursor(&mut tx, host, "drift", now - HOUR).await.unwrap());
}

#[tokio::test]
async fn of_two_who_acknowledge_one_does() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Alerts).await;
    let host = rig.host("web-1").await;
    let Opened::New { id, .. } = open(&store, &down(host, Timestamp::UNIX_EPOCH), HOUR).await else {
        panic!("new")
    };
    let go = |to: AlertState, until: Option<Timestamp>| {
        let api = rig.api.clone();
        async move {
            let mut tx = api.begin().await.unwrap();
            let moved = alert_life::transition(&mut tx, id, to, "alice", Some("mine"), until).await.unwrap();
            tx.commit().await.unwrap();
            moved
        }
    };
    let (a, b) = tokio::join!(go(AlertState::Acknowledged, None), go(AlertState::Acknowledged, None));
    let done = [&a, &b].into_iter().filter(|m| matches!(m, Moved::Done { .. })).count();
    let invalid = [&a, &b]
        .into_iter()
        .filter(|m| matches!(m, Moved::Invalid { prior: AlertState::Acknowledged }))
        .count();
    assert_eq!((done, invalid), (1, 1));
    assert!(
        matches!(go(AlertState::Silenced, None).await, Moved::Invalid { .. }),
        "acknowledged is never silenced"
    );
    assert!(matches!(go(AlertState::Silenced, Some(Timestamp::UNIX_EPOCH)).await, Moved::PastWindow));
    assert!(matches!(go(AlertState::Resolved, None).await, Moved::Done { .. }));
    assert!(matches!(go(AlertState::Active, None).await, Moved::Invalid { .. }));
}

#[tokio::test]
async fn a_silence_ends_with_the_time_it_was_to_end() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Alerts).await;
    let host = rig.host("web-1").await;
    let Opened::New { id, .. } = open(&store, &down(host, Timestamp::UNIX_EPOCH), HOUR).await else {
        panic!("new")
    };
    let mut tx = rig.api.begin().await.unwrap();
    let until = tx.now() + Duration::from_millis(30);
    alert_life::transition(&mut tx, id, AlertState::Silenced, "alice", None, Some(until)).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = store.begin().await.unwrap();
    let early = alert_life::rearm_expired(&mut tx, 10).await.unwrap();
    drop(tx);
    tokio::time::sleep(Duration::from_millis(40)).await;
    let mut tx = store.begin().await.unwrap();
    let late = alert_life::rearm_expired(&mut tx, 10).await.unwrap();
    assert!(alert_life::rearm_expired(&mut tx, 10).await.unwrap().is_empty());
    tx.commit().await.unwrap();
    let rearmed: Vec<_> = early.into_iter().chain(late).collect();
    assert_eq!(rearmed.iter().map(|r| (r.id, r.silenced_until)).collect::<Vec<_>>(), [(id, Some(until))]);

    // What was true then is told from the history.
    let mut tx = rig.api.begin_read().await.unwrap();
    let then = Filter { as_of: Some(until - Duration::from_millis(5)), ..Filter::default() };
    assert_eq!(
        alert_life::list(&mut tx, &then, &Page::first(5)).await.unwrap().rows[0].state,
        AlertState::Silenced
    );
    assert_eq!(alert_life::get(&mut tx, id).await.unwrap().unwrap().state, AlertState::Active);
}

#[tokio::test]
async fn deliveries_are_made_once_per_channel_and_wait_each_for_itself() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Alerts).await;
    let host = rig.host("web-1").await;
    let mut tx = rig.api.begin().await.unwrap();
    let new = |name: &str, min_severity, tags: &[(&str, &str)]| NewChannel {
        name: name.into(),
        id: ChannelId(uuid::Uuid::new_v4()),
        kind: ChannelKind::Webhook,
        target: "example.test".into(),
        allow_private: false,
        min_severity,
        tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        sealed: Sealed { bytes: vec![1], key_id: "k".into() },
    };
    let mut ids = Vec::new();
    for new in [
        new("all", AlertSeverity::Info, &[]),
        new("prod", AlertSeverity::High, &[("env", "prod")]),
        new("critical", AlertSeverity::Critical, &[]),
        new("lab", AlertSeverity::Info, &[("env", "lab")]),
    ] {
        channel::add(&mut tx, &new, "t").await.unwrap();
        ids.push(new.id);
    }
    let (all, prod) = (ids[0], ids[1]);
    tx.commit().await.unwrap();
    let Opened::New { id, transition } = open(&store, &down(host, Timestamp::UNIX_EPOCH), HOUR).await else {
        panic!("new")
    };
    let mut tx = store.begin().await.unwrap();
    let tags = BTreeMap::from([("env".into(), "prod".into()), ("x".into(), "y".into())]);
    let mut channels = channel::matching(&mut tx, AlertSeverity::High, &tags, None).await.unwrap();
    channels.sort();
    let mut want = vec![all, prod];
    want.sort();
    assert_eq!(channels, want);
    assert_eq!(delivery::enqueue(&mut tx, id, transition, &channels, &json!({"a": 1})).await.unwrap(), 2);
    assert_eq!(delivery::enqueue(&mut tx, id, transition, &channels, &json!({"a": 1})).await.unwrap(), 0);
    tx.commit().await.unwrap();

    let claim = |channel| {
        let store = store.clone();
        async move {
            let mut tx = store.begin().await.unwrap();
            let due = delivery::claim(&mut tx, channel, 10, HOUR).await.unwrap();
            tx.commit().await.unwrap();
            due
        }
    };
    let first = claim(all).await;
    assert_eq!((first.len(), first[0].attempt), (1, 1));
    assert!(claim(all).await.is_empty(), "it is in somebody's hands");
    let mut tx = store.begin().await.unwrap();
    let again = Try::Again { at: tx.now(), error: "503".into() };
    delivery::finish(&mut tx, &first[0], &again, Measured::default()).await.unwrap();
    tx.commit().await.unwrap();
    let second = claim(all).await;
    assert_eq!((second[0].id, second[0].attempt), (first[0].id, 2));
    let mut tx = store.begin().await.unwrap();
    delivery::finish(&mut tx, &second[0], &Try::Delivered, Measured::default()).await.unwrap();
    assert_eq!(delivery::next_due(&mut tx, all).await.unwrap(), None);
    assert!(delivery::next_due(&mut tx, prod).await.unwrap().is_none(), "it is due now, not later");
    tx.commit().await.unwrap();
    assert_eq!(rig.number("select count(*) from alert_delivery_attempt").await, 2);
}

#[tokio::test]
async fn probes_are_claimed_once_and_transitions_are_numbered() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Liveness).await;
    let host = rig.host("web-1").await;
    rig.host("quiet").await;
    let quiet = Maintenance { all: false, hosts: vec!["quiet".into()] };
    let mut tx = store.begin().await.unwrap();
    let targets = liveness::claim(&mut tx, &quiet, 10, HOUR).await.unwrap();
    assert_eq!((targets.len(), targets[0].host, targets[0].port), (1, host, 22));
    let target = targets[0].clone();
    tx.commit().await.unwrap();
    let mut numbers = Vec::new();
    for outcome in [Err(ProbeError::TcpTimeout), Err(ProbeError::TcpTimeout), Ok(Duration::from_micros(20))] {
        let mut tx = store.begin().await.unwrap();
        assert!(liveness::claim(&mut tx, &quiet, 10, HOUR).await.unwrap().is_empty());
        let prior = liveness::lock(&mut tx, &target).await.unwrap().unwrap().state;
        let (next, moved) = observe(prior, outcome, 2);
        let again = target.lease;
        numbers.push(liveness::save(&mut tx, host, next, moved, outcome, again).await.unwrap());
        tx.commit().await.unwrap();
    }
    assert_eq!(numbers, [0, 1, 2]);
    let mut tx = rig.api.begin_read().await.unwrap();
    let summary = openwatch_store::host::get(&mut tx, host).await.unwrap().unwrap();
    assert_eq!((summary.reachability, summary.response_ms), (Reachability::Reachable, Some(0.02)));
}

#[tokio::test]
async fn drift_is_recorded_once_and_the_fleet_is_told_as_it_was() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Drift).await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &passing(10)).await;
    let then: Timestamp =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut rig.look().await).await.unwrap();
    let mut worse = passing(10);
    worse[..3].iter_mut().for_each(|o| *o = outcome(&o.rule, openwatch_model::Status::Fail));
    let (scan, _) = rig.scanned(host, &worse).await;
    let (of, summary, policy): (_, Summary, _) = drift::summary(&store, scan).await.unwrap().unwrap();
    let mut tx = store.begin().await.unwrap();
    assert_eq!((of, policy.as_str(), summary.after), (host, "1.0.0", Score { pass: 7, fail: 3 }));
    let found = detect(summary, Thresholds::default());
    assert!(drift::record(&mut tx, scan, host, &found, "1.0.0").await.unwrap());
    assert!(!drift::record(&mut tx, scan, host, &found, "1.0.0").await.unwrap());
    tx.commit().await.unwrap();

    let mut tx = rig.api.begin_read().await.unwrap();
    let rows = drift::list(&mut tx, &drift::Filter::default(), &Page::first(5)).await.unwrap().rows;
    assert_eq!(rows.iter().map(|r| (r.scan, &r.drift)).collect::<Vec<_>>(), [(scan, &found)]);
    let before = drift::Filter { as_of: Some(then), ..drift::Filter::default() };
    assert!(drift::list(&mut tx, &before, &Page::first(5)).await.unwrap().rows.is_empty());
    let (now, past) =
        (read::fleet(&mut tx, None).await.unwrap(), read::fleet(&mut tx, Some(then)).await.unwrap());
    assert_eq!((now.by_state[&ComplianceState::NonCompliant], now.rules.fail, now.hosts()), (1, 3, 1));
    assert_eq!((past.by_state[&ComplianceState::Compliant], past.rules.pass, past.hosts()), (1, 10, 1));
    let was = read::hosts_at(&mut tx, then, &openwatch_store::host::Filter::default(), 10).await.unwrap();
    assert_eq!((was[0].state, was[0].counts.pass), (ComplianceState::Compliant, 10));
    let page = read::transactions(
        &mut tx,
        &read::TransactionFilter { host: Some(host), ..Default::default() },
        &Page::first(4),
    )
    .await
    .unwrap();
    assert_eq!(page.rows[0].scan, scan);
    let rest = read::transactions(
        &mut tx,
        &read::TransactionFilter { host: Some(host), ..Default::default() },
        &Page { cursor: page.next, limit: 100 },
    )
    .await
    .unwrap();
    assert_eq!(page.rows.len() + rest.rows.len(), 13);
}
