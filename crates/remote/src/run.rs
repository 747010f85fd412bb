//! A whole plan on one host: passes over connections, each with its lanes, until every command has an answer or there
//! is no point in going on.

use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::host::HostKeyMode;
use openwatch_model::plan::{Lost, Observation, Plan, RunReport};
use openwatch_model::scan::FailureReason;
use tokio::time::Instant;

use crate::board::Board;
use crate::classify::{NoHello, classify, first_words};
use crate::elevate::{Elevation, Wrapper, sudo_password};
use crate::error::RemoteError;
use crate::fallback;
use crate::guard::lock;
use crate::host_key::Trust;
use crate::pass::{End, Lane, Mode, Pass};
use crate::script::{Nonce, whole_seconds};
use crate::session::{RunOptions, Session, Shells};
use crate::shell::NotOpen;

/// Most that clearing away may take while a scan goes on.
const BURIAL: Duration = Duration::from_secs(10);
/// Most that it takes to stop, when cancelled or out of time: the last hellos, and clearing away.
pub const CLEARING: Duration = Duration::from_secs(8);
/// Time for a lane that is being opened when everything is to stop: it may have begun, and only its hello says how to end it.
const LAST_HELLO: Duration = Duration::from_secs(2);
/// Reconnects we bring about ourselves because the host has no slot left for a second execution.
const FORCED: u32 = 10;
/// Connections that may go before a host is given up. A network seldom breaks twice within a scan; a command that breaks
/// its connection does so in every company, and needs one more to be run by itself.
const DROPS: u32 = 5;

/// Why a pass over one connection ended.
pub(crate) enum PassEnd {
    /// Nothing is left to do.
    Settled,
    /// The connection is gone.
    Gone,
    /// Abandoned executions occupy all slots: only a new connection helps.
    NoSlot,
    OutOfTime,
    Cancelled,
}

pub(crate) async fn run(
    session: &mut Session,
    plan: &Plan,
    options: &RunOptions<'_>,
    secret: &Secret,
    deadline: Instant,
) -> Result<(Vec<Observation>, RunReport), RemoteError> {
    let tag = Nonce::fresh().map(|n| n.as_str()[..12].to_owned()).unwrap_or_else(|| "spool".to_owned());
    let board = Mutex::new(Board::new(plan, options.caps, options.on_progress));
    let mut report = RunReport::default();
    let (mut drops, mut forced) = (0, 0);
    let mut cancelled = false;
    while !lock(&board).is_settled() {
        let mut runner =
            Runner { session, options, secret, deadline, board: &board, tag: &tag, report: &mut report };
        let again = match runner.pass().await? {
            PassEnd::Settled => break,
            PassEnd::Cancelled => {
                cancelled = true;
                break;
            }
            PassEnd::OutOfTime => {
                report.out_of_time = true;
                false
            }
            PassEnd::Gone => {
                drops += 1;
                if drops > 1 && lock(&board).only_suspects() {
                    one_by_one(session);
                }
                drops <= DROPS
            }
            PassEnd::NoSlot => {
                forced += 1;
                forced <= FORCED
            }
        };
        if !again || !reconnect(session, secret, deadline, &mut report).await? {
            lock(&board).lose_rest(Lost::Connection);
        }
    }
    let mut runner =
        Runner { session, options, secret, deadline, board: &board, tag: &tag, report: &mut report };
    runner.bury_the_rest().await;
    if cancelled {
        return Err(RemoteError::Cancelled);
    }
    let board = board.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    report.executions = board.executions;
    report.lanes = board.greeted;
    Ok((board.into_observations(), report))
}

/// How long a shell is waited for: no more than a quarter of the time that is left, or finding out that there is none
/// would leave none for the fallback.
fn patience(longest: Duration, left: Duration) -> Duration {
    longest.min((left / 4).max(Duration::from_secs(5)))
}

/// From now on nothing runs beside anything else: what breaks the next connection is known.
fn one_by_one(session: &mut Session) {
    if let Some(Shells::Batch { elevation, .. }) = session.shells {
        let why = "a command breaks the connection".to_owned();
        session.shells = Some(Shells::Single { elevation, shell: fallback::SHELLS[0], why });
    }
}

/// Logs in again, to the same host: only the key it showed at first will do. `false` when it stays away.
async fn reconnect(
    session: &mut Session,
    secret: &Secret,
    deadline: Instant,
    report: &mut RunReport,
) -> Result<bool, RemoteError> {
    report.reconnects += 1;
    let mut route = session.connection.route.clone();
    route.policy.known = vec![session.host_key().clone()];
    route.policy.trust = Trust::Mode(HostKeyMode::RequireKnown);
    let cancel = route.cancel.clone();
    let again = async { route.connect().await?.login(secret).await };
    let result = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(RemoteError::Cancelled),
        () = tokio::time::sleep_until(deadline) => {
            report.out_of_time = true;
            return Ok(false);
        }
        result = again => result,
    };
    match result {
        Ok(fresh) => {
            session.connection.handle = fresh.connection.handle;
            session.connection.seen = fresh.connection.seen;
            session.connection.round_trip = fresh.connection.round_trip;
            session.connection.steady = fresh.connection.steady;
            Ok(true)
        }
        // What came back is not the host we measured: nothing of it may be kept.
        Err(error) if matches!(error.reason(), FailureReason::HostKeyMismatch | FailureReason::Cancelled) => {
            Err(error)
        }
        Err(error) => {
            tracing::debug!(%error, "no second connection");
            Ok(false)
        }
    }
}

/// That a shell did not say hello in time, and the first words of what it said instead.
fn no_answer(waited: Duration, words: &str) -> String {
    let silence = format!("the shell did not answer within {} s", whole_seconds(waited));
    if words.is_empty() { silence } else { format!("{silence}; it said: {words}") }
}

/// One pass.
pub(crate) struct Runner<'r, 'p> {
    pub(crate) session: &'r mut Session,
    pub(crate) options: &'r RunOptions<'r>,
    pub(crate) secret: &'r Secret,
    pub(crate) deadline: Instant,
    pub(crate) board: &'r Mutex<Board<'p>>,
    pub(crate) tag: &'r str,
    pub(crate) report: &'r mut RunReport,
}

/// How the first shell of a pass came about.
enum First {
    Lane(Box<Lane>, Elevation, Wrapper),
    Ended(PassEnd),
    Single,
}

/// How a batch ended.
enum Batch {
    Ended(PassEnd),
    /// No lane began, and nothing is lost.
    Refused(NotOpen),
}

impl<'p> Runner<'_, 'p> {
    async fn pass(&mut self) -> Result<PassEnd, RemoteError> {
        if !matches!(self.session.shells, Some(Shells::Single { .. })) {
            let mut refused = None;
            if let Some((elevation, wrapper)) = self.guess() {
                match self.batch(None, elevation, wrapper).await {
                    Batch::Ended(end) => return Ok(end),
                    Batch::Refused(why) => refused = Some(why),
                }
            }
            let first = self.first_lane_or_end(refused).await?;
            match first {
                First::Lane(lane, elevation, wrapper) => {
                    return Ok(match self.batch(Some(*lane), elevation, wrapper).await {
                        Batch::Ended(end) => end,
                        // Not with a lane that has begun.
                        Batch::Refused(_) => PassEnd::Gone,
                    });
                }
                First::Ended(end) => return Ok(end),
                First::Single => {}
            }
        }
        fallback::pass(self).await
    }

    /// The first lane, unless there is no time for one. One that may have begun by then comes all the same, to be ended.
    async fn first_lane_or_end(&mut self, refused: Option<NotOpen>) -> Result<First, RemoteError> {
        let (cancel, deadline) = (self.session.connection.route.cancel.clone(), self.deadline);
        let board = self.board;
        let opening = self.first_lane(refused);
        tokio::pin!(opening);
        let end = tokio::select! {
            biased;
            () = cancel.cancelled() => PassEnd::Cancelled,
            () = tokio::time::sleep_until(deadline) => PassEnd::OutOfTime,
            first = &mut opening => return first,
        };
        Ok(match hear_out(board, opening).await {
            Some(Ok(lane @ First::Lane(..))) => lane,
            _ => First::Ended(end),
        })
    }

    pub(crate) fn shared(&self, elevation: Elevation, wrapper: Wrapper) -> Pass<'_, 'p> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        Pass {
            handle: &self.session.connection.handle,
            board: self.board,
            password: sudo_password(self.secret),
            elevation,
            login_shell: self.options.sudo == SudoMode::None,
            wrapper,
            lanes: self.options.lanes.max(1),
            round_trip: self.session.connection.round_trip,
            steady: &self.session.connection.steady,
            hello: patience(self.session.connection.route.limits.hello, left),
            budget: left + Duration::from_secs(5),
            tag: self.tag,
        }
    }

    /// How shells are had here, or what to try first.
    fn start(&self) -> (Elevation, Wrapper) {
        let given = self.secret.sudo_password.is_some();
        let first = Elevation::first(self.options.sudo, &self.session.connection.route.target.user, given);
        match &self.session.shells {
            Some(Shells::Batch { elevation, wrapper }) if self.options.sudo != SudoMode::None => {
                (*elevation, *wrapper)
            }
            Some(Shells::Batch { wrapper, .. }) => (first, *wrapper),
            _ => (first, Wrapper::Timeout),
        }
    }

    /// What may be tried by all lanes at once: what has worked before, or what almost always does. Where sudo may yet ask
    /// for a password, one lane alone finds out, for every wrong one counts.
    fn guess(&self) -> Option<(Elevation, Wrapper)> {
        let (elevation, wrapper) = self.start();
        let known = self.session.shells.is_some() && elevation == Elevation::SudoQuiet;
        (self.options.lanes > 1 && (known || elevation == Elevation::None)).then_some((elevation, wrapper))
    }

    /// Opens the first lane and finds out on the way how shells are had here. `refused` is what became of the first try.
    async fn first_lane(&mut self, mut refused: Option<NotOpen>) -> Result<First, RemoteError> {
        let user = self.session.connection.route.target.user.clone();
        let peer = self.session.connection.route.peer.clone();
        let (mut elevation, mut wrapper) = self.start();
        loop {
            let why = match refused.take() {
                Some(why) => why,
                None => match self.shared(elevation, wrapper).open(0, Mode::Batch, true).await {
                    Ok(lane) => return Ok(First::Lane(Box::new(lane), elevation, wrapper)),
                    Err(why) => why,
                },
            };
            let (noise, waited) = match why {
                NotOpen::Gone => return Ok(First::Ended(PassEnd::Gone)),
                // Whoever said so knows why.
                NotOpen::Stopped => return Ok(First::Ended(PassEnd::Cancelled)),
                // Not even a first one: no new connection will change that.
                NotOpen::NoSlot if lock(self.board).greeted == 0 => {
                    return Err(RemoteError::NoShell {
                        peer,
                        user,
                        detail: "the host opens no session".to_owned(),
                    });
                }
                NotOpen::NoSlot => return Ok(First::Ended(PassEnd::NoSlot)),
                NotOpen::WrongPassword => return Err(RemoteError::SudoPasswordWrong { peer, user }),
                NotOpen::NoHello { noise, waited } => (noise, waited),
            };
            let detail = first_words(&noise);
            match classify(&noise, elevation != Elevation::None) {
                // There are hosts where sudo lets us run a shell and nothing else.
                NoHello::SudoPassword | NoHello::SudoRefused
                    if elevation == Elevation::SudoQuiet
                        && wrapper == Wrapper::Timeout
                        && sudo_password(self.secret).is_none() =>
                {
                    wrapper = Wrapper::Bare;
                }
                NoHello::SudoPassword if elevation == Elevation::SudoQuiet => {
                    if sudo_password(self.secret).is_none() {
                        return Err(RemoteError::SudoPasswordRequired { peer, user });
                    }
                    elevation = Elevation::SudoPassword;
                }
                NoHello::SudoPassword => return Err(RemoteError::SudoPasswordWrong { peer, user }),
                NoHello::SudoTty => return Err(RemoteError::SudoRequiresTty { peer, user }),
                NoHello::SudoRefused => return Err(RemoteError::SudoRefused { peer, user, detail }),
                NoHello::SudoMissing => return Err(RemoteError::SudoMissing { peer, user }),
                NoHello::TimeoutMissing | NoHello::Unknown
                    if wrapper == Wrapper::Timeout && waited.is_none() =>
                {
                    wrapper = Wrapper::Bare;
                }
                NoHello::TimeoutMissing | NoHello::Unknown => {
                    let why = match waited {
                        Some(waited) if elevation == Elevation::SudoPassword => {
                            return Err(RemoteError::SudoSilent { peer, user, waited });
                        }
                        Some(waited) => no_answer(waited, &detail),
                        None if detail.is_empty() => "the shell ended without an answer".to_owned(),
                        None => detail,
                    };
                    self.session.shells = Some(Shells::Single { elevation, shell: fallback::SHELLS[0], why });
                    return Ok(First::Single);
                }
            }
        }
    }

    /// Runs lanes until the queue is empty and all of them have ended. Without a `first` all are opened at once.
    async fn batch(&mut self, first: Option<Lane>, elevation: Elevation, wrapper: Wrapper) -> Batch {
        let cancel = self.session.connection.route.cancel.clone();
        let mut restarts = 0;
        let pass = &self.shared(elevation, wrapper);
        let hellos = lock(self.board).hellos;
        // Opening a lane is a chain of round trips.
        pass.steady.store(false, Ordering::Relaxed);
        let mut began = first.is_some();
        let mut refused = None;
        let end = {
            let mut ends: FuturesUnordered<BoxFuture<'_, (u8, End)>> = FuturesUnordered::new();
            let run = |number, patient| async move { (number, pass.run(number, Mode::Batch, patient).await) };
            match first {
                Some(lane) => ends.push(Box::pin(async { (0, pass.drive(lane).await) })),
                None => ends.push(Box::pin(run(0, true))),
            }
            for number in 1..pass.lanes {
                // Whether anything is left for it shows when the ones before it have taken their shares.
                ends.push(Box::pin(async move {
                    if lock(pass.board).has_queue() {
                        run(number, false).await
                    } else {
                        (number, End::Finished)
                    }
                }));
            }
            let end = loop {
                let next = tokio::select! {
                    biased;
                    () = cancel.cancelled() => break PassEnd::Cancelled,
                    () = tokio::time::sleep_until(self.deadline) => break PassEnd::OutOfTime,
                    next = ends.next() => next,
                };
                let Some((number, end)) = next else { break PassEnd::Settled };
                let more = {
                    let board = lock(self.board);
                    began |= board.hellos > hellos;
                    board.has_queue()
                };
                match end {
                    End::NotOpen(why) if !began => {
                        refused = refused.or(Some(why));
                        if ends.is_empty() {
                            break PassEnd::Settled;
                        }
                    }
                    End::Gone => break self.all_gone(&mut ends).await,
                    End::Aborted if more => {
                        restarts += 1;
                        ends.push(Box::pin(run(number, true)));
                    }
                    End::Aborted | End::Finished if more && ends.is_empty() => {
                        ends.push(Box::pin(run(number, true)))
                    }
                    End::Aborted | End::Finished => {}
                    End::NotOpen(_) if !ends.is_empty() || !more => {}
                    End::NotOpen(NotOpen::NoSlot) => break PassEnd::NoSlot,
                    // It was right a moment ago; trying until it is again would lock the account.
                    End::NotOpen(NotOpen::WrongPassword) => {
                        lock(self.board).lose_rest(Lost::Connection);
                        break PassEnd::Settled;
                    }
                    End::NotOpen(_) => {
                        lock(self.board).count_abort();
                        ends.push(Box::pin(run(number, true)));
                    }
                }
            };
            if matches!(end, PassEnd::Cancelled | PassEnd::OutOfTime) {
                hear_out(self.board, async { while ends.next().await.is_some() {} }).await;
            }
            end
        };
        if let (false, PassEnd::Settled, Some(why)) = (began, &end, refused) {
            return Batch::Refused(why);
        }
        let end = self.bury(pass, end).await;
        self.report.restarts += restarts;
        if began {
            self.session.shells = Some(Shells::Batch { elevation, wrapper });
        }
        Batch::Ended(end)
    }

    /// When the connection goes, it goes for all lanes: lets each of them note what it has lost.
    async fn all_gone(&self, ends: &mut FuturesUnordered<BoxFuture<'_, (u8, End)>>) -> PassEnd {
        let drained = async { while ends.next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_secs(2), drained).await;
        PassEnd::Gone
    }

    /// A spool that nobody could clear away, because the connection broke or the host had no slot for it, is worth one more
    /// login, if the host comes back. What else a lane leaves ends by itself.
    async fn bury_the_rest(&mut self) {
        if !lock(self.board).unburied.iter().any(|remains| remains.spooled) {
            return;
        }
        if self.session.connection.handle.is_closed() {
            let late = self.report.out_of_time;
            let again = reconnect(self.session, self.secret, self.deadline, self.report).await;
            // There may be no time for this; for all the commands there was.
            self.report.out_of_time = late;
            if !matches!(again, Ok(true)) {
                return;
            }
        }
        if let Some(Shells::Single { elevation, shell, .. }) = self.session.shells.clone() {
            fallback::bury(self, elevation, shell).await;
        } else {
            let (elevation, wrapper) = self.start();
            self.bury(&self.shared(elevation, wrapper), PassEnd::Settled).await;
        }
    }

    /// Clears away what abandoned lanes left on the target.
    async fn bury(&self, pass: &Pass<'_, 'p>, end: PassEnd) -> PassEnd {
        let left = {
            let mut board = lock(self.board);
            let live = std::mem::take(&mut board.live);
            board.unburied.extend(live.into_values());
            !board.unburied.is_empty()
        };
        if !left || matches!(end, PassEnd::Gone | PassEnd::NoSlot) {
            return end;
        }
        match self.burial(pass, None, false).await {
            Some(End::NotOpen(NotOpen::NoSlot)) if matches!(end, PassEnd::Settled) => PassEnd::NoSlot,
            _ => end,
        }
    }

    /// An execution that clears away and nothing else, within the time there is for that.
    pub(crate) async fn burial(&self, pass: &Pass<'_, 'p>, told: Option<&str>, patient: bool) -> Option<End> {
        let until = lock(self.board).clear_by().unwrap_or_else(|| Instant::now() + BURIAL);
        tokio::time::timeout_at(until, pass.run(0, Mode::Burial { told }, patient)).await.ok()
    }
}

/// Stops: nothing more begins, and lanes whose commands may have begun get a moment to say hello.
pub(crate) async fn hear_out<T>(board: &Mutex<Board<'_>>, lanes: impl Future<Output = T>) -> Option<T> {
    lock(board).stop(Instant::now() + CLEARING);
    tokio::pin!(lanes);
    let heard = poll_fn(|context| match lanes.as_mut().poll(context) {
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending if lock(board).opening == 0 => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    tokio::time::timeout(LAST_HELLO, heard).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_waited_for_as_long_as_the_run_can_afford() {
        let seconds = Duration::from_secs;
        for (longest, left, waited) in [(30, 300, 30), (30, 60, 15), (30, 4, 5), (2, 300, 2)] {
            assert_eq!(patience(seconds(longest), seconds(left)), seconds(waited));
        }
        assert_eq!(no_answer(seconds(30), ""), "the shell did not answer within 30 s");
        assert_eq!(no_answer(seconds(3), "moo"), "the shell did not answer within 3 s; it said: moo");
    }
}
