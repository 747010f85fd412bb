//! One relayer per sender, among all processes.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::{Store, StoreError};

/// Longest wait for the answer that the lock is still held.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The right to relay a sender's rows. Held on a connection of its own and gone with it.
pub struct RelayLock {
    connection: PgConnection,
}

impl std::fmt::Debug for RelayLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RelayLock")
    }
}

impl RelayLock {
    /// Takes the right to relay `sender`, unless another process has it. Called by the relay, again and again.
    ///
    /// # Errors
    /// The database is away.
    pub async fn try_take(store: &Store, sender: &str) -> Result<Option<Self>, StoreError> {
        let (options, role) = store.dedicated()?;
        let mut connection = options.connect().await?;
        sqlx::raw_sql(role).execute(&mut connection).await?;
        let taken = sqlx::query_scalar!(
            r#"select pg_try_advisory_lock(hashtextextended('openwatch-relay:' || $1, 0)) as "taken!""#,
            sender
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(taken.then_some(Self { connection }))
    }

    /// Whether the lock is still held: its connection answers. Called before each batch.
    ///
    /// # Errors
    /// It is lost; take it again.
    pub async fn check(&mut self) -> Result<(), StoreError> {
        match tokio::time::timeout(CHECK_TIMEOUT, self.connection.ping()).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Gives it back at once.
    pub async fn release(self) {
        // The server frees the lock when the session ends, whether or not the farewell arrives.
        let _ = self.connection.close().await;
    }
}
