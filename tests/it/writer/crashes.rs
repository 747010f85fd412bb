//! The crash points between a result and the events of its drift: die there, start again, and compare every table and
//! stream with those of a run in which nobody died.

mod dump;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use openwatch_bus::consume::Consumer;
use openwatch_store::Relay;
use openwatch_tests::{Program, Proxy, Running, eventually_within};
use sqlx::{Connection as _, PgConnection};

use self::dump::dump;
use super::*;
use crate::bus::set_ack_wait;

/// How a process is stopped at a known place: somebody holds a lock, it waits with a statement of which this is a part, and dies.
#[derive(Clone, Copy, Debug)]
enum Die {
    /// Never.
    Not,
    /// With the statement unanswered: nothing of its tx stays.
    At { lock: &'static str, statement: &'static str },
    /// With the tx committed and the message not acknowledged: the bus is cut off, then the statement goes on.
    Unacked { lock: &'static str, statement: &'static str },
    /// With its messages on the bus and their rows still in the outbox.
    Unforgotten,
}

/// The ledger's row, the host's and the scan's are one statement.
const LEDGER: &str = "lock table scan_ledger in share mode";
const OUTBOX: &str = "lock table outbox in share mode";
const DRIFT: &str = "lock table drift in share mode";

/// The rule that the second scan has and the first had not: whoever adds it waits for the end of this.
const NEW_RULE: &str = "insert into rule_state (host_id, rule_id, status, framework_refs, evidence_hash, digest, first_seen_at, last_changed_at)
    select host_id, 'rule-new', status, framework_refs, evidence_hash, digest, now(), now() from rule_state limit 1";

/// Every arrow of result, tx of the writer, outbox, event, tx of drift, event. The stage that dies, and where.
const POINTS: &[(&str, &str, Die)] = &[
    ("nobody dies", "writer", Die::Not),
    ("before the ledger row", "writer", Die::At { lock: LEDGER, statement: "insert into scan_ledger" }),
    (
        "between ledger and transactions",
        "writer",
        Die::At { lock: "lock table transactions in share mode", statement: "insert into transactions" },
    ),
    (
        "between what moved and what is new",
        "writer",
        Die::At { lock: NEW_RULE, statement: "insert into rule_state" },
    ),
    (
        "at a rule that dropped out",
        "writer",
        Die::At { lock: "lock table rule_gap in share mode", statement: "insert into rule_gap" },
    ),
    (
        "before the audit rows",
        "writer",
        Die::At { lock: "lock table audit_event in share mode", statement: "insert into audit_event" },
    ),
    ("before the outbox", "writer", Die::At { lock: OUTBOX, statement: "with done as (select)" }),
    (
        "after the commit, before the ack",
        "writer",
        Die::Unacked { lock: LEDGER, statement: "insert into scan_ledger" },
    ),
    ("published and not forgotten", "writer", Die::Unforgotten),
    ("before the drift row", "drift", Die::At { lock: DRIFT, statement: "insert into drift" }),
    ("between drift row and outbox", "drift", Die::At { lock: OUTBOX, statement: "with done as (select)" }),
    (
        "drift committed, before the ack",
        "drift",
        Die::Unacked { lock: DRIFT, statement: "insert into drift" },
    ),
    ("drift published and not forgotten", "drift", Die::Unforgotten),
];

/// The same for a scan that found nothing new: the writer ends it with one statement of its own.
const SILENT: &[(&str, &str, Die)] = &[
    ("nothing new, and nobody dies", "writer", Die::Not),
    (
        "before the one statement",
        "writer",
        Die::At { lock: LEDGER, statement: "with done as%insert into scan_ledger" },
    ),
    (
        "after the commit of the one statement, before the ack",
        "writer",
        Die::Unacked { lock: LEDGER, statement: "with done as%insert into scan_ledger" },
    ),
];

/// The same for a scan whose end overtakes its beginning: the writer tells the beginning first.
const OVERTAKEN: &[(&str, &str, Die)] = &[
    ("a beginning that is overtaken, and nobody dies", "writer", Die::Not),
    (
        "before the beginning",
        "writer",
        Die::At { lock: OUTBOX, statement: "with done as%set state = ''running''" },
    ),
    (
        "between the beginning and the end",
        "writer",
        Die::At { lock: LEDGER, statement: "insert into scan_ledger" },
    ),
];

/// Holds a lock until closed.
async fn locked(stages: &Stages, statement: &'static str) -> PgConnection {
    let mut connection = stages.world.database.connect().await;
    sqlx::raw_sql("begin").execute(&mut connection).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection
}

/// Waits until somebody waits for a lock with a statement of which this is a part (of the first kilobyte).
async fn waiting(stages: &Stages, part: &str) {
    let query = format!(
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
         and query like '%{part}%'"
    );
    let there = || async { (stages.number(&query).await > 0).then_some(()) };
    eventually_within(Duration::from_secs(60), &format!("a statement that waits: {part}"), there).await;
}

/// A stage as people run it: the program, with keys of the installation.
async fn start(stages: &Stages, stage: &str, nats: &str) -> Running {
    let secret = stages.file("database.url");
    if !secret.exists() {
        std::fs::write(&secret, stages.world.database.url()).unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    let mut running = Program::new([stage, "--keys"])
        .arg(stages.file("keys"))
        .env("OPENWATCH_DATABASE_URL_FILE", secret)
        .env("OPENWATCH_NATS_URL", nats)
        .spawn();
    running.line("running stage=").await;
    running
}

/// The relay of a sender stands still until the lock is released.
async fn hold_relay(stages: &Stages, sender: &str) -> Relay {
    let store = stages.store(Role::Api).await;
    openwatch_tests::eventually("the relay's lock", || async {
        Relay::try_take(&store, sender).await.unwrap()
    })
    .await
}

/// What the first scan finds.
fn first() -> Vec<Outcome> {
    outcomes(30, 3)
}

/// A major drift; one rule is gone and one is new.
fn moved() -> Vec<Outcome> {
    let mut all = outcomes(29, 9);
    all.push(outcome("rule-new", Status::Fail));
    all
}

/// A second scan: what it finds, and whether its beginning is known before its end.
#[derive(Clone, Copy)]
struct Second {
    finds: fn() -> Vec<Outcome>,
    begun: bool,
}

/// Two scans of one host; one stage dies in the middle of the second.
async fn run(stage: &str, die: Die, second: Second) -> Vec<String> {
    let stages = Stages::under(TOFU).await;
    for consumer in [Consumer::WRITER, Consumer::DRIFT] {
        set_ack_wait(&stages.world.nats, consumer, Duration::from_secs(2)).await;
    }
    let proxy = Proxy::to(stages.world.nats.port()).await;
    let (fair, breaking) = (stages.nats_url().to_owned(), format!("nats://127.0.0.1:{}", proxy.port()));
    let other = if stage == "writer" { "drift" } else { "writer" };
    let host = stages.host("web", 22).await;
    let held = match die {
        Die::Unforgotten => Some(hold_relay(&stages, stage).await),
        _ => None,
    };
    let _other = start(&stages, other, &fair).await;
    let mut dying = start(&stages, stage, &breaking).await;
    let drifted = |scans: i64| {
        let stages = &stages;
        eventually_within(Duration::from_secs(60), "a drift row", move || async move {
            (stages.number("select count(*) from drift").await == scans).then_some(())
        })
    };
    stages.scanned(host, &first()).await;
    if held.is_none() {
        drifted(1).await;
        stages.relayed().await;
    }
    let (job, _) = stages.job(host, |_| ()).await;
    if second.begun {
        stages.begun(&job).await;
    }
    let message = stages.result(&job, &(second.finds)());
    match die {
        Die::Not => drop(stages.send(&message).await),
        Die::At { lock, statement } => {
            let lock = locked(&stages, lock).await;
            stages.send(&message).await;
            waiting(&stages, statement).await;
            dying.kill();
            lock.close().await.unwrap();
        }
        Die::Unacked { lock, statement } => {
            let lock = locked(&stages, lock).await;
            stages.send(&message).await;
            waiting(&stages, statement).await;
            proxy.cut();
            lock.close().await.unwrap();
            stages.ended(job.scan).await;
            if stage == "drift" {
                drifted(2).await;
            }
            dying.kill();
        }
        Die::Unforgotten => {
            stages.send(&message).await;
            stages.ended(job.scan).await;
            if stage == "drift" {
                drifted(2).await;
            }
            let lock = locked(&stages, OUTBOX).await;
            held.expect("it was taken").release().await;
            waiting(&stages, "with forgotten as (delete from outbox").await;
            dying.kill();
            lock.close().await.unwrap();
        }
    }
    let _again = match die {
        Die::Not => dying,
        _ => start(&stages, stage, &fair).await,
    };
    drifted(2).await;
    crate::drift::settled(&stages, "drift").await;
    eventually_within(Duration::from_secs(30), "every result decided", || async {
        let info = stages.admin.consumer_info("OW_RESULTS", "writer").await.ok()?;
        (info.pending == 0 && info.unacked == 0).then_some(())
    })
    .await;
    stages.relayed().await;
    dump(&stages, host).await
}

/// Three at a time, each with servers, processes and a runtime of its own: making and dropping a database blocks.
fn all(points: &[(&str, &str, Die)], second: Second) -> BTreeMap<usize, Vec<String>> {
    let (next, ends) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((_, stage, die)) = points.get(number) else { break };
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let end = runtime.block_on(run(stage, *die, second));
            ends.lock().unwrap().insert(number, end);
        }
    };
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
    ends.into_inner().unwrap()
}

// @spec transaction-log-writer
// @ac AC-19
#[test]
fn wherever_it_dies_the_end_is_that_of_an_undisturbed_run() {
    proves("AC-19");
    let in_order = same_end(POINTS, Second { finds: moved, begun: true }, 150);
    same_end(SILENT, Second { finds: first, begun: true }, 50);
    let overtaken = same_end(OVERTAKEN, Second { finds: moved, begun: false }, 150);
    assert_eq!(overtaken, in_order);
}

/// The end of all of them.
fn same_end(points: &[(&str, &str, Die)], second: Second, least: usize) -> Vec<String> {
    let mut ends = all(points, second);
    let undisturbed = &ends[&0];
    assert!(undisturbed.len() > least, "{undisturbed:#?}");
    for ((what, ..), end) in points.iter().zip(ends.values()).skip(1) {
        let without = |all: &[String], others: &[String], mark: &str| -> Vec<String> {
            all.iter().filter(|line| !others.contains(line)).map(|line| format!("{mark} {line}")).collect()
        };
        let differing = [without(undisturbed, end, "-"), without(end, undisturbed, "+")].concat();
        assert!(differing.is_empty() && end.len() == undisturbed.len(), "{what}: {differing:#?}");
        println!("{what}: the same {} lines", end.len());
    }
    assert_eq!(ends.len(), points.len());
    ends.remove(&0).unwrap_or_default()
}
