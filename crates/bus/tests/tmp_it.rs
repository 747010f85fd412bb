#![allow(warnings)]
use std::sync::Arc;
use std::time::Duration;
use std::collections::BTreeMap;
use openwatch_bus::{Bus, BusOptions, User, BusError, Message, Next, Outgoing};
#[path = "../../../tests/src/proxy.rs"] mod proxy;
#[path = "../../../tests/src/wait.rs"] mod wait;
mod openwatch_tests_shim {
    use super::*;
    #[derive(Debug)]
    pub struct Nats { port: u16, seeds: BTreeMap<&'static str,String>, pid: Arc<std::sync::Mutex<Option<u32>>>, task: tokio::task::JoinHandle<()>, dir: std::path::PathBuf }
    impl Nats {
        pub async fn start() -> Self {
            let keys: Vec<_> = User::ALL.map(|u| (u, openwatch_bus::user::new_key().unwrap())).into();
            let conf = openwatch_bus::user::users_conf(keys.iter().map(|(u,k)| (*u,k.public.as_str())));
            let dir = std::env::temp_dir().join(format!("owbus-{}", uuid::Uuid::new_v4()));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join("users.conf"), conf).unwrap();
            std::fs::write(dir.join("permissions.conf"), openwatch_bus::topology::PERMISSIONS_CONF).unwrap();
            std::fs::write(dir.join("server.conf"), openwatch_bus::topology::SERVER_CONF.replace("sync_interval: always", "")).unwrap();
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let pid: Arc<std::sync::Mutex<Option<u32>>> = Arc::default();
            let (p2, d2) = (pid.clone(), dir.clone());
            let task = tokio::spawn(async move { loop {
                let mut child = tokio::process::Command::new("/tmp/ow/nats/bin/nats-server").arg("-c").arg(d2.join("server.conf")).args(["-a","127.0.0.1","-p",&port.to_string()]).current_dir(&d2).stdout(std::process::Stdio::null()).stderr(std::fs::File::create(d2.join("log")).unwrap()).kill_on_drop(true).spawn().unwrap();
                *p2.lock().unwrap() = child.id();
                let _ = child.wait().await; *p2.lock().unwrap() = None;
                tokio::time::sleep(Duration::from_millis(300)).await;
            }});
            let seeds = keys.iter().map(|(u,k)| (u.as_str(), k.seed.to_string())).collect();
            let it = Self { port, seeds, pid, task, dir };
            it.bus(User::Admin).await;
            it
        }
        pub async fn with_topology() -> Self { let n = Self::start().await; openwatch_bus::topology::apply(&n.bus(User::Admin).await, openwatch_bus::Profile::Small).await.unwrap(); n }
        pub fn url(&self) -> String { format!("nats://127.0.0.1:{}", self.port) }
        pub fn port(&self) -> u16 { self.port }
        pub fn process_id(&self) -> Option<u32> { *self.pid.lock().unwrap() }
        pub fn seed(&self, u: User) -> &str { &self.seeds[u.as_str()] }
        pub fn options(&self, u: User) -> BusOptions { BusOptions::new([self.url()], u).seed(self.seed(u).to_owned().into()) }
        pub async fn bus(&self, u: User) -> Bus { Bus::connect(self.options(u)).await.unwrap() }
        pub async fn client(&self, u: User) -> async_nats::Client { async_nats::ConnectOptions::with_nkey(self.seed(u).to_owned()).custom_inbox_prefix(format!("_INBOX_{}", u.as_str())).connect(self.url()).await.unwrap() }
    }
    impl Drop for Nats { fn drop(&mut self) { self.task.abort(); if std::thread::panicking() { eprintln!("log: {}", self.dir.join("log").display()); } else { let _ = std::fs::remove_dir_all(&self.dir); } } }
}
//CUT
mod bus {

use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::consume::{self, Options};
use openwatch_bus::{Bus, BusError, Message, Next, Outgoing};
use super::openwatch_tests_shim::Nats;
use super::proxy::Proxy;
use super::wait::eventually;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

#[path = "/work/main/tests/it/bus/consume_loop.rs"] mod consume_loop;
#[path = "/work/main/tests/it/bus/events.rs"] mod events;
#[path = "/work/main/tests/it/bus/objects.rs"] mod objects;
#[path = "/work/main/tests/it/bus/outages.rs"] mod outages;
#[path = "/work/main/tests/it/bus/permissions.rs"] mod permissions;
#[path = "/work/main/tests/it/bus/publish.rs"] mod publish;
#[path = "/work/main/tests/it/bus/topology.rs"] mod topology;

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
async fn set_ack_wait(nats: &Nats, consumer: consume::Consumer, wait: Duration) {
    let client = nats.client(openwatch_bus::User::Admin).await;
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

fn kill(pid: u32) { std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap(); }

}
#[tokio::test(flavor = "multi_thread")]
async fn zz_cluster_and_tls() {
    use std::process::{Command, Stdio};
    let dir = std::path::PathBuf::from("/tmp/ow/zz"); let _ = std::fs::remove_dir_all(&dir); std::fs::create_dir_all(&dir).unwrap();
    let keys: Vec<_> = User::ALL.map(|u| (u, openwatch_bus::user::new_key().unwrap())).into();
    std::fs::write(dir.join("users.conf"), openwatch_bus::user::users_conf(keys.iter().map(|(u,k)| (*u,k.public.as_str())))).unwrap();
    std::fs::write(dir.join("permissions.conf"), openwatch_bus::topology::PERMISSIONS_CONF).unwrap();
    let seed = |u: User| zeroize::Zeroizing::new(keys.iter().find(|(x,_)| *x==u).unwrap().1.seed.to_string());
    let mut kids = vec![];
    for i in 1..=3 {
        let conf = std::fs::read_to_string(format!("/work/main/nats/cluster-{i}.conf")).unwrap();
        std::fs::write(dir.join("check.conf"), &conf).unwrap();
        let out = Command::new("/tmp/ow/nats/bin/nats-server").arg("-t").arg("-c").arg(dir.join("check.conf")).output().unwrap();
        println!("cluster-{i} -t: {} {}", out.status, String::from_utf8_lossy(&out.stderr));
        let conf = conf.replace("0.0.0.0:4222", &format!("127.0.0.1:{}", 46220+i)).replace("127.0.0.1:8222", &format!("127.0.0.1:{}", 46240+i)).replace("/data/jetstream", &format!("/tmp/ow/zz/js{i}")).replace("0.0.0.0:6222", &format!("127.0.0.1:{}", 46230+i)).replace("nats://nats-1:6222","nats://127.0.0.1:46231").replace("nats://nats-2:6222","nats://127.0.0.1:46232").replace("nats://nats-3:6222","nats://127.0.0.1:46233");
        std::fs::write(dir.join(format!("c{i}.conf")), conf).unwrap();
        kids.push(Command::new("/tmp/ow/nats/bin/nats-server").arg("-c").arg(dir.join(format!("c{i}.conf"))).stdout(Stdio::null()).stderr(std::fs::File::create(dir.join(format!("log{i}"))).unwrap()).spawn().unwrap());
    }
    let servers: Vec<String> = (1..=3).map(|i| format!("nats://127.0.0.1:{}", 46220+i)).collect();
    let mut o = BusOptions::new(servers.clone(), User::Admin).seed(seed(User::Admin)); o.profile = openwatch_bus::Profile::Production;
    let bus = Bus::connect(o).await.unwrap();
    let t = std::time::Instant::now();
    let report = loop { match openwatch_bus::topology::apply(&bus, openwatch_bus::Profile::Production).await { Ok(r) => break r, Err(e) => { println!("apply: {e} outage {}", e.is_outage()); assert!(t.elapsed().as_secs() < 60); tokio::time::sleep(Duration::from_secs(1)).await; } } };
    println!("applied {} in {:?}", report.created.len(), t.elapsed());
    println!("again {:?}", openwatch_bus::topology::apply(&bus, openwatch_bus::Profile::Production).await.map(|r| (r.created.len(), r.tuned)));
    let msgs: Vec<_> = (0..500).map(|i| Outgoing { subject: format!("ow.v1.job.scheduled.h{i}"), message_id: format!("j{i}"), headers: vec![], payload: "x".into() }).collect();
    let t = std::time::Instant::now();
    let ok = bus.publish_all(&msgs).await.into_iter().filter(|r| r.is_ok()).count();
    println!("published {ok} in {:?}", t.elapsed());
    let mut o = BusOptions::new(servers, User::Executor).seed(seed(User::Executor)); o.profile = openwatch_bus::Profile::Production;
    let ex = Bus::connect(o).await.unwrap();
    let n = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let stop = tokio_util::sync::CancellationToken::new();
    let h = { let (n, ex, stop) = (n.clone(), ex.clone(), stop.clone()); tokio::spawn(async move { openwatch_bus::consume::run(&ex, openwatch_bus::consume::Options::new("executor", openwatch_bus::consume::Consumer::EXECUTOR_MANUAL, 16).second(openwatch_bus::consume::Consumer::EXECUTOR_SCHEDULED), move |_| { let n = n.clone(); async move { n.fetch_add(1, std::sync::atomic::Ordering::SeqCst); Next::Done } }, stop).await }) };
    let t = std::time::Instant::now();
    let mut killed = false;
    while n.load(std::sync::atomic::Ordering::SeqCst) < 500 { tokio::time::sleep(Duration::from_millis(20)).await; assert!(t.elapsed().as_secs() < 90, "{}", n.load(std::sync::atomic::Ordering::SeqCst));
        if !killed && n.load(std::sync::atomic::Ordering::SeqCst) > 150 { killed = true; kids[0].kill().unwrap(); println!("killed node 1 at {:?}", t.elapsed()); } }
    println!("consumed {} in {:?}", n.load(std::sync::atomic::Ordering::SeqCst), t.elapsed());
    loop { if let Ok(i) = bus.stream_info("OW_JOBS").await { if i.messages == 0 { break } println!("{i:?}"); } tokio::time::sleep(Duration::from_millis(500)).await; assert!(t.elapsed().as_secs() < 120); }
    stop.cancel(); h.await.unwrap().unwrap();
    for k in &mut kids { let _ = k.kill(); let _ = k.wait(); }
    // TLS
    let sh = format!("cd {} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.crt -subj /CN=ca -days 2 2>/dev/null && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout s.key -out s.csr -subj /CN=localhost 2>/dev/null && printf 'subjectAltName=DNS:localhost,IP:127.0.0.1' > ext && openssl x509 -req -in s.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out s.crt -days 2 -extfile ext 2>/dev/null", dir.display());
    println!("openssl {:?}", Command::new("sh").arg("-c").arg(sh).status());
    let conf = openwatch_bus::topology::SERVER_CONF.replace("127.0.0.1:4222", "127.0.0.1:46250").replace("./jetstream", "/tmp/ow/zz/jstls") + "\ntls { cert_file: \"/tmp/ow/zz/s.crt\", key_file: \"/tmp/ow/zz/s.key\" }\n";
    std::fs::write(dir.join("tls.conf"), conf).unwrap();
    let mut kid = Command::new("/tmp/ow/nats/bin/nats-server").arg("-c").arg(dir.join("tls.conf")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut o = BusOptions::new(["nats://localhost:46250"], User::Admin).seed(seed(User::Admin));
    o.tls = Some(openwatch_bus::Tls { ca: Some(dir.join("ca.crt")), identity: None });
    println!("tls good: {:?}", Bus::connect(o.clone()).await.map(|_| ()).map_err(|e| e.to_string()));
    o.tls = Some(openwatch_bus::Tls { ca: None, identity: None });
    o.start_timeout = Duration::from_secs(2);
    println!("tls wrong ca: {:?}", Bus::connect(o.clone()).await.map(|_| ()).map_err(|e| e.to_string()));
    kid.kill().unwrap(); kid.wait().unwrap();
}
