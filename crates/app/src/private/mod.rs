//! A private PostgreSQL and a private NATS server for a single machine.
//!
//! They listen on loopback only, keep everything under one data directory, are restarted when they die, and end with
//! us: in order when we stop, within moments when we are killed. Nothing of them is reused unchecked by a later start.
//!
//! Start reading at [`Private::start`], then `supervisor` (the loop), `child` (why they cannot outlive us) and
//! `leftovers` (what if they did).

mod child;
mod data_dir;
mod entry;
mod error;
mod find;
mod leftovers;
mod nats;
mod port;
mod postgres;
mod server;
mod supervisor;
mod user;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use zeroize::Zeroizing;

pub use child::{CHILD, child_main};
pub use data_dir::DataDir;
pub use entry::hidden_entry;
pub use error::PrivateError;
pub use find::{Kind, Places};

use supervisor::{StopSignal, Supervisor};

/// What to start. A server that is not named is not started.
#[derive(Debug, Clone)]
pub struct PrivateOptions {
    /// Start PostgreSQL on this loopback port; 0 picks a free one and keeps it for later starts.
    pub postgres_port: Option<u16>,
    /// Start NATS, with these settings.
    pub nats: Option<NatsOptions>,
    /// What must survive what.
    pub durability: Durability,
    /// Where to find the servers' programs.
    pub places: Places,
    /// The program whose `__child` entry becomes the servers: `None` is this very program.
    pub reexec: Option<PathBuf>,
}

impl PrivateOptions {
    /// Whether the choice of this server's port is ours.
    fn leaves_port(&self, kind: Kind) -> bool {
        match kind {
            Kind::Postgres => self.postgres_port == Some(0),
            Kind::Nats => self.nats.as_ref().is_some_and(|nats| nats.port == 0),
        }
    }
}

/// Settings of the private NATS server.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Loopback port; 0 picks a free one and keeps it for later starts.
    pub port: u16,
    /// Text of `users.conf`: one public NKEY for each user that `nats/permissions.conf` names.
    pub users_conf: String,
}

/// Which accidents PostgreSQL must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Power failures too. For everything but tests.
    #[default]
    Full,
    /// The death of any process, but not of the machine: several times faster to set up.
    ProcessCrash,
}

/// A PostgreSQL URL with its password. Wiped on drop; `Debug` prints nothing of it.
#[derive(Clone)]
pub struct PostgresUrl(Zeroizing<String>);

impl PostgresUrl {
    /// The URL itself, for a connection and nothing else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresUrl(..)")
    }
}

/// How to reach the servers that were started.
#[derive(Debug)]
struct Addresses {
    postgres: Option<PostgresUrl>,
    nats: Option<String>,
    pids: Vec<(Kind, Arc<AtomicU32>)>,
}

/// Running private servers. Dropping it stops them as [`Private::stop`] does, and blocks until they are gone.
#[derive(Debug)]
pub struct Private {
    addresses: Addresses,
    failure: oneshot::Receiver<PrivateError>,
    thread: Thread,
}

impl Private {
    /// Starts the servers and waits until both answer. Takes a second or two on a new data directory.
    ///
    /// Safe to drop while it waits: what was started by then is stopped before the drop returns.
    ///
    /// # Errors
    /// Any [`PrivateError`]; nothing is left running then.
    pub async fn start(data: DataDir, options: PrivateOptions) -> Result<Self, PrivateError> {
        let (stop, stopped) = mpsc::channel();
        let (started_tx, started) = oneshot::channel();
        let (failure_tx, failure) = oneshot::channel();
        let body = move || serve(&data, &options, &StopSignal(stopped), started_tx, failure_tx);
        let spawned = std::thread::Builder::new().name("private-servers".to_owned()).spawn(body);
        let handle = spawned.map_err(PrivateError::io("start a thread for", "private servers"))?;
        let thread = Thread { stop: Some(stop), handle: Some(handle) };
        let addresses = started.await.unwrap_or(Err(PrivateError::Stopped))?;
        Ok(Self { addresses, failure, thread })
    }

    /// How to reach the private PostgreSQL, when one was asked for.
    #[must_use]
    pub fn postgres_url(&self) -> Option<&PostgresUrl> {
        self.addresses.postgres.as_ref()
    }

    /// How to reach the private NATS server, when one was asked for. Holds no secret: logins are NKEYs.
    #[must_use]
    pub fn nats_url(&self) -> Option<&str> {
        self.addresses.nats.as_deref()
    }

    /// Process id of a server; `None` when it was not asked for or is being restarted.
    #[must_use]
    pub fn process_id(&self, kind: Kind) -> Option<u32> {
        let (_, pid) = self.addresses.pids.iter().find(|(of, _)| *of == kind)?;
        Some(pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Waits until a server cannot be kept running. A server that merely died is restarted and not reported here.
    ///
    /// Safe to cancel. Once it has returned, the servers are stopped.
    pub async fn wait_failure(&mut self) -> PrivateError {
        (&mut self.failure).await.unwrap_or(PrivateError::Stopped)
    }

    /// Stops both in order, insists after ten seconds, kills after fifteen; returns when they are gone.
    pub async fn stop(self) {
        let mut thread = self.thread;
        // Joining blocks; the runtime has other things to do meanwhile. It fails only when the thread panicked.
        let _ = tokio::task::spawn_blocking(move || thread.end()).await;
    }
}

/// The supervising thread; ends with its handle.
#[derive(Debug)]
struct Thread {
    stop: Option<mpsc::Sender<()>>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    fn end(&mut self) {
        // Hanging up is the wish to stop.
        self.stop = None;
        if let Some(handle) = self.handle.take()
            && handle.join().is_err()
        {
            tracing::error!("the thread that supervises private servers panicked");
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.end();
    }
}

/// A free port may be gone when the server asks for it, seconds later on a busy machine; twice in a row is no accident.
const PORT_TRIES: u32 = 3;

/// The thread's life: prepare, start, watch, stop.
fn serve(
    data: &DataDir,
    options: &PrivateOptions,
    stop: &StopSignal,
    started: oneshot::Sender<Result<Addresses, PrivateError>>,
    failure: oneshot::Sender<PrivateError>,
) {
    let own = PathBuf::from("/proc/self/exe");
    // Not the program's path: it may be unreachable for the servers' user, or replaced by an upgrade.
    let reexec = options.reexec.as_ref().unwrap_or(&own);
    let begin = || {
        let (servers, addresses) = prepare(data, options, reexec, stop)?;
        Ok((Supervisor::start(servers, reexec, stop)?, addresses))
    };
    let mut begun = begin();
    for _ in 1..PORT_TRIES {
        match &begun {
            Err(PrivateError::PortTaken { kind, port }) if options.leaves_port(*kind) => {
                tracing::warn!(server = %kind, port, "somebody was quicker on a free port, using another one");
                begun = begin();
            }
            _ => break,
        }
    }
    let mut supervisor = match begun {
        Ok((supervisor, addresses)) => {
            if started.send(Ok(addresses)).is_err() {
                return;
            }
            supervisor
        }
        Err(error) => {
            // Nobody waits any more: then nobody wants to know either.
            let _ = started.send(Err(error));
            return;
        }
    };
    if let Err(error) = supervisor.watch(stop) {
        drop(supervisor);
        let _ = failure.send(error);
    }
}

fn prepare(
    data: &DataDir,
    options: &PrivateOptions,
    reexec: &std::path::Path,
    stop: &StopSignal,
) -> Result<(Vec<server::Server>, Addresses), PrivateError> {
    let places = &options.places;
    let user = user::unprivileged()?;
    let user = user.as_ref();
    if let Some(user) = user {
        data.let_through(user)?;
    }
    let mut servers = Vec::new();
    let mut addresses = Addresses { postgres: None, nats: None, pids: Vec::new() };
    // NATS first: it is quick to prepare, so what is missing for it shows before a database was made.
    if let Some(NatsOptions { port, users_conf }) = &options.nats {
        let (server, url) = nats::prepare(&nats::Setup { data, places, user, port: *port, users_conf })?;
        servers.push(server);
        addresses.nats = Some(url);
    }
    if let Some(port) = options.postgres_port {
        let durability = options.durability;
        let setup = postgres::Setup { data, places, user, port, durability, reexec, stop };
        let (server, url) = postgres::prepare(&setup)?;
        servers.push(server);
        addresses.postgres = Some(url);
    }
    addresses.pids = servers.iter().map(|server| (server.kind, Arc::clone(&server.pid))).collect();
    Ok((servers, addresses))
}

/// Where the servers' output goes; a log that has grown large is put aside, at most one of each.
fn log_dir(data: &DataDir) -> Result<PathBuf, PrivateError> {
    const LARGE_BYTES: u64 = 10 * 1024 * 1024;
    let dir = data.private_dir("log", None)?;
    for name in ["postgres.log", "nats-server.log"] {
        let log = dir.join(name);
        if log.metadata().is_ok_and(|meta| meta.len() > LARGE_BYTES) {
            std::fs::rename(&log, log.with_extension("log.1")).map_err(PrivateError::io("rotate", &log))?;
        }
    }
    Ok(dir)
}
