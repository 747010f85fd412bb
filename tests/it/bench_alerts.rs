//! From a result on the stream to the webhook's arrival, while others are applied.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use openwatch_app::run::Stage;
use openwatch_bus::User;
use openwatch_model::{HostId, Timestamp};
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Catcher, Stages, eventually_within};
use tokio::time::{MissedTickBehavior, interval};

use crate::writer::outcomes;

const RULES: usize = 100;

/// Applies so many results a second, every `nth` of which is a drift that is told; returns how long each took to arrive.
async fn arrivals(rate: u32, seconds: u32, nth: u32) -> Vec<Duration> {
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    stages.webhook("hook", catcher.url("/hook")).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    let count = rate * seconds;
    let (good, bad) = (outcomes(RULES, 0), outcomes(RULES, RULES / 2));
    // Each host has been measured once; what is sent next is made beforehand: making it is not what is measured.
    let worker = stages.world.bus(User::Executor).await;
    let mut hosts = Vec::new();
    for number in 0..count {
        let host = stages.host(&format!("host-{number}"), 22).await;
        let (job, _) = stages.job(host, |_| ()).await;
        worker.publish(&stages.result(&job, &good)).await.unwrap();
        hosts.push(host);
    }
    let applied = "select count(*) from scan_ledger";
    eventually_within(Duration::from_secs(300), "first results applied", || async {
        (stages.number(applied).await == i64::from(count)).then_some(())
    })
    .await;
    let mut prepared = Vec::new();
    for (number, host) in hosts.into_iter().enumerate() {
        let (job, _) = stages.job(host, |_| ()).await;
        let drifts = (number as u32).is_multiple_of(nth);
        prepared.push((host, drifts, stages.result(&job, if drifts { &bad } else { &good })));
    }
    let begun = "update scan set state = 'running', worker = 'w1', started_at = now() where state = 'queued'";
    stages.meddle(begun).await;
    let mut sent: BTreeMap<HostId, Timestamp> = BTreeMap::new();
    let mut tick = interval(Duration::from_secs(1) / rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let since = Instant::now();
    for (host, drifts, message) in prepared {
        tick.tick().await;
        worker.publish(&message).await.unwrap();
        if drifts {
            sent.insert(host, Timestamp::now_utc());
        }
    }
    println!("{count} results in {:.1} s", since.elapsed().as_secs_f64());
    catcher.at_least(sent.len()).await;
    let mut took: Vec<Duration> = catcher
        .all()
        .iter()
        .map(|hook| {
            let host = HostId(hook.json()["host_id"].as_str().unwrap().parse().unwrap());
            (hook.at - sent[&host]).try_into().unwrap_or(Duration::ZERO)
        })
        .collect();
    took.sort();
    assert_eq!(took.len(), sent.len(), "each once");
    took
}

fn percentile(took: &[Duration], percent: usize) -> Duration {
    took[(took.len() * percent / 100).min(took.len() - 1)]
}

fn report(rate: u32, took: &[Duration]) {
    println!(
        "from result to webhook at {rate} results/s of {RULES} rules, {} alerts: p50 {:.0?}, p99 {:.0?}, most {:.0?}",
        took.len(),
        percentile(took, 50),
        percentile(took, 99),
        took[took.len() - 1]
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_alerts() {
    let took = arrivals(50, 20, 5).await;
    report(50, &took);
    assert!(percentile(&took, 99) < Duration::from_secs(1), "{:?}", percentile(&took, 99));
}

// @spec alerts
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_arrives_soon_after_its_result() {
    println!("@spec alerts");
    println!("@ac AC-10");
    // What is promised is measured by `bench_alerts` on a machine that does nothing else; here the machine is shared.
    let (rate, most) = if std::env::var_os("OPENWATCH_LONG").is_some() { (50, 1) } else { (10, 5) };
    let took = arrivals(rate, 4, 2).await;
    report(rate, &took);
    assert!(percentile(&took, 99) < Duration::from_secs(most), "{:?}", percentile(&took, 99));
}
