//! The rate limit: one for all schedulers, the worst first, and no bursts.

use std::time::{Duration, Instant};

use openwatch_tests::{eventually, eventually_within};

use super::policy::follow;
use super::{audited, hosts};
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute, texts};

/// Most scans queued within so many seconds, wherever they begin.
async fn most_within(fleet: &Fleet, seconds: u32) -> i64 {
    let sql = format!(
        "select coalesce(max(n), 0) from (select count(*) over (order by queued_at
           range between interval '{seconds} seconds' preceding and current row) n from scan) w"
    );
    count(&mut fleet.db().await, &sql).await
}

/// Hosts that were scanned before, overdue for days, the last ones in the worst state.
async fn behind(fleet: &Fleet, many: usize, critical: usize) {
    let mut db = fleet.db().await;
    hosts(&mut db, many).await;
    let sql = format!(
        "update host_compliance_schedule s
         set next_reason = 'interval', next_scheduled_scan = now() - interval '3 days',
             compliance_state = case when h.number > {many} - {critical} then 'critical' else 'compliant' end,
             claim_order = claim_order(case when h.number > {many} - {critical} then 'critical' else 'compliant' end,
                                       now() - interval '3 days')
         from (select id, substr(name, 6)::int as number from host) h where h.id = s.host_id"
    );
    execute(&mut db, &sql).await;
}

// @spec scheduler
// @ac AC-09
#[tokio::test]
async fn two_schedulers_share_one_rate_limit_worst_states_first() {
    println!("@spec scheduler");
    println!("@ac AC-09");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    behind(&fleet, 40, 10).await;
    follow(&fleet, "1.1.0", "dispatch_per_minute: 120\n").await;
    let since = Instant::now();
    fleet.spawn("scheduler-1");
    fleet.spawn("scheduler-2");
    eventually_within(Duration::from_secs(90), "everybody's scan", || async {
        (count(&mut fleet.db().await, "select count(*) from scan").await == 40).then_some(())
    })
    .await;
    assert!(
        since.elapsed() > Duration::from_secs(14),
        "40 at 2 a second in shares of ten: {:?}",
        since.elapsed()
    );
    // `range` counts both ends: a share may begin the very moment the one before it is five seconds old.
    assert!(most_within(&fleet, 4).await <= 10, "{}", most_within(&fleet, 4).await);
    let mut db = fleet.db().await;
    let first = "select distinct compliance_state from (
                   select host_id from scan order by queued_at limit 10) s join host_compliance_schedule using (host_id)";
    assert_eq!(texts(&mut db, first).await, ["critical"], "the worst states first");
    let burst = "select coalesce(max(n), 0) from (select count(*) over (order by next_scheduled_scan
                   range between interval '4 seconds' preceding and current row) n from host_compliance_schedule
                   where compliance_state = 'compliant') w";
    assert!(count(&mut db, burst).await <= 10, "as spread in a day as they are now");
}

// @spec scheduler
// @ac AC-10
#[tokio::test]
async fn a_fleet_that_arrives_at_once_is_lined_up() {
    println!("@spec scheduler");
    println!("@ac AC-10");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    follow(&fleet, "1.1.0", "dispatch_per_minute: 60\n").await;
    fleet.spawn("scheduler");
    fleet.spawn("api");
    fleet.all_running().await;
    hosts(&mut fleet.db().await, 300).await;
    execute(&mut fleet.db().await, "notify ow_schedule").await;
    let line = "select count(*) from host_compliance_schedule where next_reason = 'spread'";
    eventually("the line", || async { (count(&mut fleet.db().await, line).await >= 290).then_some(()) })
        .await;
    let mut db = fleet.db().await;
    let places =
        "select count(distinct round(extract(epoch from next_scheduled_scan))) from host_compliance_schedule
                  where next_reason = 'spread'";
    assert!(count(&mut db, places).await > 280, "one a second, none on another's place");
    let moved = audited(&mut db, "scheduler.schedule.updated").await;
    let moved: Vec<_> = moved
        .iter()
        .filter(|row| row["new"]["next_reason"] == "spread")
        .map(|row| row["host_id"].as_str().unwrap())
        .collect();
    // A pass that was under way when they came may have taken the first share.
    assert!(moved.len() >= 290, "{} told", moved.len());
    assert_eq!(moved.iter().collect::<std::collections::BTreeSet<_>>().len(), moved.len(), "each told once");
    let last = "select h.name from host_compliance_schedule s join host h on h.id = s.host_id
                where s.next_reason = 'spread' order by next_scheduled_scan desc limit 1";
    let last = texts(&mut db, last).await.remove(0);
    let shown = fleet.json(&["host", "show", &last]).await;
    assert_eq!(shown["host"]["schedule"]["why"][0]["code"], "spread", "{shown}");
    assert!(
        shown["host"]["schedule"]["why"][0]["text"].as_str().unwrap().contains("60 per minute"),
        "{shown}"
    );
    // A critical host that falls due meanwhile does not wait behind them.
    hosts_one_critical(&fleet).await;
    eventually("the critical host's scan", || async {
        let sql = "select count(*) from scan s join host h on h.id = s.host_id where h.name = 'old-critical'";
        (count(&mut fleet.db().await, sql).await == 1).then_some(())
    })
    .await;
    assert!(most_within(&fleet, 4).await <= 5);
}

async fn hosts_one_critical(fleet: &Fleet) {
    execute(
        &mut fleet.db().await,
        "insert into host (id, name, address, created_by) values (gen_random_uuid(), 'old-critical', '192.0.2.1', 'test');
         update host_compliance_schedule s
         set next_reason = 'interval', compliance_state = 'critical', claim_order = claim_order('critical', now())
         from host h where h.id = s.host_id and h.name = 'old-critical'",
    )
    .await;
}

// @spec scheduler
// @ac AC-11
#[tokio::test]
async fn ten_thousand_hosts_behind_are_caught_up_at_the_limit() {
    println!("@spec scheduler");
    println!("@ac AC-11");
    let (many, limit) =
        if std::env::var_os("OPENWATCH_LONG").is_some() { (10_000, 6_000) } else { (1_000, 3_000) };
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    behind(&fleet, many, many / 10).await;
    follow(&fleet, "1.1.0", &format!("dispatch_per_minute: {limit}\n")).await;
    fleet.spawn("scheduler-1");
    fleet.spawn("scheduler-2");
    let patience = Duration::from_secs(60 * many as u64 / limit * 3 + 60);
    eventually_within(patience, "everybody's scan", || async {
        (count(&mut fleet.db().await, "select count(*) from scan").await == many as i64).then_some(())
    })
    .await;
    assert!(most_within(&fleet, 4).await <= limit as i64 / 12, "{}", most_within(&fleet, 4).await);
    assert!(most_within(&fleet, 59).await <= limit as i64);
    let mut db = fleet.db().await;
    let late = "select count(*) from (
                  select compliance_state, row_number() over (order by queued_at) as place from scan
                  join host_compliance_schedule using (host_id)) s
                where compliance_state = 'critical' and place > (
                  select count(*) + 100 from host_compliance_schedule where compliance_state = 'critical')";
    assert_eq!(count(&mut db, late).await, 0, "no critical host after the others");
}
