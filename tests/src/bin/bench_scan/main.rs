//! Measures a scan of one host against a real OpenSSH server: one execution per check, ours, and the floor that nothing
//! can go below. `scripts/bench bench_scan` runs it.
//!
//! Distance is real: the server and we live in two network namespaces joined by `scripts/delay-link`, so handshakes, acknowledgements
//! and congestion windows all pay for it. The namespaces belong to these processes and go with them.

mod baseline;
mod checks;
mod far;
mod floor;
mod gauge;
mod link;
mod memory;
mod ours;
mod report;
mod rounds;

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use openwatch_model::host::KnownKey;

/// Where a server stands and how to get in.
#[derive(Clone, Serialize, Deserialize)]
struct Door {
    address: String,
    port: u16,
    user: String,
    host_key: KnownKey,
    private_key: String,
}

/// What was asked for.
#[derive(Clone)]
struct Size {
    checks: usize,
    runs: usize,
    /// In milliseconds; none is always measured too.
    round_trips: Vec<u64>,
}

const USAGE: &str = "bench_scan [--checks N] [--runs N] [--round-trips MS,MS..]";

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench_scan: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().context("cannot start a runtime")?;
    match args.first().map(String::as_str) {
        Some("--far") => runtime.block_on(far::serve()),
        Some("--hold") => runtime.block_on(memory::hold(&args[1..])),
        Some("--inside") => measure(&runtime, size(&args[1..])?, None),
        _ => {
            let size = size(&args)?;
            match link::refusal() {
                None => go_inside(&args),
                Some(why) => measure(&runtime, size, Some(why)),
            }
        }
    }
}

/// Becomes the same program in a network namespace of its own.
fn go_inside(args: &[String]) -> anyhow::Result<()> {
    let this = std::env::current_exe().context("cannot find this program")?;
    let error = Command::new("unshare").args(["--net", "--"]).arg(this).arg("--inside").args(args).exec();
    Err(error).context("cannot run unshare")
}

fn measure(runtime: &tokio::runtime::Runtime, size: Size, no_distance: Option<String>) -> anyhow::Result<()> {
    runtime.block_on(async {
        tokio::select! {
            result = rounds::all(size, no_distance) => result,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}

fn size(args: &[String]) -> anyhow::Result<Size> {
    let mut size = Size { checks: 500, runs: 3, round_trips: vec![20, 100] };
    let mut args = args.iter();
    while let Some(name) = args.next() {
        let value = args.next().context(USAGE)?;
        let mut numbers = value.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>().context(USAGE)?;
        numbers.retain(|number| *number > 0);
        let first = || anyhow::Ok(usize::try_from(*numbers.first().context(USAGE)?)?);
        match name.as_str() {
            "--checks" => size.checks = first()?,
            "--runs" => size.runs = first()?,
            "--round-trips" => size.round_trips = numbers,
            _ => anyhow::bail!(USAGE),
        }
    }
    Ok(size)
}
