//! Who has run what: the plan's progress, shared by all lanes of a session. Pure bookkeeping.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use openwatch_model::plan::{Lost, Observation, Plan};
use tokio::time::Instant;

use crate::pairing::Committed;
use crate::script::Remains;
use crate::session::{Caps, OnObservation};

/// Aborts after which every command left runs isolated.
const CAREFUL_AFTER: u32 = 3;
/// Aborts after which the host is given up.
const GIVE_UP_AFTER: u32 = 10;
/// Smallest number of commands worth a packet of their own.
const CHUNK: usize = 4;

/// A command with a higher limit than this may take longer than all others together.
const LONG: Duration = Duration::from_secs(30);

/// One command to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) index: usize,
    pub(crate) isolated: bool,
}

pub(crate) struct Board<'a> {
    plan: &'a Plan,
    caps: Caps,
    on_observation: Option<&'a OnObservation<'a>>,
    observations: Vec<Option<Observation>>,
    isolated: Vec<bool>,
    /// Was underway when a connection went.
    suspected: Vec<bool>,
    queue: VecDeque<usize>,
    /// Commands with more than the usual time. They come first and one to a share, so that two that take their time run on
    /// two lanes; on a single lane they come last, and cost the others nothing when time runs out.
    long: VecDeque<usize>,
    kept: usize,
    aborts: u32,
    /// Set once nothing more is to begin: until when what has begun may be cleared away.
    clear_by: Option<Instant>,
    /// Lanes whose commands may have begun and that have not said hello.
    pub(crate) opening: u32,
    /// What each open lane would leave behind if it were abandoned now.
    pub(crate) live: BTreeMap<u8, Remains>,
    /// What abandoned lanes left behind and the next lane has to clear away.
    pub(crate) unburied: Vec<Remains>,
    /// Lanes that said hello.
    pub(crate) greeted: u8,
    /// How often a lane said hello.
    pub(crate) hellos: u32,
    /// Exec requests sent.
    pub(crate) executions: u32,
}

impl<'a> Board<'a> {
    pub(crate) fn new(plan: &'a Plan, caps: Caps, on_observation: Option<&'a OnObservation<'a>>) -> Self {
        let mut board = Self {
            plan,
            caps,
            on_observation,
            observations: vec![None; plan.commands.len()],
            isolated: plan.commands.iter().map(|c| c.isolate).collect(),
            suspected: vec![false; plan.commands.len()],
            queue: VecDeque::new(),
            long: VecDeque::new(),
            kept: 0,
            aborts: 0,
            clear_by: None,
            opening: 0,
            live: BTreeMap::new(),
            unburied: Vec::new(),
            greeted: 0,
            hellos: 0,
            executions: 0,
        };
        for (index, command) in plan.commands.iter().enumerate() {
            if command.script.contains('\0') {
                // No shell can be told this; nothing on the host is to blame.
                board.settle(index, Observation::Lost(Lost::Protocol));
            } else if command.limit > LONG {
                board.long.push_back(index);
            } else {
                board.queue.push_back(index);
            }
        }
        board
    }

    /// Takes a share of what is left: large at first, small at the end, so that lanes finish together. On a long way that
    /// would leave lanes waiting for more, so it is as many as `ahead` asks for, up to an even share among `others`: the
    /// lanes that are still to take one.
    pub(crate) fn take(&mut self, lanes: u8, others: u8, ahead: usize) -> Vec<Turn> {
        if self.is_stopped() {
            return Vec::new();
        }
        let left = self.queue.len();
        let even = left.div_ceil(usize::from(others.max(1)));
        let share = left.div_ceil(2 * usize::from(lanes.max(1))).max(ahead.min(even)).max(CHUNK);
        if lanes <= 1 {
            return self.take_up_to(left + self.long.len());
        }
        let long = self.long.pop_front();
        let short = share.min(self.queue.len());
        let turns: Vec<usize> = long.into_iter().chain(self.queue.drain(..short)).collect();
        self.turns(turns)
    }

    pub(crate) fn take_up_to(&mut self, most: usize) -> Vec<Turn> {
        if self.is_stopped() {
            return Vec::new();
        }
        let short = most.min(self.queue.len());
        let long = (most - short).min(self.long.len());
        let turns: Vec<usize> = self.queue.drain(..short).chain(self.long.drain(..long)).collect();
        self.turns(turns)
    }

    fn turns(&self, indices: Vec<usize>) -> Vec<Turn> {
        indices.into_iter().map(|index| Turn { index, isolated: self.isolated[index] }).collect()
    }

    /// Puts back commands that were sent but not answered, through no fault of theirs.
    pub(crate) fn give_back(&mut self, indices: impl DoubleEndedIterator<Item = usize>) {
        for index in indices.rev() {
            self.queue.push_front(index);
        }
    }

    /// A command made its lane useless. It gets one more chance, alone and last, unless it had it or would only flood
    /// again.
    pub(crate) fn blame(&mut self, index: usize, lost: Lost) {
        if self.isolated[index] || lost == Lost::TooMuchOutput {
            self.settle(index, Observation::Lost(lost));
        } else {
            self.isolated[index] = true;
            self.queue.push_back(index);
        }
    }

    /// Counts an abandoned lane and draws the consequences.
    pub(crate) fn count_abort(&mut self) {
        self.aborts += 1;
        if self.aborts >= CAREFUL_AFTER {
            for index in self.long.iter().chain(&self.queue) {
                self.isolated[*index] = true;
            }
        }
        if self.aborts >= GIVE_UP_AFTER {
            self.lose_rest(Lost::Protocol);
        }
    }

    /// The connection went while these were underway, and one of them may be why. Each gets one more chance, isolated and
    /// last. One that had it and was `alone` this time is why.
    pub(crate) fn suspect(&mut self, indices: impl Iterator<Item = usize>, alone: bool) {
        for index in indices {
            if alone && self.suspected[index] {
                self.settle(index, Observation::Lost(Lost::Connection));
            } else {
                self.suspected[index] = true;
                self.isolated[index] = true;
                self.queue.push_back(index);
            }
        }
    }

    /// From now on nothing begins; what has begun is cleared away by then. The first word counts.
    pub(crate) fn stop(&mut self, clear_by: Instant) {
        self.clear_by.get_or_insert(clear_by);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.clear_by.is_some()
    }

    /// See [`Board::stop`].
    pub(crate) fn clear_by(&self) -> Option<Instant> {
        self.clear_by
    }

    /// Whether nothing is left but commands of which one breaks connections.
    pub(crate) fn only_suspects(&self) -> bool {
        self.long.iter().chain(&self.queue).all(|index| self.suspected[*index])
    }

    /// A complete answer.
    pub(crate) fn commit(&mut self, lane: u8, committed: Committed, seen: Duration) {
        let Committed { index, mut done, on_target } = committed;
        done.duration = on_target.unwrap_or(seen);
        done.lane = lane;
        let size = done.stdout.len() + done.stderr.len();
        let limit = self.plan.commands[index].limit;
        // Only a command under `timeout` ends with these because of us, and only after its time: nearly, for its beginning may
        // have taken longer to reach us than its end.
        let timed_out = self.isolated[index]
            && matches!(done.exit, 124 | 137 | 143)
            && done.duration.max(seen) >= limit.mul_f32(0.9);
        let observation = if timed_out {
            Observation::Lost(Lost::Timeout)
        } else if size > self.caps.check_bytes {
            Observation::Lost(Lost::TooMuchOutput)
        } else if self.kept.saturating_add(size) > self.caps.host_bytes {
            Observation::Lost(Lost::NoRoom)
        } else {
            self.kept += size;
            Observation::Done(done)
        };
        self.settle(index, observation);
    }

    fn settle(&mut self, index: usize, observation: Observation) {
        if let Some(tell) = self.on_observation {
            tell(index, &observation);
        }
        self.observations[index] = Some(observation);
    }

    /// Whatever has no answer by now gets none.
    pub(crate) fn lose_rest(&mut self, lost: Lost) {
        self.queue.clear();
        self.long.clear();
        for index in 0..self.observations.len() {
            if self.observations[index].is_none() {
                self.settle(index, Observation::Lost(lost));
            }
        }
    }

    pub(crate) fn has_queue(&self) -> bool {
        !(self.is_stopped() || self.queue.is_empty() && self.long.is_empty())
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.observations.iter().all(Option::is_some)
    }

    pub(crate) fn plan(&self) -> &'a Plan {
        self.plan
    }

    pub(crate) fn caps(&self) -> Caps {
        self.caps
    }

    /// The answers, one per command.
    pub(crate) fn into_observations(self) -> Vec<Observation> {
        self.observations.into_iter().map(|o| o.unwrap_or(Observation::Lost(Lost::Connection))).collect()
    }
}

#[cfg(test)]
mod tests {
    use openwatch_model::plan::{Command, Done};

    use super::*;

    fn plan(n: usize) -> Plan {
        Plan { commands: (0..n).map(|i| Command::new(format!("echo {i}"))).collect() }
    }

    fn answer(index: usize, exit: i32, bytes: usize, took: Duration) -> Committed {
        let done = Done { exit, stdout: vec![b'x'; bytes], ..Done::default() };
        Committed { index, done, on_target: Some(took) }
    }

    #[test]
    fn shares_shrink_and_cover_everything() {
        let plan = plan(100);
        let mut board = Board::new(&plan, Caps::default(), None);
        let mut seen = Vec::new();
        let mut last = usize::MAX;
        while board.has_queue() {
            let share = board.take(2, 2, 0);
            assert!(!share.is_empty() && share.len() <= last.max(CHUNK));
            last = share.len();
            seen.extend(share.iter().map(|t| t.index));
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn what_takes_long_comes_first_and_one_to_a_share() {
        let mut plan = plan(9);
        plan.commands[5].limit = Command::DEFAULT_LIMIT * 12;
        plan.commands[7].limit = Command::DEFAULT_LIMIT * 12;
        plan.commands[8].limit = Command::DEFAULT_LIMIT * 12;
        let indices = |turns: Vec<Turn>| turns.into_iter().map(|turn| turn.index).collect::<Vec<_>>();
        let mut board = Board::new(&plan, Caps::default(), None);
        assert_eq!(indices(board.take(2, 2, 0)), [5, 0, 1, 2, 3]);
        assert_eq!(indices(board.take(2, 2, 0)), [7, 4, 6]);
        assert_eq!(indices(board.take(2, 2, 0)), [8]);
        assert!(!board.has_queue());
        let mut board = Board::new(&plan, Caps::default(), None);
        assert_eq!(indices(board.take(1, 1, 0)), [0, 1, 2, 3, 4, 6, 5, 7, 8]);
    }

    #[test]
    fn a_long_way_is_worth_an_even_share_at_once() {
        let plan = plan(100);
        let mut board = Board::new(&plan, Caps::default(), None);
        assert_eq!(board.take(2, 2, 1000).len(), 50);
        assert_eq!(board.take(2, 1, 30).len(), 30);
        assert_eq!(board.take(2, 2, 1000).len(), 10);
        assert_eq!(board.take(1, 1, 0).len(), 10);
    }

    #[test]
    fn one_more_chance_alone_and_last() {
        let plan = plan(3);
        let mut board = Board::new(&plan, Caps::default(), None);
        board.take_up_to(2);
        board.give_back([1].into_iter());
        board.blame(0, Lost::Timeout);
        let turns = board.take_up_to(9);
        assert_eq!(
            turns.iter().map(|t| (t.index, t.isolated)).collect::<Vec<_>>(),
            [(1, false), (2, false), (0, true)]
        );
        board.blame(0, Lost::Timeout);
        assert!(!board.has_queue());
        assert_eq!(board.into_observations()[0], Observation::Lost(Lost::Timeout));
    }

    #[test]
    fn floods_get_no_second_chance() {
        let plan = plan(1);
        let mut board = Board::new(&plan, Caps::default(), None);
        board.take_up_to(1);
        board.blame(0, Lost::TooMuchOutput);
        assert!(board.is_settled());
    }

    #[test]
    fn three_aborts_make_us_careful_and_ten_end_it() {
        let plan = plan(20);
        let mut board = Board::new(&plan, Caps::default(), None);
        for _ in 0..3 {
            board.count_abort();
        }
        assert!(board.take_up_to(1)[0].isolated);
        for _ in 3..10 {
            board.count_abort();
        }
        assert!(board.is_settled());
        assert!(board.into_observations().iter().all(|o| *o == Observation::Lost(Lost::Protocol)));
    }

    #[test]
    fn a_timeout_of_the_targets_own_needs_the_time_to_have_passed() {
        let mut plan = plan(2);
        plan.commands.iter_mut().for_each(|c| c.isolate = true);
        let mut board = Board::new(&plan, Caps::default(), None);
        board.commit(0, answer(0, 124, 0, Duration::from_millis(20)), Duration::from_millis(20));
        board.commit(0, answer(1, 143, 0, Duration::from_millis(9_900)), Duration::from_millis(9_900));
        let observations = board.into_observations();
        assert!(matches!(&observations[0], Observation::Done(d) if d.exit == 124));
        assert_eq!(observations[1], Observation::Lost(Lost::Timeout));
    }

    #[test]
    fn the_host_has_a_total_that_is_nobodys_fault() {
        let plan = plan(4);
        let caps = Caps { check_bytes: 100, host_bytes: 150 };
        let mut board = Board::new(&plan, caps, None);
        for index in 0..2 {
            board.commit(0, answer(index, 0, 100, Duration::ZERO), Duration::ZERO);
        }
        board.commit(0, answer(2, 0, 50, Duration::ZERO), Duration::ZERO);
        board.commit(0, answer(3, 0, 101, Duration::ZERO), Duration::ZERO);
        let observations = board.into_observations();
        assert!(matches!(observations[0], Observation::Done(_)));
        assert_eq!(observations[1], Observation::Lost(Lost::NoRoom));
        assert!(matches!(observations[2], Observation::Done(_)));
        assert_eq!(observations[3], Observation::Lost(Lost::TooMuchOutput));
    }

    #[test]
    fn a_script_no_shell_can_read_is_lost_at_once() {
        let plan = Plan { commands: vec![Command::new("echo \0")] };
        let board = Board::new(&plan, Caps::default(), None);
        assert!(board.is_settled());
    }
}
