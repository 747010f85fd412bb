//! What can stand in the way of private servers, each with the way out.

use std::io;
use std::path::PathBuf;

use super::find::Kind;

/// Why private servers could not be started or kept.
///
/// [`PrivateError::is_unavailable`] separates "something is missing or busy" from "asked for the impossible".
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// No executable of that kind anywhere we look, or only too old ones.
    #[error("find {kind} {} or newer: {found}; {}", .kind.minimum(), .kind.how_to_get())]
    ServerMissing {
        /// Which server.
        kind: Kind,
        /// "none installed", or the too old versions found and where.
        found: String,
    },
    /// Another process holds the data directory.
    #[error(
        "lock data directory {}: already in use by {}; stop that process or choose another data directory",
        .dir.display(), holder(.pid)
    )]
    InUse {
        /// The data directory.
        dir: PathBuf,
        /// Its holder, when it left its number.
        pid: Option<u32>,
    },
    /// The directory holds files, but not ours.
    #[error(
        "use {} as data directory: it is not empty and was not made by openwatch; choose an empty or a new directory",
        .dir.display()
    )]
    NotOurs {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory was laid out by another version of this program.
    #[error(
        "use data directory {}: its format is {found:?}, this openwatch reads {expected:?}; run the openwatch that made it, \
         or choose another data directory",
        .dir.display()
    )]
    WrongFormat {
        /// The data directory.
        dir: PathBuf,
        /// What its format file says.
        found: String,
        /// What we would have written.
        expected: String,
    },
    /// The database was made by a PostgreSQL that is not installed here.
    #[error(
        "open the database in {}: it was made by PostgreSQL {data}, but only {installed} is installed; install PostgreSQL {data}, \
         or set OPENWATCH_POSTGRES_BIN to its bin directory, or dump it there and restore it into a new data directory",
        .dir.display()
    )]
    WrongPostgres {
        /// The database directory.
        dir: PathBuf,
        /// Major version that made it.
        data: String,
        /// Versions found here.
        installed: String,
    },
    /// A fixed port is held by somebody else.
    #[error(
        "listen on 127.0.0.1:{port} for {kind}: the port is taken; free it, or choose another one (0 picks a free one)"
    )]
    PortTaken {
        /// For which server.
        kind: Kind,
        /// The port asked for.
        port: u16,
    },
    /// Servers run as an unprivileged user, who cannot get through a parent directory.
    #[error(
        "run servers as user {user}: that user cannot enter {}; choose a place that everybody can enter (for example under \
         /var/lib or /tmp), or `chmod o+x` that directory",
        .dir.display()
    )]
    NotTraversable {
        /// The directory in the way.
        dir: PathBuf,
        /// The unprivileged user.
        user: String,
    },
    /// We are root, and there is nobody to run the servers as.
    #[error(
        "find an unprivileged user to run servers as: neither `postgres` nor `nobody` exists; start openwatch as an ordinary user"
    )]
    NoUser,
    /// A server that belongs to this data directory survived its supervisor and cannot be stopped.
    #[error("stop the leftover {kind} with process id {pid} that still uses {}; stop it by hand, then start again", .dir.display())]
    LeftoverStays {
        /// Which server.
        kind: Kind,
        /// Its process.
        pid: u32,
        /// Where its data is.
        dir: PathBuf,
    },
    /// The server did not come up, or stopped answering while starting.
    #[error("start {kind}: {what}; log {}{}", .log.display(), tail(.last_lines))]
    NotReady {
        /// Which server.
        kind: Kind,
        /// What was seen of it.
        what: String,
        /// Where its output goes.
        log: PathBuf,
        /// The end of that output.
        last_lines: String,
    },
    /// The server kept dying and was given up.
    #[error("keep {kind} running: it died {deaths} times in a row; log {}{}", .log.display(), tail(.last_lines))]
    GaveUp {
        /// Which server.
        kind: Kind,
        /// Deaths without a healthy minute between them.
        deaths: u32,
        /// Where its output goes.
        log: PathBuf,
        /// The end of that output.
        last_lines: String,
    },
    /// A file or process operation was refused.
    #[error("{doing} {}: {source}", .path.display())]
    Io {
        /// A verb, such as "write".
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Stopped on request before the servers were up.
    #[error("start private servers: stopped while starting")]
    Stopped,
}

impl PrivateError {
    /// Whether something outside is missing, busy or broken (exit code 69), rather than a wrong choice of
    /// directory, format or port by the user (exit code 64).
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::ServerMissing { .. }
            | Self::InUse { .. }
            | Self::PortTaken { .. }
            | Self::WrongPostgres { .. }
            | Self::NoUser
            | Self::LeftoverStays { .. }
            | Self::NotReady { .. }
            | Self::GaveUp { .. }
            | Self::Io { .. }
            | Self::Stopped => true,
            Self::NotOurs { .. } | Self::WrongFormat { .. } | Self::NotTraversable { .. } => false,
        }
    }

    /// For `map_err`: names the operation and the path of a refused file operation.
    pub(super) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.as_ref().map_or_else(|| "another process".to_owned(), |pid| format!("pid {pid}"))
}

fn tail(last_lines: &str) -> String {
    if last_lines.is_empty() { " (empty)".to_owned() } else { format!(", which ends:\n{last_lines}") }
}
