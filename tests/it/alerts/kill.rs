//! The alerts stage dies, again and again: no alert is lost, none is told twice.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use openwatch_app::cli::IssueFor;
use openwatch_bus::message::event::HostConnectivity;
use openwatch_model::liveness::Reachability;
use openwatch_model::{HostId, Timestamp};
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Catcher, Program, Running, Stages, eventually_within};

use super::tell;
use crate::drift::settled;

const HOSTS: u64 = 24;

/// The program, as one stage.
async fn start(stages: &Stages, keys: &str) -> Running {
    let database = stages.file("database.url");
    std::fs::write(&database, stages.world.database.url()).unwrap();
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o600)).unwrap();
    let database = database.display().to_string();
    let args = ["alerts", "--keys", keys, "--nats-url", stages.nats_url(), "--database-url-file", &database];
    let mut running = Program::new(args).spawn();
    running.line(" running").await;
    running
}

fn down(host: HostId) -> HostConnectivity {
    let (prior, status) = (Reachability::Reachable, Reachability::Unreachable);
    HostConnectivity { host_id: host, prior, status, transition: 2, response_time_ms: None, error: None }
}

// @spec alert-router
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_neither_repeats_nor_swallows_an_alert() {
    println!("@spec alert-router");
    println!("@ac AC-07");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    stages.webhook("hook", catcher.url("/hook")).await;
    let keys = stages.file("alerts-keys");
    stages.keys().issue(IssueFor::Alerts, &keys).unwrap_or_else(|failure| panic!("{:#}", failure.error));
    let keys = keys.display().to_string();
    let mut hosts = Vec::new();
    for number in 0..HOSTS {
        hosts.push(stages.host(&format!("web-{number}"), 22).await);
    }
    let mut running = start(&stages, &keys).await;
    for (number, host) in hosts.iter().enumerate() {
        tell(&stages, Some(*host), Timestamp::now_utc(), down(*host)).await;
        if number % 8 == 5 {
            // In the middle of whatever it does; a little later each time.
            tokio::time::sleep(Duration::from_millis(3 * number as u64)).await;
            running.kill();
            running = start(&stages, &keys).await;
        }
    }
    settled(&stages, "alerts").await;
    let waits = "select count(*) from alert_delivery where state = 'pending'";
    // What was cut off between sending and noting is due again when its lease is over.
    eventually_within(Duration::from_secs(60), "every delivery", || async {
        stages
            .meddle("update alert_delivery set next_try_at = now() where state = 'pending' and attempts < 2")
            .await;
        (stages.number(waits).await == 0).then_some(())
    })
    .await;
    assert_eq!(stages.number("select count(*) from alert where state = 'active'").await, HOSTS as i64);
    assert_eq!(
        stages.number("select sum(occurrences)::bigint from alert").await,
        HOSTS as i64,
        "none was repeated"
    );
    assert_eq!(stages.audited("alert.created").await, HOSTS as i64);
    assert_eq!(stages.number("select count(*) from alert_delivery").await, HOSTS as i64);
    let mut times = BTreeMap::new();
    for hook in catcher.all() {
        *times.entry(hook.headers["webhook-id"].clone()).or_insert(0) += 1;
    }
    assert_eq!(times.len() as u64, HOSTS, "each was told");
    // A receiver sees one id twice only where the sender died, or was hurried, between sending and noting.
    let twice = times.values().filter(|times| **times > 1).count();
    let cut_off = "select count(*) from alert_delivery where attempts > 1";
    assert!(twice as i64 <= stages.number(cut_off).await, "{times:?}");
}
