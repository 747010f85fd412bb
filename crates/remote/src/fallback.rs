//! One execution per command, for targets where no shell reads a script from standard input.
//!
//! The same frames, the same parser; only the script travels as an argument. A command is never sent to the login shell
//! as it is: a restricted or foreign shell would run something else, and its failure would look like an answer.

use tokio::time::Instant;

use crate::elevate::{Elevation, Wrapper};
use crate::error::RemoteError;
use crate::guard::lock;
use crate::pass::{End, Mode};
use crate::run::{PassEnd, Runner, hear_out};
use crate::session::Shells;
use crate::shell::NotOpen;

/// Shells tried, in this order. The second is for restricted shells, which allow no path.
pub(crate) const SHELLS: [&str; 2] = ["/bin/sh", "sh"];

pub(crate) async fn pass(runner: &mut Runner<'_, '_>) -> Result<PassEnd, RemoteError> {
    let Some(Shells::Single { elevation, mut shell, why }) = runner.session.shells.clone() else {
        return Ok(PassEnd::Settled);
    };
    runner.report.fallback = Some(why.clone());
    let cancel = runner.session.connection.route.cancel.clone();
    let mut worked = false;
    while lock(runner.board).has_queue() {
        let end = {
            let pass = runner.shared(elevation, Wrapper::Bare);
            let running = pass.run(0, Mode::Single { shell }, true);
            tokio::pin!(running);
            let end = tokio::select! {
                biased;
                () = cancel.cancelled() => Err(PassEnd::Cancelled),
                () = tokio::time::sleep_until(runner.deadline) => Err(PassEnd::OutOfTime),
                end = &mut running => Ok(end),
            };
            if end.is_err() {
                hear_out(runner.board, running).await;
            }
            end
        };
        // The lane is gone by now: nobody would read what it still says, and that would hold up its own burial.
        let end = match end {
            Ok(end) => end,
            Err(stopped) => {
                let live = std::mem::take(&mut lock(runner.board).live);
                lock(runner.board).unburied.extend(live.into_values());
                bury(runner, elevation, shell).await;
                return Ok(stopped);
            }
        };
        match end {
            End::Finished | End::Aborted => worked = true,
            End::Gone => return Ok(PassEnd::Gone),
            End::NotOpen(NotOpen::NoSlot) => return Ok(PassEnd::NoSlot),
            End::NotOpen(NotOpen::Gone) => return Ok(PassEnd::Gone),
            End::NotOpen(NotOpen::WrongPassword) => {
                let peer = runner.session.connection.route.peer.clone();
                let user = runner.session.connection.route.target.user.clone();
                return Err(RemoteError::SudoPasswordWrong { peer, user });
            }
            End::NotOpen(_) if worked => {
                let mut board = lock(runner.board);
                let turns = board.take_up_to(1);
                board.count_abort();
                for turn in turns {
                    board.blame(turn.index, openwatch_model::plan::Lost::Protocol);
                }
            }
            // A restricted shell says that it allows no path; what says nothing has no other shell either.
            End::NotOpen(NotOpen::NoHello { waited: Some(waited), .. }) if elevation != Elevation::None => {
                let peer = runner.session.connection.route.peer.clone();
                let user = runner.session.connection.route.target.user.clone();
                return Err(RemoteError::SudoSilent { peer, user, waited });
            }
            End::NotOpen(NotOpen::NoHello { waited: None, .. }) if shell == SHELLS[0] => shell = SHELLS[1],
            End::NotOpen(_) => return Err(no_shell(runner, elevation, &why)),
        }
        if worked {
            runner.session.shells = Some(Shells::Single { elevation, shell, why: why.clone() });
        }
        if Instant::now() >= runner.deadline {
            return Ok(PassEnd::OutOfTime);
        }
    }
    bury(runner, elevation, shell).await;
    Ok(PassEnd::Settled)
}

/// Clears away what commands left that had to be ended, in an execution that runs nothing else: a command that is still
/// queued when the time or the logins are used up is not run once more by whoever clears up after it.
pub(crate) async fn bury(runner: &Runner<'_, '_>, elevation: Elevation, shell: &str) {
    if lock(runner.board).unburied.is_empty() {
        return;
    }
    let pass = runner.shared(elevation, Wrapper::Bare);
    // Whether it worked or not, there is nothing more to be done.
    runner.burial(&pass, Some(shell), true).await;
}

fn no_shell(runner: &Runner<'_, '_>, elevation: Elevation, why: &str) -> RemoteError {
    let peer = runner.session.connection.route.peer.clone();
    let user = runner.session.connection.route.target.user.clone();
    let detail = why.to_owned();
    if elevation == Elevation::None {
        RemoteError::NoShell { peer, user, detail }
    } else {
        RemoteError::SudoRefused { peer, user, detail }
    }
}
