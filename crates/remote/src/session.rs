//! A logged-in connection and what can be asked of it.

use std::time::Duration;

use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::host::KnownKey;
use openwatch_model::plan::{Observation, Plan, RunReport};
use tokio::time::Instant;

use crate::connection::Connection;
use crate::elevate::{Elevation, Wrapper};
use crate::error::RemoteError;
use crate::run;

/// Most output of one rule that is read at all; more and the rule cannot be judged.
pub const OUTPUT_RULE_CAP: usize = 10 << 20;

/// Told of each answer as it becomes final.
pub type OnObservation<'a> = dyn Fn(usize, &Observation) + Send + Sync + 'a;

/// How much output is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Both streams of one command together.
    pub check_bytes: usize,
    /// All commands of one run together; what comes after that is [`Lost::NoRoom`](openwatch_model::plan::Lost::NoRoom).
    pub host_bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { check_bytes: OUTPUT_RULE_CAP, host_bytes: 64 << 20 }
    }
}

/// How to run a plan.
pub struct RunOptions<'a> {
    /// Executions at the same time, at most. The target decides whether it allows them.
    pub lanes: u8,
    /// Whether to become root.
    pub sudo: SudoMode,
    /// When to stop, whatever has been answered by then.
    pub deadline: std::time::Instant,
    /// How much output to keep.
    pub caps: Caps,
    /// Told of each answer as it becomes final.
    pub on_progress: Option<&'a OnObservation<'a>>,
}

impl RunOptions<'_> {
    /// Two lanes, default caps, as the login user, for at most this long from now.
    pub fn within(limit: Duration) -> Self {
        let deadline = std::time::Instant::now() + limit;
        Self { lanes: 2, sudo: SudoMode::None, deadline, caps: Caps::default(), on_progress: None }
    }
}

impl std::fmt::Debug for RunOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunOptions")
            .field("lanes", &self.lanes)
            .field("sudo", &self.sudo)
            .finish_non_exhaustive()
    }
}

/// A logged-in connection.
pub struct Session {
    pub(crate) connection: Connection,
    /// How shells are had on this target, once known.
    pub(crate) shells: Option<Shells>,
}

/// How shells are had on a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shells {
    Batch { elevation: Elevation, wrapper: Wrapper },
    Single { elevation: Elevation, shell: &'static str, why: String },
}

impl Session {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, shells: None }
    }

    /// The key the host has proved to hold.
    pub fn host_key(&self) -> &KnownKey {
        self.connection.host_key()
    }

    /// Whether that key was accepted because none was on record.
    pub fn is_first_contact(&self) -> bool {
        self.connection.is_first_contact()
    }

    /// Runs a plan: observation `i` answers command `i`.
    ///
    /// The secret is used for sudo, if that asks, and to log in again after the connection broke, up to five times.
    /// Commands that have no answer by the deadline, or because the connection stayed away, are
    /// [`Lost::Connection`](openwatch_model::plan::Lost::Connection); the report says which of the two it was.
    ///
    /// Dropping the future leaves nothing behind on the target for longer than the deadline and a few seconds.
    ///
    /// # Errors
    /// No shell, no root, or a host that came back with another key. Single commands never make an error.
    pub async fn run(
        &mut self,
        plan: &Plan,
        options: &RunOptions<'_>,
        secret: &Secret,
    ) -> Result<(Vec<Observation>, RunReport), RemoteError> {
        run::run(self, plan, options, secret, Instant::from_std(options.deadline)).await
    }

    /// Says goodbye and waits a moment for it to be sent.
    pub async fn close(self) {
        let Connection { handle, route, .. } = self.connection;
        // A host that is gone has been said goodbye to.
        let _ = handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
        let _ = tokio::time::timeout(Duration::from_secs(1), handle).await;
        if let Some(jump) = route.via {
            jump.leave().await;
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("connection", &self.connection).finish_non_exhaustive()
    }
}
