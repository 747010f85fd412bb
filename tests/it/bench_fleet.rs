//! A thousand hosts from the clock to the ledger: how many scans a second, which part of the machine they take, and what the
//! raw operations of the stages would take. `make bench` runs this; it prints, and judges nothing.

mod raw;
mod targets;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use openwatch_app::private::{Durability, Kind};
use openwatch_bus::User;

use self::targets::Targets;

use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute};

const RULES: usize = 500;
/// Scans at a time: enough that nothing waits for the targets, and what limits is a part of the machine.
const SLOTS: &str = "64";
const STAGES: [&str; 7] = ["api", "vault", "writer", "drift", "alerts", "scheduler", "executor-1"];

/// Hosts, `OPENWATCH_BENCH_HOSTS` or a thousand.
fn many() -> i64 {
    std::env::var("OPENWATCH_BENCH_HOSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// One command of each rule.
fn command(rule: usize) -> String {
    format!("echo rule {rule} is fine; echo $PATH")
}

/// Processor seconds by process since it began, those of its ended children included.
fn used(fleet: &mut Fleet, target: &Targets) -> BTreeMap<String, f64> {
    let all = processes();
    let tree = |root: u32| {
        all.values().filter(|it| it.pid == root || it.parent == root).map(|it| it.seconds).sum::<f64>()
    };
    let mut used: BTreeMap<String, f64> =
        STAGES.iter().map(|stage| ((*stage).to_owned(), tree(fleet.stage(stage).process_id()))).collect();
    for (name, kind) in [("PostgreSQL", Kind::Postgres), ("NATS", Kind::Nats)] {
        used.insert(name.to_owned(), fleet.server(kind).map_or(0.0, tree));
    }
    used.insert("(targets)".to_owned(), tree(target.pid()));
    used
}

/// Ticks of `/proc` in a second, on every Linux.
const TICKS: f64 = 100.0;

struct Process {
    pid: u32,
    parent: u32,
    seconds: f64,
}

fn processes() -> BTreeMap<u32, Process> {
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let time = |n: usize| fields.get(n).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        // State, parent, ..., then user and system time, of itself and of ended children.
        let seconds = (11..15).map(time).sum::<f64>() / TICKS;
        Some((pid, Process { pid, parent: fields.get(1)?.parse().ok()?, seconds }))
    };
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(one).collect()
}

/// What a round leaves to PostgreSQL's cleaners, done before the next one begins: else that one pays for it.
async fn settle(db: &mut sqlx::PgConnection) {
    execute(db, "vacuum (analyze)").await;
    let cleaners = "select count(*) from pg_stat_activity where backend_type = 'autovacuum worker'";
    while count(db, cleaners).await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Scans every host once; processor seconds per scan without the targets'.
async fn round(fleet: &mut Fleet, target: &Targets, what: &str, hosts: i64) -> f64 {
    let mut db = fleet.db().await;
    let done = count(&mut db, "select count(*) from scan_ledger").await + hosts;
    let before = used(fleet, target);
    let since = Instant::now();
    execute(
        &mut db,
        "update host_compliance_schedule set next_scheduled_scan = now(), claim_order = now(), updated_at = now();
         select pg_notify('ow_schedule', '')",
    )
    .await;
    while count(&mut db, "select count(*) from drift").await < done {
        assert!(since.elapsed() < Duration::from_secs(3600), "{what}: scans do not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let took = since.elapsed().as_secs_f64();
    while count(&mut db, "select count(*) from outbox").await > 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let failed = count(&mut db, "select count(*) from scan_ledger where outcome <> 'completed'").await;
    assert_eq!(failed, 0, "{what}: every scan completes");
    let after = used(fleet, target);
    println!("{what}: {hosts} hosts x {RULES} rules in {took:.1} s: {:.1} scans/s", hosts as f64 / took);
    let spent = |name: &str| after[name] - before[name];
    let mut names: Vec<_> = after.keys().collect();
    names.sort_by(|a, b| spent(b).total_cmp(&spent(a)));
    for name in names {
        let seconds = spent(name);
        println!(
            "  {name:<14} {:>8.2} ms of processor per scan, {:>5.1} % of one",
            seconds * 1e3 / hosts as f64,
            100.0 * seconds / took
        );
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let ours: f64 = after.keys().filter(|name| !name.starts_with('(')).map(|name| spent(name)).sum();
    let all = ours + spent("(targets)");
    println!(
        "  machine: {:.0} % of {cores} processors, {:.0} % of that by the targets",
        100.0 * all / took / cores,
        100.0 * spent("(targets)") / all
    );
    let each = ours / hosts as f64;
    println!(
        "  without the targets {:.1} ms of processor per scan: {:.0} scans/s would fill the machine",
        each * 1e3,
        cores / each
    );
    each
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_fleet() {
    let ground = Ground::new(0);
    (0..RULES).for_each(|n| {
        ground.rule(&format!("cis-bench-rule-{n:03}"), &format!("method: command\n      run: {}", command(n)))
    });
    let target = Targets::start();
    let mut fleet = Fleet::prepare_as(&ground.rules(), Durability::Full).await;
    for stage in STAGES {
        match stage {
            "executor-1" => fleet.spawn_more(stage, &["--slots", SLOTS]),
            stage => fleet.spawn(stage),
        }
    }
    fleet.all_running().await;
    fleet.add_key("root", target.private_key()).await;
    let hosts = many();
    let mut db = fleet.db().await;
    // Registered, and due when the clock is started.
    execute(&mut db, &format!(
        "begin;
         insert into host (id, name, address, port, created_by)
         select gen_random_uuid(), 'fake-' || n, '127.0.0.1', {}, 'bench' from generate_series(1, {hosts}) n;
         update host_compliance_schedule set next_scheduled_scan = now() + interval '1 day', claim_order = now() + interval '20 hours';
         commit; analyze",
        target.port()
    ))
    .await;
    round(&mut fleet, &target, "first seen", hosts).await;
    // The statements of such a scan are planned once for each connection: a fleet is scanned for longer than this.
    round(&mut fleet, &target, "unchanged, for the first time", hosts).await;
    settle(&mut db).await;
    let admin = fleet.bus(User::Admin).await;
    let traffic = raw::Traffic::now(&admin).await;
    let each = round(&mut fleet, &target, "unchanged", hosts).await;
    let traffic = raw::Traffic::now(&admin).await.since(&traffic, hosts);
    let [alone, together] = raw::sums(&mut fleet, &target, traffic).await;
    for (how, raw) in [("one after the other", alone), ("side by side, as the stages do them", together)] {
        println!(
            "the raw operations of such a scan, {how}, take {:.1} ms of processor: {:.0} % of ours (reach 60 %)",
            raw * 1e3,
            100.0 * raw / each
        );
    }
}
