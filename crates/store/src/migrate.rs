//! Bringing the schema up to date.

use openwatch_model::audit::{Actor, MigrationApplied};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::outbox::{OutboxMessage, Told};
use crate::{Role, StoreError, Tx, audit, connect, outbox};

static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations");

/// Oldest server that will do.
const OLDEST_SERVER: i32 = 140_000;

/// Where a database stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaState {
    /// Newest migration applied; `None` in an empty database.
    pub found: Option<i64>,
    /// Newest migration of this binary.
    pub known: i64,
}

impl SchemaState {
    /// Whether nothing is left to migrate.
    pub fn is_current(&self) -> bool {
        self.found == Some(self.known)
    }
}

/// Applies what is missing and returns the numbers applied. `tell` words the message that carries an audit row to the
/// bus, for that sender to relay. Safe to run in several processes at once. Called by `openwatch migrate` and
/// `openwatch up`.
///
/// # Errors
/// The server is too old, the schema is newer than this binary or not its own, or a migration failed.
pub async fn migrate(
    url: &str,
    sender: &str,
    tell: impl Fn(&audit::AuditRow) -> OutboxMessage,
) -> Result<Vec<i64>, StoreError> {
    let mut connection = open(url).await?;
    let before = state(&mut connection).await?;
    if before.found.is_some_and(|found| found > before.known) {
        return Err(StoreError::SchemaTooNew {
            found: before.found.unwrap_or_default(),
            known: before.known,
        });
    }
    MIGRATIONS.run(&mut connection).await.map_err(migrate_error)?;
    let done = MIGRATIONS.iter().map(|m| m.version).filter(|v| before.found.is_none_or(|found| *v > found));
    let mut applied = Vec::new();
    let mut tx = Tx::open(connection.begin().await?, None).await?;
    for version in done {
        // Two processes may migrate at once; the log names each version once.
        if !audit::migration_is_recorded(&mut tx, version).await? {
            let event = MigrationApplied { version };
            let row = audit::row(&tx, &Actor::Operator, &event, &audit::Context::default());
            let message = tell(&row);
            outbox::tell(&mut tx, &Told { sender, log: audit::Columns::of([row]), messages: vec![message] })
                .await?;
            applied.push(version);
        }
    }
    tx.commit().await?;
    connection.close().await?;
    Ok(applied)
}

/// Where the database stands, as a stage sees it, without changing it. Called before a stage starts.
///
/// # Errors
/// The server is away or too old, or the login may not take the role.
pub async fn schema_state(url: &str, role: Role) -> Result<SchemaState, StoreError> {
    let mut connection = open(url).await?;
    // A stage's own login may read nothing. The first migration makes the roles.
    if has_migrations(&mut connection).await? {
        sqlx::raw_sql(role.statement()).execute(&mut connection).await?;
    }
    let state = state(&mut connection).await?;
    connection.close().await?;
    Ok(state)
}

async fn open(url: &str) -> Result<PgConnection, StoreError> {
    // A migration may build an index for long, and waits for its turn behind another one.
    let options = connect::connect_options(url, "openwatch-migrate")?.options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("client_min_messages", "warning"),
    ]);
    let mut connection = options.connect().await?;
    let version = sqlx::query!(
        r#"select current_setting('server_version_num')::int as "number!", current_setting('server_version') as "name!""#
    )
    .fetch_one(&mut connection)
    .await?;
    if version.number < OLDEST_SERVER {
        return Err(StoreError::ServerTooOld { found: version.name });
    }
    Ok(connection)
}

async fn state(connection: &mut PgConnection) -> Result<SchemaState, StoreError> {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default();
    let found = if has_migrations(connection).await? {
        sqlx::query_scalar!("select max(version) from _sqlx_migrations where success")
            .fetch_one(connection)
            .await?
    } else {
        None
    };
    Ok(SchemaState { found, known })
}

async fn has_migrations(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let there = sqlx::query_scalar!(r#"select to_regclass('_sqlx_migrations') is not null as "there!""#);
    Ok(there.fetch_one(connection).await?)
}

fn migrate_error(error: MigrateError) -> StoreError {
    let known = MIGRATIONS.iter().map(|m| m.version).max().unwrap_or_default();
    match error {
        MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _) => e.into(),
        MigrateError::VersionMissing(found) => StoreError::SchemaTooNew { found, known },
        MigrateError::VersionMismatch(version) | MigrateError::Dirty(version) => {
            StoreError::SchemaDiffers { version }
        }
        other => StoreError::Statement(sqlx::Error::Migrate(Box::new(other))),
    }
}
