//! A place where the files can be used as they are: namespaces of the kernel, in which names, ports and paths are free.
//!
//! The test starts itself again in a process namespace of its own. Whatever it starts, mounts and connects
//! there is gone with it, however it ends; nothing of it is ever seen outside.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use openwatch_tests::{Program, sshd};

/// Set for the test inside: the directory that becomes its disk.
const INSIDE: &str = "OPENWATCH_TEST_COMPOSE_DIR";
/// How long everything may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Programs that do what an engine would.
const TOOLS: [&str; 8] = ["ip", "unshare", "nsenter", "setpriv", "mount", "chroot", "psql", "wget"];

/// The directory to work in, when this process is the one inside.
pub(crate) fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Why there can be no namespaces here.
pub(crate) fn obstacle() -> Option<String> {
    if !sshd::is_root() {
        return Some("network namespaces need root".to_owned());
    }
    let missing: Vec<_> = TOOLS.into_iter().filter(|tool| sshd::find(tool).is_none()).collect();
    if !missing.is_empty() {
        return Some(format!("{} not installed", missing.join(", ")));
    }
    // In a container without the right to mount, say.
    let try_out = "ip link add try0 type bridge && ip link add try1 type veth peer name try2 && mount -t tmpfs tmpfs /mnt";
    let output = Command::new("unshare")
        .args(["--mount", "--net", "--uts", "--pid", "--fork", "--mount-proc", "sh", "-c", try_out])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Runs the test of this name inside, and shows what it said.
pub(crate) async fn run_inside(test: &str) {
    // Made and removed out here, where nothing is mounted on it.
    let dir = tempfile::Builder::new().prefix("ow-compose-").tempdir().unwrap();
    let unshare = ["--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"];
    // Process 1 has to bury orphans, which a shell does while it waits.
    let program = Program::other(sshd::find("unshare").unwrap(), unshare);
    let program = ["sh", "-c", "\"$@\"; exit $?", "sh"].into_iter().fold(program, Program::arg);
    let program = program.arg(std::env::current_exe().unwrap()).arg(test).arg("--exact").arg("--nocapture");
    let mut running = program.env(INSIDE, dir.path()).spawn();
    let since = Instant::now();
    while running.try_wait().is_none() && since.elapsed() < LIMIT {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = running.try_wait();
    let said = format!("{}{}", running.stdout(), running.stderr());
    assert!(status.is_some_and(|status| status.success()), "{test} inside ended with {status:?}:\n{said}");
    println!("{said}");
}

/// Bridge, disk and image; once, inside.
pub(crate) fn set_up(dir: &Path) {
    // Or we would mount over the machine that the tests run on.
    assert_eq!(rustix::process::getppid(), rustix::process::Pid::from_raw(1), "only inside namespaces");
    sh("machine.sh", include_str!("machine.sh"), dir);
}

fn sh(name: &str, script: &str, dir: &Path) {
    let output =
        Command::new("sh").args(["-c", script, name]).arg(dir).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}
