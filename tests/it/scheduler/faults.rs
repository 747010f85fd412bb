//! One bad host does not stop the others.

use openwatch_bus::User;
use openwatch_tests::eventually;

use super::hosts;
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute, texts};

// @spec scheduler
// @ac AC-12
#[tokio::test]
async fn one_bad_row_does_not_stop_the_tick() {
    println!("@spec scheduler");
    println!("@ac AC-12");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 8).await;
    execute(
        &mut db,
        "create function refuse() returns trigger language plpgsql as $$
         begin
           if new.host_id = (select id from host where name = 'host-3') then
             raise exception 'this row is broken' using errcode = '23514';
           end if;
           return new;
         end $$;
         create trigger refuse before insert on scan for each row execute function refuse()",
    )
    .await;
    fleet.spawn("scheduler");
    let tick = "select count(*) from audit_event where action = 'scheduler.tick.dispatched'
                and (detail ->> 'dispatched_count')::int = 7 and (detail ->> 'due_count')::int = 8";
    eventually("a tick", || async { (count(&mut fleet.db().await, tick).await == 1).then_some(()) }).await;
    assert_eq!(count(&mut db, "select count(*) from scan").await, 7);
    let left = "select h.name from host_compliance_schedule s join host h on h.id = s.host_id
                where s.next_scheduled_scan <= now() and s.next_reason = 'first_contact'";
    assert_eq!(texts(&mut db, left).await, ["host-3"], "left as it was");
    assert!(count(&mut db, "select value from counter where name = 'host_error_count'").await >= 1);
    assert!(fleet.stage("scheduler").stderr().contains("this row is broken"));
    let told =
        "select count(*) from audit_event where action in ('scan.queued', 'scheduler.schedule.updated')";
    assert_eq!(count(&mut db, told).await, 14, "nothing is told of what did not happen");

    execute(&mut db, "drop trigger refuse on scan; notify ow_schedule").await;
    eventually("the last scan", || async {
        (count(&mut fleet.db().await, "select count(*) from scan").await == 8).then_some(())
    })
    .await;
}

// @spec scheduler
// @ac AC-15
#[tokio::test]
async fn hosts_that_are_due_before_there_is_a_corpus_get_their_jobs_when_there_is_one() {
    println!("@spec scheduler");
    println!("@ac AC-15");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 3).await;
    execute(&mut db, "create table kept as table corpus; delete from corpus").await;
    fleet.spawn("scheduler");
    let waiting = "select count(*) from scan where state = 'queued' and tag is null";
    eventually("scans without a job", || async {
        (count(&mut fleet.db().await, waiting).await == 3).then_some(())
    })
    .await;
    let bus = fleet.bus(User::Admin).await;
    assert_eq!(bus.stream_info("OW_JOBS").await.unwrap().messages, 0);
    assert!(fleet.stage("scheduler").line("no corpus is published").await.contains("rules publish"));
    execute(&mut db, "insert into corpus table kept").await;
    eventually("their jobs", || async {
        (bus.stream_info("OW_JOBS").await.ok()?.messages == 3).then_some(())
    })
    .await;
    assert_eq!(count(&mut db, waiting).await, 0);
    assert_eq!(count(&mut db, "select count(*) from scan").await, 3);
}
