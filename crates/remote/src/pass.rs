//! Opening lanes: what each is told first, and what it means when it does not answer.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use russh::client::Handle;

use crate::board::{Board, Turn};
use crate::elevate::{Elevation, Request, Wrapper, reading_shell, told_shell};
use crate::guard::{Guard, lock};
use crate::pairing::Pairing;
use crate::script::{self, Item, Nonce, Remains};
use crate::shell::{self, NotOpen, Shell};
use crate::wire::SIP;

/// Tries for a session slot that another execution is about to free.
const SLOT_TRIES: u32 = 5;
/// What most commands take.
const LIKELY_PACE: Duration = Duration::from_millis(1);

/// What all lanes of one pass share.
pub(crate) struct Pass<'a, 'p> {
    pub(crate) handle: &'a Handle<Guard>,
    pub(crate) board: &'a Mutex<Board<'p>>,
    pub(crate) password: Option<&'a str>,
    pub(crate) elevation: Elevation,
    /// Whether sudo was not asked for, and a command is the account's own affair.
    pub(crate) login_shell: bool,
    pub(crate) wrapper: Wrapper,
    pub(crate) lanes: u8,
    pub(crate) round_trip: Duration,
    pub(crate) steady: &'a AtomicBool,
    pub(crate) hello: Duration,
    /// No process of ours on the target outlives this.
    pub(crate) budget: Duration,
    /// Names the spools of this session.
    pub(crate) tag: &'a str,
}

/// Where a lane's script comes from.
#[derive(Clone, Copy)]
pub(crate) enum Mode<'a> {
    /// Standard input, fed as answers come.
    Batch,
    /// An argument of this shell: one command, one execution.
    Single { shell: &'a str },
    /// Nothing to run: only clears away what others left. Standard input, or an argument where a shell is named.
    Burial { told: Option<&'a str> },
}

impl<'a> Mode<'a> {
    /// The shell that takes the script as an argument.
    fn told(self) -> Option<&'a str> {
        match self {
            Self::Batch => None,
            Self::Single { shell } => Some(shell),
            Self::Burial { told } => told,
        }
    }
}

/// How a lane ended. Commands it did not answer are back on the board, except in [`End::NotOpen`] of a first lane.
pub(crate) enum End {
    /// It ran everything it was given.
    Finished,
    /// It never began.
    NotOpen(NotOpen),
    /// A command made it useless.
    Aborted,
    /// The connection is gone.
    Gone,
}

/// A lane that has begun.
pub(crate) struct Lane {
    pub(crate) number: u8,
    pub(crate) shell: Shell,
    pub(crate) turns: Vec<Turn>,
    pub(crate) remains: Remains,
    /// Whether the last frame has been asked for.
    pub(crate) closing: bool,
    /// Whether nothing else of ours runs on the host.
    pub(crate) alone: bool,
}

impl Pass<'_, '_> {
    /// Opens a lane with its first share of commands. On failure the share is back on the board.
    pub(crate) async fn open(&self, number: u8, mode: Mode<'_>, patient: bool) -> Result<Lane, NotOpen> {
        let mut tried = 0;
        loop {
            tried += 1;
            match self.open_once(number, mode).await {
                Err(NotOpen::NoSlot) if patient && tried < SLOT_TRIES => {
                    tokio::time::sleep(Duration::from_millis(20 << tried)).await;
                }
                result => return result,
            }
        }
    }

    async fn open_once(&self, number: u8, mode: Mode<'_>) -> Result<Lane, NotOpen> {
        let Some(nonce) = Nonce::fresh() else { return Err(no_randomness()) };
        let burial = matches!(mode, Mode::Burial { .. });
        let mut pairing = Pairing::new(&nonce);
        let (turns, bury, spool, closing, input) = {
            let mut board = lock(self.board);
            if board.is_stopped() && !burial {
                return Err(NotOpen::Stopped);
            }
            board.executions += 1;
            let turns = match mode {
                Mode::Batch => {
                    let others = self.lanes.saturating_sub(number);
                    board.take(self.lanes, others, self.ahead(LIKELY_PACE))
                }
                Mode::Single { .. } => board.take_up_to(1),
                Mode::Burial { .. } => Vec::new(),
            };
            let spool = format!(".ow-{}-{}", self.tag, board.executions);
            let bury = std::mem::take(&mut board.unburied);
            let guarded = self.wrapper == Wrapper::Timeout && mode.told().is_none();
            let mut input = script::prologue(&script::Lane {
                nonce: &nonce,
                spool: &spool,
                bury: &bury,
                cap: board.caps().check_bytes,
                login_shell: self.login_shell,
                watchdog: (!guarded).then_some(self.budget),
            });
            input.push_str(&chunk(&board, &turns));
            let closing = !matches!(mode, Mode::Batch) || !board.has_queue();
            if closing {
                input.push_str(&script::epilogue(turns.len()));
            }
            (turns, bury, spool, closing, input)
        };
        let spooled = turns.iter().any(|turn| turn.isolated);
        let remains = Remains { group: None, spool, spooled };
        let mut opening = Opening { board: self.board, remains, bury, burial, begun: false, over: false };
        for turn in &turns {
            pairing.expect(turn.index);
        }
        let opened = match self.request(mode, &input) {
            Some((request, input)) => {
                let input = bytes::Bytes::from(input);
                let begin = || opening.begin();
                shell::open(self.handle, &request, pairing, input, self.password, self.hello, begin).await
            }
            None => Err(no_randomness()),
        };
        let (remains, bury) = opening.over();
        let mut board = lock(self.board);
        match opened {
            Ok(shell) => {
                self.steady.store(matches!(mode, Mode::Batch), Ordering::Relaxed);
                let remains = Remains { group: shell.hello.group, ..remains };
                if !burial {
                    board.live.insert(number, remains.clone());
                    board.greeted = board.greeted.max(number + 1);
                    board.hellos += 1;
                }
                let alone = matches!(mode, Mode::Single { .. });
                Ok(Lane { number, shell, turns, remains, closing, alone })
            }
            Err(why) => {
                if matches!(why, NotOpen::NoSlot) {
                    board.executions -= 1;
                }
                let indices = turns.iter().map(|t| t.index);
                // The shell may have got as far as its commands without our hearing of it.
                let begun = match why {
                    NotOpen::Gone => {
                        board.suspect(indices, matches!(mode, Mode::Single { .. }));
                        true
                    }
                    // What kills everything of its account ends the channel a moment before the connection.
                    NotOpen::NoHello { .. } => {
                        board.give_back(indices);
                        spooled
                    }
                    _ => {
                        board.give_back(indices);
                        false
                    }
                };
                if begun {
                    board.unburied.push(remains);
                }
                board.unburied.extend(bury);
                Err(why)
            }
        }
    }

    fn request(&self, mode: Mode<'_>, input: &str) -> Option<(Request, String)> {
        match mode.told() {
            None => Some((reading_shell(self.elevation, self.wrapper, self.budget)?, input.to_owned())),
            Some(shell) => Some((told_shell(self.elevation, shell, input)?, String::new())),
        }
    }

    /// How many commands that take this long have to be underway for a lane not to run dry: hearing of one and sending
    /// another takes a round trip and a sip, and answers come in bursts.
    pub(crate) fn ahead(&self, pace: Duration) -> usize {
        (self.round_trip * 2 + SIP).div_duration_f64(pace.max(LIKELY_PACE / 2)).ceil() as usize
    }

    /// Opens a lane and drives it to its end.
    pub(crate) async fn run(&self, number: u8, mode: Mode<'_>, patient: bool) -> End {
        match self.open(number, mode, patient).await {
            Ok(lane) => self.drive(lane).await,
            Err(NotOpen::Gone) => End::Gone,
            Err(why) => End::NotOpen(why),
        }
    }
}

/// A lane on the way to its hello. Whoever drops it before that leaves to the board what it was to clear away, and its own
/// spool where it may have one.
struct Opening<'a, 'p> {
    board: &'a Mutex<Board<'p>>,
    remains: Remains,
    bury: Vec<Remains>,
    /// Whether it may begin when all others are to stop.
    burial: bool,
    /// Whether its commands may have begun.
    begun: bool,
    over: bool,
}

impl Opening<'_, '_> {
    /// Asked before each word that may make commands begin on the target.
    fn begin(&mut self) -> Result<(), NotOpen> {
        let mut board = lock(self.board);
        if board.is_stopped() && !self.burial {
            return Err(NotOpen::Stopped);
        }
        board.opening += u32::from(!self.begun);
        self.begun = true;
        Ok(())
    }

    /// It has said hello, or never will.
    fn over(mut self) -> (Remains, Vec<Remains>) {
        self.over = true;
        (self.remains.clone(), std::mem::take(&mut self.bury))
    }
}

impl Drop for Opening<'_, '_> {
    fn drop(&mut self) {
        let mut board = lock(self.board);
        board.opening -= u32::from(self.begun);
        if !self.over {
            board.unburied.append(&mut self.bury);
            board.unburied.extend((self.begun && self.remains.spooled).then(|| self.remains.clone()));
        }
    }
}

fn no_randomness() -> NotOpen {
    NotOpen::NoHello { noise: "no randomness on this machine for a nonce".into(), waited: None }
}

/// The shell text of a share of commands.
pub(crate) fn chunk(board: &Board<'_>, turns: &[Turn]) -> String {
    let commands = &board.plan().commands;
    let items: Vec<Item<'_>> = turns
        .iter()
        .map(|turn| {
            let command = &commands[turn.index];
            Item {
                index: turn.index,
                script: &command.script,
                isolated: turn.isolated.then_some(command.limit),
                login_shell: command.login_shell,
            }
        })
        .collect();
    script::chunk(&items)
}
