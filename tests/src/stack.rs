//! A whole running system on this machine: `openwatch up` in a directory of its own, and the command line against it.

use std::path::{Path, PathBuf};

use openwatch_app::place::ClientFile;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{Program, Running};
use crate::sshd::Sshd;
use crate::wait::eventually;

/// A system under test. Killed with everything it started when dropped.
#[derive(Debug)]
pub struct Stack {
    dir: TempDir,
    up: Option<Running>,
    args: Vec<String>,
    authority: Option<PathBuf>,
}

impl Stack {
    /// Starts one on free ports and waits until it is ready.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with more arguments for `openwatch up`.
    pub async fn with(args: &[&str]) -> Self {
        Self::make(args, None).await
    }

    /// The same on a system whose only authority is this one.
    pub async fn believing(authority: PathBuf) -> Self {
        Self::make(&[], Some(authority)).await
    }

    async fn make(args: &[&str], authority: Option<PathBuf>) -> Self {
        let dir = tempfile::Builder::new().prefix("ow-stack-").tempdir().expect("a temporary directory");
        // The private servers run as another user when we are root.
        open_to_search(dir.path());
        let mut stack =
            Self { dir, up: None, args: args.iter().map(|arg| (*arg).to_owned()).collect(), authority };
        stack.restart().await;
        stack
    }

    /// Starts `openwatch up` again on the same directory, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready; shows what it said.
    pub async fn restart(&mut self) {
        self.up = None;
        let mut up = self.up_program().spawn();
        up.line("openwatch: ready at").await;
        self.up = Some(up);
    }

    /// The command that starts it.
    #[must_use]
    pub fn up_program(&self) -> Program {
        let data = self.data_dir();
        let mut program = Program::new(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data);
        if let Some(file) = &self.authority {
            program = program.env("SSL_CERT_FILE", file);
        }
        self.args.iter().fold(program, |program, arg| program.arg(arg))
    }

    /// The running process.
    ///
    /// # Panics
    /// When it was not started.
    pub fn up(&mut self) -> &mut Running {
        self.up.as_mut().expect("openwatch up was started")
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it left for clients.
    ///
    /// # Panics
    /// Before it was ready.
    #[must_use]
    pub fn client(&self) -> ClientFile {
        ClientFile::read(&self.data_dir()).expect("client.json")
    }

    /// Runs a command of the command line against it: exit code, stdout, stderr.
    pub async fn cli(&self, args: &[&str]) -> (Option<i32>, String, String) {
        Program::new(args.iter().copied()).arg("--data-dir").arg(self.data_dir()).run().await
    }

    /// The same with `--json`, which must succeed.
    ///
    /// # Panics
    /// When it fails, or prints no JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let (code, stdout, stderr) = self.cli(&args).await;
        // `scan --wait` also ends in 1 or 2 when rules failed: that is an answer.
        assert!(matches!(code, Some(0..=2)), "{args:?} ended in {code:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{args:?}: {error} in {stdout}"))
    }

    /// Registers a target: credential `key` (the default one, made once) and a host of that name.
    pub async fn add_host(&self, name: &str, sshd: &Sshd) {
        self.add_host_at(name, sshd, sshd.port()).await;
    }

    /// The same behind another port, of a proxy say.
    ///
    /// # Panics
    /// When the command line refuses.
    pub async fn add_host_at(&self, name: &str, sshd: &Sshd, port: u16) {
        let key = self.dir.path().join("target.key");
        if !key.exists() {
            std::fs::write(&key, sshd.private_key()).expect("write the target's key");
            let key = key.display().to_string();
            self.json(&["credential", "add", "key", "--user", sshd.user(), "--key-file", &key, "--default"])
                .await;
        }
        let port = port.to_string();
        self.json(&["host", "add", name, "--address", "127.0.0.1", "--port", &port]).await;
    }

    /// Waits until a host has no open scan and at least so many ended ones; returns them, newest first.
    pub async fn ended_scans(&self, host: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} ended scans of {host}"), || async {
            let scans = self.json(&["scans", "--host", host]).await;
            let scans = scans.as_array()?.clone();
            let ended = |scan: &Value| scan["state"] == "completed" || scan["state"] == "failed";
            (scans.len() >= count && scans.iter().all(ended)).then_some(scans)
        })
        .await
    }
}

fn open_to_search(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o711)).expect("let servers pass");
}
