//! A plan on a real OpenSSH server: the same answers in every mode, and what each mode costs.

mod check;
mod corpus;
mod machine;
mod memory;
mod scripted;
mod server;
mod shells;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use openwatch_model::credential::Secret;
use openwatch_model::host::HostKeyMode;
use openwatch_model::plan::{Command, Done, Observation, Plan, RunReport};
use openwatch_remote::{
    Connection, HostKeyPolicy, Limits, RemoteError, RunOptions, Session, Target, connect,
};
use openwatch_tests::sshd::{Options, Sshd, find};
use tokio_util::sync::CancellationToken;

pub(crate) fn proves(criterion: &str) {
    println!("@spec remote-session\n@ac {criterion}");
}

pub(crate) fn target(port: u16, user: &str) -> Target {
    Target { address: "127.0.0.1".into(), port, user: user.into() }
}

pub(crate) fn known(sshd: &Sshd) -> HostKeyPolicy {
    HostKeyPolicy::new(HostKeyMode::RequireKnown, sshd.host_keys().to_vec())
}

pub(crate) async fn dial(sshd: &Sshd) -> Connection {
    let target = target(sshd.port(), sshd.user());
    // No host is in a hurry while a machine runs all of these at once.
    let limits = Limits { hello: Duration::from_secs(30), ..Limits::default() };
    connect(&target, &known(sshd), &limits, &CancellationToken::new()).await.expect("connects")
}

pub(crate) async fn login(sshd: &Sshd) -> Session {
    dial(sshd).await.login(&sshd.secret()).await.expect("logs in")
}

pub(crate) fn plan(scripts: &[&str]) -> Plan {
    Plan { commands: scripts.iter().map(|s| Command::new(*s)).collect() }
}

pub(crate) async fn run_with(
    sshd: &Sshd,
    plan: &Plan,
    secret: &Secret,
    options: &RunOptions<'_>,
) -> Result<(Vec<Observation>, RunReport), RemoteError> {
    let mut session = dial(sshd).await.login(secret).await?;
    let result = session.run(plan, options, secret).await;
    session.close().await;
    result
}

/// Runs with two lanes as the login user.
pub(crate) async fn run(sshd: &Sshd, plan: &Plan) -> (Vec<Observation>, RunReport) {
    run_with(sshd, plan, &sshd.secret(), &RunOptions::within(Duration::from_secs(60))).await.expect("runs")
}

pub(crate) fn done(observation: &Observation) -> &Done {
    match observation {
        Observation::Done(done) => done,
        Observation::Lost(lost) => panic!("lost: {lost:?}"),
    }
}

pub(crate) fn out(observation: &Observation) -> String {
    String::from_utf8_lossy(&done(observation).stdout).into_owned()
}

/// Processes on this machine whose command line has this word in it, zombies aside.
pub(crate) fn processes_with(word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(word) {
                found.push(line);
            }
        }
    }
    found
}

/// Waits for the last process with this word.
pub(crate) async fn gone(word: &str, within: Duration) {
    let until = std::time::Instant::now() + within;
    while !processes_with(word).is_empty() {
        assert!(std::time::Instant::now() < until, "still there: {:?}", processes_with(word));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn answers_come_back_in_order_and_whole() {
    let sshd = Options::new().start();
    let scripts: Vec<String> =
        (0..300).map(|i| format!("echo out {i}; echo err {i} >&2; exit {}", i % 7)).collect();
    let plan = Plan { commands: scripts.into_iter().map(Command::new).collect() };
    let (observations, report) = run(&sshd, &plan).await;
    for (i, observation) in observations.iter().enumerate() {
        let done = done(observation);
        assert_eq!(done.stdout, format!("out {i}\n").as_bytes());
        assert_eq!(done.stderr, format!("err {i}\n").as_bytes());
        assert_eq!(done.exit, i32::try_from(i % 7).expect("small"));
    }
    assert_eq!((report.executions, report.lanes), (2, 2), "{report:?}");
    assert_eq!((report.restarts, report.reconnects, report.fallback), (0, 0, None));
    let lanes: BTreeSet<u8> = observations.iter().map(|o| done(o).lane).collect();
    assert_eq!(lanes, BTreeSet::from([0, 1]), "both lanes have a share");
}

/// What a check may look like: quotes, newlines, here documents, bytes, statuses, shell state, input.
const CATALOGUE: [&str; 34] = [
    "true",
    "false",
    "echo plain",
    "printf 'no newline'",
    "printf ''",
    "echo \"it's\"; echo 'say \"hi\"'",
    "printf 'a\\nb\\\\n\\t%s' \\$x '$y' `echo z`",
    "cat <<EOF\none\ntwo $((1+1))\nEOF",
    "cat <<'EOF'\n$HOME ' \" \\\nEOF\n",
    "printf '\\000\\377\\001'",
    "printf '\\n\\n\\n'",
    "echo err >&2; exit 3",
    "exit 42",
    "exec false",
    "exec echo replaced",
    "set -e; false; echo unreachable",
    "set -u; echo $undefined_variable_of_mine",
    "cd /nowhere || echo stays",
    "cd /; pwd",
    "PATH=/nonexistent; ls",
    "cat",
    "read -r line; echo \"got $line $?\"",
    "echo $#",
    "f() { return 7; }; f",
    "trap 'echo bye' EXIT; echo hi",
    "if then",
    "echo 'unterminated",
    "no_such_command_here",
    "x=1; y=2; echo $((x+y))",
    "# only a comment",
    "echo \u{e4}\u{20ac}",
    "grep -c root /etc/passwd",
    "for i in 1 2 3; do echo $i; done | tail -n 1",
    "kill -TERM $(sh -c 'echo $PPID') 2>/dev/null; sleep 1; echo survived",
];

/// An observation without what may differ: time, lane, and the shell's own words about a syntax error.
fn essence(observation: &Observation) -> (i32, String, bool) {
    let done = done(observation);
    (done.exit, String::from_utf8_lossy(&done.stdout).into_owned(), done.stderr.is_empty())
}

// @spec remote-session
// @ac AC-01
#[tokio::test]
async fn fast_isolated_and_one_execution_each_agree() {
    proves("AC-01");
    let fast = Options::new().start();
    // Standard input never arrives: no shell can read a script.
    let single = Options::new().force_command("exec sh -c \"$SSH_ORIGINAL_COMMAND\" </dev/null").start();
    let plain = plan(&CATALOGUE);
    let mut isolated = plan(&CATALOGUE);
    isolated.commands.iter_mut().for_each(|c| c.isolate = true);

    let (a, report_a) = run(&fast, &plain).await;
    let (b, _) = run(&fast, &isolated).await;
    let (c, report_c) = run(&single, &plain).await;
    assert_eq!((report_a.executions, report_a.restarts, report_a.fallback), (2, 0, None));
    assert!(report_c.fallback.is_some() && report_c.executions as usize >= CATALOGUE.len(), "{report_c:?}");
    for (i, script) in CATALOGUE.iter().enumerate() {
        assert_eq!(essence(&a[i]), essence(&b[i]), "fast and isolated differ: {script}");
        assert_eq!(essence(&a[i]), essence(&c[i]), "fast and single differ: {script}");
    }
    assert_eq!(done(&a[9]).stdout, b"\0\xff\x01");
    assert_eq!(done(&a[20]).stdout, b"", "standard input is empty");
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn noise_of_start_files_reaches_no_answer() {
    proves("AC-05");
    let noisy = "echo welcome; echo careful >&2; exec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let sshd = Options::new().force_command(noisy).start();
    let (observations, report) = run(&sshd, &plan(&["echo one", "true"])).await;
    assert_eq!((out(&observations[0]).as_str(), done(&observations[0]).stderr.len()), ("one\n", 0));
    assert_eq!(report.fallback, None);
}

#[tokio::test]
async fn a_first_share_answered_together_with_the_hello_is_followed_by_the_next() {
    // Holds both streams back until the first share has been answered.
    let late = "{ { sh -c \"$SSH_ORIGINAL_COMMAND\" 2>&3 | { sleep 0.3; exec cat; }; } 3>&1 >&4 | { sleep 0.5; exec cat >&2; }; } 4>&1";
    let sshd = Options::new().force_command(late).start();
    let scripts: Vec<String> = (0..60).map(|i| format!("echo {i}")).collect();
    let plan = Plan { commands: scripts.into_iter().map(Command::new).collect() };
    let (observations, report) = run(&sshd, &plan).await;
    assert!(observations.iter().enumerate().all(|(i, o)| out(o) == format!("{i}\n")));
    assert_eq!((report.restarts, report.fallback), (0, None));
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn one_session_slot_is_enough() {
    proves("AC-05");
    let sshd = Options::new().config("MaxSessions 1").start();
    let scripts: Vec<String> = (0..40).map(|i| format!("echo {i}")).collect();
    let plan = Plan { commands: scripts.into_iter().map(Command::new).collect() };
    let (observations, report) = run(&sshd, &plan).await;
    assert!(observations.iter().enumerate().all(|(i, o)| out(o) == format!("{i}\n")));
    assert_eq!((report.lanes, report.executions, report.reconnects), (1, 1, 0), "{report:?}");
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn a_busy_server_is_tried_again() {
    proves("AC-05");
    let sshd = Options::new().config("MaxStartups 3:50:6").start();
    let target = target(sshd.port(), sshd.user());
    let (policy, cancel) = (known(&sshd), CancellationToken::new());
    let limits = Limits { attempts: 8, ..Limits::default() };
    let logins = (0..12).map(|_| async {
        let connection = connect(&target, &policy, &limits, &cancel).await?;
        connection.login(&sshd.secret()).await?.close().await;
        Ok::<(), RemoteError>(())
    });
    for result in futures::future::join_all(logins).await {
        result.expect("gets in at last");
    }
}

#[tokio::test]
async fn answers_are_told_as_they_come() {
    let sshd = Options::new().start();
    let told = Mutex::new(BTreeSet::new());
    let tell = |index: usize, _: &Observation| {
        assert!(told.lock().expect("unpoisoned").insert(index), "told once");
    };
    // The callback outlives the run, not the program.
    let options = RunOptions { on_progress: Some(&tell), ..RunOptions::within(Duration::from_secs(30)) };
    run_with(&sshd, &plan(&["true"; 10]), &sshd.secret(), &options).await.expect("runs");
    assert_eq!(told.lock().expect("unpoisoned").len(), 10);
}

#[tokio::test]
async fn a_session_runs_several_plans() {
    let sshd = Options::new().start();
    let mut session = login(&sshd).await;
    for round in 0..3 {
        let options = RunOptions::within(Duration::from_secs(30));
        let script = format!("echo round {round}");
        let (observations, report) =
            session.run(&plan(&[&script]), &options, &sshd.secret()).await.expect("runs");
        assert_eq!(out(&observations[0]), format!("round {round}\n"));
        assert_eq!(report.executions, 1);
    }
    let (observations, report) = session
        .run(&Plan::default(), &RunOptions::within(Duration::from_secs(30)), &sshd.secret())
        .await
        .expect("runs nothing");
    assert_eq!((observations.len(), report.executions), (0, 0));
    session.close().await;
}
