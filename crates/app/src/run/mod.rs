//! The run commands: one stage, or all of them.

pub mod connect;
pub mod fresh;
pub mod process;
pub mod stages;
pub mod up;

use std::ops::ControlFlow;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use self::process::{Process, Stop, rest_config};
use self::stages::Wiring;
use crate::config::{Flags, load};
use crate::exit::{Failure, INTERNAL};

/// A stage that runs in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after the stages")]
pub enum Stage {
    Scheduler,
    Vault,
    Executor,
    Writer,
    Drift,
    Alerts,
    Liveness,
    Api,
}

/// Runs one stage until a signal.
///
/// # Errors
/// What it needs is missing or away, or it cannot go on.
pub async fn stage(stage: Stage, flags: Flags) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    match stop.unless_asked(start(stage, flags)).await? {
        ControlFlow::Continue(process) => process.wait(&mut stop).await,
        ControlFlow::Break(code) => Ok(code),
    }
}

async fn start(stage: Stage, flags: Flags) -> Result<Process, Failure> {
    let settings = load(flags)?;
    let keys = connect::keys(&settings)?;
    let metrics = metrics()?;
    harden();
    let mut process = Process::new();
    process.serve_health(settings.health_listen.as_deref(), metrics.clone())?;
    let mut wiring = Wiring { process: &mut process, settings: &settings, keys: &keys };
    match stage {
        Stage::Scheduler => wiring.scheduler().await?,
        Stage::Vault => wiring.vault().await?,
        Stage::Executor => wiring.executor().await?,
        Stage::Writer => wiring.writer().await?,
        Stage::Drift => wiring.drift().await?,
        Stage::Alerts => wiring.alerts().await?,
        Stage::Liveness => wiring.liveness().await?,
        Stage::Api => {
            let bound = |address| tracing::info!(%address, "REST");
            wiring.api(rest_config(&settings)?, metrics, bound).await?;
        }
    }
    tracing::info!(?stage, "running");
    Ok(process)
}

/// Where REST is served when nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8080";

/// Installs the recorder that every counter goes to.
///
/// # Errors
/// When there is one already: a mistake of ours.
pub fn metrics() -> Result<PrometheusHandle, Failure> {
    PrometheusBuilder::new().install_recorder().map_err(|e| Failure::new(INTERNAL, e))
}

/// Secrets live in this memory, and in that of the servers that this process starts: none of them leaves a core dump.
pub fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Lowering a limit is always allowed.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// No other process of the user may read this memory. After the last child was started: the children are found through
/// our own executable.
pub fn harden() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    no_core_dumps();
    if set_dumpable_behavior(DumpableBehavior::NotDumpable).is_err() {
        tracing::warn!("other processes of this user may read the memory of this one");
    }
}
