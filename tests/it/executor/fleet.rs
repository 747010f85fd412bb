//! Many hosts at once, one host twice, and what a worker remembers.

use std::io::Write as _;
use std::process::Command;

use openwatch_bus::User;
use openwatch_bus::message::event::Kind;
use openwatch_model::credential::Secret;
use openwatch_tests::scripted::{Act, Scripted};
use openwatch_tests::sshd::Sshd;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Running, Stages};
use tokio::sync::watch;

use super::crew::{control, listeners, metrics, metrics_address, value, worker};
use super::*;

/// Resident memory of a process in MiB: now, and the most there ever was.
fn resident(worker: &Running) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.process_id())).unwrap();
    let mib = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    };
    (mib("VmRSS:"), mib("VmHWM:"))
}

/// Where scans go that are to be under way all at once: the last command of each waits until all of them have begun.
pub(crate) enum Targets {
    /// An OpenSSH server and its shells.
    Shells(Sshd),
    /// Nothing but the protocol: two cores run a worker and two hundred of these, but not two hundred times 500 commands.
    Quick(Scripted, watch::Sender<bool>),
}

impl Targets {
    fn shells() -> Self {
        let sshd = Options::new().config("MaxStartups 1000").start();
        assert!(Command::new("mkfifo").arg(sshd.dir().join("pipe")).status().unwrap().success());
        Self::Shells(sshd)
    }

    /// Targets that take next to nothing.
    pub(crate) async fn quick() -> Self {
        let (open, gate) = watch::channel(false);
        Self::Quick(Scripted::start(|_| {}, move |act: Act| act.quick(gate.clone())).await, open)
    }

    fn port(&self) -> u16 {
        match self {
            Self::Shells(sshd) => sshd.port(),
            Self::Quick(server, _) => server.port(),
        }
    }

    fn secret(&self) -> Secret {
        match self {
            Self::Shells(sshd) => sshd.secret(),
            Self::Quick(..) => {
                let dir = tempfile::TempDir::new().unwrap();
                generate_key(&dir.path().join("key"), "ed25519");
                let mut secret = Secret::default();
                secret.private_key = Some(std::fs::read_to_string(dir.path().join("key")).unwrap());
                secret
            }
        }
    }

    /// Takes one byte out of a pipe, which costs nothing to wait for. It looks like a command that walks a file system,
    /// which may take longer than others.
    fn gate(&self) -> String {
        let pipe = match self {
            Self::Shells(sshd) => sshd.dir().join("pipe").display().to_string(),
            Self::Quick(..) => "pipe".to_owned(),
        };
        format!("du /dev/null; head -c 1 {pipe}")
    }

    /// Lets them through; what is given back keeps it so.
    fn open(&self, hosts: usize) -> Option<std::fs::File> {
        match self {
            Self::Shells(sshd) => {
                let pipe = sshd.dir().join("pipe");
                let mut open = std::fs::OpenOptions::new().read(true).write(true).open(pipe).unwrap();
                // More than one for each: a gate that has to be asked again takes another.
                open.write_all(&vec![b'x'; hosts * 10]).unwrap();
                Some(open)
            }
            Self::Quick(_, open) => {
                open.send_replace(true);
                None
            }
        }
    }
}

/// Measures this many hosts, all of them on one server, side by side. The most memory that the worker took, in MiB.
pub(crate) async fn side_by_side(targets: Targets, hosts: usize, rules: usize, patience: Duration) -> u64 {
    let stages = Stages::under(TOFU).await;
    let names: Vec<String> = (0..rules).map(|n| format!("rule-{n:03}")).collect();
    let mut corpus: Vec<_> =
        names.iter().map(|name| (name.clone(), format!("echo {name} is fine; echo $PATH"))).collect();
    corpus.push(("zz-gate".to_owned(), targets.gate()));
    stages.publish(&corpus.iter().map(|(name, run)| (name.as_str(), run.as_str())).collect::<Vec<_>>()).await;
    let control = control(&stages).await;
    stages.credential("key", "root", &targets.secret(), true).await;
    for number in 0..hosts {
        stages.host(&format!("host-{number:03}"), targets.port()).await;
    }
    let slots = u16::try_from(hosts + 1).unwrap();
    let mut worker = worker(&stages, &control, "w1").slots(slots).with_metrics().start().await;
    let address = metrics_address(&mut worker).await;
    let (idle, _) = resident(&worker);
    let at_once = || async {
        let begun = stages.number("select count(*) from scan where state = 'running'").await;
        (begun == hosts as i64).then_some(())
    };
    eventually_within(patience, "all scans at once", at_once).await;
    let text = metrics(&address).await;
    assert_eq!(value(&text, "openwatch_in_hand{stage=\"executor\"}"), Some(hosts as f64), "{text}");
    let (waiting, _) = resident(&worker);
    let _open = targets.open(hosts);
    let done = || async {
        let done = stages.number("select count(*) from scan_ledger where outcome = 'completed'").await;
        (done == hosts as i64).then_some(())
    };
    eventually_within(patience, "all results", done).await;
    let (after, most) = resident(&worker);
    println!(
        "{hosts} hosts, {rules} rules: {idle} MiB idle, {waiting} waiting, {most} at most, {after} after"
    );
    let pass = format!("select count(*) from scan_ledger where pass = {}", rules + 1);
    assert_eq!(stages.number(&pass).await, hosts as i64);
    most
}

// @spec kensa-executor
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn many_hosts_side_by_side() {
    proves("AC-08");
    // All targets are this machine: of a hundred shells begun at once on two cores most do not answer within half a minute.
    let hosts = if std::env::var_os("OPENWATCH_LONG").is_some() { 50 } else { 10 };
    let most = side_by_side(Targets::shells(), hosts, 20, Duration::from_secs(240)).await;
    assert!(most < 200, "{most} MiB");
}

// @spec kensa-executor
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_hand_is_not_measured_twice() {
    proves("AC-03");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("gate", &super::stops::gate(&sshd))]).await;
    let digest = stages.texts("select digest from corpus").await.remove(0);
    let host = stages.target("web", &sshd).await;
    let control = listeners(&stages).await;
    let (job, mut message) =
        stages.job(host, |job| (job.corpus, job.user) = (digest, sshd.user().to_owned())).await;
    let mut worker = worker(&stages, &control, "w1").with_metrics().start().await;
    let address = metrics_address(&mut worker).await;
    let scheduler = stages.world.bus(User::Scheduler).await;
    scheduler.publish(&message).await.unwrap();
    let begun = "select state from scan where state = 'running'";
    eventually("the scan has begun", || async { stages.texts(begun).await.pop() }).await;
    // The same job once more, as a stream that forgot its ids would deliver it.
    message.message_id.push_str(".again");
    scheduler.publish(&message).await.unwrap();
    let series = "openwatch_messages_total{stage=\"executor\",outcome=\"retry\"}";
    eventually("the second is put back", || async {
        (value(&metrics(&address).await, series)? >= 1.0).then_some(())
    })
    .await;
    assert_eq!(stages.audited("credential.released").await, 1);
    assert_eq!(sshd.log().matches("Accepted publickey for").count(), 1, "{}", sshd.log());
    super::stops::open(&sshd);
    assert_eq!(stages.ended(job.scan).await, "completed");
    let empty = || async { (stages.admin.stream_info("OW_JOBS").await.ok()?.messages == 0).then_some(()) };
    eventually("the second is let go", empty).await;
    stages.relayed().await;
    assert_eq!(stages.audited("credential.released").await, 1);
    assert_eq!(sshd.log().matches("Accepted publickey for").count(), 1);
    assert_eq!(stages.events(Kind::ScanCompleted, host).await.len(), 1);
    assert_eq!(stages.events(Kind::ScanFailed, host).await.len(), 0);
}
