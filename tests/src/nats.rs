//! A NATS server for each test, with the project's own users and permissions.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::{fs, io};

use openwatch_app::private::{
    DataDir, Durability, Kind, NatsOptions, Places, Private, PrivateError, PrivateOptions,
};
use openwatch_bus::{Bus, BusOptions, Profile, User, topology};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::program::openwatch;

/// A running server with its users' seeds; gone with this value.
#[derive(Debug)]
pub struct Nats {
    // Declared before its directory: fields are dropped in order, and the server must be gone first.
    private: Private,
    seeds: BTreeMap<&'static str, String>,
    users_conf: String,
    dir: TempDir,
}

impl Nats {
    /// Starts an empty server: no streams yet.
    ///
    /// # Panics
    /// When nats-server cannot be had; the message says what to do.
    pub async fn start() -> Self {
        Self::with_files(&[]).await
    }

    /// Starts a server with all streams, buckets and consumers.
    ///
    /// # Panics
    /// When nats-server cannot be had; the message says what to do.
    pub async fn with_topology() -> Self {
        Self::with_files(TOPOLOGY.get_or_init(topology_files).await).await
    }

    async fn with_files(files: &[StoredFile]) -> Self {
        let (seeds, users_conf) = identities();
        let dir = TempDir::with_prefix("ow-nats-").expect("make a directory for NATS");
        let data = DataDir::open(dir.path()).expect("open the directory for NATS");
        files.iter().try_for_each(|file| file.write(dir.path())).expect("lay out the streams");
        let private =
            Private::start(data, options(&users_conf)).await.unwrap_or_else(|error| explain(&error));
        Self { private, seeds, users_conf, dir }
    }

    /// Where it listens, such as `nats://127.0.0.1:4222`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.private.nats_url().expect("NATS was asked for")
    }

    /// Its port, for a proxy.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.url().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a URL names its port")
    }

    /// Process id, to kill it; it comes back by itself within moments. `None` while it is away.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.private.process_id(Kind::Nats)
    }

    /// The seed of a user.
    #[must_use]
    pub fn seed(&self, user: User) -> &str {
        &self.seeds[user.as_str()]
    }

    /// Text of `users.conf`, for another server with the same users.
    #[must_use]
    pub fn users_conf(&self) -> &str {
        &self.users_conf
    }

    /// Directory of the server, removed with this value.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Options to connect as that user.
    #[must_use]
    pub fn options(&self, user: User) -> BusOptions {
        BusOptions::new([self.url()], user).seed(self.seed(user).to_owned().into())
    }

    /// A connection as that user.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn bus(&self, user: User) -> Bus {
        Bus::connect(self.options(user)).await.expect("connect to the test's NATS")
    }

    /// The plain client as that user, to do what our own code never would.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn client(&self, user: User) -> async_nats::Client {
        let options = async_nats::ConnectOptions::with_nkey(self.seed(user).to_owned());
        // Nobody may hear the inboxes of others, so each has a prefix of its own.
        let options = options.custom_inbox_prefix(format!("_INBOX_{}", user.as_str()));
        options.connect(self.url()).await.expect("connect to the test's NATS")
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        // Nobody needs what it would still put in order.
        if let Some(pid) = self.process_id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The files of a server with the whole topology: laying them out is quicker than asking a server for all of it.
static TOPOLOGY: OnceCell<Vec<StoredFile>> = OnceCell::const_new();

/// A file or directory of the template, with the user that the server runs as.
#[derive(Debug)]
struct StoredFile {
    path: PathBuf,
    /// `None` is a directory.
    bytes: Option<Vec<u8>>,
    owner: (u32, u32),
}

impl StoredFile {
    fn write(&self, dir: &Path) -> io::Result<()> {
        let path = dir.join(&self.path);
        match &self.bytes {
            None => fs::create_dir_all(&path)?,
            Some(bytes) => fs::write(&path, bytes)?,
        }
        chown(&path, Some(self.owner.0), Some(self.owner.1))
    }

    /// Everything below `dir.join(at)`, directories before what is in them.
    fn read_all(dir: &Path, at: PathBuf, into: &mut Vec<Self>) -> io::Result<()> {
        let path = dir.join(&at);
        let meta = fs::metadata(&path)?;
        let bytes = if meta.is_dir() { None } else { Some(fs::read(&path)?) };
        into.push(Self { path: at.clone(), bytes, owner: (meta.uid(), meta.gid()) });
        if meta.is_dir() {
            for entry in fs::read_dir(path)? {
                Self::read_all(dir, at.join(entry?.file_name()), into)?;
            }
        }
        Ok(())
    }
}

async fn topology_files() -> Vec<StoredFile> {
    let (seeds, users_conf) = identities();
    let dir = TempDir::with_prefix("ow-nats-").expect("make a directory for NATS");
    let data = DataDir::open(dir.path()).expect("open the directory for NATS");
    let private = Private::start(data, options(&users_conf)).await.unwrap_or_else(|error| explain(&error));
    let url = private.nats_url().expect("NATS was asked for").to_owned();
    let admin = BusOptions::new([url], User::Admin).seed(seeds[User::Admin.as_str()].clone().into());
    let admin = Bus::connect(admin).await.expect("connect to the test's NATS");
    topology::apply(&admin, Profile::Small).await.expect("apply the topology");
    private.stop().await;
    let mut files = Vec::new();
    StoredFile::read_all(dir.path(), PathBuf::from("nats"), &mut files).expect("read what the server stored");
    // The configuration is each server's own.
    files.retain(|file| file.path.extension().is_none_or(|extension| extension != "conf"));
    files
}

/// New keys for every user: their seeds, and the server's file of public keys.
#[must_use]
pub fn identities() -> (BTreeMap<&'static str, String>, String) {
    let keys: Vec<_> =
        User::ALL.map(|user| (user, openwatch_bus::user::new_key().expect("make an NKEY"))).into();
    let users_conf =
        openwatch_bus::user::users_conf(keys.iter().map(|(user, key)| (*user, key.public.as_str())));
    let seeds = keys.iter().map(|(user, key)| (user.as_str(), key.seed.to_string())).collect();
    (seeds, users_conf)
}

fn options(users_conf: &str) -> PrivateOptions {
    PrivateOptions {
        postgres_port: None,
        nats: Some(NatsOptions { port: 0, users_conf: users_conf.to_owned() }),
        durability: Durability::ProcessCrash,
        places: Places::from_environment(),
        reexec: Some(openwatch()),
    }
}

fn explain(error: &PrivateError) -> ! {
    panic!("tests need nats-server: failed to {error} (or run `make setup`)")
}
