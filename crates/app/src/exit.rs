//! Documented exit codes, and which error ends in which.

use std::process::ExitCode;

use crate::client::table;

/// Usage or configuration.
pub const USAGE: u8 = 64;
/// A dependency is unavailable: a server, a host, a package.
pub const UNAVAILABLE: u8 = 69;
/// Our own mistake.
pub const INTERNAL: u8 = 70;
/// The same command may succeed later.
pub const TRY_AGAIN: u8 = 75;
/// Interrupted by a signal.
pub const INTERRUPTED: u8 = 130;

/// An error with the exit code it ends in.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// What happened, to what, and what to do.
    pub error: anyhow::Error,
}

impl Failure {
    /// With a code of our own.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { code, error: error.into() }
    }

    /// The user asked for something that cannot be.
    pub fn usage(text: impl std::fmt::Display) -> Self {
        Self::new(USAGE, anyhow::anyhow!("{text}"))
    }

    /// Something we need is not there.
    pub fn unavailable(text: impl std::fmt::Display) -> Self {
        Self::new(UNAVAILABLE, anyhow::anyhow!("{text}"))
    }

    /// Prints the error and gives the code.
    pub fn report(&self) -> ExitCode {
        // It may quote a host or a server.
        table::tell(&format!("openwatch: {:#}", self.error));
        ExitCode::from(self.code)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { code: INTERNAL, error }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { code: INTERNAL, error: error.into() }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self { code: INTERNAL, error: error.into() }
    }
}

impl From<crate::config::ConfigProblems> for Failure {
    fn from(error: crate::config::ConfigProblems) -> Self {
        Self { code: USAGE, error: error.into() }
    }
}
