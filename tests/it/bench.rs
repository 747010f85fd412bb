//! What hand-overs cost on this machine. `make bench` runs these; they print, and judge nothing.

use std::time::{Duration, Instant};

use openwatch_app::private::{DataDir, Durability, NatsOptions, Places, Private, PrivateOptions};
use openwatch_bus::{Outgoing, User};
use openwatch_tests::nats::identities;
use openwatch_tests::{Nats, World, openwatch};
use tempfile::TempDir;

use crate::executor::{Targets, side_by_side};

fn report(what: &str, times: u32, took: Duration) {
    let each = took / times.max(1);
    let rate = f64::from(times) / took.as_secs_f64();
    println!("{what:<48} {each:>12.1?} each {rate:>10.0}/s");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn bench_private_servers() {
    let dir = TempDir::with_prefix("ow-bench-").unwrap();
    let options = || PrivateOptions {
        postgres_port: Some(0),
        nats: Some(NatsOptions { port: 0, users_conf: identities().1 }),
        durability: Durability::Full,
        places: Places::from_environment(),
        reexec: Some(openwatch()),
    };
    for what in ["private servers: first start", "private servers: second start"] {
        let since = Instant::now();
        let private =
            Private::start(DataDir::open(&dir.path().join("data")).unwrap(), options()).await.unwrap();
        report(what, 1, since.elapsed());
        let since = Instant::now();
        private.stop().await;
        report("private servers: stop", 1, since.elapsed());
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn bench_worlds() {
    // The first one also starts the shared PostgreSQL.
    drop(World::new().await);
    let since = Instant::now();
    for _ in 0..10 {
        drop(World::new().await);
    }
    report("test worlds: made and dropped", 10, since.elapsed());
}

#[tokio::test]
#[ignore = "a measurement"]
async fn bench_events() {
    let nats = Nats::with_topology().await;
    let bus = nats.bus(User::Admin).await;
    let message = |number: u32| Outgoing {
        subject: "ow.v1.evt.scan_completed.bench".to_owned(),
        message_id: format!("bench-{number}"),
        headers: Vec::new(),
        payload: vec![b'x'; 512].into(),
    };
    let since = Instant::now();
    for number in 0..500 {
        bus.publish(&message(number)).await.unwrap();
    }
    report("events: synced to disk, one by one", 500, since.elapsed());

    let many: Vec<_> = (1000..4000).map(message).collect();
    let since = Instant::now();
    for published in bus.publish_all(&many).await {
        published.unwrap();
    }
    report("events: synced to disk, as the relay sends them", 3000, since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn bench_worker_memory() {
    let targets = Targets::quick().await;
    let most = side_by_side(targets, 200, 500, Duration::from_secs(120)).await;
    println!("{:<48} {most:>8} MiB", "worker: 200 scans of 500 rules side by side");
    assert!(most < 150, "{most} MiB are too much");
}
