//! Crashes between two steps of a hand-over: the end is the same as without them.

use openwatch_bus::consume::Consumer;
use openwatch_bus::{User, subject};
use openwatch_pipeline::StageError;
use openwatch_pipeline::caretakers::relay;
use openwatch_tests::Proxy;
use sqlx::{Connection as _, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::bus::set_ack_wait;

/// Holds a lock until dropped or released.
async fn locked(stages: &Stages, statement: &'static str) -> PgConnection {
    let mut connection = stages.world.database.connect().await;
    sqlx::raw_sql("begin").execute(&mut connection).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection
}

/// Somebody waits for a lock with a statement that begins so: its process.
async fn waiting(stages: &Stages, begins: &str) -> i64 {
    let query = format!(
        "select pid::bigint from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
         and query like '{begins}%'"
    );
    eventually("a statement that waits", || async {
        let mut connection = stages.world.database.connect().await;
        sqlx::query_scalar(sqlx::AssertSqlSafe(query.clone())).fetch_optional(&mut connection).await.unwrap()
    })
    .await
}

/// Relays what writers have to say, until aborted.
async fn relaying(stages: &Stages) -> JoinHandle<Result<(), StageError>> {
    let (store, bus) = (stages.store(Role::Writer).await, stages.world.bus(User::Writer).await);
    tokio::spawn(relay::run(store, bus, "writer", CancellationToken::new()))
}

// @spec writer
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_dies_between_commit_and_ack_has_applied_once() {
    proves("AC-03");
    let stages = Stages::under(TOFU).await;
    set_ack_wait(&stages.world.nats, Consumer::WRITER, Duration::from_secs(2)).await;
    let proxy = Proxy::to(stages.world.nats.port()).await;
    let dying = stages.run_at(&format!("nats://127.0.0.1:{}", proxy.port()), &[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    let (job, _) = stages.job(host, |_| ()).await;
    let lock = locked(&stages, "lock table scan_ledger in share mode").await;
    stages.send(&stages.result(&job, &outcomes(30, 3))).await;
    waiting(&stages, "insert into scan_ledger").await;
    // Its commit goes through, its ack does not.
    proxy.cut();
    lock.close().await.unwrap();
    stages.ended(job.scan).await;
    drop(dying);
    assert_eq!(stages.admin.consumer_info("OW_RESULTS", "writer").await.unwrap().unacked, 1);

    let _next = stages.run(&[Stage::Writer]).await;
    eventually("the result is acked", || async {
        let info = stages.admin.consumer_info("OW_RESULTS", "writer").await.ok()?;
        (info.pending == 0 && info.unacked == 0).then_some(())
    })
    .await;
    stages.relayed().await;
    assert_eq!(stages.number("select count(*) from scan_ledger").await, 1);
    assert_eq!(transactions(&stages, job.scan).await, 30);
    assert_eq!(checks(&stages, host).await, (1, 1));
    assert_eq!(stages.events(Kind::ScanCompleted, host).await.len(), 1);
    assert_eq!(stages.admin.dead_letters(1, 10).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_dies_between_publish_and_delete_says_everything_once() {
    let stages = Stages::under(TOFU).await;
    // A writer that cannot reach the bus any more leaves its words in the outbox.
    let host = stages.host("web", 22).await;
    let (job, _) = stages.job(host, |_| ()).await;
    let proxy = Proxy::to(stages.world.nats.port()).await;
    let writer = stages.run_at(&format!("nats://127.0.0.1:{}", proxy.port()), &[Stage::Writer]).await;
    let lock = locked(&stages, "lock table scan_ledger in share mode").await;
    stages.send(&stages.result(&job, &outcomes(30, 3))).await;
    waiting(&stages, "insert into scan_ledger").await;
    proxy.cut();
    lock.close().await.unwrap();
    stages.ended(job.scan).await;
    drop(writer);
    let words = stages.number("select count(*) from outbox").await;
    assert!(words >= 3, "{words}");

    let lock = locked(&stages, "lock table outbox in share mode").await;
    let dying = relaying(&stages).await;
    let deleting = waiting(&stages, "delete from outbox").await;
    // The bus has acknowledged everything; the rows are still there.
    dying.abort();
    stages.number(&format!("select count(*) from pg_terminate_backend({deleting})")).await;
    lock.close().await.unwrap();
    assert_eq!(stages.number("select count(*) from outbox").await, words);
    let told = stages.admin.stream_info(subject::EVENTS).await.unwrap().messages;
    let audited = stages.admin.stream_info(subject::AUDIT).await.unwrap().messages;
    assert!(told >= 2 && audited >= 1, "{told} {audited}");

    let next = relaying(&stages).await;
    stages.relayed().await;
    assert_eq!(stages.admin.stream_info(subject::EVENTS).await.unwrap().messages, told);
    assert_eq!(stages.admin.stream_info(subject::AUDIT).await.unwrap().messages, audited);
    assert_eq!(stages.events(Kind::ScanCompleted, host).await.len(), 1);
    next.abort();
}
