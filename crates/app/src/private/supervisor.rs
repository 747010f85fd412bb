//! The loop that keeps servers alive and ends them.
//!
//! It runs on one thread that also started them: the kernel ties "my parent died" to the starting *thread*, so this
//! thread must end last, and does.

use std::path::Path;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::error::PrivateError;
use super::find::Kind;
use super::leftovers::stop_leftovers;
use super::server::{Server, signal};

const POLL: Duration = Duration::from_millis(20);
/// While somebody waits for the start, look more often.
const START_POLL: Duration = Duration::from_millis(4);
/// Recovery after a crash replays the log, which may take its time; a server that takes longer is stuck.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// A server that lived that long was not ill: its next death counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);
/// With the pauses between them, some six seconds: what does not mend in that time needs a person.
const MOST_DEATHS: u32 = 6;

/// The other side's wish that everything ends: sent, or implied by hanging up.
#[derive(Debug)]
pub(super) struct StopSignal(pub(super) Receiver<()>);

impl StopSignal {
    /// Waits that long; true once a stop is wished for.
    pub(super) fn within(&self, time: Duration) -> bool {
        !matches!(self.0.recv_timeout(time), Err(RecvTimeoutError::Timeout))
    }
}

#[derive(Debug)]
enum State {
    Up { child: Child, since: Instant, ready: bool },
    Down { until: Instant },
}

#[derive(Debug)]
struct Ward {
    server: Server,
    state: State,
    deaths: u32,
}

/// All servers of one data directory, running. Dropping it stops them.
#[derive(Debug)]
pub(super) struct Supervisor<'a> {
    reexec: &'a Path,
    wards: Vec<Ward>,
}

impl<'a> Supervisor<'a> {
    /// Starts all servers and waits until all are ready.
    ///
    /// A death at this point is an error, not a reason to try again: somebody is watching and can act.
    pub(super) fn start(
        servers: Vec<Server>,
        reexec: &'a Path,
        stop: &StopSignal,
    ) -> Result<Self, PrivateError> {
        let mut all = Self { reexec, wards: Vec::new() };
        for server in servers {
            let child = server.spawn(reexec)?;
            let state = State::Up { child, since: Instant::now(), ready: false };
            all.wards.push(Ward { server, state, deaths: 0 });
        }
        while !all
            .wards
            .iter_mut()
            .map(Ward::first_look)
            .collect::<Result<Vec<_>, _>>()?
            .iter()
            .all(|ready| *ready)
        {
            if stop.within(START_POLL) {
                return Err(PrivateError::Stopped);
            }
        }
        Ok(all)
    }

    /// Restarts what dies, until a stop is wished for or a server cannot be kept.
    pub(super) fn watch(&mut self, stop: &StopSignal) -> Result<(), PrivateError> {
        while !stop.within(POLL) {
            for ward in &mut self.wards {
                ward.look(self.reexec)?;
            }
        }
        Ok(())
    }
}

impl Drop for Supervisor<'_> {
    /// Asks all at once, then insists, then kills. By process id of children not yet waited for, nothing else.
    fn drop(&mut self) {
        let longest = self.wards.iter().map(|ward| ward.server.stop_steps().len()).max().unwrap_or(0);
        for step in 0..longest {
            let mut patience = Duration::ZERO;
            for ward in self.wards.iter_mut().filter_map(Ward::alive) {
                let (wish, time) = ward.0.stop_steps()[step];
                signal(ward.1, wish);
                patience = patience.max(time);
            }
            let since = Instant::now();
            while self.wards.iter_mut().filter_map(Ward::alive).next().is_some() && since.elapsed() < patience
            {
                std::thread::sleep(POLL);
            }
        }
    }
}

impl Ward {
    fn alive(&mut self) -> Option<(&Server, &Child)> {
        match &mut self.state {
            State::Up { child, .. } => {
                matches!(child.try_wait(), Ok(None)).then_some((&self.server, &*child))
            }
            State::Down { .. } => None,
        }
    }

    /// While starting for the first time: whether it is ready; dead or late is an error.
    fn first_look(&mut self) -> Result<bool, PrivateError> {
        let State::Up { child, since, ready } = &mut self.state else { return Ok(false) };
        *ready = *ready || self.server.is_ready(child);
        let ended = child.try_wait();
        let what = match ended {
            Ok(Some(status)) => format!("it ended with {status}"),
            _ if since.elapsed() > READY_WITHIN => format!("it was not ready after {READY_WITHIN:?}"),
            _ => return Ok(*ready),
        };
        // A port that a stranger took between our look and the server's is worth its own words. While our server lives it
        // is the one that holds it.
        if matches!(ended, Ok(Some(_))) && super::port::is_taken(self.server.port) {
            return Err(PrivateError::PortTaken { kind: self.server.kind, port: self.server.port });
        }
        let (kind, log, last_lines) = (self.server.kind, self.server.log.clone(), self.server.last_lines());
        Err(PrivateError::NotReady { kind, what, log, last_lines })
    }

    fn look(&mut self, reexec: &Path) -> Result<(), PrivateError> {
        let kind = self.server.kind;
        match &mut self.state {
            State::Down { until } if Instant::now() < *until => {}
            State::Down { .. } => match self.start_again(reexec) {
                Ok(child) => self.state = State::Up { child, since: Instant::now(), ready: false },
                Err(error) => {
                    tracing::warn!(server = %kind, error = %error, "restarting a server failed");
                    self.died()?;
                }
            },
            State::Up { child, since, ready } => match child.try_wait() {
                Ok(Some(status)) => {
                    if *ready && since.elapsed() > HEALTHY_AFTER {
                        self.deaths = 0;
                    }
                    tracing::warn!(server = %kind, pid = child.id(), status = %status, "a private server died");
                    self.died()?;
                }
                _ if *ready => {}
                _ if self.server.is_ready(child) => {
                    *ready = true;
                    tracing::info!(server = %kind, pid = child.id(), "private server is back");
                }
                // Its death is seen at the next look.
                _ if since.elapsed() > READY_WITHIN => signal(child, rustix::process::Signal::KILL),
                _ => {}
            },
        }
        Ok(())
    }

    fn start_again(&self, reexec: &Path) -> Result<Child, PrivateError> {
        if self.server.kind == Kind::Postgres {
            // When only the postmaster was killed, its helpers may need a moment, and block a new one until gone.
            stop_leftovers(Kind::Postgres, &self.server.cwd)?;
        }
        self.server.spawn(reexec)
    }

    fn died(&mut self) -> Result<(), PrivateError> {
        self.server.pid.store(0, Ordering::Relaxed);
        self.deaths += 1;
        if self.deaths > MOST_DEATHS {
            let (kind, log) = (self.server.kind, self.server.log.clone());
            let last_lines = self.server.last_lines();
            return Err(PrivateError::GaveUp { kind, deaths: self.deaths, log, last_lines });
        }
        self.state = State::Down { until: Instant::now() + pause(self.deaths) };
        Ok(())
    }
}

/// 0.1 s, doubling, up to 10 s.
fn pause(deaths: u32) -> Duration {
    Duration::from_millis(100 << (deaths - 1).min(7)).min(Duration::from_secs(10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_slow_down() {
        let pauses: Vec<_> = (1..=9).map(|deaths| pause(deaths).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    }
}
