//! Maintenance by hand and by policy, and what `host show` says of it.

use openwatch_tests::eventually;
use serde_json::Value;

use super::policy::{follow, reload};
use super::{audited, hosts};
use crate::trunk::fleet::{Fleet, ran};
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute, texts};

/// Codes of why a host is scanned when it is.
fn why(host: &Value) -> Vec<&str> {
    let host = host.get("host").unwrap_or(host);
    let causes = host["schedule"]["why"].as_array().unwrap_or_else(|| panic!("no causes in {host}"));
    causes.iter().map(|cause| cause["code"].as_str().unwrap()).collect()
}

async fn maintenance(fleet: &Fleet, change: &str) -> Vec<Value> {
    let rows = audited(&mut fleet.db().await, "scheduler.schedule.updated").await;
    rows.into_iter().filter(|row| row["change_kind"] == change).collect()
}

// @spec scheduler
// @ac AC-07
#[tokio::test]
async fn maintenance_by_hand_holds_until_its_time_or_its_end() {
    println!("@spec scheduler");
    println!("@ac AC-07");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 3).await;
    fleet.spawn("api");
    fleet.all_running().await;
    let until = (time::OffsetDateTime::now_utc() + time::Duration::hours(2))
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap();
    // It holds from the answer on, although nobody has taken it over yet.
    let shown = fleet.json(&["host", "maintenance", "host-1", "--until", &until]).await;
    assert_eq!(shown["schedule"]["maintenance"], true, "{shown}");
    fleet.json(&["host", "maintenance", "host-2"]).await;
    let (_, stdout, _) = ran(fleet.client(&["host", "show", "host-1"])).await;
    assert!(stdout.contains("it was never scanned") && stdout.contains("maintenance until 20"), "{stdout}");
    let past =
        fleet.client(&["host", "maintenance", "host-3", "--until", "2020-01-01T00:00:00Z"]).run().await;
    assert!(past.0 == Some(64) && past.2.contains("must be in the future"), "{past:?}");

    fleet.spawn("scheduler");
    let scanned = "select h.name from scan s join host h on h.id = s.host_id order by s.queued_at, h.name";
    eventually("a scan", || async {
        (!texts(&mut fleet.db().await, scanned).await.is_empty()).then_some(())
    })
    .await;
    eventually("a tick", || async {
        (!audited(&mut fleet.db().await, "scheduler.tick.dispatched").await.is_empty()).then_some(())
    })
    .await;
    assert_eq!(texts(&mut db, scanned).await, ["host-3"]);
    let set = maintenance(&fleet, "maintenance_set").await;
    assert_eq!(set.len(), 2, "{set:?}");
    for row in &set {
        assert_eq!(
            (&row["prior"]["maintenance_mode"], &row["new"]["maintenance_mode"]),
            (&false.into(), &true.into())
        );
    }
    assert!(set.iter().any(|row| row["new"]["maintenance_until"].is_string()));
    let actors = "select distinct actor_type || ' ' || actor_label from audit_event
                  where action = 'scheduler.schedule.updated' and detail ->> 'change_kind' = 'maintenance_set'";
    assert_eq!(texts(&mut db, actors).await, ["user admin"]);
    assert_eq!(count(&mut db, "select count(*) from maintenance_request").await, 0);
    let untouched = "select count(*) from host_compliance_schedule s join host h on h.id = s.host_id
                     where h.name in ('host-1', 'host-2') and next_scheduled_scan <= now() and maintenance_mode";
    assert_eq!(count(&mut db, untouched).await, 2, "due as before, and left alone");

    // Off by hand: at once. By time: with the first tick after it.
    fleet.json(&["host", "maintenance", "host-2", "--off"]).await;
    eventually("the second host's scan", || async {
        (texts(&mut fleet.db().await, scanned).await == ["host-3", "host-2"]).then_some(())
    })
    .await;
    execute(&mut db, "update host_compliance_schedule set maintenance_until = now() - interval '1 second' where maintenance_mode; notify ow_schedule").await;
    eventually("the first host's scan", || async {
        (texts(&mut fleet.db().await, scanned).await == ["host-3", "host-2", "host-1"]).then_some(())
    })
    .await;
    let cleared = maintenance(&fleet, "maintenance_cleared").await;
    assert_eq!(cleared.len(), 2, "{cleared:?}");
    let shown = fleet.json(&["host", "show", "host-1"]).await;
    assert_eq!(why(&shown), ["interval", "open_scan"], "{shown}");
}

// @spec scheduler
// @ac AC-08
#[tokio::test]
async fn maintenance_by_policy_names_hosts_or_takes_the_fleet() {
    println!("@spec scheduler");
    println!("@ac AC-08");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 3).await;
    follow(&fleet, "1.1.0", "maintenance: {hosts: [host-1]}\n").await;
    fleet.spawn("scheduler");
    fleet.spawn("api");
    fleet.all_running().await;
    let scanned = "select h.name from scan s join host h on h.id = s.host_id order by 1";
    eventually("scans of the others", || async {
        (texts(&mut fleet.db().await, scanned).await == ["host-2", "host-3"]).then_some(())
    })
    .await;
    assert_eq!(why(&fleet.json(&["host", "show", "host-1"]).await), ["first_contact", "policy_maintenance"]);

    follow(&fleet, "1.2.0", "maintenance: {all: true}\n").await;
    reload(&fleet).await;
    execute(&mut db, "insert into host (id, name, address, created_by) values (gen_random_uuid(), 'host-4', '192.0.2.1', 'test')").await;
    let ticks = eventually("a tick under the new policy", || async {
        let rows = texts(
            &mut fleet.db().await,
            "select detail::text from audit_event where action = 'scheduler.tick.dispatched' and policy_version = '1.2.0'
               and (detail ->> 'due_count')::int = 2",
        )
        .await;
        rows.first().map(|row| serde_json::from_str::<Value>(row).unwrap())
    })
    .await;
    assert_eq!(
        (&ticks["dispatched_count"], &ticks["skipped_maintenance_count"]),
        (&0.into(), &2.into()),
        "{ticks}"
    );
    assert_eq!(why(&fleet.json(&["host", "show", "host-4"]).await), ["first_contact", "fleet_maintenance"]);
    assert_eq!(texts(&mut db, scanned).await, ["host-2", "host-3"]);

    // Over: they are scanned with the next tick, each once.
    follow(&fleet, "1.3.0", "").await;
    reload(&fleet).await;
    eventually("everybody's scan", || async {
        (texts(&mut fleet.db().await, scanned).await == ["host-1", "host-2", "host-3", "host-4"])
            .then_some(())
    })
    .await;
}
