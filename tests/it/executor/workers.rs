//! Worker processes: traced, and cut off from a check.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use openwatch_tests::sshd::find;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Lossy, Proxy, Stages, openwatch};
use rustix::process::{Pid, kill_process_group};

use super::crew::{control, worker};
use super::*;

/// A process and all that it started, gone with this value.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// Calls that make, change or remove something in the file system, or open it for that.
fn writes(trace: &str) -> Vec<&str> {
    let opens = |line: &&str| {
        line.contains("open")
            && !line.contains("O_WRONLY")
            && !line.contains("O_RDWR")
            && !line.contains("O_CREAT")
    };
    trace.lines().filter(|line| line.contains('(') && !line.contains("+++") && !opens(line)).collect()
}

// @spec kensa-executor
// @ac AC-02
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_opens_no_file_for_writing() {
    proves("AC-02");
    let Some(strace) = find("strace") else {
        println!("skipped: needs strace");
        return;
    };
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("a-yes", "true"), ("b-much", "seq 1 20000"), ("c-no", "false")]).await;
    let control = control(&stages).await;
    let trace = stages.file("trace");
    let calls = "trace=?open,openat,?openat2,?creat,truncate,ftruncate,?rename,?renameat,renameat2,?mkdir,mkdirat,\
                 ?unlink,unlinkat,?link,linkat,?symlink,symlinkat,?mknod,mknodat,?rmdir,memfd_create";
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-e", "signal=none", "-e", calls, "-o"]).arg(&trace);
    command.arg(openwatch()).args(worker(&stages, &control, "traced").args());
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _worker = Group(command.spawn().unwrap());
    stages.target("web", &sshd).await;
    let by = eventually_within(Duration::from_secs(60), "the traced worker's result", || async {
        stages.texts("select worker || ' ' || outcome from scan_ledger").await.pop()
    })
    .await;
    assert_eq!(by, "traced completed");
    let trace = std::fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("executor.json"), "strace saw nothing of it:\n{trace}");
    assert!(writes(&trace).is_empty(), "{:#?}", writes(&trace));
}

/// Work that is dear to do again is acked again when the bus has not heard it.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_ack_is_lost_says_it_again_and_scans_once() {
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("a-yes", "true")]).await;
    let control = control(&stages).await;
    let port = stages.world.nats.port();
    let (acks, told) = tokio::sync::watch::channel(Vec::new());
    let wire = Lossy::to(port, move |subject, payload| {
        let job = payload == b"+ACK" && subject.starts_with("$JS.ACK.OW_JOBS.");
        if job {
            acks.send_modify(|all| all.push(subject.to_owned()));
        }
        job && acks.borrow().len() == 1
    })
    .await;
    let _worker = worker(&stages, &control, "w1").through(wire.url()).start().await;
    stages.target("web", &sshd).await;
    let acks = eventually_within(Duration::from_secs(60), "a second ack", || async {
        let acks = told.borrow().clone();
        (acks.len() >= 2).then_some(acks)
    })
    .await;
    // The subject of an ack has the count of the delivery in it.
    assert_eq!(acks[0], acks[1], "the same delivery, said again");
    eventually("the job is gone", || async {
        (stages.admin.stream_info("OW_JOBS").await.ok()?.messages == 0).then_some(())
    })
    .await;
    assert_eq!(stages.number("select count(*) from scan_ledger").await, 1);
    assert_eq!(stages.audited("credential.released").await, 1);
}

// @spec kensa-executor
// @ac AC-22
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_lost_on_the_way_is_an_error() {
    proves("AC-22");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    let (proxy, marker) = (Proxy::to(sshd.port()).await, sshd.dir().join("begun"));
    let ran = sshd.dir().join("ran");
    std::fs::create_dir(&ran).unwrap();
    std::fs::set_permissions(&ran, std::fs::Permissions::from_mode(0o777)).unwrap();
    let names: Vec<String> = (0..12).map(|n| format!("rule-{n:02}")).collect();
    // A command of its own for each: what is said twice is run once.
    let runs: Vec<String> = names.iter().map(|name| format!("touch {}/{name}", ran.display())).collect();
    let mut rules: Vec<_> =
        names.iter().zip(&runs).map(|(name, run)| (name.as_str(), run.as_str())).collect();
    // The last one waits for the others, and until their answers are here.
    let last = format!(
        "until [ $(ls {} | wc -l) = 11 ]; do sleep 0.1; done; sleep 1; touch {}; sleep 8",
        ran.display(),
        marker.display()
    );
    rules[11].1 = &last;
    stages.publish(&rules).await;
    let control = control(&stages).await;
    let _worker = worker(&stages, &control, "w1").start().await;
    stages.credential("key", sshd.user(), &sshd.secret(), true).await;
    stages.host("web", proxy.port()).await;
    eventually("the last command", || async { marker.exists().then_some(()) }).await;
    proxy.cut();
    let ended = eventually("the scan's end", || async {
        stages.texts("select concat_ws(' ', state, failure_reason, failure_detail) from scan where finished_at is not null").await.pop()
    })
    .await;
    assert_eq!(ended, "completed");
    let odd = "select rule_id || ' ' || status from transactions where status <> 'pass' order by rule_id";
    assert_eq!(stages.texts(odd).await, ["rule-11 error"]);
    let confidence = "select summary->>'low_confidence' from scan_ledger";
    assert_eq!(stages.texts(confidence).await, ["true"]);
}
