//! Connections: one pool per stage, each connection in the role of its stage.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use openwatch_model::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Postgres, Transaction};

use crate::doorbell::Doorbell;
use crate::{StoreError, Tx};

/// Whose rights the connections have: the group role `openwatch_<stage>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Writes the schedule, signs jobs.
    Scheduler,
    /// Reads secrets.
    Vault,
    /// Ends scans.
    Writer,
    /// Records drift.
    Drift,
    /// Opens and delivers alerts.
    Alerts,
    /// Probes.
    Liveness,
    /// Serves people.
    Api,
    /// Rescues and sweeps.
    Caretaker,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 8] = [
        Self::Scheduler,
        Self::Vault,
        Self::Writer,
        Self::Drift,
        Self::Alerts,
        Self::Liveness,
        Self::Api,
        Self::Caretaker,
    ];

    /// The stage's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Vault => "vault",
            Self::Writer => "writer",
            Self::Drift => "drift",
            Self::Alerts => "alerts",
            Self::Liveness => "liveness",
            Self::Api => "api",
            Self::Caretaker => "caretaker",
        }
    }

    /// Takes the role. The stages behind the stream look up by key what they name, and their plans are kept: one that was made
    /// while a table was empty, or emptied by a vacuum, would read all of it ever after. Those that also count are left to the
    /// planner.
    pub(crate) fn statement(self) -> &'static str {
        match self {
            Self::Scheduler => "set role openwatch_scheduler",
            Self::Vault => "set role openwatch_vault",
            // Planning its statements anew would cost more than running them.
            Self::Writer => {
                "set role openwatch_writer; set enable_seqscan = off; set plan_cache_mode = force_generic_plan"
            }
            Self::Drift => "set role openwatch_drift; set enable_seqscan = off",
            Self::Alerts => "set role openwatch_alerts; set enable_seqscan = off",
            Self::Liveness => "set role openwatch_liveness",
            Self::Api => "set role openwatch_api",
            Self::Caretaker => "set role openwatch_caretaker",
        }
    }
}

/// How to connect. Its `Debug` leaves the address out: it may hold a password.
#[derive(Clone)]
pub struct StoreOptions {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. Never logged.
    pub url: String,
    /// Whose rights.
    pub role: Role,
    /// Most connections at once; a [`crate::Listener`] and a [`crate::Relay`] hold one each besides.
    pub max_connections: u32,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreOptions")
            .field("role", &self.role)
            .field("max_connections", &self.max_connections)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}

/// Longest wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was used so recently is taken for alive.
const TRUSTED: Duration = Duration::from_secs(1);

/// The database, in the role of one stage. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: PgPool,
    options: StoreOptions,
    bell: Doorbell,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("options", &self.options).finish_non_exhaustive()
    }
}

/// The address with the settings that every connection has: nothing waits for ever on the server's side.
pub(crate) fn connect_options(url: &str, application_name: &str) -> Result<PgConnectOptions, StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| StoreError::BadUrl)?;
    Ok(options.application_name(application_name).options([
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "60s"),
        ("timezone", "UTC"),
        // What we ask takes milliseconds: compiling it never pays.
        ("jit", "off"),
    ]))
}

/// How an address reaches its server, as far as others on the way are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Name, address or socket directory of the server.
    pub host: String,
    /// Encrypted, and the server has to prove who it is.
    pub verified: bool,
    /// Authorities that vouch for the server.
    pub ca: Option<PathBuf>,
    /// Our own certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Reads from an address, and from what the environment adds to it, how it reaches its server. Nothing is opened.
///
/// # Errors
/// [`StoreError::BadUrl`].
pub fn reach(url: &str) -> Result<Reach, StoreError> {
    let options = PgConnectOptions::from_str(url).map_err(|_| StoreError::BadUrl)?;
    let host = options.get_socket().map_or(options.get_host().to_owned(), |path| path.display().to_string());
    let verified = matches!(options.get_ssl_mode(), PgSslMode::VerifyCa | PgSslMode::VerifyFull);
    let whole = options.to_url_lossy();
    let file = |name: &str| {
        let (_, value) = whole.query_pairs().find(|(key, _)| key == name)?;
        // The library writes what kind of input it is before the path.
        Some(PathBuf::from(value.strip_prefix("file: ").unwrap_or(&value)))
    };
    Ok(Reach { host, verified, ca: file("sslrootcert"), certificate: file("sslcert"), key: file("sslkey") })
}

impl Store {
    /// Connects, and takes the stage's role on every connection. Called by `app` for each stage.
    ///
    /// # Errors
    /// The address is unreadable, the server is away, or the login may not take the role.
    pub async fn connect(options: &StoreOptions) -> Result<Self, StoreError> {
        let role = options.role.statement();
        let connect = connect_options(&options.url, &options.application_name)?;
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A connection in steady use is not asked for a sign of life each time: that would cost every transaction a
            // round trip, and one that is dead fails its first statement like one that dies a moment later.
            .test_before_acquire(false)
            .before_acquire(|connection, known| {
                Box::pin(async move { Ok(known.idle_for < TRUSTED || connection.ping().await.is_ok()) })
            })
            .after_connect(move |connection, _| {
                Box::pin(async move { sqlx::raw_sql(role).execute(connection).await.map(drop) })
            })
            .connect_with(connect)
            .await?;
        Ok(Self { pool, options: options.clone(), bell: Doorbell::default() })
    }

    /// The stage that this store belongs to.
    pub fn role(&self) -> Role {
        self.options.role
    }

    /// Asks the database for a sign of life. Called by health checks and by stages that wait for the end of an outage.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query!("select 1 as one").fetch_one(&self.pool).await?;
        Ok(())
    }

    /// Begins a transaction and reads its one timestamp.
    ///
    /// # Errors
    /// No connection could be had.
    pub async fn begin(&self) -> Result<Tx<'static>, StoreError> {
        Tx::open(self.pool.begin().await?, Some(self.bell.clone())).await
    }

    /// Begins a read-only transaction that sees one moment, however many statements it takes. Called by readers.
    ///
    /// # Errors
    /// No connection could be had.
    pub async fn begin_read(&self) -> Result<Tx<'static>, StoreError> {
        let inner = self.pool.begin_with("begin isolation level repeatable read, read only").await?;
        Tx::open(inner, None).await
    }

    /// A transaction whose time a statement has told on the way.
    pub(crate) fn begun(&self, inner: Transaction<'static, Postgres>, now: Timestamp) -> Tx<'static> {
        Tx::begun(inner, now, Some(self.bell.clone()))
    }

    pub(crate) fn doorbell(&self) -> &Doorbell {
        &self.bell
    }

    /// Waits for running work and closes all connections. Called by `app` at the end.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Settings for a connection outside the pool, with the role still to be taken.
    pub(crate) fn dedicated(&self) -> Result<(PgConnectOptions, &'static str), StoreError> {
        Ok((
            connect_options(&self.options.url, &self.options.application_name)?,
            self.options.role.statement(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_the_address() {
        let options = StoreOptions {
            url: "postgres://u:hunter2@db/x".into(),
            role: Role::Writer,
            max_connections: 2,
            application_name: "openwatch-writer".into(),
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn an_address_tells_whom_it_believes() {
        let it = reach("postgres://u:p@db/x?sslmode=verify-full&sslrootcert=/a/ca.crt&sslkey=/a/k").unwrap();
        assert!(it.verified && it.host == "db" && it.certificate.is_none());
        assert_eq!((it.ca, it.key), (Some("/a/ca.crt".into()), Some("/a/k".into())));
        assert!(!reach("postgres://u:p@db/x?sslmode=require").unwrap().verified);
        assert_eq!(reach("postgres:///x?host=/run/postgresql").unwrap().host, "/run/postgresql");
    }

    #[test]
    fn a_bad_address_is_not_repeated() {
        let error = connect_options("postgres://u:hunter2@db:notaport/x", "t").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
