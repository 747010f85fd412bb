//! One server process: start it, see whether it is ready, stop it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::child::{ChildSpec, User};
use super::error::PrivateError;
use super::find::Kind;

/// How a server shows that it takes work.
#[derive(Debug)]
pub(super) enum Ready {
    /// PostgreSQL writes its process id and, on the eighth line, its state into this file.
    PostmasterFile(PathBuf),
    /// A NATS server greets every connection with its name and whether JetStream is on.
    Greeting { name: String },
}

/// Everything needed to start one server again and again in the same way.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) kind: Kind,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Also how a leftover is recognised, see [`super::leftovers`].
    pub(super) cwd: PathBuf,
    pub(super) log: PathBuf,
    pub(super) user: Option<User>,
    pub(super) port: u16,
    pub(super) ready: Ready,
    /// The number of the running process, 0 while there is none.
    pub(super) pid: Arc<AtomicU32>,
}

impl Server {
    pub(super) fn spawn(&self, reexec: &Path) -> Result<Child, PrivateError> {
        let spec = ChildSpec {
            program: &self.program,
            args: self.args.clone(),
            cwd: &self.cwd,
            at_parent_death: at_parent_death(self.kind),
            user: self.user.as_ref(),
            log: &self.log,
        };
        let child = spec.spawn(reexec).map_err(PrivateError::io("run", reexec))?;
        self.pid.store(child.id(), Ordering::Relaxed);
        Ok(child)
    }

    /// Whether that very child answers: a stranger on the same port, or a file of a dead server, is not it.
    pub(super) fn is_ready(&self, child: &Child) -> bool {
        match &self.ready {
            Ready::PostmasterFile(path) => std::fs::read_to_string(path).is_ok_and(|text| {
                let mut lines = text.lines().map(str::trim);
                lines.next() == Some(child.id().to_string().as_str()) && lines.nth(6) == Some("ready")
            }),
            Ready::Greeting { name } => greeting(self.port).is_ok_and(|info| {
                info.contains(&format!(r#""server_name":"{name}""#)) && info.contains(r#""jetstream":true"#)
            }),
        }
    }

    /// From polite to final; each signal with the time it is given.
    pub(super) fn stop_steps(&self) -> [(Signal, Duration); 3] {
        let polite = match self.kind {
            // Fast shutdown: ends sessions, writes a checkpoint.
            Kind::Postgres => Signal::INT,
            Kind::Nats => Signal::TERM,
        };
        let (grace, last) = (Duration::from_secs(10), Duration::from_secs(5));
        [(polite, grace), (at_parent_death(self.kind), last), (Signal::KILL, last)]
    }

    /// The end of the server's output.
    pub(super) fn last_lines(&self) -> String {
        last_lines(&self.log)
    }
}

/// Signals a child that was not waited for yet, so that its process id is surely still its own.
pub(super) fn signal(child: &Child, signal: Signal) {
    // The only failure is that it ended by itself.
    let _ = kill_process(Pid::from_child(child), signal);
}

fn at_parent_death(kind: Kind) -> Signal {
    match kind {
        // Helpers end with it and shared memory is cleaned up, which KILL would leave behind.
        Kind::Postgres => Signal::QUIT,
        // Has no helpers, and every acknowledged message is synced: nothing to tidy, nothing to wait for.
        Kind::Nats => Signal::KILL,
    }
}

fn greeting(port: u16) -> std::io::Result<String> {
    let patience = Duration::from_millis(500);
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut line = String::new();
    BufReader::new(stream.take(64 * 1024)).read_line(&mut line)?;
    Ok(line)
}

/// The last dozen lines of a log, from its last 8 KiB.
pub(super) fn last_lines(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8 * 1024)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
