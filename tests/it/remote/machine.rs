//! Machines that lack something, and what is left on any machine after commands that had to be ended.

use openwatch_model::plan::Lost;
use openwatch_tests::sshd::{TempUser, can_remake};

use super::*;

const NOTHING_WRITABLE: &str = "
    mount --bind \"$OW_DIR\" \"$OW_DIR\"
    for dir in /tmp /dev/shm /run; do mount -t tmpfs -o ro none $dir; done
    mkdir -p \"$OW_DIR/run\" && mount --bind \"$OW_DIR/run\" /run && mkdir -p /run/sshd
    mount -o remount,bind,ro /";
const FULL_TMP: &str = "
    mount -t tmpfs -o size=64k none /tmp
    mount -t tmpfs -o ro none /dev/shm
    mount -t tmpfs none /run && mkdir -p /run/sshd
    cat /dev/zero >/tmp/filler 2>/dev/null || true";
const NO_SHM: &str = "mount -t tmpfs -o ro none /dev/shm; mount -t tmpfs none /run; mkdir -p /run/sshd";
const NO_PROC: &str = "mount -t tmpfs -o ro none /proc";

/// The usual, the awkward, and a hang; then what must be fine after it.
async fn copes(sshd: &Sshd, what: &str, word: u32) {
    for isolate in [false, true] {
        let mut plan = plan(&[
            "echo one",
            "echo err >&2; exit 3",
            "head -c 70000 /dev/zero | tr '\\0' x",
            "cat",
            "printf '\\000\\377'",
            &format!("sleep {word}"),
            "echo last",
        ]);
        plan.commands[5].limit = Duration::from_secs(1);
        plan.commands.iter_mut().for_each(|c| c.isolate = isolate);
        let (observations, report) = run(sshd, &plan).await;
        let what = format!("{what}, isolated {isolate}: {report:?}");
        assert_eq!(out(&observations[0]), "one\n", "{what}");
        assert_eq!((done(&observations[1]).exit, &done(&observations[1]).stderr[..]), (3, &b"err\n"[..]));
        assert_eq!(done(&observations[2]).stdout, vec![b'x'; 70_000], "{what}");
        assert_eq!((done(&observations[3]).exit, done(&observations[3]).stdout.len()), (0, 0), "{what}");
        assert_eq!(done(&observations[4]).stdout, b"\0\xff", "{what}");
        assert_eq!(observations[5], Observation::Lost(Lost::Timeout), "{what}");
        assert_eq!(out(&observations[6]), "last\n", "{what}");
        assert_eq!(report.fallback, None, "{what}");
    }
    gone(&format!("sleep {word}"), Duration::from_secs(8)).await;
}

// @spec remote-session
// @ac AC-06
#[tokio::test]
async fn machines_with_little_room() {
    proves("AC-06");
    if !can_remake() {
        return;
    }
    let each = [
        (NOTHING_WRITABLE, "nothing writable", 7201),
        (FULL_TMP, "full /tmp", 7202),
        (NO_SHM, "no /dev/shm", 7203),
    ];
    let each = each.into_iter().map(|(machine, what, word)| async move {
        copes(&Options::new().machine(machine).start(), what, word).await;
    });
    futures::future::join_all(each).await;
    // There the server itself has to end what hangs, which it does for everybody but root.
    let Some(user) = TempUser::create() else { return };
    copes(&Options::new().machine(NO_PROC).user(&user).start(), "no /proc", 7204).await;
}

/// A path with these programs only.
fn only(programs: &[&str]) -> (tempfile::TempDir, Sshd) {
    use std::os::unix::fs::PermissionsExt as _;
    let bin = tempfile::tempdir().expect("a directory");
    for program in programs {
        let real = find(program).expect("a basic program");
        std::os::unix::fs::symlink(real, bin.path().join(program)).expect("a link");
    }
    std::fs::set_permissions(bin.path(), std::fs::Permissions::from_mode(0o755)).expect("permissions");
    // /usr/sbin and /sbin are added to the path and have none of the others either.
    let sshd = Options::new()
        .force_command("PATH=$OW_BIN; export PATH; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")
        .config(format!("SetEnv OW_BIN={}", bin.path().display()))
        .start();
    (bin, sshd)
}

// @spec remote-session
// @ac AC-06
#[tokio::test]
async fn machines_with_few_programs() {
    proves("AC-06");
    let common = ["sleep", "id", "mkdir", "rm"];
    let each =
        [&["timeout", "dd"][..], &["timeout", "cat"], &["head"], &[]].into_iter().map(|more| async move {
            let (_bin, sshd) = only(&[&common[..], more].concat());
            for isolate in [false, true] {
                let mut plan = plan(&["echo one; echo err >&2; exit 3", "printf '%070000d' 7", "echo last"]);
                plan.commands.iter_mut().for_each(|c| c.isolate = isolate);
                let (observations, report) = run(&sshd, &plan).await;
                let what = format!("{more:?}, isolated {isolate}: {report:?}");
                let first = done(&observations[0]);
                assert_eq!(
                    (first.exit, &first.stdout[..], &first.stderr[..]),
                    (3, &b"one\n"[..], &b"err\n"[..])
                );
                assert_eq!(done(&observations[1]).stdout.len(), 70_000, "{what}");
                assert_eq!((out(&observations[2]).as_str(), report.fallback), ("last\n", None), "{what}");
            }
        });
    futures::future::join_all(each).await;
}

/// An answer that cannot be read back is lost: an empty one would be taken for what the command said.
#[tokio::test]
async fn a_spool_that_nothing_reads_back_makes_no_answer() {
    let (_bin, sshd) = only(&["sleep", "id", "mkdir", "rm", "timeout"]);
    let mut plan = plan(&["echo one", "exit 3", "echo two"]);
    for index in [0, 1] {
        plan.commands[index].isolate = true;
    }
    let (observations, _) = run(&sshd, &plan).await;
    assert_eq!(observations[0], Observation::Lost(Lost::KilledLane));
    assert_eq!((done(&observations[1]).exit, out(&observations[2]).as_str()), (3, "two\n"));
}

/// A spool that runs full while a command writes holds part of its answer.
#[tokio::test]
async fn part_of_an_answer_is_no_answer() {
    if !can_remake() {
        return;
    }
    let small = "mount -t tmpfs -o size=64k none /dev/shm";
    let sshd = Options::new().machine(small).start();
    let mut plan = plan(&["head -c 200000 /dev/zero | tr '\\0' x; true", "echo fine"]);
    plan.commands[0].isolate = true;
    let (observations, _) = run(&sshd, &plan).await;
    assert_eq!(observations[0], Observation::Lost(Lost::KilledLane));
    assert_eq!(out(&observations[1]), "fine\n");
}

// @spec remote-session
// @ac AC-13
#[tokio::test]
async fn nothing_is_left_behind_after_commands_that_had_to_be_ended() {
    proves("AC-13");
    if !can_remake() {
        return;
    }
    // Places of its own, so that whatever is found there afterwards is ours.
    let places =
        "for dir in /dev/shm /tmp /run; do mkdir -p \"$OW_DIR/places$dir\"; chmod 1777 \"$OW_DIR/places$dir\"
                  mount --bind \"$OW_DIR/places$dir\" $dir; done; mkdir -p /run/sshd";
    let sshd = Options::new().machine(places).start();
    let mut plan = plan(&[
        "sleep 7211",
        "trap '' TERM HUP INT; sleep 7211; sleep 7211",
        "sleep 7211 & echo bg",
        "(sleep 7211 &) ; echo twice",
        "kill -9 $$; sleep 7211",
        "kill -9 0",
        "yes 7211",
        "echo spooled",
    ]);
    plan.commands.iter_mut().for_each(|c| c.limit = Duration::from_secs(1));
    for isolate in [false, true] {
        plan.commands.iter_mut().for_each(|c| c.isolate = isolate);
        let (observations, _) = run(&sshd, &plan).await;
        assert_eq!(out(&observations[7]), "spooled\n");
        gone("7211", Duration::from_secs(8)).await;
    }
    let mut left = Vec::new();
    let mut places = vec![sshd.dir().join("places")];
    while let Some(place) = places.pop() {
        for entry in std::fs::read_dir(place).expect("a directory").flatten() {
            if entry.file_name().to_string_lossy().starts_with(".ow") {
                left.push(entry.path());
            } else if entry.path().is_dir() {
                places.push(entry.path());
            }
        }
    }
    assert!(left.is_empty(), "{left:?}");
}

/// Nobody else may look into a spool or put something there; its name cannot be known before it exists.
#[tokio::test]
async fn a_spool_is_for_its_owner_only() {
    if !can_remake() {
        return;
    }
    let machine = "mount -t tmpfs -o ro none /dev/shm; mount -t tmpfs none /run; mkdir -p /run/sshd
                   mount -t tmpfs none /tmp; umask 000";
    let sshd = Options::new().machine(machine).start();
    let mut plan = plan(&["ls -ld /tmp/.ow-* | cut -c1-10"]);
    plan.commands[0].isolate = true;
    let (observations, _) = run(&sshd, &plan).await;
    assert_eq!(out(&observations[0]), "drwx------\n");
}
