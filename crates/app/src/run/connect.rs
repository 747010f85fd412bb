//! Opening what a process needs, with errors that say what to do and the right exit code.

use std::time::Duration;

use openwatch_bus::{Bus, BusError, BusOptions, Profile, Tls, User};
use openwatch_pipeline::StageError;
use openwatch_store::{Role, Store, StoreError, StoreOptions, schema_state};

use crate::config::Settings;
use crate::exit::{Failure, INTERNAL, UNAVAILABLE, USAGE};
use crate::keydir::KeyDir;
use crate::links::LinkTls;

/// The database, in a role.
///
/// # Errors
/// 64 without an address or with a schema that does not fit, 69 when it is away.
pub async fn store(settings: &Settings, role: Role, max_connections: u32) -> Result<Store, Failure> {
    let url = database_url(settings)?;
    let options = StoreOptions {
        url: url.to_owned(),
        role,
        max_connections,
        application_name: format!("openwatch-{}", role.as_str()),
    };
    let schema = schema_state(url, role).await.map_err(|error| store_failure_at(url, error))?;
    if let Some(found) = schema.found.filter(|found| *found > schema.known) {
        return Err(store_failure(StoreError::SchemaTooNew { found, known: schema.known }));
    }
    if !schema.is_current() {
        return Err(Failure::usage("the database schema is not up to date; run `openwatch migrate`"));
    }
    Store::connect(&options).await.map_err(|error| store_failure_at(url, error))
}

/// The database address that was given.
///
/// # Errors
/// 64 when there is none.
pub fn database_url(settings: &Settings) -> Result<&str, Failure> {
    settings.database_url.as_ref().map(|url| url.as_str()).ok_or_else(|| {
        Failure::usage(
            "no database was named; give --database-url-file (or --database-url without a password)",
        )
    })
}

/// The bus, as a user.
///
/// # Errors
/// 64 without an address or a seed, 69 when nobody answers.
pub async fn bus(settings: &Settings, keys: &KeyDir, user: User) -> Result<Bus, Failure> {
    if settings.nats_servers.is_empty() {
        return Err(Failure::usage("no NATS server was named; give --nats-url"));
    }
    let mut options = BusOptions::new(settings.nats_servers.clone(), user).seed(keys.seed(user)?);
    options.profile = if settings.nats_servers.len() > 1 { Profile::Production } else { Profile::Small };
    options.start_timeout = Duration::from_secs(15);
    options.tls = nats_tls(&settings.nats_servers, &settings.nats_tls);
    Bus::connect(options).await.map_err(bus_failure)
}

/// How connections to these servers are encrypted; `None` in the clear.
pub fn nats_tls(servers: &[String], tls: &LinkTls) -> Option<Tls> {
    let asked = tls.is_given() || servers.iter().any(|server| server.starts_with("tls://"));
    asked.then(|| Tls { ca: tls.ca.clone(), identity: tls.identity.clone() })
}

/// The key directory that was given.
///
/// # Errors
/// 64 when there is none.
pub fn keys(settings: &Settings) -> Result<KeyDir, Failure> {
    settings.keys.as_ref().map(KeyDir::new).ok_or_else(|| {
        Failure::usage("no key directory was named; give --keys (`openwatch keys init` makes one)")
    })
}

/// An error of the store with its exit code.
pub fn store_failure(error: StoreError) -> Failure {
    let code = match &error {
        error if error.is_transient() => UNAVAILABLE,
        StoreError::BadUrl
        | StoreError::ServerTooOld { .. }
        | StoreError::SchemaTooNew { .. }
        | StoreError::SchemaDiffers { .. }
        | StoreError::Denied(_) => USAGE,
        _ => INTERNAL,
    };
    Failure::new(code, error)
}

/// The same, saying where the database was looked for: host and port, nothing of the login.
pub fn store_failure_at(url: &str, error: StoreError) -> Failure {
    let reached = !error.is_outage();
    let Failure { code, error } = store_failure(error);
    let server = url
        .rsplit_once('@')
        .map_or(url, |(_, server)| server)
        .trim_start_matches("postgres://")
        .trim_start_matches("postgresql://");
    let server = server.split(['/', '?']).next().unwrap_or_default();
    if reached || server.is_empty() {
        return Failure { code, error };
    }
    Failure { code, error: error.context(format!("no database at {server}")) }
}

/// An error of the bus with its exit code.
pub fn bus_failure(error: BusError) -> Failure {
    let code = match &error {
        BusError::LoginRefused { .. } | BusError::Denied { .. } | BusError::Incompatible(_) => USAGE,
        error if error.is_outage() => UNAVAILABLE,
        _ => INTERNAL,
    };
    Failure::new(code, error)
}

/// An error of a stage with its exit code.
pub fn stage_failure(error: StageError) -> Failure {
    match error {
        StageError::Store(error) => store_failure(error),
        StageError::Bus(error) => bus_failure(error),
        StageError::Policy(_) => Failure::new(USAGE, error),
        StageError::ClockOff { .. } | StageError::Unprepared { .. } => Failure::new(UNAVAILABLE, error),
    }
}
