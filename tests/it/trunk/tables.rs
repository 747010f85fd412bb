//! What the tables must say when everything is quiet, whatever happened before.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use openwatch_bus::consume::Consumer;
use openwatch_bus::{Bus, BusOptions, User};
use openwatch_tests::eventually_within;
use openwatch_trust::nats_user::NatsUser;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// What must never be counted, and how it would be.
const FAULTS: &[(&str, &str)] = &[
    ("scans without an end", "select count(*) from scan where state in ('queued', 'running')"),
    (
        "open scans that are not under way, or the other way round",
        "select count(*) from open_scan o
         full join (select * from scan where state in ('queued', 'running')) s on s.id = o.scan_id and s.host_id = o.host_id
         where o.scan_id is null or s.id is null or o.unissued <> (s.tag is null)",
    ),
    (
        "ended scans without a ledger row, or the other way round",
        "select count(*) from scan s full join scan_ledger l on l.scan_id = s.id
         where (s.state in ('completed', 'failed')) is distinct from (l.scan_id is not null)",
    ),
    (
        "scans that the ledger tells differently",
        "select count(*) from scan s join scan_ledger l on l.scan_id = s.id
         where (s.state = 'failed') <> (l.outcome = 'failed')",
    ),
    (
        "transactions that do not follow from the one before",
        "select count(*) from (
           select prior_status, lag(status) over (partition by host_id, rule_id order by host_number) as before
           from transactions) t
         where prior_status is distinct from before",
    ),
    (
        "rule states that are not what the last transaction says",
        "select count(*) from rule_state r left join lateral (
           select status from transactions t
           where t.host_id = r.host_id and t.rule_id = r.rule_id order by host_number desc limit 1) t on true
         where t.status is distinct from r.status",
    ),
    (
        "scans whose transactions the ledger miscounts",
        "select count(*) from scan_ledger l
         where l.changes <> (select count(*) from transactions t where t.scan_id = l.scan_id)",
    ),
    (
        "completed full scans without drift row",
        "select count(*) from scan_ledger l left join drift d using (scan_id)
         where l.outcome = 'completed' and l.is_full and d.scan_id is null",
    ),
    (
        "completed scans not audited exactly once",
        "select count(*) from scan_ledger l where l.outcome = 'completed' and 1 <> (
           select count(*) from audit_event a
           where a.action = 'scan.completed' and a.detail ->> 'scan_id' = l.scan_id::text)",
    ),
    (
        "alerts whose life has gaps",
        "select count(*) from alert a
         where a.transition <> (select count(*) from alert_transition t where t.alert_id = a.id)",
    ),
    (
        "dedup keys with two open alerts",
        "select count(*) from (select 1 from alert where state in ('active', 'acknowledged', 'silenced')
           group by dedup_key having count(*) > 1) a",
    ),
    (
        "openings of alerts without an alert, or the other way round",
        "select abs((select count(*) from alert) - (select count(*) from alert_transition where number = 1))",
    ),
    ("messages that were never sent", "select count(*) from outbox"),
];

/// Consumers that must have nothing left.
const CONSUMERS: &[Consumer] = &[
    Consumer::EXECUTOR_MANUAL,
    Consumer::EXECUTOR_SCHEDULED,
    Consumer::WRITER,
    Consumer::SCHEDULER,
    Consumer::DRIFT,
    Consumer::ALERTS,
];

/// A number that the database gives.
pub(crate) async fn count(db: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_one(db)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// One text for each row.
pub(crate) async fn texts(db: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
        .fetch_all(db)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
}

/// Changes something behind everybody's back.
pub(crate) async fn execute(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Waits until no fault is left and every consumer is done; says what is not when that takes too long.
pub(crate) async fn quiet(url: &str, bus: &Bus, within: Duration) {
    let since = std::time::Instant::now();
    while let Err(left) = is_quiet(url, bus).await {
        assert!(since.elapsed() < within, "after {within:?} there are still: {left:#?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Whether no fault is left and every consumer is done; otherwise what there is.
pub(crate) async fn is_quiet(url: &str, bus: &Bus) -> Result<(), BTreeMap<String, String>> {
    let left = faults(url, bus).await;
    if left.is_empty() { Ok(()) } else { Err(left) }
}

async fn faults(url: &str, bus: &Bus) -> BTreeMap<String, String> {
    let mut left = BTreeMap::new();
    match PgConnection::connect(url).await {
        Err(error) => {
            left.insert("database".to_owned(), error.to_string());
        }
        Ok(mut db) => {
            for (what, sql) in FAULTS {
                match sqlx::query_scalar::<_, i64>(*sql).fetch_one(&mut db).await {
                    Ok(0) => {}
                    Ok(count) => drop(left.insert((*what).to_owned(), count.to_string())),
                    Err(error) => drop(left.insert((*what).to_owned(), error.to_string())),
                }
            }
        }
    }
    for consumer in CONSUMERS {
        match bus.consumer_info(consumer.stream, consumer.name).await {
            Ok(info) if info.pending == 0 && info.unacked == 0 => {}
            other => drop(left.insert(format!("consumer {}", consumer.name), format!("{other:?}"))),
        }
    }
    left
}

/// What every host's rules are now: host name, then rule and status.
pub(crate) async fn rule_states(db: &mut PgConnection) -> BTreeMap<String, BTreeMap<String, String>> {
    let rows: Vec<(String, String, String)> = sqlx::query_as(
        "select h.name, r.rule_id, r.status from rule_state r join host h on h.id = r.host_id",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut states = BTreeMap::<String, BTreeMap<String, String>>::new();
    for (host, rule, status) in rows {
        states.entry(host).or_default().insert(rule, status);
    }
    states
}

/// Address of the private database of a data directory, with its password.
pub(crate) fn private_url(data: &Path) -> String {
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap().trim().to_owned();
    format!("postgres://openwatch:{}@127.0.0.1:{}/postgres", read("postgres.password"), read("postgres.port"))
}

/// A connection to the private database of a data directory.
pub(crate) async fn private_db(data: &Path) -> PgConnection {
    let url = private_url(data);
    eventually_within(Duration::from_secs(30), "the private database", || async {
        PgConnection::connect(&url).await.ok()
    })
    .await
}

/// The bus as a user whose seed is in a key directory.
pub(crate) async fn bus(nats_url: &str, keys: &Path, user: User) -> Bus {
    Bus::connect(bus_options(nats_url, keys, user)).await.unwrap()
}

/// How that user connects.
pub(crate) fn bus_options(nats_url: &str, keys: &Path, user: User) -> BusOptions {
    let seed = NatsUser::load(&keys.join(format!("nats/{}.nk", user.as_str()))).unwrap();
    BusOptions::new([nats_url], user).seed(seed.seed().to_owned().into())
}

/// Dead letters there are, told by stage and reason.
pub(crate) async fn dead_letters(admin: &Bus) -> Vec<String> {
    let filed = admin.dead_letters(1, 1000).await.unwrap();
    filed
        .into_iter()
        .map(|f| format!("{} {}: {}", f.letter.stage, f.letter.subject, f.letter.reason))
        .collect()
}
