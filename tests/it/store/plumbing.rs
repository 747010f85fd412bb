//! What every stage builds on: migrations, outbox, inbox, locks, calls, idempotency, audit, retention.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::audit::{Actor, HostCreated, MigrationApplied};
use openwatch_pipeline::trail;
use openwatch_store::idempotency::{self, Claim};
use openwatch_store::outbox::{self, OutboxMessage, Told};
use openwatch_store::retention::{self, Keep};
use openwatch_store::{Page, Relay, Role, StoreError, Wake, audit, inbox, listen, migrate, schema_state};
use openwatch_tests::eventually;
use serde_json::json;

use super::{Rig, passing};

fn message(id: &str) -> OutboxMessage {
    OutboxMessage {
        message_id: id.into(),
        subject: "ow.v1.evt.scan_completed.x".into(),
        headers: BTreeMap::from([("ce-id".into(), id.into())]),
        payload: vec![0, 159, 146, 150],
        packed: false,
    }
}

#[tokio::test]
async fn migrating_again_does_nothing_and_a_newer_schema_is_refused() {
    let rig = Rig::new().await;
    let url = rig.database.url();
    assert!(schema_state(url, Role::Writer).await.unwrap().is_current());
    assert_eq!(migrate(url, "api", trail::message).await.unwrap(), Vec::<i64>::new());
    assert!(
        rig.number("select count(*) from audit_event where action = 'system.migration.applied'").await >= 7
    );
    sqlx::raw_sql("insert into _sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, '', 0)")
        .execute(&mut rig.look().await)
        .await
        .unwrap();
    let refused = migrate(url, "api", trail::message).await.unwrap_err();
    assert!(matches!(refused, StoreError::SchemaTooNew { found: 9999, .. }), "{refused}");
}

#[tokio::test]
async fn the_outbox_keeps_order_and_wakes_its_relay() {
    let rig = Rig::new().await;
    let mut listener = rig.writer.listen(&[listen::OUTBOX]).await.unwrap();
    let mut tx = rig.writer.begin().await.unwrap();
    let messages: Vec<_> = (0..20).map(|n| message(&format!("m{n}"))).collect();
    outbox::put(&mut tx, "writer", &messages).await.unwrap();
    outbox::put(&mut tx, "writer", &messages[..1]).await.unwrap();
    outbox::put(&mut tx, "drift", &[message("other")]).await.unwrap();
    let now = tx.now();
    assert!(outbox::waits(&mut tx, "writer", "m3", now).await.unwrap());
    assert!(!outbox::waits(&mut tx, "writer", "m20", now).await.unwrap());
    // Among others that share a row: found by the moment, which no other sender's and no other moment's is.
    let packed = OutboxMessage { packed: true, ..message("first") };
    outbox::put(&mut tx, "writer", &[packed]).await.unwrap();
    assert!(outbox::waits(&mut tx, "writer", "m20", now).await.unwrap());
    assert!(!outbox::waits(&mut tx, "drift", "m20", now).await.unwrap());
    assert!(!outbox::waits(&mut tx, "writer", "m20", now - Duration::from_micros(1)).await.unwrap());
    tx.commit().await.unwrap();
    let mut senders = Vec::new();
    for _ in 0..2 {
        let Wake::Call { payload, .. } = listener.recv().await.unwrap() else { panic!("nothing was missed") };
        senders.push(payload);
    }
    senders.sort();
    assert_eq!(senders, ["drift", "writer"]);
    let mut relay = Relay::try_take(&rig.writer, "writer").await.unwrap().unwrap();
    let rows = relay.next(&[], 5).await.unwrap();
    assert_eq!(rows.iter().map(|r| &r.message).collect::<Vec<_>>(), messages[..5].iter().collect::<Vec<_>>());
    let sent: Vec<_> = rows.iter().map(|r| r.id).collect();
    assert_eq!(relay.next(&sent, 1).await.unwrap()[0].message, messages[5]);
    assert_eq!(outbox::depth(&rig.writer, Some("writer")).await.unwrap().rows, 16);
    assert_eq!(outbox::depth(&rig.writer, None).await.unwrap().rows, 17);
}

#[tokio::test]
async fn who_relays_in_the_same_process_is_rung_and_nobody_else_is_woken() {
    let rig = Rig::new().await;
    let mut listener = rig.writer.listen(&[listen::OUTBOX]).await.unwrap();
    let relay = Relay::try_take(&rig.writer, "writer").await.unwrap().unwrap();
    let put = |sender: &'static str, packed: bool, commit: bool| {
        let store = rig.writer.clone();
        async move {
            let mut tx = store.begin().await.unwrap();
            let message = OutboxMessage { packed, ..message(&format!("{sender} {commit}")) };
            outbox::put(&mut tx, sender, &[message]).await.unwrap();
            if commit {
                tx.commit().await.unwrap();
            }
        }
    };
    let soon = Duration::from_millis(200);
    put("writer", false, false).await;
    assert!(tokio::time::timeout(soon, relay.rung()).await.is_err(), "what is undone is not told");
    put("writer", true, true).await;
    tokio::time::timeout(soon, relay.rung()).await.expect("it rang");
    assert!(tokio::time::timeout(soon, relay.hurried()).await.is_err(), "nobody waits for what is told");
    put("writer", false, true).await;
    tokio::time::timeout(soon, relay.rung()).await.expect("it rang");
    tokio::time::timeout(soon, relay.hurried()).await.expect("somebody waits");
    // Somebody else's relay is in another process, and so is ours when it has ended.
    put("drift", false, true).await;
    relay.release().await;
    let mut tx = rig.writer.begin().await.unwrap();
    outbox::put(&mut tx, "writer", &[message("later")]).await.unwrap();
    tx.commit().await.unwrap();
    for sender in ["drift", "writer"] {
        let call = Wake::Call { channel: listen::OUTBOX.to_owned(), payload: sender.to_owned() };
        assert_eq!(listener.recv().await.unwrap(), call);
    }
}

/// Plans are kept, and the first of them are made while a new installation's tables are empty: read as a whole, then.
#[tokio::test]
async fn tables_that_were_empty_once_are_not_read_as_a_whole_ever_after() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    sqlx::raw_sql("analyze scan_ledger, evidence, rule_state").execute(&mut rig.look().await).await.unwrap();
    for n in 0..10 {
        rig.scanned(host, &passing(20 + n)).await;
    }
    // A session reports what it has read when it has something to do, and at most once a second.
    let more = std::sync::atomic::AtomicUsize::new(30);
    eventually("the report of those scans", || async {
        rig.scanned(host, &passing(more.fetch_add(1, std::sync::atomic::Ordering::Relaxed))).await;
        let applied = "select n_tup_ins from pg_stat_user_tables where relname = 'scan_ledger'";
        (rig.number(applied).await >= 10).then_some(())
    })
    .await;
    let read = "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables
                where relname in ('scan_ledger', 'evidence', 'rule_state')";
    assert_eq!(rig.number(read).await, 0);
}

#[tokio::test]
async fn one_relay_per_sender() {
    let rig = Rig::new().await;
    let mut held = Relay::try_take(&rig.writer, "writer").await.unwrap().unwrap();
    assert!(Relay::try_take(&rig.writer, "writer").await.unwrap().is_none());
    assert!(Relay::try_take(&rig.writer, "drift").await.unwrap().is_some());
    held.next(&[], 1).await.unwrap();
    // Its session dies, and with it the lock.
    sqlx::query("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())")
        .execute(&mut rig.look().await)
        .await
        .unwrap();
    assert!(held.next(&[], 1).await.unwrap_err().is_outage());
    let mut again = None;
    for _ in 0..50 {
        again = Relay::try_take(&rig.writer, "writer").await.unwrap();
        if again.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    again.unwrap().release().await;
}

#[tokio::test]
async fn a_message_is_heard_once() {
    let rig = Rig::new().await;
    let mut tx = rig.writer.begin().await.unwrap();
    assert!(inbox::first_time(&mut tx, "writer", "m").await.unwrap());
    assert!(!inbox::first_time(&mut tx, "writer", "m").await.unwrap());
    assert!(inbox::first_time(&mut tx, "other", "m").await.unwrap());
}

#[tokio::test]
async fn an_idempotency_key_answers_twice_and_works_once() {
    let rig = Rig::new().await;
    let claim = |hash: [u8; 32]| {
        let api = rig.api.clone();
        async move {
            let mut tx = api.begin().await.unwrap();
            let claim = idempotency::claim(&mut tx, "alice", "k", &hash).await.unwrap();
            if claim == Claim::New {
                tokio::time::sleep(Duration::from_millis(50)).await;
                idempotency::complete(&mut tx, "alice", "k", 202, &json!({"scan": 1})).await.unwrap();
            }
            tx.commit().await.unwrap();
            claim
        }
    };
    let (a, b) = tokio::join!(claim([1; 32]), claim([1; 32]));
    let replay = Claim::Replay { status: 202, body: json!({"scan": 1}) };
    assert!((a == Claim::New && b == replay) || (b == Claim::New && a == replay), "{a:?} {b:?}");
    assert_eq!(claim([2; 32]).await, Claim::Reused);
    let mut tx = rig.api.begin().await.unwrap();
    assert_eq!(
        idempotency::claim(&mut tx, "bob", "k", &[2; 32]).await.unwrap(),
        Claim::New,
        "keys are per caller"
    );
    assert!(
        idempotency::complete(&mut tx, "bob", "k", 404, &json!({})).await.is_err(),
        "only successes are kept"
    );
}

#[tokio::test]
async fn audit_rows_are_read_back_newest_first_without_loss_between_pages() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    let mut tx = rig.api.begin().await.unwrap();
    let events: Vec<_> = (0..25).map(|n| HostCreated { host_id: host, name: format!("h{n}\u{7}") }).collect();
    let context = audit::Context { cause: Some("c1".into()), ..audit::Context::default() };
    let alice = Actor::Token("alice".into());
    let mut written: Vec<_> = events.iter().map(|event| audit::row(&tx, &alice, event, &context)).collect();
    written.push(audit::row(&tx, &Actor::Operator, &MigrationApplied { version: 1 }, &context));
    let told = Told { sender: "api", log: audit::Columns::of(written.clone()), messages: Vec::new() };
    outbox::tell(&mut tx, &told).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(written[0].detail["name"], "h0\u{fffd}");
    let filter = audit::Filter { host: Some(host), cause: Some("c1".into()), ..audit::Filter::default() };
    let mut tx = rig.api.begin_read().await.unwrap();
    let (mut page, mut seen) = (Page::first(10), Vec::new());
    loop {
        let part = audit::list(&mut tx, &filter, &page).await.unwrap();
        seen.extend(part.rows);
        match part.next {
            // All have the same time: ids alone keep the pages apart.
            Some(next) => page.cursor = Some(next.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 25);
    let mut ids: Vec<_> = seen.iter().map(|r| r.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 25);
    assert!(seen.iter().all(|r| r.actor == "alice" && r.code == "host.created"));
}

#[tokio::test]
async fn what_has_had_its_day_is_swept() {
    let rig = Rig::new().await;
    let mut tx = rig.writer.begin().await.unwrap();
    inbox::first_time(&mut tx, "writer", "old").await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = rig.api.begin().await.unwrap();
    idempotency::claim(&mut tx, "alice", "k", &[1; 32]).await.unwrap();
    tx.commit().await.unwrap();
    let caretaker = rig.database.store(Role::Caretaker).await;
    let mut tx = caretaker.begin().await.unwrap();
    assert_eq!(retention::sweep(&mut tx, Keep::default()).await.unwrap(), retention::Swept::default());
    tx.commit().await.unwrap();
    sqlx::raw_sql("update inbox set received_at = now() - interval '40 days'; update idempotency_key set expires_at = now()")
        .execute(&mut rig.look().await)
        .await
        .unwrap();
    let mut tx = caretaker.begin().await.unwrap();
    let swept = retention::sweep(&mut tx, Keep::default()).await.unwrap();
    assert_eq!((swept.inbox, swept.idempotency_keys), (1, 1));
}

#[tokio::test]
async fn an_outage_is_told_from_a_refusal() {
    let rig = Rig::new().await;
    let mut tx = rig.writer.begin().await.unwrap();
    sqlx::query("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
        .execute(&mut rig.look().await)
        .await
        .unwrap();
    let error = inbox::first_time(&mut tx, "writer", "m").await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    drop(tx);
    rig.writer.ping().await.unwrap();
}
