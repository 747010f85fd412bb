//! Hidden entries of the program, looked at before the command line is parsed and before any thread exists.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::child::{CHILD, child_main};
use super::data_dir::DataDir;
use super::error::PrivateError;
use super::find::Places;
use super::{Durability, NatsOptions, Private, PrivateOptions};

/// Runs only the private servers, until SIGTERM or SIGINT: for tests that kill the supervisor.
/// `__private DATA_DIR POSTGRES_PORT|- NATS_PORT|- [USERS_CONF]`
const PRIVATE: &str = "__private";

/// Handles `__child` and `__private`; `None` means that this is an ordinary start.
///
/// Call it first in `main`: `__child` gives up privileges, which is right for a process with a single thread only.
#[must_use]
pub fn hidden_entry() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    match args.next()?.to_str()? {
        CHILD => child_main(args),
        PRIVATE => Some(run_private(&args.collect::<Vec<_>>())),
        _ => None,
    }
}

fn run_private(args: &[OsString]) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("start a runtime: {error}"), 70),
    };
    match runtime.block_on(private_until_signal(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_unavailable() => complain(&error.to_string(), 69),
        Err(error) => complain(&error.to_string(), 64),
    }
}

async fn private_until_signal(args: &[OsString]) -> Result<(), PrivateError> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(PrivateError::io("listen for", "signals"));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let text = |index: usize| args.get(index).and_then(|arg| arg.to_str());
    let port = |index: usize| text(index).and_then(|text| text.parse().ok());
    let users = args.get(3).map(PathBuf::from).unwrap_or_default();
    let users_conf = std::fs::read_to_string(&users).unwrap_or_default();
    let options = PrivateOptions {
        postgres_port: port(1),
        nats: port(2).map(|port| NatsOptions { port, users_conf }),
        durability: Durability::ProcessCrash,
        places: Places::from_environment(),
        reexec: None,
    };
    let data = DataDir::open(Path::new(text(0).unwrap_or_default()))?;
    let mut private = tokio::select! {
        started = Private::start(data, options) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    // A test waits for this line. Not `println!`: a closed stdout is no reason to panic.
    let _ = writeln!(std::io::stdout(), "ready nats={}", private.nats_url().unwrap_or("-"));
    tokio::select! {
        error = private.wait_failure() => return Err(error),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    private.stop().await;
    Ok(())
}

fn complain(reason: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "openwatch: failed to {reason}");
    ExitCode::from(code)
}
