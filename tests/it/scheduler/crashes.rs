//! The scheduler dies between claiming a host and the bus having its job.

use openwatch_bus::User;
use openwatch_store::{Relay, Role, Store, StoreOptions};
use openwatch_tests::eventually;
use sqlx::PgConnection;

use super::hosts;
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute};

const HOSTS: usize = 12;

/// Holds a lock until dropped.
async fn locked(fleet: &Fleet, table: &str) -> PgConnection {
    let mut db = fleet.db().await;
    execute(&mut db, &format!("begin; lock table {table} in share mode")).await;
    db
}

/// Waits until somebody waits for a lock with a statement that begins so.
async fn waiting(fleet: &Fleet, begins: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
         and query like '{begins}%'"
    );
    eventually("a statement that waits", || async {
        (count(&mut fleet.db().await, &sql).await > 0).then_some(())
    })
    .await;
}

/// One scan for each host, one job for each scan, nothing left in line.
async fn all_is_well(fleet: &Fleet) {
    let bus = fleet.bus(User::Admin).await;
    let mut db = fleet.db().await;
    eventually("a job for every host, and an empty outbox", || async {
        let jobs = bus.stream_info("OW_JOBS").await.ok()?.messages;
        let left =
            count(&mut fleet.db().await, "select count(*) from outbox where sender = 'scheduler'").await;
        (jobs >= HOSTS as u64 && left == 0).then_some(())
    })
    .await;
    assert_eq!(bus.stream_info("OW_JOBS").await.unwrap().messages, HOSTS as u64, "one job for each scan");
    let scans = "select count(*) from scan where tag is not null and attempt = 1 and issued_at = queued_at";
    assert_eq!(count(&mut db, scans).await, HOSTS as i64);
    for code in ["scan.queued", "scheduler.schedule.updated"] {
        let told = format!("select count(*) from audit_event where action = '{code}'");
        assert_eq!(count(&mut db, &told).await, HOSTS as i64, "{code}");
    }
}

// @spec scheduler
// @ac AC-01
#[tokio::test]
async fn dying_with_hosts_claimed_and_jobs_signed_leaves_them_due() {
    println!("@spec scheduler");
    println!("@ac AC-01");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    fleet.spawn("scheduler-1");
    fleet.all_running().await;
    // What is told of a batch is its last statement: all the rest is done, and nothing is committed.
    let lock = locked(&fleet, "audit_event").await;
    hosts(&mut db, HOSTS).await;
    execute(&mut db, "select pg_notify('ow_schedule', '')").await;
    waiting(&fleet, "with done as (select)").await;
    fleet.take("scheduler-1").kill();
    drop(lock);
    eventually("the end of what it held", || async {
        let held = "select count(*) from pg_stat_activity where datname = current_database() and query like 'with done as (select)%'";
        (count(&mut fleet.db().await, held).await == 0).then_some(())
    })
    .await;
    assert_eq!(count(&mut db, "select count(*) from scan").await, 0);
    fleet.spawn("scheduler-2");
    all_is_well(&fleet).await;
}

// @spec scheduler
// @ac AC-01
#[tokio::test]
async fn dying_with_jobs_on_the_stream_and_in_the_outbox_repeats_none() {
    println!("@spec scheduler");
    println!("@ac AC-01");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    let options = StoreOptions {
        url: fleet.database_url().to_owned(),
        role: Role::Scheduler,
        max_connections: 1,
        application_name: "test".to_owned(),
    };
    let store = Store::connect(&options).await.unwrap();
    let relay = Relay::try_take(&store, "scheduler").await.unwrap().expect("nobody relays yet");
    hosts(&mut db, HOSTS).await;
    fleet.spawn("scheduler-1");
    let queued = format!("select (count(*) = {HOSTS})::int::bigint from scan");
    eventually("every scan", || async { (count(&mut fleet.db().await, &queued).await == 1).then_some(()) })
        .await;
    let lock = locked(&fleet, "outbox").await;
    relay.release().await;
    waiting(&fleet, "with forgotten as (delete from outbox").await;
    fleet.take("scheduler-1").kill();
    drop(lock);
    fleet.spawn("scheduler-2");
    all_is_well(&fleet).await;
}
