//! Shells of every kind, as the login shell and as `/bin/sh`, and what an account may do to its own environment.

use std::path::{Path, PathBuf};

use openwatch_model::plan::Lost;
use openwatch_tests::sshd::can_remake;

use super::*;

/// Commands that every shell answers the same way, with the answers.
const SAME: [(&str, i32, &str, &str); 12] = [
    ("echo \"a$((40+2))b\"", 0, "a42b\n", ""),
    ("echo 'x'; exit 5", 5, "x\n", ""),
    ("printf 'no newline'", 0, "no newline", ""),
    ("echo err >&2; false", 1, "", "err\n"),
    ("exec false", 1, "", ""),
    ("set -e; false; echo unreachable", 1, "", ""),
    ("cd /; PATH=/nowhere; IFS=x; alias echo=false; pwd", 0, "/\n", ""),
    ("pwd | grep -c .; f() { return 7; }; f", 7, "1\n", ""),
    ("cat", 0, "", ""),
    ("echo $#; read -r line; echo \"<$line>\"", 0, "0\n<>\n", ""),
    ("v='a b'; for w in $v; do echo $w; done", 0, "a\nb\n", ""),
    ("cat <<EOF\none $((1+1))\nEOF", 0, "one 2\n", ""),
];

/// Runs the commands above, then some that end badly, and what has to be fine after those.
async fn behaves(sshd: &Sshd, what: &str, word: u32) {
    for isolate in [false, true] {
        let mut commands: Vec<Command> = SAME.iter().map(|row| Command::new(row.0)).collect();
        commands.push(Command::new("if then"));
        commands.push(Command::new("kill -9 $$"));
        let hang = format!("sleep {word}");
        commands.push(Command { limit: Duration::from_secs(1), ..Command::new(hang) });
        commands.push(Command::new("printf '\\000\\377'; echo after"));
        commands.iter_mut().for_each(|c| c.isolate = isolate);
        let (observations, report) = run(sshd, &Plan { commands }).await;
        for (observation, (script, exit, stdout, stderr)) in observations.iter().zip(SAME) {
            let done = done(observation);
            let said = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            assert_eq!(
                (done.exit, said[0].as_str(), said[1].as_str()),
                (exit, stdout, stderr),
                "{what} {isolate}: {script}"
            );
        }
        let rest = &observations[SAME.len()..];
        assert!(done(&rest[0]).exit != 0 && !done(&rest[0]).stderr.is_empty(), "{what}: {:?}", rest[0]);
        assert!(
            matches!(&rest[1], Observation::Done(d) if d.exit != 0)
                || rest[1] == Observation::Lost(Lost::KilledLane),
            "{what}: {:?}",
            rest[1]
        );
        assert_eq!(rest[2], Observation::Lost(Lost::Timeout), "{what}");
        assert_eq!(done(&rest[3]).stdout, b"\0\xffafter\n", "{what}");
        assert_eq!((report.fallback, report.reconnects), (None, 0), "{what}");
    }
    gone(&format!("sleep {word}"), Duration::from_secs(8)).await;
}

fn shell(name: &str) -> Option<PathBuf> {
    let found = ["", "../bin/"].iter().find_map(|place| find(&format!("{place}{name}")));
    if found.is_none() {
        println!("skipped: no {name}");
    }
    found.and_then(|path| path.canonicalize().ok())
}

// @spec remote-session
// @ac AC-01
#[tokio::test]
async fn login_shells_of_all_kinds() {
    proves("AC-01");
    let names = ["sh", "dash", "bash", "mksh", "ksh93", "zsh", "fish", "tcsh", "busybox"];
    let each = names.iter().zip(7101..).map(|(name, word)| async move {
        let Some(path) = shell(name) else { return };
        let path = path.display().to_string();
        let path = if *name == "busybox" { format!("{path} sh") } else { path };
        behaves(&Options::new().login_shell(&path).start(), name, word).await;
    });
    futures::future::join_all(each).await;
}

// @spec remote-session
// @ac AC-01
#[tokio::test]
async fn other_shells_as_bin_sh() {
    proves("AC-01");
    if !can_remake() {
        return;
    }
    let names = ["bash", "mksh", "ksh93", "zsh", "busybox"];
    let each = names.iter().zip(7121..).map(|(name, word)| async move {
        let Some(path) = shell(name) else { return };
        behaves(&Options::new().bin_sh(&path).start(), name, word).await;
    });
    futures::future::join_all(each).await;
}

/// Every program that a session may call is busybox's.
#[tokio::test]
async fn a_target_that_is_all_busybox() {
    let Some(busybox) = shell("busybox").filter(|_| can_remake()) else { return };
    let programs = ["timeout", "head", "dd", "id", "mkdir", "rm", "cat", "sleep", "grep"];
    let mut machine = format!("mount --bind {} \"$(readlink -f /bin/sh)\"\n", busybox.display());
    for program in programs.iter().filter_map(|name| find(name)).filter_map(|p| p.canonicalize().ok()) {
        machine.push_str(&format!("mount --bind {} {}\n", busybox.display(), program.display()));
    }
    behaves(&Options::new().machine(machine).start(), "busybox", 7131).await;
}

// @spec remote-session
// @ac AC-15
#[tokio::test]
async fn an_environment_that_gets_in_the_way() {
    proves("AC-15");
    if !can_remake() {
        return;
    }
    let Some(bash) = shell("bash") else { return };
    // As from ~/.ssh/environment: start files, tracing, and functions in place of what frames are made with.
    let odd = "SetEnv ENV=/dev/full BASH_ENV=/dev/full CDPATH=/ SHELLOPTS=xtrace:verbose PS4=trace POSIXLY_CORRECT=1 \
               LC_ALL=xx_XX GREP_OPTIONS=-v TMPDIR=/nonexistent \"BASH_FUNC_printf%%=() { echo hacked; }\" \
               \"BASH_FUNC_read%%=() { echo hacked; }\" \"BASH_FUNC_kill%%=() { echo hacked; }\"";
    behaves(&Options::new().bin_sh(&bash).config(odd).start(), "odd environment", 7141).await;
}

/// A directory of programs that stand before all others on the target's path.
fn programs(dir: &Path, programs: &[(&str, &str)]) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = dir.join("bin");
    std::fs::create_dir(&bin).expect("a directory");
    for (name, text) in programs {
        std::fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).expect("a program");
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755))
            .expect("permissions");
    }
    bin.display().to_string()
}

fn with_programs(list: &[(&str, &str)]) -> (tempfile::TempDir, Sshd) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    let bin = programs(dir.path(), list);
    let sshd = Options::new()
        .force_command("PATH=$OW_BIN:$PATH; export PATH; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")
        .config(format!("SetEnv OW_BIN={bin}"))
        .start();
    (dir, sshd)
}

// @spec remote-session
// @ac AC-15
#[tokio::test]
async fn programs_on_the_path_change_no_frame() {
    proves("AC-15");
    let list = [("printf", "echo hacked"), ("sh", "echo hacked"), ("read", "exit 9"), ("head", "exit 1")];
    let (_dir, sshd) = with_programs(&list);
    behaves(&sshd, "programs in front", 7151).await;
}

/// One that knows no `-k` has to be found out before its complaint is taken for an answer.
#[tokio::test]
async fn a_timeout_of_another_kind_is_not_used() {
    let old = "case $1 in -t) shift 2; exec \"$@\";; *) echo 'timeout: invalid option' >&2; exit 1;; esac";
    let (_dir, sshd) = with_programs(&[("timeout", old)]);
    let mut plan = plan(&["echo one", "exit 3", "echo err >&2"]);
    plan.commands.iter_mut().for_each(|c| c.isolate = true);
    let (observations, report) = run(&sshd, &plan).await;
    assert_eq!((out(&observations[0]).as_str(), done(&observations[1]).exit), ("one\n", 3));
    assert_eq!(done(&observations[2]).stderr, b"err\n");
    assert_eq!(report.fallback, None);
}

/// Neither a shell nor an end: every execution goes through a `timeout` that hangs.
#[tokio::test]
async fn a_timeout_that_hangs_costs_the_batch_only() {
    let (_dir, sshd) = with_programs(&[("timeout", "sleep 40")]);
    let target = target(sshd.port(), sshd.user());
    let limits = Limits { hello: Duration::from_secs(8), ..Limits::default() };
    let cancel = CancellationToken::new();
    let connection = connect(&target, &known(&sshd), &limits, &cancel).await.expect("connects");
    let mut session = connection.login(&sshd.secret()).await.expect("logs in");
    let options = RunOptions::within(Duration::from_secs(60));
    let (observations, report) =
        session.run(&plan(&["echo a", "exit 4"]), &options, &sshd.secret()).await.expect("runs");
    assert_eq!((out(&observations[0]).as_str(), done(&observations[1]).exit), ("a\n", 4));
    assert!(report.fallback.is_some(), "{report:?}");
    session.close().await;
}
