//! A target that misbehaves hurts its own answers only, and nothing of ours stays behind on it.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use openwatch_model::plan::{Command, Lost, Observation, Plan};
use openwatch_remote::{Caps, Limits, RemoteError, RunOptions, connect};
use openwatch_tests::Proxy;
use openwatch_tests::sshd::{Options, Sshd};
use tokio_util::sync::CancellationToken;

use crate::remote::{done, gone, known, login, out, plan, processes_with, proves, run, run_with, target};

/// The good commands around the bad one.
fn around(bad: Command) -> Plan {
    let mut commands: Vec<Command> = (0..6).map(|i| Command::new(format!("echo {i}"))).collect();
    commands.insert(3, bad);
    Plan { commands }
}

fn assert_neighbours_fine(observations: &[Observation]) {
    for (at, expected) in [(0, 0), (1, 1), (2, 2), (4, 3), (5, 4), (6, 5)] {
        assert_eq!(out(&observations[at]), format!("{expected}\n"), "answer {at}");
    }
}

fn limited(script: &str, seconds: u64) -> Command {
    Command { limit: Duration::from_secs(seconds), ..Command::new(script) }
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn a_hanging_command_costs_its_time_twice_and_leaves_nothing() {
    proves("AC-03");
    let sshd = Options::new().start();
    let (observations, report) = run(&sshd, &around(limited("sleep 7771", 1))).await;
    assert_eq!(observations[3], Observation::Lost(Lost::Timeout));
    assert_neighbours_fine(&observations);
    assert!(report.restarts >= 1 && report.reconnects == 0, "{report:?}");
    gone("sleep 7771", Duration::from_secs(3)).await;
}

#[tokio::test]
async fn one_that_ignores_being_asked_to_stop() {
    let sshd = Options::new().start();
    let (observations, _) =
        run(&sshd, &around(limited("trap '' TERM HUP INT; sleep 7772; sleep 7772", 1))).await;
    assert_eq!(observations[3], Observation::Lost(Lost::Timeout));
    assert_neighbours_fine(&observations);
    gone("sleep 7772", Duration::from_secs(5)).await;
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn a_hundred_megabytes() {
    proves("AC-03");
    let sshd = Options::new().start();
    for bad in ["head -c 100000000 /dev/zero", "head -c 100000000 /dev/zero >&2", "yes 7773", "yes 7773 >&2"]
    {
        let (observations, _) = run(&sshd, &around(Command::new(bad))).await;
        assert_eq!(observations[3], Observation::Lost(Lost::TooMuchOutput), "{bad}");
        assert_neighbours_fine(&observations);
    }
    gone("yes 7773", Duration::from_secs(3)).await;
}

#[tokio::test]
async fn output_up_to_the_cap_is_whole() {
    let sshd = Options::new().start();
    let caps = Caps { check_bytes: 100_000, host_bytes: 1 << 20 };
    let options = RunOptions { caps, ..RunOptions::within(Duration::from_secs(30)) };
    let mut plan = plan(&[
        "head -c 100000 /dev/zero",
        "head -c 100001 /dev/zero",
        "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2",
    ]);
    for isolate in [false, true] {
        plan.commands.iter_mut().for_each(|c| c.isolate = isolate);
        let (observations, _) = run_with(&sshd, &plan, &sshd.secret(), &options).await.expect("runs");
        assert_eq!(done(&observations[0]).stdout.len(), 100_000);
        assert_eq!(observations[1], Observation::Lost(Lost::TooMuchOutput));
        assert_eq!(observations[2], Observation::Lost(Lost::TooMuchOutput));
    }
}

/// What is kept of one host is bounded, and whoever comes too late for it is told from one that floods.
#[tokio::test]
async fn a_host_that_says_much_in_all_has_no_command_to_blame() {
    let sshd = Options::new().start();
    let caps = Caps { check_bytes: 100_000, host_bytes: 150_000 };
    let options = RunOptions { caps, lanes: 1, ..RunOptions::within(Duration::from_secs(30)) };
    let much = "head -c 60000 /dev/zero";
    let plan = plan(&[much, much, much, "echo little", "head -c 100001 /dev/zero"]);
    let (observations, _) = run_with(&sshd, &plan, &sshd.secret(), &options).await.expect("runs");
    assert_eq!((done(&observations[0]).stdout.len(), done(&observations[1]).stdout.len()), (60_000, 60_000));
    assert_eq!(observations[2], Observation::Lost(Lost::NoRoom));
    assert_eq!(out(&observations[3]), "little\n");
    assert_eq!(observations[4], Observation::Lost(Lost::TooMuchOutput));
}

/// What it says buys it no time.
// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn a_byte_a_second_is_no_answer() {
    proves("AC-03");
    let sshd = Options::new().start();
    for (isolate, stream) in [(false, ""), (false, ">&2"), (true, "")] {
        let trickle = format!("while :; do printf 7781 {stream}; sleep 1; done");
        let (observations, _) = run(&sshd, &around(Command { isolate, ..limited(&trickle, 2) })).await;
        assert_eq!(observations[3], Observation::Lost(Lost::Timeout), "{trickle}");
        assert_neighbours_fine(&observations);
    }
    gone("printf 7781", Duration::from_secs(5)).await;
}

/// As one that waits for a dead disk: it hears no signal, for it is in no group that we know. We cannot end it, but
/// neither does it hold up the scan, whatever it keeps open.
// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn one_that_no_signal_reaches_holds_nobody_up() {
    proves("AC-03");
    let sshd = Options::new().start();
    let stays = "trap '' TERM HUP INT; sleep 37";
    for isolate in [false, true] {
        let bad = Command { isolate, ..limited(&format!("setsid -w sh -c \"{stays}\"; echo late"), 1) };
        let since = Instant::now();
        let (observations, _) = run(&sshd, &around(bad)).await;
        assert_eq!(observations[3], Observation::Lost(Lost::Timeout), "isolated: {isolate}");
        assert_neighbours_fine(&observations);
        assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
    }
}

/// A daemon that a command starts keeps its streams, and says more on them than anybody reads.
// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn a_child_that_has_left_holds_nobody_up() {
    proves("AC-03");
    let sshd = Options::new().start();
    let talks = "for i in 1 2 3 4 5 6 7 8; do echo 7782 >&2; sleep 1; done";
    for (isolate, does) in [(false, "sleep 37"), (true, "sleep 37"), (true, talks)] {
        // The second fork leaves the group and the session; its parent is gone.
        let bad = Command { isolate, ..Command::new(format!("(setsid sh -c '{does}' &); echo gone")) };
        let since = Instant::now();
        let (observations, report) = run(&sshd, &around(bad)).await;
        assert_eq!(out(&observations[3]), "gone\n", "{does}");
        assert_neighbours_fine(&observations);
        assert_eq!((report.restarts, report.reconnects), (0, 0), "{does}");
        assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
    }
    // Not ours to end, but it must have an end before the next test counts processes.
    gone("echo 7782", Duration::from_secs(15)).await;
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn one_that_kills_its_shell() {
    proves("AC-03");
    let sshd = Options::new().start();
    for bad in ["kill -9 $$", "kill -9 $PPID", "kill -KILL 0"] {
        let (observations, _) = run(&sshd, &around(Command::new(bad))).await;
        assert_neighbours_fine(&observations);
        match &observations[3] {
            Observation::Lost(Lost::KilledLane) => {}
            // Its parent is not its shell: that one it may kill and still answer.
            Observation::Done(done) => assert!(done.exit != 0 || bad.contains("PPID"), "{bad}: {done:?}"),
            other => panic!("{bad}: {other:?}"),
        }
    }
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn background_children_hold_nobody_up() {
    proves("AC-03");
    let sshd = Options::new().start();
    let since = Instant::now();
    let (observations, report) = run(&sshd, &around(Command::new("sleep 7774 & echo bg"))).await;
    assert_eq!(out(&observations[3]), "bg\n");
    assert_neighbours_fine(&observations);
    assert_eq!(report.restarts, 0);
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    gone("sleep 7774", Duration::from_secs(3)).await;
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn isolated_children_say_nothing_later() {
    proves("AC-03");
    let sshd = Options::new().start();
    let mut plan =
        plan(&["(sleep 0.2; echo POLLUTE; echo POLLUTE >&2) & echo first", "sleep 0.5; echo second"]);
    plan.commands[0].isolate = true;
    let options = RunOptions { lanes: 1, ..RunOptions::within(Duration::from_secs(30)) };
    let (observations, _) = run_with(&sshd, &plan, &sshd.secret(), &options).await.expect("runs");
    assert_eq!((out(&observations[0]).as_str(), out(&observations[1]).as_str()), ("first\n", "second\n"));
    assert!(done(&observations[1]).stderr.is_empty());
}

// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn isolated_commands_leave_no_files() {
    proves("AC-13");
    let sshd = Options::new().start();
    let mut plan = plan(&["ls -d /dev/shm/.ow-* | wc -l", "echo x; echo y >&2", "sleep 7775"]);
    for command in &mut plan.commands {
        command.isolate = true;
        command.limit = Duration::from_secs(1);
    }
    let (observations, _) = run(&sshd, &plan).await;
    assert_eq!(done(&observations[1]).stderr, b"y\n");
    assert_eq!(observations[2], Observation::Lost(Lost::Timeout));
    gone("sleep 7775", Duration::from_secs(3)).await;
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn frames_cannot_be_guessed_or_borrowed() {
    proves("AC-03");
    let sshd = Options::new().start();
    let bad =
        "printf '\\n%s E 3 0 1.00\\n' \"$_kn\"; printf '\\n%032d E 3 0 1.00\\n' 7; echo \"[$_kn]\"; exit 9";
    let (observations, report) = run(&sshd, &around(Command::new(bad))).await;
    assert_neighbours_fine(&observations);
    let done = done(&observations[3]);
    assert_eq!(done.exit, 9);
    assert!(
        done.stdout.ends_with(b"[]\n"),
        "the nonce is out of reach: {:?}",
        String::from_utf8_lossy(&done.stdout)
    );
    assert_eq!(report.restarts, 0);
}

#[tokio::test]
async fn one_that_eats_the_script() {
    let sshd = Options::new().start();
    let (observations, _) = run(&sshd, &around(limited("cat /proc/$$/fd/0 >/dev/null", 1))).await;
    assert_neighbours_fine(&observations);
}

// @spec remote-session
// @ac AC-03
#[tokio::test]
async fn many_bad_ones_do_not_take_the_good_ones_down() {
    proves("AC-03");
    let sshd = Options::new().start();
    let mut commands: Vec<Command> = (0..30).map(|i| Command::new(format!("echo {i}"))).collect();
    for at in [2, 7, 12, 17, 22, 27] {
        commands[at] = Command::new("kill -9 $$");
    }
    let (observations, report) = run(&sshd, &Plan { commands }).await;
    for (i, observation) in observations.iter().enumerate() {
        if i % 5 == 2 {
            assert_eq!(done(observation).exit, 137, "{i}");
        } else {
            assert_eq!(out(observation), format!("{i}\n"));
        }
    }
    assert!(report.restarts >= 2 && report.restarts <= 4, "careful after the third: {report:?}");
}

#[tokio::test]
async fn a_hang_where_there_is_one_slot() {
    let sshd = Options::new().config("MaxSessions 1").start();
    let (observations, report) = run(&sshd, &around(limited("sleep 7776", 1))).await;
    assert_eq!(observations[3], Observation::Lost(Lost::Timeout));
    assert_neighbours_fine(&observations);
    assert!(report.reconnects >= 1, "{report:?}");
    gone("sleep 7776", Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_deadline_keeps_what_was_answered() {
    let sshd = Options::new().start();
    let options = RunOptions { lanes: 1, ..RunOptions::within(Duration::from_secs(2)) };
    let plan = Plan {
        commands: vec![Command::new("echo kept"), limited("sleep 7777", 60), Command::new("echo late")],
    };
    let since = Instant::now();
    let (observations, report) = run_with(&sshd, &plan, &sshd.secret(), &options).await.expect("runs");
    assert!(since.elapsed() < Duration::from_secs(7), "{:?}", since.elapsed());
    assert_eq!(out(&observations[0]), "kept\n");
    assert_eq!(observations[1], Observation::Lost(Lost::Connection));
    assert_eq!(out(&observations[2]), "late\n", "on a single lane what may take long comes last");
    assert!(report.out_of_time);
    gone("sleep 7777", Duration::from_secs(10)).await;
}

// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn cancelling_stops_and_clears_away() {
    proves("AC-13");
    let sshd = Options::new().start();
    cancelled(&sshd, sshd.port(), limited("sleep 7778", 60), "sleep 7778", 2, || ()).await;
    gone("sleep 7778", Duration::from_secs(10)).await;
}

/// What a command goes on to say does not hold up its own end.
// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn cancelling_one_that_never_stops_talking_clears_it_away() {
    proves("AC-13");
    let batch = Options::new().start();
    for (sshd, number) in [(&batch, 7797), (&one_by_one(), 7798)] {
        let far = Proxy::to(sshd.port()).await;
        far.delay(Duration::from_millis(300));
        // Nor does it end because nobody listens.
        let talks = format!("trap '' PIPE; while :; do echo {number}; done");
        let (script, process) = (format!("sh -c \"{talks}\" x"), format!("sh -c {talks} x"));
        cancelled(sshd, far.port(), limited(&script, 60), &process, 2, || ()).await;
        gone(&process, Duration::from_secs(10)).await;
    }
}

/// Where each command has its own execution.
fn one_by_one() -> Sshd {
    Options::new().force_command("exec sh -c \"$SSH_ORIGINAL_COMMAND\" </dev/null").start()
}

/// The way back is long: when everything is to stop the command runs and nothing has been heard of its lane.
// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn cancelling_clears_away_what_was_not_heard_of() {
    proves("AC-13");
    let batch = Options::new().start();
    let single = one_by_one();
    for (sshd, command, lanes) in
        [(&batch, "sleep 7794", 1), (&batch, "sleep 7795", 2), (&single, "sleep 7796", 2)]
    {
        let far = Proxy::to(sshd.port()).await;
        far.delay(Duration::from_millis(300));
        cancelled(sshd, far.port(), limited(command, 60), command, lanes, || far.restore()).await;
        gone(command, Duration::from_secs(10)).await;
    }
}

/// Where not even its hello comes in time nobody knows what to end; but whose files they are is known.
// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn cancelling_clears_away_the_files_of_what_was_never_heard_of() {
    proves("AC-13");
    let sshd = Options::new().start();
    let far = Proxy::to(sshd.port()).await;
    far.delay(Duration::from_millis(300));
    let isolated = Command { isolate: true, ..limited("sleep 7799", 10) };
    let output = Mutex::new(None);
    let late = || {
        *output.lock().unwrap() = output_of("sleep 7799");
        far.silence();
    };
    let fair = async {
        // Longer than hellos are waited for, and for less than there is for clearing away.
        tokio::time::sleep(Duration::from_secs(3)).await;
        far.restore();
    };
    let seen = async {
        while output.lock().unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fair.await;
    };
    tokio::join!(cancelled(&sshd, far.port(), isolated, "sleep 7799", 1, late), seen);
    let output = output.into_inner().unwrap().expect("it runs");
    assert!(output.to_string_lossy().contains("/.ow-"), "{output:?}");
    let until = Instant::now() + Duration::from_secs(5);
    while output.exists() {
        assert!(Instant::now() < until, "still there: {output:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    gone("sleep 7799", Duration::from_secs(20)).await;
}

/// Where a process writes what it says.
fn output_of(command: &str) -> Option<PathBuf> {
    let one = |entry: std::io::Result<std::fs::DirEntry>| {
        let process = entry.ok()?.path();
        let line = std::fs::read(process.join("cmdline")).ok()?;
        // Itself, not the shells whose script it is part of.
        let itself = String::from_utf8_lossy(&line).replace('\0', " ").trim_end() == command;
        itself.then(|| std::fs::read_link(process.join("fd/1")).ok()).flatten()
    };
    std::fs::read_dir("/proc").into_iter().flatten().find_map(one)
}

/// Runs a command, cancels as soon as the process with these words is there, and does something in the same moment.
async fn cancelled(sshd: &Sshd, port: u16, command: Command, words: &str, lanes: u8, then: impl FnOnce()) {
    let cancel = CancellationToken::new();
    let limits = Limits { hello: Duration::from_secs(30), ..Limits::default() };
    let target = target(port, sshd.user());
    let connection = connect(&target, &known(sshd), &limits, &cancel).await.expect("connects");
    let mut session = connection.login(&sshd.secret()).await.expect("logs in");
    // More than a talkative one can say until then.
    let caps = Caps { check_bytes: 1 << 30, host_bytes: 1 << 30 };
    let (plan, options, secret) = (
        Plan { commands: vec![command] },
        RunOptions { lanes, caps, ..RunOptions::within(Duration::from_secs(60)) },
        sshd.secret(),
    );
    let stop = async {
        while output_of(words).is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cancel.cancel();
        then();
    };
    let (result, ()) = tokio::join!(session.run(&plan, &options, &secret), stop);
    assert!(matches!(result, Err(RemoteError::Cancelled)), "{result:?}");
}

// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn nothing_outlives_a_client_that_vanished() {
    proves("AC-13");
    let sshd = Options::new().start();
    let mut session = login(&sshd).await;
    let (plan, secret) = (Plan { commands: vec![limited("sleep 7779", 60)] }, sshd.secret());
    let options = RunOptions::within(Duration::from_secs(3));
    {
        let running = session.run(&plan, &options, &secret);
        let begun = async {
            while processes_with("sleep 7779").is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            _ = running => panic!("it hangs"),
            () = begun => {}
        }
    }
    // As after a kill: no goodbye, no clearing away.
    drop(session);
    assert!(!processes_with("sleep 7779").is_empty(), "the target itself has to end it");
    gone("sleep 7779", Duration::from_secs(20)).await;
}

#[tokio::test]
async fn a_target_without_timeout() {
    let sshd =
        Options::new().force_command("PATH=$OW_BIN; export PATH; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"");
    let bin = tempfile::tempdir().expect("a directory");
    for program in ["sleep", "id", "mkdir", "rm", "head", "cat"] {
        let real = openwatch_tests::sshd::find(program).expect("a basic program");
        std::os::unix::fs::symlink(real, bin.path().join(program)).expect("a link");
    }
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(bin.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let sshd = sshd.config(format!("SetEnv OW_BIN={}", bin.path().display())).start();
    // /usr/sbin and /sbin are added to the path and have no timeout either.
    let (observations, report) = run(&sshd, &around(limited("sleep 7780", 1))).await;
    assert_neighbours_fine(&observations);
    assert_eq!(observations[3], Observation::Lost(Lost::Timeout));
    assert_eq!(report.fallback, None);
    gone("sleep 7780", Duration::from_secs(5)).await;
}
