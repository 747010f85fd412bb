//! Being woken instead of polling often. A call may be missed; every listener polls besides.

use sqlx::postgres::PgListener;

use crate::{Store, StoreError};

/// Rows for the relay; the payload is the sender.
pub const OUTBOX: &str = "ow_outbox";
/// A scan was asked for, promoted or tried again.
pub const SCAN: &str = "ow_scan";
/// A host came under schedule.
pub const SCHEDULE: &str = "ow_schedule";
/// A credential waits for the vault.
pub const CREDENTIAL: &str = "ow_credential";
/// Something is to be delivered.
pub const DELIVERY: &str = "ow_delivery";
/// A channel was made, changed or removed.
pub const CHANNEL: &str = "ow_channel";
/// A policy came into force.
pub const POLICY: &str = "ow_policy";
/// Somebody wants the policy files to be read again.
pub const RELOAD: &str = "ow_policy_reload";

/// Why a listener woke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Somebody called.
    Call {
        /// Channel.
        channel: String,
        /// What was said; often nothing.
        payload: String,
    },
    /// The connection was lost and is back: calls may have been missed, so look at everything.
    Missed,
}

/// Listens on a connection of its own.
pub struct Listener {
    inner: PgListener,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Store {
    /// Listens on channels of this module. Takes one connection of the pool for as long as it lives.
    /// Called by relays, the scheduler, the vault and the alerts stage.
    ///
    /// # Errors
    /// No connection could be had.
    pub async fn listen(&self, channels: &[&str]) -> Result<Listener, StoreError> {
        let mut inner = PgListener::connect_with(self.pool()).await?;
        inner.listen_all(channels.iter().copied()).await?;
        Ok(Listener { inner })
    }
}

impl Listener {
    /// The next call. Safe to drop while it waits. After an error, listen again.
    ///
    /// # Errors
    /// The connection was lost and could not be had back.
    pub async fn recv(&mut self) -> Result<Wake, StoreError> {
        Ok(match self.inner.try_recv().await? {
            Some(call) => {
                Wake::Call { channel: call.channel().to_owned(), payload: call.payload().to_owned() }
            }
            None => Wake::Missed,
        })
    }
}
