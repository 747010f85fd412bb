//! Liveness with hosts that go away and come back.

mod answers;
mod network;
mod probers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use openwatch_tests::{Stages, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

fn proves(criterion: &str) {
    println!("@spec liveness-loop\n@ac {criterion}");
}

/// What a [`Door`] does with who knocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Ssh,
    Http,
    Shut,
    Silent,
}

/// A port that many hosts may share: it greets as told and counts who came.
struct Door {
    port: u16,
    manner: Arc<AtomicU8>,
    knocks: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Door {
    async fn open(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let manner = Arc::new(AtomicU8::new(manner as u8));
        let knocks = Arc::new(AtomicU64::new(0));
        let (how, count) = (Arc::clone(&manner), Arc::clone(&knocks));
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                match how.load(Ordering::SeqCst) {
                    0 => drop(stream.write_all(b"SSH-2.0-door\r\n").await),
                    1 => drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await),
                    2 => drop(stream),
                    _ => held.push(stream),
                }
            }
        });
        Self { port, manner, knocks, task }
    }

    fn be(&self, manner: Manner) {
        self.manner.store(manner as u8, Ordering::SeqCst);
    }

    fn knocks(&self) -> u64 {
        self.knocks.load(Ordering::SeqCst)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes due what only waits for its interval: the least that policies allow is a minute. What may be claimed now is left
/// alone.
async fn hurry(stages: &Stages) {
    stages
        .meddle(
            "update host_liveness set next_probe_at = now() where next_probe_at > now() + interval '31 seconds'",
        )
        .await;
}

/// Hosts by state, as `reachable 10, unreachable 2`.
async fn states(stages: &Stages) -> String {
    let all = stages
        .texts(
            "select reachability_status || ' ' || count(*) from host_liveness group by reachability_status order by 1",
        )
        .await;
    all.join(", ")
}

/// Waits for [`states`], with the next probes always due.
async fn become_(stages: &Stages, wanted: &str) {
    eventually(wanted, || async {
        hurry(stages).await;
        (states(stages).await == wanted).then_some(())
    })
    .await;
}

/// Alerts as `host_unreachable active 2`.
async fn alerts(stages: &Stages) -> Vec<String> {
    let query =
        "select concat_ws(' ', alert_type, state, count(*)) from alert where alert_type <> 'host_recovered'
                 and alert_type <> 'prober_connected' group by alert_type, state order by 1";
    stages.texts(query).await
}
