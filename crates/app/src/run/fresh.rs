//! Key files that change while a process runs: read again within a second, or at once on SIGHUP.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openwatch_pipeline::keys::Held;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::process::Process;
use crate::exit::Failure;
use crate::keydir::KeyDir;

/// How often it is looked whether a file changed.
const EVERY: Duration = Duration::from_secs(1);

/// Reads keys, and keeps them fresh for as long as the process runs. A file that cannot be read changes nothing.
///
/// # Errors
/// They cannot be read now.
pub fn keep_fresh<K: Send + Sync + 'static>(
    process: &mut Process,
    keys: &KeyDir,
    files: &[&str],
    load: fn(&KeyDir) -> Result<K, Failure>,
) -> Result<Held<K>, Failure> {
    let files: Vec<PathBuf> = files.iter().map(|name| keys.path().join(name)).collect();
    // Before reading: what changes in between is read again.
    let mut seen = stamps(&files);
    let (tell, held) = watch::channel(Arc::new(load(keys)?));
    let (keys, late) = (keys.clone(), process.late.clone());
    let mut hangup = signal(SignalKind::hangup())?;
    process.other("keys", async move {
        let mut told = None;
        loop {
            tokio::select! {
                () = late.cancelled() => return Ok::<(), Failure>(()),
                () = tokio::time::sleep(EVERY) => {}
                _ = hangup.recv() => seen.clear(),
            }
            let now = stamps(&files);
            if now == seen {
                continue;
            }
            match load(&keys) {
                Ok(fresh) => {
                    tell.send_replace(Arc::new(fresh));
                    tracing::info!(files = ?files, "keys read again");
                    (seen, told) = (now, None);
                }
                Err(failure) => {
                    if told.as_ref() != Some(&now) {
                        let error = format!("{:#}", failure.error);
                        tracing::error!(error, "changed keys cannot be read; the ones from before stay");
                    }
                    told = Some(now);
                }
            }
        }
    });
    Ok(held)
}

/// What tells one state of the files from another: a file is replaced, never written to.
fn stamps(files: &[PathBuf]) -> Vec<Option<(u64, i64, i64)>> {
    let stamp = |path: &PathBuf| {
        let it = std::fs::metadata(path).ok()?;
        Some((it.ino(), it.mtime(), it.mtime_nsec()))
    };
    files.iter().map(stamp).collect()
}
