//! How many copies of a secret a process still holds once its session is closed. A number to watch, not a promise.

use std::io::{Read as _, Seek as _, SeekFrom};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openwatch_tests::Program;
use rustix::process::Signal;

use super::*;

/// Most copies of the secret half of an ed25519 key: moves inside of the libraries leave them.
const SEEDS: usize = 60;
/// Most copies of a password.
const PASSWORDS: usize = 3;
/// Most copies of a line of the key's text.
const LINES: usize = 2;
const PORT: &str = "OW_MEMORY_PORT";

/// The child: one session with a key and a password, then it waits to be looked at.
#[tokio::test]
#[ignore = "run by the test below"]
async fn child_of_the_memory_test() {
    let Some(port) = std::env::var(PORT).ok().and_then(|text| text.parse().ok()) else { return };
    let dir = std::env::var("OW_MEMORY_DIR").expect("a directory");
    let user = std::env::var("OW_MEMORY_USER").expect("a user");
    {
        let mut secret = Secret::default();
        secret.private_key = std::fs::read_to_string(format!("{dir}/client")).ok();
        secret.sudo_password = std::fs::read_to_string(format!("{dir}/password")).ok();
        let policy = HostKeyPolicy::new(HostKeyMode::Tofu, Vec::new());
        let (target, limits, cancel) = (target(port, &user), Limits::default(), CancellationToken::new());
        let connection = connect(&target, &policy, &limits, &cancel).await.expect("connects");
        let mut session = connection.login(&secret).await.expect("logs in");
        let options = RunOptions::within(Duration::from_secs(30));
        session.run(&plan(&["echo a"; 50]), &options, &secret).await.expect("runs");
        session.close().await;
    }
    println!("closed");
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// Copies of each in the writable memory of a process.
fn copies(pid: u32, needles: &[&[u8]]) -> Vec<usize> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let mut memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut found = vec![0; needles.len()];
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")))
    {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).expect("fits")];
        // Some regions cannot be read; nothing of ours is in them.
        if memory.seek(SeekFrom::Start(from)).and_then(|_| memory.read_exact(&mut bytes)).is_err() {
            continue;
        }
        for (count, needle) in found.iter_mut().zip(needles) {
            *count += bytes.windows(needle.len()).filter(|window| window == needle).count();
        }
    }
    found
}

/// The 32 secret bytes of an unencrypted ed25519 key in OpenSSH's format: they come after its public half, which stands in
/// the private section a second time.
fn seed(text: &str) -> Vec<u8> {
    let text: String = text.lines().filter(|line| !line.starts_with("---")).collect();
    let blob = STANDARD.decode(text).expect("base64");
    let tail = blob.windows(4).rposition(|window| window == 64_u32.to_be_bytes()).expect("the private half");
    blob[tail + 4..tail + 36].to_vec()
}

// @spec remote-session
// @ac AC-14
#[tokio::test]
async fn copies_of_secrets_after_a_closed_session() {
    proves("AC-14");
    let sshd = Options::new().start();
    let password = "a-Sudo-Password-Nobody-Else-Has-93";
    std::fs::write(sshd.dir().join("password"), password).expect("a file");
    let this = std::env::current_exe().expect("this program");
    let name = "remote::memory::child_of_the_memory_test";
    let mut child = Program::other(this, ["--exact", name, "--ignored", "--nocapture"])
        .env(PORT, sshd.port().to_string())
        .env("OW_MEMORY_DIR", sshd.dir())
        .env("OW_MEMORY_USER", sshd.user())
        .spawn();
    child.line("closed").await;
    let seed = seed(sshd.private_key());
    let text = sshd.private_key().lines().nth(3).expect("a line of the key").to_owned();
    let found = copies(child.process_id(), &[&seed, password.as_bytes(), text.as_bytes()]);
    child.signal(Signal::KILL);
    println!(
        "copies after close: {} of the seed, {} of the password, {} of the key's text",
        found[0], found[1], found[2]
    );
    assert!(found[0] <= SEEDS && found[1] <= PASSWORDS && found[2] <= LINES, "{found:?}");
}
