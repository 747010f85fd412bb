//! Servers that survived an earlier supervisor and still use our data directory.
//!
//! Nothing is known of their state or settings, so they are stopped, never adopted. A process counts as ours only
//! when both its program and its working directory say so: a process id alone may since belong to a stranger.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::PrivateError;
use super::find::Kind;

const POLL: Duration = Duration::from_millis(20);

/// Stops every server of that kind whose working directory is `dir`; says how many there were.
///
/// Asks first, kills after ten seconds, gives up five seconds later.
pub(super) fn stop_leftovers(kind: Kind, dir: &Path) -> Result<usize, PrivateError> {
    let mut stopped = 0;
    // QUIT makes PostgreSQL and its helpers end at once and clean up their shared memory; recovery does the rest.
    let gentle = match kind {
        Kind::Postgres => Signal::QUIT,
        Kind::Nats => Signal::TERM,
    };
    for (signal, patience) in [(gentle, Duration::from_secs(10)), (Signal::KILL, Duration::from_secs(5))] {
        let found = using(kind, dir);
        stopped = stopped.max(found.len());
        for pid in found {
            tracing::warn!(server = %kind, pid = pid.as_raw_pid(), "stopping a server left over from an earlier run");
            // Gone meanwhile, or not ours to signal: the wait below tells.
            let _ = kill_process(pid, signal);
        }
        if wait_until_gone(kind, dir, patience) {
            return Ok(stopped);
        }
    }
    match using(kind, dir).first() {
        None => Ok(stopped),
        Some(pid) => Err(PrivateError::LeftoverStays {
            kind,
            pid: pid.as_raw_pid().unsigned_abs(),
            dir: dir.to_owned(),
        }),
    }
}

fn wait_until_gone(kind: Kind, dir: &Path, patience: Duration) -> bool {
    let since = Instant::now();
    while !using(kind, dir).is_empty() {
        if since.elapsed() > patience {
            return false;
        }
        sleep(POLL);
    }
    true
}

/// Processes of that kind that run in `dir`. Processes of other users are invisible to us, unless we are root.
fn using(kind: Kind, dir: &Path) -> Vec<Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            // A program replaced by an upgrade reads "postgres (deleted)".
            let name = program.file_name()?.to_str()?.trim_end_matches(" (deleted)").to_owned();
            (cwd == dir && name == kind.executable()).then_some(pid)
        })
        .collect()
}
