//! The statement with which a stage hands over does its work and tells of it by itself: a stage that dies in it has done both
//! or neither.

use std::time::Duration;

use openwatch_bus::User;
use openwatch_bus::consume::Consumer;
use openwatch_tests::{eventually, eventually_within, sshd};
use serde_json::json;

use super::fleet::Fleet;
use super::ground::Ground;
use super::tables::{self, count, execute};
use crate::bus::set_ack_wait_by;

/// A stage, and what it does in that statement: a table, and when a row of it is that.
const POINTS: [(&str, &str, &str); 3] = [
    ("vault", "scan", "new.grants > old.grants"),
    ("writer", "scan", "old.state = 'queued' and new.state = 'running'"),
    ("scheduler", "host_compliance_schedule", "new.scan_number > old.scan_number"),
];

// @spec transaction-log-writer
// @ac AC-19
// @spec vault
// @ac AC-05
#[tokio::test]
async fn a_stage_that_dies_in_it_has_done_and_told_or_neither() {
    println!("@spec transaction-log-writer");
    println!("@ac AC-19");
    println!("@spec vault");
    println!("@ac AC-05");
    let (ground, sshd) = (Ground::new(2), sshd::Options::new().start());
    let mut fleet = Fleet::start(&ground.rules(), 1).await;
    let client = fleet.client_of(User::Admin).await;
    for consumer in [Consumer::WRITER, Consumer::SCHEDULER] {
        set_ack_wait_by(&client, consumer, Duration::from_secs(3)).await;
    }
    fleet.add_key(sshd.user(), sshd.private_key()).await;
    let mut db = fleet.db().await;
    for (number, (_, table, when)) in POINTS.iter().enumerate() {
        let hold = format!(
            "create function hold_{number}() returns trigger language plpgsql as
               'begin perform pg_advisory_xact_lock({number}); return new; end';
             create trigger hold_{number} before update on {table} for each row when ({when})
               execute function hold_{number}()"
        );
        execute(&mut db, &hold).await;
    }
    for (number, (stage, ..)) in POINTS.iter().enumerate() {
        for commits in [false, true] {
            let name = format!("{stage}-{commits}");
            execute(&mut db, &format!("select pg_advisory_lock({number})")).await;
            let host = json!({ "name": name, "address": "127.0.0.1", "port": sshd.port() });
            fleet.rest().post("/hosts", host).await;
            let waits = "select coalesce(max(pid), 0)::bigint from pg_locks where locktype = 'advisory' and not granted
                         and database = (select oid from pg_database where datname = current_database())";
            let waiting = eventually("the statement that waits", || async {
                Some(count(&mut fleet.db().await, waits).await).filter(|pid| *pid > 0)
            })
            .await;
            fleet.take(stage).kill();
            if !commits {
                execute(&mut db, &format!("select pg_terminate_backend({waiting})")).await;
            }
            // Otherwise the server goes on with what it was asked: nobody hears of it.
            execute(&mut db, &format!("select pg_advisory_unlock({number})")).await;
            fleet.spawn(stage);
            fleet.stage(stage).line("running stage=").await;

            let ends = format!(
                "select count(*) from scan s join host h on h.id = s.host_id
                 join host_compliance_schedule c on c.host_id = h.id
                 where h.name = '{name}' and s.state = 'completed' and c.scan_number = s.number"
            );
            eventually_within(Duration::from_secs(90), &format!("the end of {name}"), || async {
                (count(&mut fleet.db().await, &ends).await == 1).then_some(())
            })
            .await;
            let admin = fleet.bus(User::Admin).await;
            tables::quiet(fleet.database_url(), &admin, Duration::from_secs(30)).await;
            let told = |what: &str| {
                format!(
                    "select count(*) from audit_event a join host h on h.id = a.host_id where h.name = '{name}' and {what}"
                )
            };
            let moved =
                "action = 'scheduler.schedule.updated' and detail ->> 'change_kind' = 'post_scan_update'";
            assert_eq!(count(&mut db, &told(moved)).await, 1, "{name}");
            assert_eq!(count(&mut db, &told("action = 'scan.started'")).await, 1, "{name}");
            // A secret whose way out is broken off is released, and asked for once more.
            let released = 1 + i64::from(*stage == "vault" && commits);
            assert_eq!(count(&mut db, &told("action = 'credential.released'")).await, released, "{name}");
            let grants = format!(
                "select grants::bigint from scan s join host h on h.id = s.host_id where h.name = '{name}'"
            );
            assert_eq!(count(&mut db, &grants).await, released, "{name}");
        }
    }
    let admin = fleet.bus(User::Admin).await;
    assert_eq!(tables::dead_letters(&admin).await, Vec::<String>::new());
    let events = admin.stream_info("OW_EVENTS_PUBLIC").await.unwrap();
    let mut begun = 0;
    for sequence in events.first_sequence..=events.last_sequence {
        let Ok(Some(stored)) = admin.message_at("OW_EVENTS_PUBLIC", sequence).await else { continue };
        begun += i64::from(stored.subject.contains(".scan_started."));
    }
    assert_eq!(begun, count(&mut db, "select count(*) from audit_event where action = 'scan.started'").await);
}
