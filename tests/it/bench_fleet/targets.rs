//! A thousand hosts that take next to nothing, in a process of their own: their part of the machine is not ours.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use openwatch_tests::scripted::{Act, Scripted};
use openwatch_tests::sshd::generate_key;
use tokio::sync::watch;

/// Set for the process that is the targets.
const ROLE: &str = "OPENWATCH_BENCH_TARGETS";

/// One server that is all of them. Ends with this value.
pub(super) struct Targets {
    process: Child,
    /// Stays open: the process says more than its port.
    _said: BufReader<ChildStdout>,
    port: u16,
    private_key: String,
}

impl Targets {
    pub(super) fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["bench_fleet::targets::serve", "--exact", "--ignored", "--nocapture"])
            .env(ROLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let mut lines = said.by_ref().lines().map_while(Result::ok);
        let port =
            lines.find_map(|line| line.split_once("port ")?.1.parse().ok()).expect("the targets begin");
        let dir = tempfile::TempDir::new().unwrap();
        generate_key(&dir.path().join("key"), "ed25519");
        let private_key = std::fs::read_to_string(dir.path().join("key")).unwrap();
        Self { process, _said: said, port, private_key }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// A key; they let everybody in.
    pub(super) fn private_key(&self) -> &str {
        &self.private_key
    }
}

impl Drop for Targets {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process of [`Targets::start`], until its standard input ends. By itself it measures nothing.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the targets of bench_fleet"]
async fn serve() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let (_open, gate) = watch::channel(true);
    let server = Scripted::start(|_| {}, move |act: Act| act.quick(gate.clone())).await;
    println!("port {}", server.port());
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = ended.await;
}
