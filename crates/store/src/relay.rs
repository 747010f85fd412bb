//! One relay per sender, among all processes.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::doorbell::Answering;
use crate::outbox::{OutboxMessage, OutboxRow};
use crate::{Store, StoreError};

/// Longest wait for rows: a connection that is gone without a word must not hold the right to them for long.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The right to relay a sender's rows. Rows are taken on the connection that holds the right, and both are gone with it:
/// who takes rows still has the right to.
pub struct Relay {
    connection: PgConnection,
    sender: String,
    bell: Answering,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("sender", &self.sender).finish_non_exhaustive()
    }
}

impl Relay {
    /// Takes the right to relay `sender`, unless another process has it. Called by the relay, again and again.
    ///
    /// # Errors
    /// The database is away.
    pub async fn try_take(store: &Store, sender: &str) -> Result<Option<Self>, StoreError> {
        let (options, role) = store.dedicated()?;
        // What is forgotten here was sent: a server that dies before it has written that down makes us send the same
        // messages once more under the same ids, as when we die ourselves before we forget them.
        // Rows are taken in the order of their key; a plan that was made while there were none would read those forgotten too.
        let options = options.options([("synchronous_commit", "off"), ("enable_seqscan", "off")]);
        let mut connection = options.connect().await?;
        sqlx::raw_sql(role).execute(&mut connection).await?;
        let taken = sqlx::query_scalar!(
            r#"select pg_try_advisory_lock(hashtextextended('openwatch-relay:' || $1, 0)) as "taken!""#,
            sender
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(taken.then(|| Self {
            connection,
            sender: sender.to_owned(),
            bell: store.doorbell().answer(sender),
        }))
    }

    /// Forgets what was `sent` and takes what comes next, oldest first, in one statement: most at `limit`. Called by the
    /// relay.
    ///
    /// # Errors
    /// The connection is lost and the right with it. What was sent is taken again by whoever relays next.
    pub async fn next(&mut self, sent: &[i64], limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
        let limit = i64::from(limit);
        let rows = async {
            if sent.is_empty() {
                let rows = sqlx::query_as!(
                    Line,
                    "select id, message_id, subject, headers, payload, packed from outbox
                     where sender = $1 order by id limit $2",
                    self.sender,
                    limit,
                );
                return rows.fetch_all(&mut self.connection).await;
            }
            let rows = sqlx::query_as!(
                Line,
                "with forgotten as (delete from outbox where sender = $2 and id = any($1))
                 select id, message_id, subject, headers, payload, packed from outbox
                 where sender = $2 and id <> all($1) order by id limit $3",
                sent,
                self.sender,
                limit,
            );
            rows.fetch_all(&mut self.connection).await
        };
        match tokio::time::timeout(TIMEOUT, rows).await {
            Ok(rows) => rows?.into_iter().map(Line::row).collect(),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }

    /// Waits until something is put in line in this process; what others put in line is told by
    /// [`crate::listen::OUTBOX`]. Safe to drop while it waits.
    pub async fn rung(&self) {
        self.bell.rung().await;
    }

    /// Waits until something is put in line in this process that is not packed. It may have been taken already.
    /// Safe to drop while it waits.
    pub async fn hurried(&self) {
        self.bell.hurried().await;
    }

    /// Gives it back at once.
    pub async fn release(self) {
        // The server frees the lock when the session ends, whether or not the farewell arrives.
        let _ = self.connection.close().await;
    }
}

struct Line {
    id: i64,
    message_id: Option<String>,
    subject: Option<String>,
    headers: Option<serde_json::Value>,
    payload: Vec<u8>,
    packed: bool,
}

impl Line {
    fn row(self) -> Result<OutboxRow, StoreError> {
        let Self { id, message_id, subject, headers, payload, packed } = self;
        // What is packed has none; when it cannot be read, these are what it is called by.
        let message_id = message_id.unwrap_or_else(|| format!("outbox.{id}"));
        let subject = subject.unwrap_or_else(|| "outbox".to_owned());
        let headers = headers.map(serde_json::from_value).transpose();
        let headers = headers
            .map_err(|_| StoreError::unknown_word("set of message headers", &message_id))?
            .unwrap_or_default();
        Ok(OutboxRow { id, message: OutboxMessage { message_id, subject, headers, payload, packed } })
    }
}
