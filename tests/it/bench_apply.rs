//! What applying a result costs on this machine, beside what PostgreSQL needs for the same rows by itself. `make bench` runs
//! this; it prints, and judges nothing.

mod bare;

use std::time::{Duration, Instant};

use openwatch_app::keydir::KeyDir;
use openwatch_app::private::Durability;
use openwatch_bus::message::result::{Final, decode_final, encode_final};
use openwatch_bus::{Bus, Outgoing, User};
use openwatch_model::scan::{RuleTiming, Verdict, slowest};
use openwatch_model::{HostId, Outcome, ScanId, Status};
use openwatch_store::finding;
use openwatch_store::{Relay, Role, Store, StoreOptions};
use openwatch_tests::eventually_within;
use openwatch_tests::stages::{measured, plain, signed};
use openwatch_trust::VaultKeys;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::executor::crew::{metrics, metrics_address, value};
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute, texts};
use crate::writer::outcome;

const RULES: usize = 1000;

/// Hosts that each number is the middle of.
fn many() -> usize {
    std::env::var("OPENWATCH_BENCH_RESULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(15)
}

/// Hosts before those that count: they pay for a cold start, and every connection of the pool has one.
const WARM: usize = 5;

/// What one result cost.
#[derive(Clone, Copy)]
struct Cost {
    took: Duration,
    /// Bytes of write-ahead log: records, and images of pages that were touched first since a checkpoint.
    records: i64,
    images: i64,
}

struct Bench {
    fleet: Fleet,
    db: PgConnection,
    worker: Bus,
    keys: VaultKeys,
    address: String,
    version: String,
    /// Where the last result began and ended in the log.
    span: (String, String),
    /// What the writer says waits in the outbox: else its relay would write into the same log at the same time.
    relay: Option<Relay>,
}

/// Evidence is each host's own, as it is in life: nothing of a first scan is known before.
fn outcomes(host: &str, failing: std::ops::Range<usize>, said: &str) -> Vec<Outcome> {
    let one = |n: usize| {
        let status = if failing.contains(&n) { Status::Fail } else { Status::Pass };
        let mut it = outcome(&format!("cis_bench_rule_{n:04}"), status);
        let pad = "x".repeat(120);
        it.evidence.checks[0].stdout = format!("{host} says {} {said} of {n} {pad}", status.as_str());
        it
    };
    (0..RULES).map(one).collect()
}

impl Bench {
    async fn new() -> Self {
        // As the program does at its start; what asks for metrics needs it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut fleet = Fleet::prepare_as(&Ground::new(1).rules(), Durability::Full).await;
        // It brings the policy into force, and is not needed after that.
        fleet.spawn("scheduler");
        fleet.all_running().await;
        fleet.take("scheduler").kill();
        let mut db = fleet.db().await;
        execute(&mut db, "delete from outbox").await;
        let version = texts(&mut db, "select version from policy_history order by ordinal desc limit 1")
            .await
            .remove(0);
        let options = StoreOptions {
            url: fleet.database_url().to_owned(),
            role: Role::Writer,
            max_connections: 2,
            application_name: "bench".to_owned(),
        };
        let relay = Relay::try_take(&Store::connect(&options).await.unwrap(), "writer").await.unwrap();
        fleet.spawn_more("writer", &["--health-listen", "127.0.0.1:0"]);
        let address = metrics_address(fleet.stage("writer")).await;
        fleet.all_running().await;
        let worker = fleet.bus(User::Executor).await;
        let keys =
            KeyDir::new(fleet.keys("master")).vault().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        // Knows records and images apart; without it the latter are told as nought.
        let walinspect = sqlx::raw_sql("create extension if not exists pg_walinspect").execute(&mut db).await;
        println!(
            "write-ahead log: images apart: {}",
            if walinspect.is_ok() { "yes" } else { "no, pg_walinspect is missing" }
        );
        let span = Default::default();
        Self { fleet, db, worker, keys, address, version, span, relay }
    }

    async fn host(&mut self, name: &str) -> HostId {
        let id = HostId(Uuid::new_v4());
        let sql = format!(
            "insert into host (id, name, address, created_by) values ('{id}', '{name}', '192.0.2.1', 'bench')"
        );
        execute(&mut self.db, &sql).await;
        id
    }

    /// A scan under way, and the message that ends it.
    async fn message(&mut self, host: HostId, outcomes: &[Outcome]) -> Outgoing {
        let scan = ScanId(Uuid::new_v4());
        let number = count(
            &mut self.db,
            &format!("select coalesce(max(number), 0) + 1 from scan where host_id = '{host}'"),
        )
        .await;
        let sql = format!(
            "insert into open_scan (host_id, scan_id, unissued) values ('{host}', '{scan}', false);
             insert into scan (id, host_id, number, state, lane, trigger, actor, framework, policy_version, corpus, tag, key_id,
               timeout_sec, worker, queued_at, issued_at, started_at)
             values ('{scan}', '{host}', {number}, 'running', 'manual', 'manual', 'bench', '*', '{}', 'c0', sha256('t'), 'k', 600,
               'w1', now(), now(), now())",
            self.version
        );
        execute(&mut self.db, &sql).await;
        let mut job = plain(scan, host, number);
        job.policy_version.clone_from(&self.version);
        let mut result = measured(&job, outcomes);
        if let Verdict::Completed(it) = &mut result.verdict {
            let timing = |(n, o): (usize, &Outcome)| RuleTiming {
                rule: o.rule.clone(),
                duration_ms: n as u64 % 97,
                lane: 1,
            };
            it.timings = slowest(outcomes.iter().enumerate().map(timing).collect());
        }
        signed(&self.keys, &job, encode_final(&result))
    }

    /// Seconds spent on messages, and how many of them, by the writer.
    async fn handled(&self) -> (f64, f64) {
        let text = metrics(&self.address).await;
        let of = |what: &str| {
            value(&text, &format!("openwatch_message_seconds_{what}{{stage=\"writer\"}}")).unwrap_or(0.0)
        };
        (of("sum"), of("count"))
    }

    async fn place(&mut self) -> String {
        let place = texts(&mut self.db, "select pg_current_wal_insert_lsn()::text").await.remove(0);
        // A call to a relay is a commit that nobody waits for; what is not on the disk cannot be looked at.
        let written = format!("select count(*) from pg_current_wal_flush_lsn() it where it >= '{place}'");
        while count(&mut self.db, &written).await == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        place
    }

    /// Bytes between two places of the log: records and images.
    async fn written(&mut self, from: &str, to: &str) -> (i64, i64) {
        let apart = format!(
            "select sum(record_size)::bigint, sum(fpi_size)::bigint from pg_get_wal_stats('{from}', '{to}', true)"
        );
        match sqlx::query_as(sqlx::AssertSqlSafe(apart)).fetch_one(&mut self.db).await {
            Ok(both) => both,
            Err(_) => {
                (count(&mut self.db, &format!("select ('{to}'::pg_lsn - '{from}'::pg_lsn)::bigint")).await, 0)
            }
        }
    }

    /// Sends a result and waits until the writer is done with it.
    async fn apply(&mut self, host: HostId, outcomes: &[Outcome]) -> Cost {
        let message = self.message(host, outcomes).await;
        let from = self.place().await;
        let (spent, messages) = self.handled().await;
        self.worker.publish(&message).await.unwrap();
        let spent = loop {
            // Asking costs the writer something too.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.handled().await;
            if now.1 > messages {
                break now.0 - spent;
            }
        };
        let to = self.place().await;
        let (records, images) = self.written(&from, &to).await;
        self.span = (from, to);
        Cost { took: Duration::from_secs_f64(spent), records, images }
    }

    /// Which tables the last result wrote to, their indexes with them: bytes of records.
    async fn parts(&mut self) -> Vec<String> {
        let (from, to) = &self.span;
        let parts = format!(
            "select concat_ws(' ', coalesce(t.relname, i.relname, 'commit'), sum(record_length - fpi_length))
             from pg_get_wal_records_info('{from}', '{to}') r
             left join pg_class i on i.relfilenode = (regexp_match(r.block_ref, 'rel \\d+/\\d+/(\\d+)'))[1]::oid
             left join pg_index x on x.indexrelid = i.oid
             left join pg_class t on t.oid = x.indrelid
             group by coalesce(t.relname, i.relname, 'commit') order by sum(record_length - fpi_length) desc"
        );
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(parts)).fetch_all(&mut self.db).await;
        rows.unwrap_or_else(|error| vec![format!("not to be told: {error}")])
    }
}

fn middle<T: Ord + Copy>(values: impl Iterator<Item = T>) -> T {
    let mut all: Vec<T> = values.collect();
    all.sort_unstable();
    all[all.len() / 2]
}

fn report(what: &str, costs: &[Cost]) -> Duration {
    let took = middle(costs.iter().map(|c| c.took));
    let kib = |bytes: i64| bytes as f64 / 1024.0;
    let (records, images) = (middle(costs.iter().map(|c| c.records)), middle(costs.iter().map(|c| c.images)));
    println!(
        "{what:<58} {:>8.2} ms {:>9.2} KiB of log {:>9.2} KiB of images",
        took.as_secs_f64() * 1e3,
        kib(records),
        kib(images)
    );
    took
}

fn share(what: &str, ours: Duration, theirs: Duration) {
    println!("{what:<58} {:>8.2} x", ours.as_secs_f64() / theirs.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_apply() {
    let mut bench = Bench::new().await;
    println!(
        "{RULES} rules, the middle of {} hosts each; the time is the writer's for the whole message",
        many()
    );
    let floor: Vec<_> = {
        execute(&mut bench.db, "create table bench_floor (n integer)").await;
        let mut all = Vec::new();
        for n in 0..100 {
            let since = Instant::now();
            execute(&mut bench.db, &format!("insert into bench_floor values ({n})")).await;
            all.push(Cost { took: since.elapsed(), records: 0, images: 0 });
        }
        all
    };
    report("PostgreSQL: a commit of one row", &floor);
    let (mut first, mut same, mut percent, mut reworded) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    // Each denominator beside what it is of: the machine has faster and slower minutes.
    let (mut bare, mut naive, mut parts) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()], Vec::new());
    execute(&mut bench.db, bare::NAIVE).await;
    let mut last = String::new();
    for n in 0..WARM + many() {
        let name = format!("apply-{n}");
        let host = bench.host(&name).await;
        let seen = bench.apply(host, &outcomes(&name, 0..100, "now")).await;
        let silent = bench.apply(host, &outcomes(&name, 0..100, "now")).await;
        parts = bench.parts().await;
        let costs = [seen, silent, bench.apply(host, &outcomes(&name, 0..110, "now")).await];
        let mut said = outcomes(&name, 0..110, "now");
        said.iter_mut().skip(500).take(10).for_each(|it| it.evidence.checks[0].stdout.push('!'));
        let other_words = bench.apply(host, &said).await;
        if n >= WARM {
            first.push(costs[0]);
            same.push(costs[1]);
            percent.push(costs[2]);
            reworded.push(other_words);
            bare.push(bare::first_seen(&mut bench, host, &name).await);
            for (all, one) in naive.iter_mut().zip(bare::row_by_row(&mut bench, &name).await) {
                all.push(one);
            }
            last = name;
        }
    }
    let first = report("writer: first seen", &first);
    let same = report("writer: unchanged                     (reach 3 ms, 2 KiB)", &same);
    println!("  of which bytes: {}", parts.join(", "));
    report("writer: 1 % changed                       (reach 8 ms)", &percent);
    report("writer: other evidence for 1 % of the rules", &reworded);
    let said = outcomes(&last, 0..100, "now");
    let first_tx = first.saturating_sub(reading(&said, false));
    let same_tx = same.saturating_sub(reading(&said, true));
    println!(
        "without that: first seen {:.2} ms, unchanged {:.2} ms",
        first_tx.as_secs_f64() * 1e3,
        same_tx.as_secs_f64() * 1e3
    );
    let bare = report("PostgreSQL: one bare statement, the same rows", &bare);
    share("first seen, writer to one bare statement    (reach 1.3)", first, bare);
    let [naive_first, naive_same, naive_percent] = naive;
    report("row by row: first seen", &naive_first);
    let naive_same = report("row by row: unchanged", &naive_same);
    report("row by row: 1 % changed", &naive_percent);
    share("unchanged, row by row to writer              (reach 80)", naive_same, same);
    share("the same without reading the result", naive_same, same_tx);
    share("first seen without reading, to one bare statement", first_tx, bare);
    side_by_side(&mut bench).await;
}

/// What of the writer's time is spent before the database hears of it; `known`: its outcomes are those of the scan before.
fn reading(all: &[Outcome], known: bool) -> Duration {
    let job = plain(ScanId(Uuid::new_v4()), HostId(Uuid::new_v4()), 1);
    let payload = encode_final(&measured(&job, all));
    let times = (0..20).map(|_| {
        let since = Instant::now();
        let Final::Whole(unread) = decode_final(&payload).unwrap() else { panic!("it is whole") };
        if known {
            assert_ne!(unread.outcomes_digest(), [0; 32]);
        } else {
            assert!(!finding::prepare(unread.outcomes().unwrap()).unwrap().is_empty());
        }
        Cost { took: since.elapsed(), records: 0, images: 0 }
    });
    let what = if known {
        "of which reading: unchanged"
    } else {
        "of which reading, checking and hashing: first seen"
    };
    report(what, &times.collect::<Vec<_>>())
}

/// Scans per second of one and of two writers: what is on the stream already, until all of it is applied.
async fn side_by_side(bench: &mut Bench) {
    drop(bench.relay.take());
    for writers in 1..=2 {
        if writers == 2 {
            bench.fleet.spawn("writer-2");
            bench.fleet.all_running().await;
        }
        let names: Vec<_> = (0..40).map(|n| format!("side-{writers}-{n}")).collect();
        let mut hosts = Vec::new();
        for name in &names {
            hosts.push(bench.host(name).await);
        }
        for (what, said) in [("first seen", "now"), ("unchanged", "now"), ("all evidence new", "then")] {
            let mut messages = Vec::new();
            for (host, name) in hosts.iter().zip(&names) {
                messages.push(bench.message(*host, &outcomes(name, 0..100, said)).await);
            }
            let done = count(&mut bench.db, "select count(*) from scan_ledger").await + messages.len() as i64;
            let since = Instant::now();
            for published in bench.worker.publish_all(&messages).await {
                published.unwrap();
            }
            while count(&mut bench.db, "select count(*) from scan_ledger").await < done {
                assert!(since.elapsed() < Duration::from_secs(120), "results are not applied");
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            let rate = messages.len() as f64 / since.elapsed().as_secs_f64();
            println!(
                "{:<58} {rate:>8.1} scans/s",
                format!("{writers} writer{}: {what}", if writers == 1 { "" } else { "s" })
            );
        }
    }
    let url = bench.fleet.database_url().to_owned();
    eventually_within(Duration::from_secs(60), "an empty outbox", || async {
        let mut db = <PgConnection as sqlx::Connection>::connect(&url).await.ok()?;
        (count(&mut db, "select count(*) from outbox").await == 0).then_some(())
    })
    .await;
}
