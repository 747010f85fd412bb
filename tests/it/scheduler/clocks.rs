//! Schedulers whose clocks disagree.

use std::path::Path;

use openwatch_tests::eventually;

use super::{audited, hosts};
use crate::audit::registry::{checkout, production};
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute};

/// Where distributions put the library that lies to a process about the time.
const FAKETIME: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

// @spec scheduler
// @ac AC-13
#[test]
fn nobody_who_decides_reads_the_clock_of_the_process() {
    println!("@spec scheduler");
    println!("@ac AC-13");
    let crates = checkout().join("crates");
    let mut text = String::new();
    for place in
        ["model/src", "store/src", "pipeline/src/scheduler", "pipeline/src/writer", "pipeline/src/caretakers"]
    {
        production(&crates.join(place), &mut text);
    }
    assert!(text.len() > 100_000 && text.contains("tx.now()"), "the source is where it is looked for");
    for clock in ["now_utc(", "now_local(", "SystemTime", "UNIX_EPOCH.elapsed"] {
        let found: Vec<_> = text.lines().filter(|line| line.contains(clock)).collect();
        assert_eq!(found, [""; 0], "{clock}: decisions go by the database's time, durations by `Instant`");
    }
}

// @spec scheduler
// @ac AC-13
#[tokio::test]
async fn clocks_five_minutes_apart_decide_nothing() {
    println!("@spec scheduler");
    println!("@ac AC-13");
    let library = FAKETIME.iter().find(|path| Path::new(path).exists());
    if library.is_none() {
        println!("skipped in part: no libfaketime here, so both schedulers have this machine's clock");
    }
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 200).await;
    // Due in a while: a clock that is ahead must not find them due, one that is behind must not find the others early.
    execute(
        &mut db,
        "update host_compliance_schedule s set next_scheduled_scan = now() + interval '2 minutes', claim_order = now() + interval '2 minutes'
         from host h where h.id = s.host_id and substr(h.name, 6)::int > 150",
    )
    .await;
    for (name, offset) in [("scheduler-1", "+5m"), ("scheduler-2", "-5m")] {
        match library {
            Some(library) => {
                let lie =
                    [("LD_PRELOAD", *library), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
                fleet.spawn_with(name, &lie);
            }
            None => fleet.spawn(name),
        }
    }
    fleet.all_running().await;
    eventually("a round of each", || async {
        let mut db = fleet.db().await;
        let ticks = audited(&mut db, "scheduler.tick.dispatched").await.len();
        (ticks >= 2 && count(&mut db, "select count(*) from scan").await >= 150).then_some(())
    })
    .await;
    for _ in 0..3 {
        execute(&mut db, "notify ow_schedule").await;
    }
    let ticks = audited(&mut db, "scheduler.tick.dispatched").await.len();
    eventually("another round", || async {
        (audited(&mut fleet.db().await, "scheduler.tick.dispatched").await.len() > ticks).then_some(())
    })
    .await;
    assert_eq!(count(&mut db, "select count(*) from scan").await, 150);
    assert_eq!(count(&mut db, "select count(distinct host_id) from scan").await, 150);
    let wrong = "select count(*) from host_compliance_schedule s join scan on scan.host_id = s.host_id
                 where s.next_scheduled_scan <> scan.queued_at + interval '60 minutes'
                    or scan.queued_at not between now() - interval '2 minutes' and now()";
    assert_eq!(count(&mut db, wrong).await, 0, "an interval after the database's time");
    if library.is_some() {
        // The lie was believed, or this proves nothing: log lines carry the process's own time.
        let ahead = fleet.stage("scheduler-1").stderr();
        let told = ahead.lines().find_map(|line| {
            let text = line.split_whitespace().next()?;
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()
        });
        let told = told.unwrap_or_else(|| panic!("no time in {ahead}"));
        assert!(told - time::OffsetDateTime::now_utc() > time::Duration::minutes(3), "{told}");
    }
}
