//! The scheduler's promises, kept by the real program.

mod clocks;
mod counters;
mod crashes;
mod faults;
mod keys;
mod maintenance;
mod policy;
mod rate;

use std::time::Duration;

use openwatch_bus::User;
use openwatch_store::Role;
use openwatch_tests::{Database, eventually, sshd};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{self, count, execute, texts};

/// Registers hosts as the API would, without one.
async fn hosts(db: &mut PgConnection, many: usize) {
    let sql = format!(
        "insert into host (id, name, address, created_by)
         select gen_random_uuid(), 'host-' || n, '192.0.2.1', 'test' from generate_series(1, {many}) n"
    );
    execute(db, &sql).await;
}

/// Details of the audit rows of a code, oldest first.
async fn audited(db: &mut PgConnection, code: &str) -> Vec<Value> {
    let sql = format!(
        "select (detail || jsonb_build_object('host_id', host_id))::text from audit_event where action = '{code}' order by occurred_at, id"
    );
    texts(db, &sql).await.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

// @spec scheduler
// @ac AC-01
#[tokio::test]
async fn two_schedulers_queue_each_due_host_once() {
    println!("@spec scheduler");
    println!("@ac AC-01");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 12).await;
    fleet.spawn("scheduler-1");
    fleet.spawn("scheduler-2");
    fleet.all_running().await;
    let bus = fleet.bus(User::Admin).await;
    eventually("a job for every host", || async {
        let jobs = bus.stream_info("OW_JOBS").await.ok()?.messages;
        (jobs >= 12).then_some(())
    })
    .await;
    // Both have had their first round when both have audited one.
    let audited = "select count(*) from audit_event where action = 'scheduler.tick.dispatched'";
    eventually("both rounds", || async { (count(&mut fleet.db().await, audited).await >= 2).then_some(()) })
        .await;
    assert_eq!(count(&mut db, "select count(*) from scan").await, 12);
    assert_eq!(count(&mut db, "select count(distinct host_id) from scan").await, 12);
    let signed = "select count(*) from scan where tag is not null and attempt = 1 and issued_at = queued_at";
    assert_eq!(count(&mut db, signed).await, 12, "queued and signed in one");
    assert_eq!(bus.stream_info("OW_JOBS").await.unwrap().messages, 12, "one job for each scan");
    let later = "select count(*) from host_compliance_schedule where next_scheduled_scan > now() + interval '50 minutes'";
    assert_eq!(count(&mut db, later).await, 12, "each schedule moved on");
    let dispatched = "select sum((detail ->> 'dispatched_count')::bigint)::bigint from audit_event
                      where action = 'scheduler.tick.dispatched'";
    assert_eq!(count(&mut db, dispatched).await, 12);
}

// @spec scheduler
// @ac AC-02
#[tokio::test]
async fn maintenance_and_backoff_are_counted_by_cause() {
    println!("@spec scheduler");
    println!("@ac AC-02");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 7).await;
    execute(
        &mut db,
        "update host_compliance_schedule s set maintenance_mode = true from host h
         where h.id = s.host_id and h.name in ('host-1', 'host-2');
         insert into host_backoff_state (host_id, consecutive_failures, suppress_until, last_error_code, last_failure_at)
         select id, 3, now() + interval '1 hour', 'unreachable', now() from host where name in ('host-3', 'host-4', 'host-5')",
    )
    .await;
    fleet.spawn("scheduler");
    fleet.all_running().await;
    let tick = eventually("a tick", || async {
        audited(&mut fleet.db().await, "scheduler.tick.dispatched").await.first().cloned()
    })
    .await;
    let number = |name: &str| tick[name].as_i64();
    assert_eq!(number("dispatched_count"), Some(2), "{tick}");
    assert_eq!(number("skipped_maintenance_count"), Some(2), "{tick}");
    assert_eq!(number("skipped_backoff_count"), Some(3), "{tick}");
    let names = texts(&mut db, "select h.name from scan s join host h on h.id = s.host_id order by 1").await;
    assert_eq!(names, ["host-6", "host-7"]);

    // What stood in the way is over: the next round takes them, and says why it may.
    execute(
        &mut db,
        "update host_compliance_schedule set maintenance_until = now() - interval '1 second' where maintenance_mode;
         update host_backoff_state set suppress_until = now() - interval '1 second'",
    )
    .await;
    drop(fleet.take("scheduler"));
    fleet.spawn("scheduler");
    eventually("a scan of every host", || async {
        (count(&mut fleet.db().await, "select count(*) from scan").await == 7).then_some(())
    })
    .await;
    let cleared = audited(&mut db, "scheduler.schedule.updated").await;
    let cleared = cleared.iter().filter(|row| row["change_kind"] == "maintenance_cleared").count();
    assert_eq!(cleared, 2);
}

// @spec scheduler
// @ac AC-03
#[tokio::test]
async fn a_completed_scan_moves_the_schedule_by_its_new_state() {
    println!("@spec scheduler");
    println!("@ac AC-03");
    let (ground, sshd) = (Ground::new(4), sshd::Options::new().start());
    let fleet = Fleet::start(&ground.rules(), 1).await;
    fleet.add_hosts(1, &sshd).await;
    let bus = fleet.bus(User::Admin).await;
    let moved = |times: usize| {
        let fleet = &fleet;
        async move {
            eventually("a moved schedule", || async {
                let rows = audited(&mut fleet.db().await, "scheduler.schedule.updated").await;
                let rows: Vec<_> =
                    rows.into_iter().filter(|row| row["change_kind"] == "post_scan_update").collect();
                (rows.len() == times).then_some(rows)
            })
            .await
        }
    };
    let rows = moved(1).await;
    assert_eq!(
        (&rows[0]["prior"]["compliance_state"], &rows[0]["new"]["compliance_state"]),
        (&"unknown".into(), &"compliant".into()),
        "{rows:?}"
    );
    let mut db = fleet.db().await;
    let ahead = |minutes: i64| {
        format!(
            "select count(*) from host_compliance_schedule s join scan_ledger l on l.host_id = s.host_id
             where current_interval_minutes = {minutes} and l.number = s.scan_number
               and next_scheduled_scan between l.applied_at + interval '{minutes} minutes'
                                           and l.applied_at + interval '{minutes} minutes 60 seconds'"
        )
    };
    assert_eq!(count(&mut db, &ahead(1440)).await, 1, "a compliant host: one day");

    // By hand: the schedule stays. By the clock: the new state's interval.
    ground.set(0, false);
    ground.set(1, false);
    let before = texts(&mut db, "select next_scheduled_scan::text from host_compliance_schedule").await;
    let rest = fleet.rest();
    let scan = rest.scan("host-0").await;
    rest.scan_in(&scan, &["completed"]).await;
    tables::quiet(fleet.database_url(), &bus, Duration::from_secs(20)).await;
    assert_eq!(
        texts(&mut db, "select next_scheduled_scan::text from host_compliance_schedule").await,
        before
    );
    execute(&mut db, "update host_compliance_schedule set next_scheduled_scan = now(), claim_order = now(); notify ow_schedule").await;
    let rows = moved(2).await;
    assert_eq!(rows[1]["new"]["compliance_state"], "non_compliant", "{rows:?}");
    assert_eq!(count(&mut db, &ahead(60)).await, 1, "half of the rules fail: one hour");
    tables::quiet(fleet.database_url(), &bus, Duration::from_secs(20)).await;
    assert_eq!(moved(2).await.len(), 2, "once for each scan");
}

// @spec scheduler
// @ac AC-06
#[tokio::test]
async fn only_the_scheduler_may_write_the_schedule() {
    println!("@spec scheduler");
    println!("@ac AC-06");
    let database = Database::new().await;
    let mut db = database.connect().await;
    hosts(&mut db, 1).await;
    for role in Role::ALL {
        for statement in [
            "update host_compliance_schedule set next_scheduled_scan = next_scheduled_scan",
            "update host_compliance_schedule set maintenance_mode = maintenance_mode",
            "delete from host_compliance_schedule where false",
            "insert into host_compliance_schedule (host_id) select host_id from host_compliance_schedule where false",
            "truncate host_compliance_schedule",
        ] {
            let as_role = format!("set role openwatch_{}; {statement}; reset role", role.as_str());
            let done = sqlx::raw_sql(AssertSqlSafe(as_role)).execute(&mut db).await;
            execute(&mut db, "reset role").await;
            // Rows appear with their host, by a trigger: even the scheduler makes none.
            let may = role == Role::Scheduler
                && (statement.starts_with("update") || statement.starts_with("delete"));
            assert_eq!(done.is_ok(), may, "{} {statement}: {done:?}", role.as_str());
            if let Err(error) = done {
                assert!(error.to_string().contains("permission denied"), "{}: {error}", role.as_str());
            }
        }
    }
}
