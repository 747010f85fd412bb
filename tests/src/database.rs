//! A fresh database for each test, on one private PostgreSQL for each test process.
//!
//! The server's directory is kept between runs (making one costs a second) and taken by lock, so that several test
//! processes each have their own. What an earlier process left in it is dropped at the start.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use openwatch_app::private::{DataDir, Durability, Places, Private, PrivateError, PrivateOptions};
use openwatch_store::{Role, Store, StoreOptions};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::sync::OnceCell;

use crate::program::openwatch;

static SERVER: OnceCell<Server> = OnceCell::const_new();
static NUMBER: AtomicU32 = AtomicU32::new(0);
const TEMPLATE: &str = "ow_template";
const SLOTS: u32 = 64;

struct Server {
    url: String,
    private: Private,
}

/// A database with all migrations applied, dropped with this value.
#[derive(Debug)]
pub struct Database {
    url: String,
    name: String,
}

impl Database {
    /// Makes one from the migrated template: some tens of milliseconds.
    ///
    /// # Panics
    /// When PostgreSQL cannot be had; the message says what to do.
    pub async fn new() -> Self {
        let server = server().await;
        let name = format!("ow_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        admin(&server.url, &format!("create database {name} template {TEMPLATE}")).await;
        Self { url: with_name(&server.url, &name), name }
    }

    /// Its address, with a login that may take every stage's role.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same database through another address, such as a [`crate::Proxy`]'s.
    #[must_use]
    pub fn url_through(&self, port: u16) -> String {
        let (head, name) = self.url.rsplit_once('/').expect("a URL names its database");
        let (login, _) = head.rsplit_once(':').expect("a URL names its port");
        format!("{login}:{port}/{name}")
    }

    /// Port of the server, for a proxy.
    #[must_use]
    pub fn port(&self) -> u16 {
        let (head, _) = self.url.rsplit_once('/').expect("a URL names its database");
        head.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a URL names its port")
    }

    /// A pool with the rights of one stage.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn store(&self, role: Role) -> Store {
        let application_name = format!("test-{}", role.as_str());
        let options = StoreOptions { url: self.url.clone(), role, max_connections: 4, application_name };
        Store::connect(&options).await.expect("connect to the test's database")
    }

    /// A connection that may do everything: to look at tables, and to break them.
    ///
    /// # Panics
    /// When the connection fails.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.expect("connect to the test's database")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = SERVER.get() else { return };
        let statement = format!("drop database if exists {} with (force)", self.name);
        // Drops of a test's own runtime forbid blocking on it, and it may be gone already.
        let _ = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                    runtime.expect("build a runtime").block_on(admin(&server.url, &statement));
                })
                .join()
        });
    }
}

/// Process id of the shared server, for tests that look at it. Never kill it: other tests use it at the same time.
///
/// # Panics
/// When PostgreSQL cannot be had.
pub async fn server_process_id() -> Option<u32> {
    server().await.private.process_id(openwatch_app::private::Kind::Postgres)
}

async fn server() -> &'static Server {
    SERVER.get_or_init(start).await
}

async fn start() -> Server {
    let data = free_slot();
    let path = data.path().to_owned();
    let private = match Private::start(data, options()).await {
        Ok(private) => private,
        Err(error @ (PrivateError::ServerMissing { .. } | PrivateError::NotTraversable { .. })) => {
            panic!("tests need PostgreSQL: failed to {error} (or run `make setup`)")
        }
        // Left by another version, or broken: it holds nothing worth keeping.
        Err(first) => {
            eprintln!("starting anew in {}: failed to {first}", path.display());
            std::fs::remove_dir_all(&path).expect("remove the kept server directory");
            let data = DataDir::open(&path).expect("open the kept server directory");
            Private::start(data, options()).await.unwrap_or_else(|error| panic!("failed to {error}"))
        }
    };
    let url = private.postgres_url().expect("PostgreSQL was asked for").expose().to_owned();
    drop_old(&url).await;
    admin(&url, &format!("create database {TEMPLATE}")).await;
    let sender = openwatch_pipeline::trail::SENDER;
    openwatch_store::migrate(&with_name(&url, TEMPLATE), sender, openwatch_pipeline::trail::message)
        .await
        .expect("migrate the template database");
    // What it tells would be in every test's outbox.
    admin(&with_name(&url, TEMPLATE), "truncate outbox").await;
    Server { url, private }
}

fn options() -> PrivateOptions {
    PrivateOptions {
        postgres_port: Some(0),
        nats: None,
        durability: Durability::ProcessCrash,
        places: Places::from_environment(),
        reexec: Some(openwatch()),
    }
}

/// The first kept directory that no other test process uses. Under the system's temporary directory, because the
/// servers may run as a user who cannot enter the checkout.
fn free_slot() -> DataDir {
    let root = kept_root();
    for slot in 0..SLOTS {
        let path = root.join(format!("postgres-{slot}"));
        match DataDir::open(&path) {
            Ok(data) => return data,
            Err(PrivateError::InUse { .. }) => {}
            Err(error) => {
                eprintln!("starting anew in {}: failed to {error}", path.display());
                std::fs::remove_dir_all(&path).expect("remove the kept server directory");
                return DataDir::open(&path).expect("open the kept server directory");
            }
        }
    }
    panic!("all {SLOTS} server directories in {} are in use", root.display())
}

fn kept_root() -> PathBuf {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let uid = rustix::process::geteuid().as_raw();
    let root = std::env::temp_dir().join(format!("openwatch-tests-{uid}"));
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&root)
        .expect("make a directory for test servers");
    let owner = std::fs::symlink_metadata(&root).expect("inspect the directory for test servers").uid();
    assert_eq!(owner, uid, "{} belongs to somebody else", root.display());
    root
}

async fn drop_old(url: &str) {
    let mut connection = PgConnection::connect(url).await.expect("connect to the private PostgreSQL");
    let old: Vec<String> = sqlx::query_scalar(r"select datname from pg_database where datname like 'ow\_%'")
        .fetch_all(&mut connection)
        .await
        .expect("list old databases");
    for name in old {
        admin(url, &format!("drop database {name} with (force)")).await;
    }
}

async fn admin(url: &str, statement: &str) {
    let run = async {
        let mut connection = PgConnection::connect(url).await?;
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await?;
        connection.close().await
    };
    run.await.unwrap_or_else(|error: sqlx::Error| panic!("{statement}: {error}"));
}

fn with_name(url: &str, name: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("a URL names its database");
    format!("{server}/{name}")
}
