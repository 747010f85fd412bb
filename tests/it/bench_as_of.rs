//! Looking back over a long history, through the API. `make bench` runs this; it prints, and judges nothing.

use std::time::{Duration, Instant};

use openwatch_app::private::Durability;
use openwatch_tests::eventually;
use sqlx::PgConnection;

use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{count, execute, texts};

const RULES: u32 = 100;
const DAYS: u32 = 365;

/// Hosts, `OPENWATCH_BENCH_HOSTS` or a thousand; ten thousand take some GB and minutes.
fn many() -> u32 {
    std::env::var("OPENWATCH_BENCH_HOSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

/// Hosts and bodies of evidence. What follows is loaded in bulk: nothing is checked against other tables, nobody is told.
const GROUND: &str = "
  insert into host (id, name, address, created_by, created_at)
  select gen_random_uuid(), 'host-' || lpad(n::text, 6, '0'), '192.0.2.1', 'bench', now() - interval '400 days'
  from generate_series(1, $HOSTS) n;
  create table bench_host as select id, substr(name, 6)::integer as n from host;
  insert into evidence (hash, body, bytes)
  select sha256(n::text::bytea), jsonb_build_object('checks', jsonb_build_array(jsonb_build_object(
    'method', 'command', 'command', 'stat /etc/passwd', 'exit_code', 0, 'stdout', repeat(md5(n::text), 8)))), 300
  from generate_series(0, 999) n;
  create table bench_rule (n integer primary key, id text);
  insert into bench_rule select n, 'cis_bench_rule_' || lpad(n::text, 3, '0') from generate_series(1, $RULES) n;
  analyze bench_host, bench_rule;
  set session_replication_role = replica";

/// Keys, references and indexes of the three large tables are noted down and dropped: row by row they would take most of
/// the time.
const DROP: &str = "
  create table bench_key as
  select conrelid::regclass as owner, conname as name, contype as kind, pg_get_constraintdef(oid) as definition
  from pg_constraint
  where contype in ('p', 'u', 'f')
    and (conrelid in ('scan'::regclass, 'scan_ledger'::regclass, 'transactions'::regclass)
      or confrelid in ('scan'::regclass, 'scan_ledger'::regclass, 'transactions'::regclass));
  create table bench_index as
  select indexname as name, indexdef as definition from pg_indexes
  where tablename in ('scan', 'scan_ledger', 'transactions') and indexname not in (select name from bench_key);
  do $$ declare it record; begin
    for it in select * from bench_key order by kind loop
      execute format('alter table %s drop constraint %I', it.owner, it.name);
    end loop;
    for it in select * from bench_index loop execute format('drop index %I', it.name); end loop;
  end $$";

/// What [`DROP`] dropped; references without a look at the rows.
const RESTORE: &str = "
  set maintenance_work_mem = '256MB';
  do $$ declare it record; begin
    for it in select * from bench_key order by kind desc loop
      if it.kind <> 'f' then execute format('alter table %s add constraint %I %s', it.owner, it.name, it.definition); end if;
    end loop;
    for it in select * from bench_key where kind = 'f' loop
      execute format('alter table %s add constraint %I %s not valid', it.owner, it.name, it.definition);
    end loop;
    for it in select * from bench_index loop execute it.definition; end loop;
  end $$;
  analyze scan, scan_ledger, transactions";

/// A day of the whole fleet: a scan of every host, of whose rules one in a hundred changed. On the first day all are new.
const DAY: &str = "
  with s as (
    insert into scan (id, host_id, number, state, lane, trigger, actor, framework, policy_version, corpus, engine, tag, key_id,
      timeout_sec, queued_at, issued_at, started_at, finished_at)
    select gen_random_uuid(), h.id, $DAY, 'completed', 'scheduled', 'scheduled', 'scheduler', '*', '1.0.0', repeat('a', 64),
      '1.0.0', sha256('t'), 'k', 600, t.at, t.at, t.at, t.at
    from bench_host h, lateral (
      select now() - interval '1 day' * ($DAYS - $DAY + 1) + interval '1 second' * (h.n % 80000) as at) t
    returning id, host_id, finished_at
  ), l as (
    insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, compliance_state, changes,
      digest, summary, timings, worker, applied_at)
    select s.id, s.host_id, $DAY, 1, 'completed', true, $DAY, $RULES - ($DAY % 17), $DAY % 17, 'partial', 1, sha256('d'),
      '{\"before\": {\"pass\": 90, \"fail\": 10}, \"after\": {\"pass\": 90, \"fail\": 10}, \"became_failing\": {\"critical\": 0, \"high\": 0, \"medium\": 0, \"low\": 0}, \"became_passing\": {\"critical\": 0, \"high\": 0, \"medium\": 0, \"low\": 0}, \"newly_observed_failing\": 0, \"rules_added\": 0, \"rules_removed\": 0, \"low_confidence\": false}',
      '[]', 'w1', s.finished_at
    from s
  )
  insert into transactions (id, host_id, rule_id, scan_id, host_number, change_kind, status, severity, prior_status, prior_severity,
    framework_refs, evidence_hash, occurred_at)
  select (lpad(to_hex($DAY), 12, '0') || '70008' || substr(md5(s.id::text || r.n), 1, 15))::uuid, s.host_id, r.id, s.id, $DAY,
    case when $DAY = 1 then 'first_seen' else 'state_changed' end, case when $DAY % 2 = 0 then 'fail' else 'pass' end, 'medium',
    case when $DAY = 1 then null when $DAY % 2 = 0 then 'pass' else 'fail' end, case when $DAY = 1 then null else 'medium' end,
    '{\"cis\": [\"1.1\"]}', sha256(((h.n + r.n * 31 + $DAY) % 1000)::text::bytea), s.finished_at
  from s join bench_host h on h.id = s.host_id
  cross join lateral (
    select n, id from bench_rule where $DAY = 1
    union all select n, id from bench_rule where $DAY > 1 and n = 1 + (h.n * 19 + $DAY * 9) % $RULES) r";

/// Where every host stands at the end.
const PRESENT: &str = "
  insert into rule_state (host_id, rule_id, status, severity, framework_refs, evidence_hash, digest, first_seen_at, last_changed_at,
    first_seq, present_since)
  select h.id, r.id, 'pass', 'medium', '{\"cis\": [\"1.1\"]}', sha256('0'), sha256('d'), now() - interval '365 days', now(), 1, 1
  from bench_host h, bench_rule r;
  update host_state s set full_seq = $DAYS, applied_number = $DAYS, full_number = $DAYS, full_scan_id = l.scan_id, full_at = l.applied_at,
    pass = l.pass, fail = l.fail, compliance_state = l.compliance_state
  from scan_ledger l where l.host_id = s.host_id and l.number = $DAYS;
  set session_replication_role = origin;
  analyze";

async fn load(db: &mut PgConnection, hosts: u32) {
    let filled = |sql: &str, day: u32| {
        let sql = sql.replace("$HOSTS", &hosts.to_string()).replace("$RULES", &RULES.to_string());
        sql.replace("$DAYS", &DAYS.to_string()).replace("$DAY", &day.to_string())
    };
    let since = Instant::now();
    execute(db, &filled(GROUND, 0)).await;
    execute(db, DROP).await;
    for day in 1..=DAYS {
        execute(db, &filled(DAY, day)).await;
    }
    execute(db, RESTORE).await;
    execute(db, &filled(PRESENT, 0)).await;
    // Autovacuum would have been there in the course of a year, and not now, beside what is measured.
    execute(db, "vacuum analyze").await;
    execute(db, "checkpoint").await;
    let size = texts(db, "select pg_size_pretty(pg_database_size(current_database()))").await.remove(0);
    let transactions = count(db, "select count(*) from transactions").await;
    println!(
        "{hosts} hosts x {RULES} rules x {DAYS} days: {transactions} transactions, {size}, loaded in {:.0} s",
        since.elapsed().as_secs_f64()
    );
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{what:<64} p50 {:>8.2} ms  p99 {:>8.2} ms", at(0.5), at(0.99));
}

/// Moments of the year and hosts of the fleet, the same in every run.
fn moments(hosts: u32) -> impl Iterator<Item = (String, String)> {
    let year = u64::from(DAYS) * 86_400;
    let now = openwatch_model::Timestamp::now_utc();
    (1..=200_u64).map(move |n| {
        let back = Duration::from_secs(n.wrapping_mul(2_654_435_761) % (year - 172_800) + 86_400);
        let at = (now - back).format(&time::format_description::well_known::Rfc3339).unwrap();
        (format!("host-{:06}", n.wrapping_mul(40_503) % u64::from(hosts) + 1), at)
    })
}

async fn timed(rest: &Rest, what: &str, paths: impl Iterator<Item = String>) {
    let mut times = Vec::new();
    for path in paths {
        let since = Instant::now();
        rest.get(&path).await;
        times.push(since.elapsed());
    }
    percentiles(what, times);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_as_of() {
    let mut fleet = Fleet::prepare_as(&Ground::new(1).rules(), Durability::ProcessCrash).await;
    let (hosts, mut db) = (many(), fleet.db().await);
    load(&mut db, hosts).await;
    fleet.spawn("api");
    let rest = fleet.rest();
    eventually("the API", || async { rest.ask(reqwest::Method::GET, "/status", None, None).await }).await;
    let of_host =
        rest.get(&format!("/hosts/host-000001/rules?as_of={}", moments(hosts).next().unwrap().1)).await;
    assert_eq!(of_host["items"].as_array().unwrap().len(), RULES as usize);
    timed(
        &rest,
        "one host's posture at a moment             (reach p99 200 ms)",
        moments(hosts).map(|(host, at)| format!("/hosts/{host}/rules?as_of={at}")),
    )
    .await;
    timed(
        &rest,
        "the same with all evidence",
        moments(hosts).map(|(host, at)| format!("/hosts/{host}/rules?as_of={at}&evidence=true")),
    )
    .await;
    timed(
        &rest,
        "the fleet's score at a moment              (reach p99 200 ms)",
        moments(hosts).map(|(_, at)| format!("/status?as_of={at}")),
    )
    .await;
    timed(
        &rest,
        "a hundred hosts as they were",
        moments(hosts).map(|(_, at)| format!("/hosts?limit=100&as_of={at}")),
    )
    .await;
    timed(&rest, "the fleet's score now", moments(hosts).map(|_| "/status".to_owned())).await;
    let mut times = Vec::new();
    for (host, _) in moments(hosts) {
        let rows = format!(
            "select count(t.status) from transactions t where t.host_id = (select id from host where name = '{host}')"
        );
        let since = Instant::now();
        count(&mut db, &rows).await;
        times.push(since.elapsed());
    }
    percentiles("PostgreSQL: all transactions of a host, counted", times);
    let mut times = Vec::new();
    for _ in 0..20 {
        let since = Instant::now();
        count(&mut db, "select sum((select l.pass from scan_ledger l where l.host_id = h.id and l.outcome = 'completed' and l.is_full order by l.applied_at desc limit 1)) from host h").await;
        times.push(since.elapsed());
    }
    percentiles("PostgreSQL: the newest ledger row of every host, summed", times);
}
