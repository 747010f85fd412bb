//! One process for each stage, as a large site would run them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use openwatch_bus::User;
use openwatch_tests::{eventually_within, sshd};

use super::fleet::Fleet;
use super::ground::Ground;
use super::tables;

const HOSTS: usize = 10;

// @spec trunk
// @ac AC-03
#[tokio::test]
async fn a_process_per_stage_does_the_same_and_a_lost_worker_is_replaced() {
    println!("@spec trunk");
    println!("@ac AC-03");
    let (ground, sshd) = (Ground::new(6).slow(1), sshd::Options::new().start());
    let mut fleet = Fleet::start(&ground.rules(), 2).await;
    worker_is_told_of_no_database(fleet.stage("executor-1").process_id());
    fleet.add_hosts(HOSTS, &sshd).await;
    let mut db = fleet.db().await;

    // Both take part; then one dies in the middle of what it has in hand.
    let rest = fleet.rest();
    eventually_within(Duration::from_secs(60), "scans in both workers' hands", || async {
        let scans = rest.get("/scans?limit=100").await;
        let scans = scans["items"].as_array()?;
        let workers: BTreeSet<_> = scans.iter().filter_map(|scan| scan["worker"].as_str()).collect();
        let running =
            |scan: &&serde_json::Value| scan["state"] == "running" && scan["worker"] == "executor-1";
        (workers.len() == 2 && scans.iter().any(|scan| running(&scan))).then_some(())
    })
    .await;
    fleet.take("executor-1").kill();

    let admin = fleet.bus(User::Admin).await;
    eventually_within(Duration::from_secs(120), "the end of every scan", || async {
        let scans = rest.get("/scans?limit=100").await;
        let completed = scans["items"].as_array()?.iter().filter(|scan| scan["state"] == "completed").count();
        (completed == HOSTS).then_some(())
    })
    .await;
    tables::quiet(fleet.database_url(), &admin, Duration::from_secs(30)).await;
    assert_eq!(tables::dead_letters(&admin).await, Vec::<String>::new());
    let hosts = HOSTS as i64;
    assert_eq!(tables::count(&mut db, "select count(*) from scan_ledger").await, hosts);
    assert_eq!(tables::count(&mut db, "select count(distinct host_id) from scan_ledger").await, hosts);
    assert_eq!(tables::count(&mut db, "select count(*) from transactions").await, hosts * 7);
    let states = tables::rule_states(&mut db).await;
    for (host, mut states) in states {
        assert_eq!(states.remove("slow").as_deref(), Some("pass"), "{host}");
        assert_eq!(states, ground.truth(), "{host}");
    }
}

/// Neither its arguments nor its environment lead to a database, and it holds no file open.
fn worker_is_told_of_no_database(pid: u32) {
    for file in ["cmdline", "environ"] {
        // The environment of a hardened process is nobody's to read: then there is nothing to find either.
        let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).to_lowercase();
        assert!(!text.contains("postgres://") && !text.contains("database"), "{file}: {text}");
    }
    let open = |pid: &str| {
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).collect::<BTreeSet<_>>()
    };
    // Whoever runs the tests may have left files open in all of them.
    let inherited = open("self");
    let mut files = open(&pid.to_string());
    files.retain(|path| path.is_absolute() && !path.starts_with("/dev") && !inherited.contains(path));
    assert!(files.is_empty(), "a worker needs no disk: {files:?}");
}

/// Calls come as fast as a busy stage makes them; each look costs the database and the bus about as much for one row as for
/// ten.
#[tokio::test]
async fn a_relay_that_is_called_all_the_time_looks_now_and_then() {
    const CALLED_FOR: Duration = Duration::from_millis(600);
    const PACE_MS: u128 = 20;
    let ground = Ground::new(1);
    let mut fleet = Fleet::prepare(&ground.rules()).await;
    fleet.spawn("drift");
    fleet.all_running().await;
    let mut db = fleet.db().await;
    let looks =
        "select coalesce(sum(idx_scan), 0)::bigint from pg_stat_user_indexes where relname = 'outbox'";
    let before = tables::count(&mut db, looks).await;
    let (since, mut calls) = (Instant::now(), 0);
    while since.elapsed() < CALLED_FOR {
        tables::execute(&mut db, "select pg_notify('ow_outbox', 'drift')").await;
        calls += 1;
    }
    let paced = i64::try_from(since.elapsed().as_millis() / PACE_MS).unwrap();
    // The server adds up what a session did about once a second, and this one looks that often by itself.
    let mut looked = 0;
    while looked < paced / 3 {
        assert!(since.elapsed() < Duration::from_secs(15), "{looked} looks for {calls} calls");
        tokio::time::sleep(Duration::from_millis(100)).await;
        looked = tables::count(&mut db, looks).await - before;
    }
    println!("{calls} calls, {looked} looks");
    assert!(looked <= paced + 15, "{looked} looks for {calls} calls");
}
