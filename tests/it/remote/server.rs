//! OpenSSH servers as administrators set them up: few slots, long banners, forced commands, odd keys.

use std::process::Command as Process;

use openwatch_model::scan::FailureReason;
use openwatch_tests::sshd::{KeyKind, TempUser};

use super::*;

fn numbered(n: usize) -> Plan {
    Plan { commands: (0..n).map(|i| Command::new(format!("echo {i}"))).collect() }
}

fn assert_numbered(observations: &[Observation]) {
    assert!(observations.iter().enumerate().all(|(i, o)| out(o) == format!("{i}\n")));
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn as_many_lanes_as_there_are_slots() {
    proves("AC-05");
    for (slots, lanes) in [(1, 1), (2, 2), (10, 4)] {
        let sshd = Options::new().config(format!("MaxSessions {slots}")).start();
        let options = RunOptions { lanes: 4, ..RunOptions::within(Duration::from_secs(30)) };
        let (observations, report) =
            run_with(&sshd, &numbered(200), &sshd.secret(), &options).await.expect("runs");
        assert_numbered(&observations);
        assert_eq!((report.lanes, report.reconnects, report.fallback), (lanes, 0, None), "{slots} slots");
        assert_eq!(report.executions, u32::from(lanes));
    }
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn long_banners_and_noise_reach_no_answer() {
    proves("AC-05");
    let dir = tempfile::tempdir().expect("a directory");
    let banner = dir.path().join("banner");
    std::fs::write(&banner, "\x1b]0;owned\x07 AUTHORISED USE ONLY\n".repeat(100)).expect("a banner");
    let noisy = "i=0; while [ $i -lt 100 ]; do echo \"news $i\"; echo \"warning $i\" >&2; i=$((i+1)); done; \
                 exec sh -c \"$SSH_ORIGINAL_COMMAND\"";
    let sshd = Options::new().config(format!("Banner {}", banner.display())).force_command(noisy).start();
    let (observations, report) = run(&sshd, &numbered(20)).await;
    assert_numbered(&observations);
    assert!(observations.iter().all(|o| done(o).stderr.is_empty()));
    assert_eq!(report.fallback, None);
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn new_keys_in_the_middle_of_it() {
    proves("AC-05");
    let sshd = Options::new().config("RekeyLimit 4K").start();
    let scripts = (0..60).map(|i| format!("printf '{i} %03000d' 7"));
    let plan = Plan { commands: scripts.map(Command::new).collect() };
    let (observations, report) = run(&sshd, &plan).await;
    for (i, observation) in observations.iter().enumerate() {
        assert_eq!(out(observation), format!("{i} {:03000}", 7));
    }
    assert_eq!((report.reconnects, report.restarts, report.fallback), (0, 0, None));
}

// @spec remote-session
// @ac AC-05
#[tokio::test]
async fn restricted_shells_are_measured_one_by_one() {
    proves("AC-05");
    if find("rbash").is_none() {
        println!("skipped: no rbash");
        return;
    }
    let sshd = Options::new().login_shell("rbash").start();
    let (observations, report) = run(&sshd, &plan(&["echo $((40+2))", "cd / && pwd", "exit 6"])).await;
    assert_eq!((out(&observations[0]).as_str(), out(&observations[1]).as_str()), ("42\n", "/\n"));
    assert_eq!(done(&observations[2]).exit, 6);
    assert!(report.fallback.is_some(), "{report:?}");
}

#[tokio::test]
async fn commands_that_are_forced_are_no_shell() {
    for (command, words) in
        [("echo only this", "only this"), ("cat", "did not answer within 3 s"), ("internal-sftp", "")]
    {
        let sshd = Options::new().force_command(command).start();
        let target = target(sshd.port(), sshd.user());
        let limits = Limits { hello: Duration::from_secs(3), ..Limits::default() };
        let connection = connect(&target, &known(&sshd), &limits, &CancellationToken::new()).await;
        let mut session = connection.expect("connects").login(&sshd.secret()).await.expect("logs in");
        let options = RunOptions::within(Duration::from_secs(20));
        let since = std::time::Instant::now();
        let error = session.run(&plan(&["true"; 30]), &options, &sshd.secret()).await.expect_err("no shell");
        assert_eq!(error.reason(), FailureReason::NoShell, "{command}: {error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(since.elapsed() < Duration::from_secs(25), "{command}: {:?}", since.elapsed());
    }
}

/// A host under load begins its shells late. That is neither "no shell" nor a reason to go one by one.
#[tokio::test]
async fn a_shell_that_begins_late_is_waited_for() {
    let sshd = Options::new().force_command("sleep 12; exec sh -c \"$SSH_ORIGINAL_COMMAND\"").start();
    let target = target(sshd.port(), sshd.user());
    let cancel = CancellationToken::new();
    let connection = connect(&target, &known(&sshd), &Limits::default(), &cancel).await.expect("connects");
    let mut session = connection.login(&sshd.secret()).await.expect("logs in");
    let options = RunOptions::within(Duration::from_secs(120));
    let (observations, report) =
        session.run(&plan(&["echo a", "exit 4"]), &options, &sshd.secret()).await.expect("runs");
    assert_eq!((out(&observations[0]).as_str(), done(&observations[1]).exit), ("a\n", 4));
    assert_eq!((report.fallback, report.restarts, report.reconnects), (None, 0, 0));
}

/// The vault may be slow; the host does not wait for ever.
#[tokio::test]
async fn a_host_that_waited_too_long_for_the_login_is_unreachable_not_refusing() {
    let sshd = Options::new().config("LoginGraceTime 1").start();
    let connection = dial(&sshd).await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let error = connection.login(&sshd.secret()).await.expect_err("too late");
    assert_eq!(error.reason(), FailureReason::Unreachable, "{error}");
}

// @spec remote-session
// @ac AC-09
#[tokio::test]
async fn certificates_and_sha1_prove_nothing() {
    proves("AC-09");
    let certified = Options::new().host_certificate_only().start();
    let sha1 = Options::new().host_key(KeyKind::Rsa).config("HostKeyAlgorithms ssh-rsa").start();
    for (sshd, what) in [(&certified, "certificate"), (&sha1, "SHA-1")] {
        for mode in [HostKeyMode::Tofu, HostKeyMode::RequireKnown] {
            for known in [Vec::new(), sshd.host_keys().to_vec()] {
                if mode == HostKeyMode::RequireKnown && known.is_empty() {
                    continue;
                }
                let policy = HostKeyPolicy::new(mode, known);
                let target = target(sshd.port(), sshd.user());
                let limits = Limits { attempts: 1, ..Limits::default() };
                let error =
                    connect(&target, &policy, &limits, &CancellationToken::new()).await.expect_err("refused");
                assert_eq!(error.reason(), FailureReason::HostKeyMismatch, "{error}");
                assert!(error.to_string().contains(what), "{error}");
            }
        }
        let log = sshd.log();
        assert!(!log.contains("Accepted") && !log.contains("Failed"), "somebody tried to log in: {log}");
    }
}

/// An account of its own: `kill -9 -1` spares nothing of it, and nothing else.
#[tokio::test]
async fn a_command_that_kills_everything_of_the_account() {
    let Some(user) = TempUser::create() else { return };
    let sshd = Options::new().user(&user).start();
    let mut plan = numbered(12);
    plan.commands[5] = Command::new("kill -9 -1");
    // On one lane, so that it comes again after all the others.
    let options = RunOptions { lanes: 1, ..RunOptions::within(Duration::from_secs(60)) };
    let (observations, report) = run_with(&sshd, &plan, &sshd.secret(), &options).await.expect("runs");
    for (i, observation) in observations.iter().enumerate() {
        if i != 5 {
            assert_eq!(out(observation), format!("{i}\n"), "{report:?}");
        }
    }
    assert!(!matches!(&observations[5], Observation::Done(d) if d.exit == 0), "{:?}", observations[5]);
    let spools = || {
        let owned = Process::new("find").args(["/dev/shm", "-name", ".ow-*", "-user", &user.name]).output();
        String::from_utf8_lossy(&owned.expect("find runs").stdout).into_owned()
    };
    assert_eq!(spools(), "", "{report:?}");
}

// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn a_hang_where_each_command_has_its_own_execution_leaves_nothing() {
    proves("AC-13");
    let sshd = Options::new().force_command("exec sh -c \"$SSH_ORIGINAL_COMMAND\" </dev/null").start();
    for isolate in [false, true] {
        let mut plan = plan(&["echo one", "sleep 7301 & sleep 7301"]);
        plan.commands[1].limit = Duration::from_secs(1);
        plan.commands[1].isolate = isolate;
        let (observations, report) = run(&sshd, &plan).await;
        assert_eq!(out(&observations[0]), "one\n");
        assert!(matches!(observations[1], Observation::Lost(_)) && report.fallback.is_some(), "{report:?}");
        gone("sleep 7301", Duration::from_secs(8)).await;
    }
}
