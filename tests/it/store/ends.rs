//! Other ways for a scan to end, and to be asked for again.

use std::time::Duration;

use openwatch_model::ScanId;
use openwatch_model::audit::{Actor, CredentialRefused};
use openwatch_model::scan::{Failure, FailureReason, ScanState, Selection};
use openwatch_model::schedule::backoff_after_failure;
use openwatch_store::audit::{self, Columns, Context};
use openwatch_store::end::{self, Ending, Source};
use openwatch_store::outbox::{OutboxMessage, Told};
use openwatch_store::rescue::{self, Patience};
use openwatch_store::{Moment, Role, Store, credential, host, read, scan, vault};

use super::{Applied, Rig, nothing, passing};

pub(super) async fn fail(store: &Store, scan: ScanId, reason: FailureReason) -> bool {
    let mut tx = store.begin().await.unwrap();
    let Ending::Open(open) = end::open(&mut tx, scan, None).await.unwrap() else { return false };
    let failure = Failure { reason, detail: "no\0answer".into(), rule: None };
    let (before, interval_minutes) = end::failures(&mut tx, open.host).await.unwrap();
    let backoff = backoff_after_failure(before, interval_minutes, tx.now());
    let source = Source { attempt: open.attempt, ..Source::default() };
    end::fail(&mut tx, &open, &source, &failure, Some(backoff)).await.unwrap();
    tx.commit().await.unwrap();
    true
}

#[tokio::test]
async fn failures_count_and_a_success_ends_the_count() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    for n in 1..=3u32 {
        let scan = rig.queued(host, Selection::full()).await;
        assert!(fail(&rig.writer, scan, FailureReason::Unreachable).await);
        assert!(!fail(&rig.writer, scan, FailureReason::Unreachable).await, "it has ended");
        assert_eq!(rig.apply(scan, host, &passing(1)).await.unwrap(), Applied::Replay);
        let mut tx = rig.api.begin_read().await.unwrap();
        let summary = host::get(&mut tx, host).await.unwrap().unwrap();
        assert_eq!((summary.failures, summary.suppress_until.is_some()), (n, n >= 3));
        let row = read::scan(&mut tx, scan).await.unwrap().unwrap();
        assert_eq!(row.failure.map(|f| f.reason), Some(FailureReason::Unreachable));
    }
    rig.scanned(host, &passing(1)).await;
    let mut tx = rig.api.begin_read().await.unwrap();
    let summary = host::get(&mut tx, host).await.unwrap().unwrap();
    assert_eq!((summary.failures, summary.suppress_until), (0, None));
}

#[tokio::test]
async fn a_scan_that_nobody_speaks_of_is_tried_again_and_then_lost() {
    let rig = Rig::new().await;
    let caretaker = rig.database.store(Role::Caretaker).await;
    let host = rig.host("web-1").await;
    let scan = rig.queued(host, Selection::full()).await;
    let patience = Patience { queued: Duration::from_secs(3600), running: Duration::from_secs(60) };
    let overdue = || async {
        let mut tx = caretaker.begin().await.unwrap();
        rescue::overdue(&mut tx, patience, 10).await.unwrap()
    };
    assert!(overdue().await.is_empty());
    assert!(rig.run(scan, host, 1).await);
    sqlx::query("update scan set started_at = started_at - interval '700 seconds'")
        .execute(&mut rig.look().await)
        .await
        .unwrap();
    let found = overdue().await;
    assert_eq!((found[0].scan, found[0].attempt, found[0].state), (scan, 1, ScanState::Running));

    let mut tx = caretaker.begin().await.unwrap();
    let Ending::Open(open) = end::open(&mut tx, scan, None).await.unwrap() else { panic!("it is open") };
    assert_eq!(rescue::retry(&mut tx, &open).await.unwrap(), 2);
    tx.commit().await.unwrap();
    assert!(overdue().await.is_empty());
    assert!(fail(&caretaker, scan, FailureReason::Lost).await);
    assert_eq!(
        rig.number("select count(*) from scan where state = 'failed' and failure_reason = 'lost'").await,
        1
    );
    assert_eq!(rig.number("select count(*) from scan_ledger").await, 1);
}

#[tokio::test]
async fn the_vault_sees_only_the_current_attempt() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Vault).await;
    let host = rig.host("web-1").await;
    let scan = rig.queued(host, Selection::full()).await;
    let (_, attempt) = vault::attempt(&store, scan).await.unwrap().unwrap();
    assert_eq!((attempt.attempt, attempt.tag.as_deref(), attempt.grants), (1, Some(&[7u8; 32][..]), 0));
    assert_eq!((attempt.user.as_deref(), attempt.credential), (Some("scan"), None));
    rig.apply(scan, host, &passing(1)).await.unwrap();
    let (_, attempt) = vault::attempt(&store, scan).await.unwrap().unwrap();
    assert_eq!(attempt.state, ScanState::Completed);
    assert!(vault::attempt(&store, ScanId(uuid::Uuid::new_v4())).await.unwrap().is_none());
}

/// What comes between a vault's look and its answer: then there is no answer, nothing counted and nothing told.
#[tokio::test]
async fn a_secret_is_released_only_as_everything_was_when_it_was_judged() {
    let rig = Rig::new().await;
    let store = rig.database.store(Role::Vault).await;
    let host = rig.host("web-1").await;
    let door = rig.host("door").await;
    let mut look = rig.look().await;
    let secret =
        "insert into credential (id, name, username, auth_method, key_id, ciphertext, is_default, created_by)
                  values (gen_random_uuid(), 'fleet', 'scan', 'password', 'k', '\\x01', true, 't')";
    sqlx::raw_sql(secret).execute(&mut look).await.unwrap();
    let scan = rig.queued(host, Selection::full()).await;
    let told = |moment: &Moment| {
        let message = OutboxMessage {
            message_id: String::new(),
            subject: String::new(),
            headers: Default::default(),
            payload: vec![1],
            packed: true,
        };
        let context = Context { cause: Some("cause".into()), ..Context::default() };
        let row = CredentialRefused { scan_id: None, reason: "r".into(), worker: "w".into() };
        let log = Columns::of([audit::row(moment, &Actor::Stage("vault"), &row, &context)]);
        Told { sender: "vault", log, messages: vec![message] }
    };
    let mut released = 0;
    let mut is = async |done: bool, holds: bool, what: &str| {
        assert_eq!(done, holds, "{what}");
        released += i64::from(done);
        for counted in [
            "select grants::bigint from scan",
            "select count(*) from outbox where sender = 'vault'",
            "select count(*) from audit_event where cause = 'cause'",
        ] {
            assert_eq!(rig.number(counted).await, released, "{counted}: {what}");
        }
    };
    let whole = "update credential set is_default = name = 'fleet'; update host set deleted_at = null, jump_id = null;
                 update scan set state = 'queued', failure_reason = null, finished_at = null";
    for (between, holds) in [
        ("select 1", true),
        ("update credential set ciphertext = ciphertext || '\\x02' where is_default", false),
        ("update credential set is_default = false", false),
        ("update host set jump_id = (select id from host where name = 'door') where name = 'web-1'", false),
        ("update scan set attempt = attempt + 1", false),
        ("update scan set tag = sha256(tag)", false),
        ("update host set deleted_at = now() where name = 'web-1'", false),
        ("select 1", true),
        ("update scan set state = 'failed', failure_reason = 'lost', finished_at = now()", false),
    ] {
        sqlx::raw_sql(whole).execute(&mut look).await.unwrap();
        let (moment, attempt) = vault::attempt(&store, scan).await.unwrap().unwrap();
        let secret = attempt.credential.clone().unwrap();
        sqlx::raw_sql(between).execute(&mut look).await.unwrap();
        let done = vault::release(&store, moment, &attempt, (host, &secret), &told(&moment)).await.unwrap();
        is(done, holds, between).await;
    }
    // What moves the scan's own row is seen even when it commits while the statement waits.
    for (meanwhile, holds) in [
        ("update scan set grants = grants", true),
        ("update scan set attempt = attempt + 1", false),
        ("update scan set tag = sha256(tag)", false),
        ("update scan set state = 'failed', failure_reason = 'lost', finished_at = now()", false),
    ] {
        sqlx::raw_sql(whole).execute(&mut look).await.unwrap();
        let (moment, attempt) = vault::attempt(&store, scan).await.unwrap().unwrap();
        let secret = attempt.credential.clone().unwrap();
        let told = told(&moment);
        let work = vault::release(&store, moment, &attempt, (host, &secret), &told);
        is(rig.meanwhile(meanwhile, work).await.unwrap(), holds, meanwhile).await;
    }
    // The secret of the host that it is reached through is that host's, which has one of its own.
    let through = "insert into credential (id, name, username, auth_method, key_id, ciphertext, is_default, created_by)
                     values (gen_random_uuid(), 'of the door', 'scan', 'password', 'k', '\\x03', false, 't');
                   update host set credential_id = (select id from credential where name = 'of the door') where name = 'door'";
    sqlx::raw_sql(through).execute(&mut look).await.unwrap();
    for (between, holds) in [
        ("update credential set ciphertext = ciphertext || '\\x02' where name = 'fleet'", true),
        ("update credential set ciphertext = ciphertext || '\\x02' where name = 'of the door'", false),
        ("update host set credential_id = null where name = 'door'", false),
    ] {
        let jumps =
            "update host set jump_id = (select id from host where name = 'door') where name = 'web-1'";
        sqlx::raw_sql(whole).execute(&mut look).await.unwrap();
        sqlx::raw_sql(jumps).execute(&mut look).await.unwrap();
        let (moment, attempt) = vault::attempt(&store, scan).await.unwrap().unwrap();
        assert_eq!(attempt.jump, Some(door));
        let secret = credential::resolve(&store, door).await.unwrap().unwrap();
        sqlx::raw_sql(between).execute(&mut look).await.unwrap();
        let done = vault::release(&store, moment, &attempt, (door, &secret), &told(&moment)).await.unwrap();
        is(done, holds, between).await;
    }
}

/// A scan begins once, whatever else becomes of it while the statement that begins it waits.
#[tokio::test]
async fn a_scan_begins_only_as_it_was_seen() {
    let rig = Rig::new().await;
    for (n, (meanwhile, holds)) in [
        ("update scan set grants = grants", true),
        ("update scan set state = 'running', started_at = now(), worker = 'other' where state = 'queued'", false),
        ("update scan set attempt = attempt + 1 where state = 'queued'", false),
        ("update scan set tag = null, key_id = null, issued_at = null where state = 'queued'", false),
        ("update scan set state = 'failed', failure_reason = 'lost', finished_at = now() where state = 'queued'", false),
    ]
    .into_iter()
    .enumerate()
    {
        let host = rig.host(&format!("web-{n}")).await;
        let scan = rig.queued(host, Selection::full()).await;
        let (moment, _) = scan::queued(&rig.writer, scan, host, 1).await.unwrap().unwrap();
        let message = OutboxMessage {
            message_id: scan.to_string(),
            subject: "ow.v1.evt.x".into(),
            headers: Default::default(),
            payload: vec![1],
            packed: false,
        };
        let told = Told { messages: vec![message], ..nothing() };
        let work = scan::mark_running(&rig.writer, moment, scan, 1, "ours", &told);
        assert_eq!(rig.meanwhile(meanwhile, work).await.unwrap(), holds, "{meanwhile}");
        let ours = "select count(*) from scan where worker = 'ours' and state = 'running'";
        assert_eq!(rig.number(ours).await, 1, "{meanwhile}");
        assert_eq!(rig.number("select count(*) from outbox").await, 1, "{meanwhile}");
    }
}

#[tokio::test]
async fn the_failure_column_knows_every_reason_of_the_model() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    for reason in FailureReason::ALL {
        let scan = rig.queued(host, Selection::full()).await;
        assert!(fail(&rig.writer, scan, reason).await, "{reason:?}");
    }
}
