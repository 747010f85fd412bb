//! What to run on a host and what came back: the one language between `rules` (who compiles and judges) and `remote`
//! (who runs). Neither knows the other.

use std::time::Duration;

/// Distinct commands for one batched session, in the order of their indices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Command `i` is answered by observation `i`.
    pub commands: Vec<Command>,
}

/// One read-only, repeatable shell command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// POSIX shell text, run in a shell of its own with stdin at `/dev/null`.
    pub script: String,
    /// Time limit for this command alone.
    pub limit: Duration,
    /// Run in its own process group from the start: it may leave children, kill its shell, or write without end.
    pub isolate: bool,
    /// Uses what only bash understands: run by the account's own shell where that is bash and sudo was not asked for, as if
    /// somebody had typed it there.
    pub login_shell: bool,
}

impl Command {
    /// The default time limit of one command (ssh.md: ten seconds; filesystem walks ask for more).
    pub const DEFAULT_LIMIT: Duration = Duration::from_secs(10);

    /// A command with the default limit, not isolated.
    pub fn new(script: impl Into<String>) -> Self {
        Self { script: script.into(), limit: Self::DEFAULT_LIMIT, isolate: false, login_shell: false }
    }
}

/// What one command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It ended and both streams arrived whole.
    Done(Done),
    /// It has no verdict: it never ran, did not end, or its answer was lost. Never a pass, never a fail.
    Lost(Lost),
}

/// A finished command: raw bytes, never assumed to be UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Exit status; 128 + n for signal n, as the target's shell reports it.
    pub exit: i32,
    /// Standard output, uncut.
    pub stdout: Vec<u8>,
    /// Standard error, uncut.
    pub stderr: Vec<u8>,
    /// Time on the target where it can tell (10 ms steps), else as seen from here.
    pub duration: Duration,
    /// Which lane ran it.
    pub lane: u8,
}

/// Why a command has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lost {
    /// Over its own time limit, also when retried alone.
    Timeout,
    /// Its own output is over the limit for one command.
    TooMuchOutput,
    /// Its answer came when those of the others had used up what is kept of one host.
    NoRoom,
    /// It killed the shell that ran it, also when retried alone.
    KilledLane,
    /// The connection ended, or the scan's time was up, before its turn or before its answer.
    Connection,
    /// The target broke the framing of the session.
    Protocol,
}

impl Lost {
    /// The words used in a result's detail.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::TooMuchOutput => "too much output",
            Self::NoRoom => "no room left beside the output of the other checks",
            Self::KilledLane => "it ended the session's shell",
            Self::Connection => "connection lost",
            Self::Protocol => "garbled reply",
        }
    }

    /// Lost to transport, as opposed to something this one check did to itself. Counts towards `transport_lost`.
    pub fn is_transport(self) -> bool {
        matches!(self, Self::Connection | Self::Protocol)
    }
}

/// How a whole plan went, beside its observations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Executions (SSH `exec` requests) used.
    pub executions: u32,
    /// Lanes that really ran.
    pub lanes: u8,
    /// Set when the target could not run the batch and each command had its own execution; says why.
    pub fallback: Option<String>,
    /// Lanes that had to be started again.
    pub restarts: u32,
    /// Reconnects needed.
    pub reconnects: u32,
    /// The deadline came before the last answer.
    pub out_of_time: bool,
}
