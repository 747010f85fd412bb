//! Ctrl-C, at whatever moment.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::{Duration, Instant};

use openwatch_tests::{Program, Running, Stack, eventually_within, sshd};
use rustix::process::{Pid, Signal, kill_process_group};

use super::ground::Ground;
use super::processes_of;
use super::rest::Rest;

/// What a terminal does: everybody in the group hears it.
fn press(running: &Running) {
    let group = Pid::from_raw(running.process_id().try_into().unwrap()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
}

async fn ends_with_130(running: &mut Running, data: &Path, when: &str) {
    let pressed = Instant::now();
    let status = running.wait().await;
    // A shell says 130 of both; only the very first instructions may die of the signal itself.
    let told = status.code() == Some(130) || (when == "0 ms" && status.signal() == Some(2));
    assert!(told, "after {when}: {status:?}\n{}", running.stderr());
    assert!(!running.stderr().contains("panicked"), "after {when}: {}", running.stderr());
    eventually_within(Duration::from_secs(5), &format!("no process left after {when}"), || async {
        processes_of(data).is_empty().then_some(())
    })
    .await;
    assert!(pressed.elapsed() < Duration::from_secs(20), "after {when}: {:?}", pressed.elapsed());
}

// @spec trunk
// @ac AC-06
#[tokio::test]
async fn at_any_moment_of_the_start() {
    println!("@spec trunk");
    println!("@ac AC-06");
    let outer = tempfile::Builder::new().prefix("ow-int-").tempdir().unwrap();
    std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let attempt = |number: usize, wait_ms: u64| {
        let data = outer.path().join(format!("data-{number}"));
        async move {
            let mut up = Program::new(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).spawn();
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            up.hears_interrupts().await;
            press(&up);
            ends_with_130(&mut up, &data, &format!("{wait_ms} ms")).await;
            data
        }
    };
    let first = attempt(0, 0).await;
    for (number, wait_ms) in [150, 400, 900, 1800].into_iter().enumerate() {
        attempt(number + 1, wait_ms).await;
    }
    // What was left half-way is gone on with.
    let mut up = Program::new(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&first).spawn();
    up.line("openwatch: ready at").await;
    press(&up);
    ends_with_130(&mut up, &first, "being ready").await;
}

// @spec trunk
// @ac AC-06
#[tokio::test]
async fn in_the_middle_of_a_scan() {
    println!("@spec trunk");
    println!("@ac AC-06");
    let (ground, sshd) = (Ground::new(2).slow(3), sshd::Options::new().start());
    let mut stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web-1", &sshd).await;
    stack.ended_scans("web-1", 1).await;
    let rest = Rest::of(&stack.client());
    let scan = rest.scan("web-1").await;
    rest.scan_in(&scan, &["running"]).await;
    let data = stack.data_dir();
    press(stack.up());
    ends_with_130(stack.up(), &data, "a scan began").await;

    // What was in hand was finished or given back: the next life ends it at once.
    stack.restart().await;
    let rest = Rest::of(&stack.client());
    let ended = rest.scan_in(&scan, &["completed", "failed"]).await;
    assert_eq!(ended["scan"]["state"], "completed", "{ended}");

    // Twice means at once.
    let scan = rest.scan("web-1").await;
    rest.scan_in(&scan, &["running"]).await;
    press(stack.up());
    tokio::time::sleep(Duration::from_millis(100)).await;
    press(stack.up());
    ends_with_130(stack.up(), &data, "the second press").await;
}

// @spec trunk
// @ac AC-06
#[tokio::test]
async fn while_a_stage_waits_for_its_servers() {
    println!("@spec trunk");
    println!("@ac AC-06");
    let dir = tempfile::Builder::new().prefix("ow-int-").tempdir().unwrap();
    let keys = dir.path().join("keys");
    super::fleet::ran(Program::new(["keys", "init", "--dir"]).arg(&keys)).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut executor = Program::new(["executor", "--keys"])
        .arg(&keys)
        .env("OPENWATCH_NATS_URL", format!("nats://{nobody}"))
        .spawn();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    press(&executor);
    ends_with_130(&mut executor, dir.path(), "a wait for NATS").await;
}
