//! Worker processes: killed, traced, and cut off from a check.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use openwatch_app::cli::IssueFor;
use openwatch_app::run::Stage;
use openwatch_bus::consume::Consumer;
use openwatch_tests::sshd::find;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Stages, openwatch};
use rustix::process::{Pid, kill_process_group};

use super::*;
use crate::bus::set_ack_wait;

/// Everything but workers, and the keys that a worker is given.
async fn control(stages: &Stages) -> (openwatch_app::run::process::Process, PathBuf) {
    let keys = stages.file("worker-keys");
    stages.keys().issue(IssueFor::Executor, &keys).unwrap();
    let process =
        stages.run(&[Stage::Vault, Stage::Writer, Stage::Drift, Stage::Alerts, Stage::Scheduler]).await;
    (process, keys)
}

fn worker_args(stages: &Stages, keys: &Path, name: &str) -> Vec<String> {
    let keys = keys.display().to_string();
    ["executor", "--nats-url", stages.nats_url(), "--keys", &keys, "--name", name].map(str::to_owned).into()
}

// @spec executor
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn another_worker_finishes_what_a_killed_one_began() {
    proves("AC-06");
    let stages = Stages::under(TOFU).await;
    // Longer than the beat of a live worker, so that only a dead one loses its job.
    for consumer in [Consumer::EXECUTOR_MANUAL, Consumer::EXECUTOR_SCHEDULED] {
        set_ack_wait(&stages.world.nats, consumer, Duration::from_secs(12)).await;
    }
    let sshd = Options::new().start();
    let gate = sshd.dir().join("gate");
    let wait = format!("while ! test -e {}; do sleep 0.1; done", gate.display());
    stages.publish(&[("a-yes", "true"), ("b-gate", &wait), ("c-no", "false")]).await;
    let (_control, keys) = control(&stages).await;
    let mut workers: Vec<_> =
        ["w1", "w2"].map(|name| (name, Program::new(worker_args(&stages, &keys, name)).spawn())).into();
    stages.target("web", &sshd).await;
    let begun = "select worker from scan where state = 'running' and worker is not null";
    let first = eventually("a worker has begun", || async { stages.texts(begun).await.pop() }).await;
    let (_, worker) = workers.iter_mut().find(|(name, _)| *name == first).unwrap();
    worker.kill();
    std::fs::write(&gate, "").unwrap();
    let by = eventually_within(Duration::from_secs(60), "the other worker's result", || async {
        stages.texts("select worker || ' ' || outcome from scan_ledger").await.pop()
    })
    .await;
    let other = if first == "w1" { "w2" } else { "w1" };
    assert_eq!(by, format!("{other} completed"));
    let rules = "select rule_id || ' ' || status from transactions order by rule_id";
    assert_eq!(stages.texts(rules).await, ["a-yes pass", "b-gate pass", "c-no fail"]);
    assert_eq!(stages.number("select count(*) from scan_ledger").await, 1);
    assert_eq!(
        stages.number("select max(attempt)::bigint from scan").await,
        1,
        "the same attempt, delivered again"
    );
    stages.relayed().await;
    assert_eq!(stages.admin.dead_letters(1, 10).await.unwrap().len(), 0);
}

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

// @spec executor
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_opens_no_file_for_writing() {
    proves("AC-07");
    let Some(strace) = find("strace") else {
        println!("skipped: needs strace");
        return;
    };
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("a-yes", "true"), ("b-much", "seq 1 20000"), ("c-no", "false")]).await;
    let (_control, keys) = control(&stages).await;
    let trace = stages.file("trace");
    let calls = "trace=?open,openat,?openat2,?creat,truncate,ftruncate,?rename,?renameat,renameat2,?mkdir,mkdirat,\
                 ?unlink,unlinkat,?link,linkat,?symlink,symlinkat,?mknod,mknodat,?rmdir,memfd_create";
    let mut command = Command::new(strace);
    command.args(["-f", "-qq", "-e", "signal=none", "-e", calls, "-o"]).arg(&trace);
    command.arg(openwatch()).args(worker_args(&stages, &keys, "traced"));
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

// @spec executor
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_lost_on_the_way_is_an_error() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    // Ends the process that carries the connection, each time that it is tried.
    let fatal = "kill -9 $(ps -o ppid= -p $(ps -o ppid= -p $$)) $(ps -o ppid= -p $PPID)";
    let names: Vec<String> = (0..12).map(|n| format!("rule-{n:02}")).collect();
    let mut rules: Vec<_> = names.iter().map(|name| (name.as_str(), "true")).collect();
    rules[5].1 = fatal;
    stages.publish(&rules).await;
    let (_control, keys) = control(&stages).await;
    let _worker = Program::new(worker_args(&stages, &keys, "w1")).spawn();
    stages.target("web", &sshd).await;
    let ended = eventually("the scan's end", || async {
        stages.texts("select concat_ws(' ', state, failure_reason, failure_detail) from scan where finished_at is not null").await.pop()
    })
    .await;
    assert_eq!(ended, "completed");
    let odd = "select rule_id || ' ' || status from transactions where status <> 'pass' order by rule_id";
    assert_eq!(stages.texts(odd).await, ["rule-05 error"]);
}
