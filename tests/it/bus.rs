//! The bus against real servers: hand-overs, permissions, outages.

use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::consume::{self, Options};
use openwatch_bus::{Bus, BusError, Message, Next, Outgoing};
use openwatch_tests::{Nats, Proxy, eventually};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

mod consume_loop;
mod events;
mod objects;
mod outages;
mod permissions;
mod publish;
mod topology;

/// Prints what the spec tool looks for.
fn proves(criterion: &str) {
    println!("@spec bus\n@ac {criterion}");
}

fn message(subject: &str, id: &str) -> Outgoing {
    let (subject, message_id) = (subject.to_owned(), id.to_owned());
    Outgoing { subject, message_id, headers: Vec::new(), payload: id.to_owned().into() }
}

async fn results(bus: &Bus, count: usize) {
    let all: Vec<_> =
        (0..count).map(|i| message(&format!("ow.v1.result.final.h.s{i}"), &format!("r{i}"))).collect();
    for answer in bus.publish_all(&all).await {
        answer.unwrap();
    }
}

/// What a handler saw: payload and delivery count, in order.
type Seen = Arc<Mutex<Vec<(String, u64)>>>;

async fn note(seen: &Seen, message: &Message) {
    let text = String::from_utf8_lossy(&message.payload).into_owned();
    seen.lock().await.push((text, message.deliveries));
}

/// A loop in the background.
struct Loop {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), BusError>>,
}

impl Loop {
    fn start<H, F>(bus: &Bus, options: Options, handler: H) -> Self
    where
        H: Fn(Message) -> F + Send + Sync + 'static,
        F: Future<Output = Next> + Send + 'static,
    {
        let (stop, bus) = (CancellationToken::new(), bus.clone());
        let token = stop.clone();
        let task = tokio::spawn(async move { consume::run(&bus, options, handler, token).await });
        Self { stop, task }
    }

    async fn stop(self) -> Result<(), BusError> {
        self.stop.cancel();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.expect("the loop stops").unwrap()
    }
}

/// Everything is delivered and decided.
async fn settled(bus: &Bus, consumer: consume::Consumer) {
    eventually("everything decided", || async {
        let info = bus.consumer_info(consumer.stream, consumer.name).await.ok()?;
        (info.pending == 0 && info.unacked == 0).then_some(())
    })
    .await;
}

/// Gives a consumer another ack wait, so that a test need not wait for the real one.
pub(crate) async fn set_ack_wait(nats: &Nats, consumer: consume::Consumer, wait: Duration) {
    set_ack_wait_by(&nats.client(openwatch_bus::User::Admin).await, consumer, wait).await;
}

/// The same by a client of the administrator's.
pub(crate) async fn set_ack_wait_by(
    client: &async_nats::Client,
    consumer: consume::Consumer,
    wait: Duration,
) {
    let consume::Consumer { stream, name } = consumer;
    let info = client.request(format!("$JS.API.CONSUMER.INFO.{stream}.{name}"), "".into()).await.unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.payload).unwrap();
    let mut config = info["config"].clone();
    config["ack_wait"] = serde_json::json!(wait.as_nanos() as u64);
    let filter = config["filter_subject"].as_str().map(|filter| format!(".{filter}")).unwrap_or_default();
    let body = serde_json::json!({ "stream_name": stream, "config": config, "action": "update" });
    let subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}{filter}");
    let answer = client.request(subject, body.to_string().into()).await.unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

fn kill(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
}
