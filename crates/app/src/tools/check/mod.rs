//! `openwatch check`: measure a host now, without bus or database.
//!
//! `ask` turns the command line into what to measure, `site` adds the site's own values, `login` says how to get in; `known_hosts` beside it knows which host
//! key to believe; `show` prints what came of it, and `explain` says what to do when nothing did.

mod ask;
mod explain;
mod jump;
mod login;
mod show;
mod site;

pub(crate) use ask::{known_capability, known_framework, severities};

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use openwatch_model::Timestamp;
use openwatch_model::credential::SudoMode;
use openwatch_model::scan::Measurement;
use openwatch_pipeline::loaded::Loaded;
use openwatch_pipeline::measure::{MeasureOptions, measure};
use openwatch_remote::{Connection, Limits, Target, connect, connect_through};
use tokio_util::sync::CancellationToken;

use self::jump::JumpHost;
use super::known_hosts;
use crate::cli::CheckArgs;
use crate::exit::{Failure, INTERRUPTED};

/// How long an interrupted scan may take to clear up on the target.
const CLEAR_UP: Duration = Duration::from_secs(5);

/// Runs the check. The exit code: 0 all pass, 1 some fail, 2 some in error.
///
/// # Errors
/// 64 for usage, 69 when the host is unreachable or refuses.
pub async fn run(args: CheckArgs) -> Result<u8, Failure> {
    let target = ask::target(&args)?;
    let corpus = ask::corpus(&args, &target)?;
    let selection = ask::selection(&args, &corpus)?;
    let capabilities = ask::capabilities(&args.capabilities)?;
    let secret = login::secret_of(&args)?;
    let policy = known_hosts::policy(&args.host_key, &target)?;
    let jump = jump::jump(&args, &secret)?;
    crate::run::harden();

    let begun = Instant::now();
    let started_at = Timestamp::now_utc();
    let cancel = CancellationToken::new();
    let bar = progress();
    let loaded = Loaded::new(corpus);
    let work = async {
        let refused =
            |error: &openwatch_remote::RemoteError| explain::refusal(error, &args, &target, &policy);
        bar.set_message(format!("connecting to {}", target.address));
        let limits = Limits::default();
        let keep = |target: &Target, connection: &Connection| match connection.is_first_contact() {
            true => bar.suspend(|| known_hosts::remember(target, connection.host_key())),
            false => Ok(()),
        };
        let connection = match jump {
            None => connect(&target, &policy, &limits, &cancel).await,
            Some(JumpHost { target: first, policy: known, secret }) => {
                let connection = connect(&first, &known, &limits, &cancel).await;
                let connection = connection.map_err(|error| refused(&error.at_jump()))?;
                keep(&first, &connection)?;
                let jump = connection.into_jump(secret).await.map_err(|error| refused(&error))?;
                connect_through(&jump, &target, &policy, &limits, &cancel).await
            }
        }
        .map_err(|error| refused(&error))?;
        keep(&target, &connection)?;
        bar.set_message("logging in");
        let mut session = connection.login(&secret).await.map_err(|error| refused(&error))?;
        let sudo = args.sudo || args.sudo_password_file.is_some();
        let options = MeasureOptions {
            lanes: args.lanes,
            sudo: if sudo { SudoMode::Sudo } else { SudoMode::None },
            deadline: begun + Duration::from_secs(args.timeout),
            selection,
            capabilities,
            whole: false,
        };
        bar.set_message("looking at the system");
        let tell = |done: usize, total: usize| {
            if total > 0 {
                bar.set_message(format!("{done} of {total} commands answered"));
            }
        };
        let measured = measure(&mut session, &loaded, &secret, &options, &tell).await;
        session.close().await;
        measured.map_err(|failure| explain::failure(&failure, &args, &target))
    };
    let measured = interruptible(work, &cancel).await;
    bar.finish_and_clear();
    let Some(measured) = measured else { return Ok(INTERRUPTED) };
    show::show(&args, &target, &measured?, started_at, begun.elapsed())
}

/// Runs to the end, or to Ctrl-C: then the scan is told, and given a moment to clear away what runs on the target. A
/// second Ctrl-C does not wait.
async fn interruptible(
    work: impl Future<Output = Result<Measurement, Failure>>,
    cancel: &CancellationToken,
) -> Option<Result<Measurement, Failure>> {
    tokio::pin!(work);
    tokio::select! {
        measured = &mut work => return Some(measured),
        _ = tokio::signal::ctrl_c() => cancel.cancel(),
    }
    tokio::select! {
        _ = tokio::time::timeout(CLEAR_UP, &mut work) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    None
}

/// On standard error, and only where a person looks at it.
fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}, {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
