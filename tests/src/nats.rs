//! A NATS server for each test, with the project's own users and permissions.

use std::collections::BTreeMap;
use std::path::Path;

use openwatch_app::private::{
    DataDir, Durability, Kind, NatsOptions, Places, Private, PrivateError, PrivateOptions,
};
use openwatch_bus::{Bus, BusOptions, Profile, User, topology};
use tempfile::TempDir;

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
        let (seeds, users_conf) = identities();
        let dir = TempDir::with_prefix("ow-nats-").expect("make a directory for NATS");
        let data = DataDir::open(dir.path()).expect("open the directory for NATS");
        let private =
            Private::start(data, options(&users_conf)).await.unwrap_or_else(|error| explain(&error));
        Self { private, seeds, users_conf, dir }
    }

    /// Starts a server with all streams, buckets and consumers.
    ///
    /// # Panics
    /// When nats-server cannot be had; the message says what to do.
    pub async fn with_topology() -> Self {
        let nats = Self::start().await;
        let admin = nats.bus(User::Admin).await;
        topology::apply(&admin, Profile::Small).await.expect("apply the topology");
        nats
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
