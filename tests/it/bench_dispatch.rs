//! What dispatching costs on this machine, beside what PostgreSQL and the stream reach by themselves. `make bench` runs
//! these; they print, and judge nothing.

use std::time::{Duration, Instant};

use openwatch_app::private::Durability;
use openwatch_bus::consume::{self, Consumer, Options};
use openwatch_bus::{Message, Next, Outgoing, User};
use openwatch_tests::eventually_within;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute};

/// Hosts, `OPENWATCH_BENCH_HOSTS` or a hundred thousand.
fn many() -> i64 {
    std::env::var("OPENWATCH_BENCH_HOSTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

async fn register(db: &mut PgConnection, many: i64) {
    let sql = format!(
        "insert into host (id, name, address, created_by)
         select gen_random_uuid(), 'host-' || n, '192.0.2.1', 'bench' from generate_series(1, {many}) n;
         analyze host; analyze host_compliance_schedule; analyze scan"
    );
    execute(db, &sql).await;
}

fn report(what: &str, times: i64, took: Duration) -> f64 {
    let rate = times as f64 / took.as_secs_f64();
    println!("{what:<64} {:>9.2} s {rate:>10.0}/s", took.as_secs_f64());
    rate
}

/// Claims and inserts as the scheduler does, a hundred at a time of one half of the hosts, each hundred committed, with the
/// rows of the log and of the jobs; nothing is signed and nothing sent.
const BARE: &str = "
  with claimed as (
    select s.host_id, s.compliance_state from host_compliance_schedule s
    join host h on h.id = s.host_id and h.deleted_at is null
    where s.claim_order <= now() and s.next_scheduled_scan <= now() and not s.maintenance_mode
      and case uuid_hash(s.host_id) & 1 when $1 then true else false end
      and not exists (select from maintenance_request r where r.host_id = s.host_id and r.maintenance)
      and not exists (select from host_backoff_state b
                      where b.host_id = s.host_id and b.probe_type = 'scan' and b.suppress_until > now())
      and not exists (select from open_scan o where o.host_id = s.host_id)
    order by s.claim_order limit 100 for update of s skip locked for no key update of h skip locked
  ),
  locked as materialized (select host_id as id from claimed order by host_id),
  numbered as (
    update host h set last_number = h.last_number + 1 from locked where h.id = locked.id returning h.id, h.last_number
  ),
  opened as (
    insert into open_scan (host_id, scan_id, unissued) select id, gen_random_uuid(), false from numbered
    on conflict (host_id) do nothing
    returning host_id, scan_id
  ),
  queued as (
    insert into scan (id, host_id, number, lane, trigger, actor, framework, policy_version, corpus, queued_at)
    select o.scan_id, o.host_id, n.last_number, 'scheduled', 'scheduled', 'scheduler', '*', '1.0.0', 'c0', now()
    from opened o join numbered n on n.id = o.host_id
  ),
  logged as (
    insert into audit_event (id, action, severity, actor_type, actor_label, host_id, correlation_id, detail, occurred_at)
    select gen_random_uuid(), action, 'info', 'system', 'bare', o.host_id, o.scan_id::text,
      jsonb_build_object('scan_id', o.scan_id, 'text', repeat('x', 200)), now()
    from opened o, unnest(array['scan.queued', 'scheduler.schedule.updated']) action
  ),
  told as (
    insert into outbox (sender, message_id, subject, headers, payload, created_at)
    select 'bare', o.scan_id::text, 'ow.v1.job.scheduled.' || o.host_id, '{}', decode(repeat('00', 1200), 'hex'), now()
    from opened o
  ),
  moved as (
    update host_compliance_schedule s
    set next_scheduled_scan = now() + interval '1 hour', claim_order = claim_order(s.compliance_state, now() + interval '1 hour'),
        next_reason = 'interval', current_interval_minutes = 60, updated_at = now()
    from opened o where s.host_id = o.host_id returning s.host_id
  )
  select count(*) from moved";

/// What PostgreSQL reaches with the statement alone, by two connections as the scheduler has them.
async fn bare(fleet: &Fleet, many: i64) -> f64 {
    let mut db = fleet.db().await;
    register(&mut db, many).await;
    let (mut even, mut odd) = (fleet.db().await, fleet.db().await);
    let since = Instant::now();
    tokio::join!(claim_all(&mut even, 0), claim_all(&mut odd, 1));
    let rate = report("PostgreSQL: claim and insert, the same rows", many, since.elapsed());
    assert_eq!(count(&mut db, "select count(*) from scan").await, many);
    execute(&mut db, "delete from outbox; delete from open_scan; delete from scan; delete from host").await;
    execute(&mut db, "vacuum full").await;
    rate
}

async fn claim_all(db: &mut PgConnection, half: i32) {
    loop {
        let mut tx = db.begin().await.unwrap();
        let moved: i64 = sqlx::query_scalar(BARE).bind(half).fetch_one(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        if moved == 0 {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_dispatch() {
    let mut fleet = Fleet::prepare_as(&Ground::new(1).rules(), Durability::Full).await;
    let most = bare(&fleet, many().min(20_000)).await;
    let many = many();
    let mut db = fleet.db().await;
    register(&mut db, many).await;
    let bus = fleet.bus(User::Admin).await;
    let since = Instant::now();
    fleet.spawn("scheduler");
    // Counting them takes a part of the machine: twice a second is close enough.
    while count(&mut db, "select count(*) from scan").await < many {
        assert!(since.elapsed() < Duration::from_secs(600), "not every scan is queued");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let rate = report("scheduler: due hosts committed as queued", many, since.elapsed());
    eventually_within(Duration::from_secs(600), "every job on the stream", || async {
        (bus.stream_info("OW_JOBS").await.ok()?.messages >= many as u64).then_some(())
    })
    .await;
    report("scheduler: and their jobs on the stream", many, since.elapsed());
    println!("dispatch reaches {:.0} % of PostgreSQL's own rate", 100.0 * rate / most);
    assert_eq!(count(&mut db, "select count(*) from scan where tag is not null").await, many);
}

/// The middle and the worst but one in a hundred.
fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    println!("{what:<64} p50 {:>8.1?}  p99 {:>8.1?}", at(0.5), at(0.99));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_job_hop() {
    let mut fleet = Fleet::prepare_as(&Ground::new(1).rules(), Durability::Full).await;
    let mut db = fleet.db().await;
    let rounds = 300;
    register(&mut db, rounds).await;
    // Asked for one by one, not due.
    execute(&mut db, "update host_compliance_schedule set next_scheduled_scan = now() + interval '1 day', claim_order = now() + interval '1 day'").await;
    fleet.spawn("scheduler");
    fleet.all_running().await;
    // Takes jobs as a worker does, and does nothing with them.
    let (took, mut jobs) = tokio::sync::mpsc::unbounded_channel();
    let (worker, stop) = (fleet.bus(User::Executor).await, CancellationToken::new());
    let stopped = stop.clone();
    let working = tokio::spawn(async move {
        let handle = move |_: Message| {
            let took = took.clone();
            async move {
                let _ = took.send(Instant::now());
                Next::Done
            }
        };
        consume::run(&worker, Options::new("executor", Consumer::EXECUTOR_MANUAL, 4), handle, stopped).await
    });
    let scheduler = fleet.bus(User::Scheduler).await;
    let mut raw = Vec::new();
    for number in 0..rounds {
        let message = Outgoing {
            subject: format!("ow.v1.job.manual.{}", uuid::Uuid::new_v4()),
            message_id: format!("raw-{number}"),
            headers: Vec::new(),
            payload: vec![b'x'; 1024].into(),
        };
        let since = Instant::now();
        scheduler.publish(&message).await.unwrap();
        raw.push(jobs.recv().await.unwrap() - since);
    }
    percentiles("the raw stream: from publishing to a worker", raw);
    let hosts: Vec<uuid::Uuid> = sqlx::query_scalar("select id from host").fetch_all(&mut db).await.unwrap();
    let mut hops = Vec::new();
    for host in hosts {
        let scan = "with opened as (
                      insert into open_scan (host_id, scan_id, unissued) values ($1, gen_random_uuid(), true)
                      returning host_id, scan_id)
                    insert into scan (id, host_id, number, lane, trigger, actor, framework, queued_at)
                    select scan_id, host_id, 1, 'manual', 'manual', 'bench', '*', now() from opened";
        sqlx::query(scan).bind(host).execute(&mut db).await.unwrap();
        let since = Instant::now();
        let at = tokio::time::timeout(Duration::from_secs(30), jobs.recv()).await.unwrap().unwrap();
        hops.push(at.saturating_duration_since(since));
    }
    percentiles("job hop: from the commit of a scan to a worker", hops);
    stop.cancel();
    let _ = working.await;
}
