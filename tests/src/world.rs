//! A database and a bus of a test's own.

use openwatch_bus::{Bus, User};
use openwatch_store::{Role, Store};

use crate::{Database, Nats};

/// A fresh, migrated database and a fresh NATS server with the whole topology. Tests in their own worlds run in parallel.
#[derive(Debug)]
pub struct World {
    /// The database.
    pub database: Database,
    /// The server.
    pub nats: Nats,
}

impl World {
    /// Makes one: a few tenths of a second.
    ///
    /// # Panics
    /// When a server cannot be had; the message says what to do.
    pub async fn new() -> Self {
        let (database, nats) = tokio::join!(Database::new(), Nats::with_topology());
        Self { database, nats }
    }

    /// A pool with the rights of one stage.
    pub async fn store(&self, role: Role) -> Store {
        self.database.store(role).await
    }

    /// A connection as one user.
    pub async fn bus(&self, user: User) -> Bus {
        self.nats.bus(user).await
    }
}
