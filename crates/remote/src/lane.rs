//! Driving one lane: feed it commands, take its answers, and give it up when a command misbehaves.

use std::time::Duration;

use openwatch_model::plan::Lost;
use russh::ChannelMsg;
use tokio::time::Instant;

use crate::board::Turn;
use crate::frame::Stream;
use crate::guard::lock;
use crate::pairing::{Event, Pairing};
use crate::pass::{End, Lane, Pass, chunk};
use crate::script;
use crate::shell::{self, Shell};

/// Longest silence of a lane that has something to say and runs no command.
const STALL: Duration = Duration::from_secs(10);
/// Time on top of its limit for a command that the target itself will end.
const ISOLATED_GRACE: Duration = Duration::from_secs(3);
/// Time for output that is still on its way when the shell has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Pass<'_, '_> {
    /// Drives a lane to its end.
    pub(crate) async fn drive(&self, mut lane: Lane) -> End {
        let mut driver = Driver {
            pass: self,
            number: lane.number,
            turns: std::mem::take(&mut lane.turns),
            closing: lane.closing,
            running: None,
            last: Instant::now(),
            took: Duration::ZERO,
            begun: None,
            done: 0,
        };
        let outcome = driver.drive(&mut lane.shell).await;
        driver.settle(lane, outcome).await
    }
}

/// How driving ended, before the consequences.
enum Outcome {
    Finished,
    /// With the command at fault, where one is.
    Abort(Option<(usize, Lost)>),
    Gone,
}

struct Driver<'a, 'b, 'p> {
    pass: &'a Pass<'b, 'p>,
    number: u8,
    turns: Vec<Turn>,
    closing: bool,
    /// The command that is running, since when, and until when it may.
    running: Option<(usize, Instant, Instant)>,
    /// When the lane last made progress.
    last: Instant,
    /// How long the last command took, as seen from here.
    took: Duration,
    /// When the first command began.
    begun: Option<Instant>,
    /// Commands ended since.
    done: u32,
}

impl Driver<'_, '_, '_> {
    async fn drive(&mut self, shell: &mut Shell) -> Outcome {
        let events = std::mem::take(&mut shell.events);
        if self.take(events, shell) {
            return Outcome::Finished;
        }
        // The hello may have come together with all answers to the first share: then nothing more comes by itself.
        self.feed(shell);
        let mut dying: Option<Instant> = None;
        loop {
            let due = self.running.map_or(self.last + STALL, |(_, _, until)| until);
            let until = dying.map_or(due, |dead| dead.min(due));
            let message = tokio::select! {
                biased;
                message = shell.read.wait() => message,
                _ = shell.feeder.pump() => return Outcome::Gone,
                () = tokio::time::sleep_until(until) => {
                    return if dying.is_some() { self.died(&shell.pairing) } else { self.late(&shell.pairing) };
                }
            };
            let (stream, data) = match message {
                Some(ChannelMsg::Data { data }) => (Stream::Out, data),
                Some(ChannelMsg::ExtendedData { data, ext: 1 }) => (Stream::Err, data),
                Some(ChannelMsg::ExitStatus { .. } | ChannelMsg::ExitSignal { .. } | ChannelMsg::Eof) => {
                    // Output may still follow, and a child of the shell may keep the channel open for ever.
                    dying.get_or_insert(Instant::now() + LAST_WORDS);
                    continue;
                }
                Some(ChannelMsg::Close) => return self.died(&shell.pairing),
                None if dying.is_some() => return self.died(&shell.pairing),
                None => return Outcome::Gone,
                Some(_) => continue,
            };
            let mut events = Vec::new();
            let intact = shell.pairing.push(stream, &data, &mut events);
            if self.take(events, shell) {
                return Outcome::Finished;
            }
            if intact.is_err() {
                let culprit = self.running.map(|(i, ..)| i).or(shell.pairing.outstanding().next());
                return Outcome::Abort(culprit.map(|i| (i, Lost::Protocol)));
            }
            let cap = lock(self.pass.board).caps().check_bytes;
            if let Some(index) = shell.pairing.over(cap) {
                return Outcome::Abort(Some((index, Lost::TooMuchOutput)));
            }
            self.feed(shell);
        }
    }

    /// Whether the lane has finished.
    fn take(&mut self, events: Vec<Event>, shell: &Shell) -> bool {
        let now = Instant::now();
        let mut finished = false;
        for event in events {
            self.last = now;
            match event {
                Event::Hello(_) => {}
                Event::Begin(index) => {
                    self.begun.get_or_insert(now);
                    self.running = Some((index, now, now + self.limit_of(index)));
                }
                Event::Ended(_) => {
                    self.done += 1;
                    self.took = self.running.take().map_or(Duration::ZERO, |(_, since, _)| now - since);
                }
                Event::Committed(committed) => {
                    lock(self.pass.board).commit(self.number, committed, self.took)
                }
                Event::Finished => finished = true,
            }
        }
        finished && shell.pairing.outstanding().len() == 0
    }

    fn limit_of(&self, index: usize) -> Duration {
        let limit = lock(self.pass.board).plan().commands[index].limit;
        let isolated = self.turns.iter().any(|turn| turn.index == index && turn.isolated);
        if isolated { limit.max(Duration::from_secs(1)) + ISOLATED_GRACE } else { limit }
    }

    /// Sends the next share when half of the last one is done, or earlier when the way is long.
    fn feed(&mut self, shell: &mut Shell) {
        let underway = shell.pairing.outstanding().len();
        let ahead = self.pass.ahead(self.pace());
        if self.closing || underway > ahead.max(self.turns.len() / 2) {
            return;
        }
        let mut board = lock(self.pass.board);
        let turns = board.take(self.pass.lanes, self.pass.lanes, ahead.saturating_sub(underway));
        let mut text = chunk(&board, &turns);
        for turn in &turns {
            shell.pairing.expect(turn.index);
        }
        if !board.has_queue() {
            self.closing = true;
            text.push_str(&script::epilogue(shell.pairing.sent()));
        }
        drop(board);
        let left: Vec<usize> = shell.pairing.outstanding().collect();
        self.turns.retain(|turn| left.contains(&turn.index));
        self.turns.extend(turns);
        shell.feeder.push(text);
    }

    /// How long a command takes on this lane.
    fn pace(&self) -> Duration {
        self.begun.map_or(Duration::ZERO, |begun| (self.last - begun) / self.done.max(1))
    }

    fn late(&self, pairing: &Pairing) -> Outcome {
        match (self.running, pairing.outstanding().next()) {
            (Some((index, ..)), _) => Outcome::Abort(Some((index, Lost::Timeout))),
            (None, Some(index)) => Outcome::Abort(Some((index, Lost::Protocol))),
            // Everything is here; only the last frame is missing.
            (None, None) => Outcome::Abort(None),
        }
    }

    fn died(&self, pairing: &Pairing) -> Outcome {
        let culprit = self.running.map(|(index, ..)| index).or(pairing.outstanding().next());
        Outcome::Abort(culprit.map(|index| (index, Lost::KilledLane)))
    }

    /// Draws the consequences on the board and on the target.
    async fn settle(self, lane: Lane, outcome: Outcome) -> End {
        let Lane { shell, mut remains, .. } = lane;
        let Shell { read, write, pairing, feeder, .. } = shell;
        remains.spooled |= self.turns.iter().any(|turn| turn.isolated);
        // First the reading half, so that a full buffer cannot keep the library from sending the rest.
        drop(read);
        drop(feeder);
        let left: Vec<usize> = pairing.outstanding().collect();
        let (end, signal) = {
            let mut board = lock(self.pass.board);
            board.live.remove(&self.number);
            match outcome {
                Outcome::Finished => (End::Finished, false),
                Outcome::Abort(blame) => {
                    let guilty = blame.map(|(index, _)| index);
                    board.give_back(left.into_iter().filter(|i| Some(*i) != guilty));
                    if let Some((index, lost)) = blame {
                        board.blame(index, lost);
                    }
                    let signal = remains.group.is_none();
                    board.unburied.push(remains);
                    board.count_abort();
                    (End::Aborted, signal)
                }
                Outcome::Gone => {
                    // What was on its way here is lost too, so that any of them may have been running.
                    board.suspect(left.into_iter(), lane.alone);
                    board.unburied.push(remains);
                    (End::Gone, false)
                }
            }
        };
        shell::abandon(&write, signal).await;
        end
    }
}
