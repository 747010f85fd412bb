//! How a stage ends early, and how a failure decides the next move of the consume loop.

use std::time::Duration;

use openwatch_bus::{BusError, Next};
use openwatch_store::StoreError;

/// Why a stage could not go on.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// No usable policy.
    #[error(transparent)]
    Policy(#[from] crate::policy::PolicyError),
    /// The bus answers, and nobody has prepared it.
    #[error(
        "failed to start: the NATS server has no consumer {consumer} of stream {stream}; run `openwatch topology apply`"
    )]
    Unprepared {
        /// Of this stream.
        stream: &'static str,
        /// The consumer that is missing.
        consumer: &'static str,
    },
    /// The clock of this machine cannot be trusted to judge the age of jobs.
    #[error(
        "failed to start: the clock of this machine is {off_sec} s away from the NATS server's; at most {limit_sec} s are allowed"
    )]
    ClockOff {
        /// How far, in seconds.
        off_sec: i64,
        /// How far it may be.
        limit_sec: i64,
    },
}

/// How long a message waits when the database is away.
pub(crate) const AWAY: Duration = Duration::from_secs(2);

/// What a failed statement means for the message in hand: an outage is waited out, anything else would fail again.
pub(crate) fn next(error: StoreError) -> Next {
    if error.is_transient() {
        tracing::warn!(%error, "the database is not ready; the message waits");
        Next::Retry { after: AWAY }
    } else {
        Next::Reject { reason: error.to_string() }
    }
}
