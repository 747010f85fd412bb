//! `kill -9` of everything at once, in the middle of a scan.

use std::time::Duration;

use openwatch_bus::User;
use openwatch_tests::{Stack, eventually_within, sshd};

use super::ground::Ground;
use super::rest::Rest;
use super::{processes_of, servers_of, tables};

// @spec trunk
// @ac AC-02
#[tokio::test]
async fn a_scan_survives_the_death_of_everything_and_ends_once() {
    println!("@spec trunk");
    println!("@ac AC-02");
    let (ground, sshd) = (Ground::new(10).slow(2), sshd::Options::new().start());
    let mut stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web-1", &sshd).await;
    stack.ended_scans("web-1", 1).await;

    (0..4).for_each(|number| ground.set(number, false));
    let scan = Rest::of(&stack.client()).scan("web-1").await;
    Rest::of(&stack.client()).scan_in(&scan, &["running"]).await;
    stack.up().kill();
    let data = stack.data_dir();
    eventually_within(Duration::from_secs(5), "no process left", || async {
        processes_of(&data).is_empty().then_some(())
    })
    .await;

    stack.restart().await;
    assert_eq!(servers_of(&data, "nats-server").len(), 1);
    let rest = Rest::of(&stack.client());
    let ended = rest.scan_in(&scan, &["completed", "failed"]).await;
    assert_eq!(ended["scan"]["state"], "completed", "{ended}");
    assert_eq!(ended["changes"].as_array().unwrap().len(), 4, "{ended}");

    let admin = tables::bus(&stack.client().nats_url, &data.join("keys"), User::Admin).await;
    tables::quiet(&tables::private_url(&data), &admin, Duration::from_secs(20)).await;
    assert_eq!(tables::dead_letters(&admin).await, Vec::<String>::new());
    let mut db = tables::private_db(&data).await;
    for (what, sql, expected) in [
        ("scans", "select count(*) from scan", 2),
        ("ledger rows", "select count(*) from scan_ledger", 2),
        ("changes", "select count(*) from transactions where change_kind = 'state_changed'", 4),
        ("alerts of drift", "select count(*) from alert where alert_type = 'drift_major'", 1),
        ("drift rows", "select count(*) from drift where kind = 'major_worsening'", 1),
    ] {
        assert_eq!(tables::count(&mut db, sql).await, expected, "{what}");
    }

    // And an orderly end leaves nothing either.
    assert!(stack.up().terminate().await.success());
    assert!(processes_of(&data).is_empty());
}
