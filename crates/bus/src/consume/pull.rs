//! How many messages to ask for, of which lane. Pure: time comes in, requests go out.
//!
//! The rule is that every message asked for has a free slot waiting for it, so nothing ages in a buffer while its ack
//! wait runs. With two lanes the first is always asked first (a question that does not wait), and one slot is kept for
//! it; what it leaves goes to the second lane for a short while, then it is asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// How long a pull may wait at the server.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the server shows that a waiting pull is not forgotten.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the second lane may hold free slots before the first is asked again.
const SECOND_LANE: Duration = Duration::from_secs(2);
/// Silence after which a pull that sends no heartbeats is given up.
const MARGIN: Duration = Duration::from_secs(3);
/// Pulls waiting per lane: freed slots join the next one instead of flooding the server with pulls of one.
const OPEN_MOST: usize = 4;

/// One request to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) lane: usize,
    pub(super) batch: usize,
    /// `None`: answer at once with what is there.
    pub(super) expires: Option<Duration>,
    pub(super) heartbeat: bool,
}

#[derive(Debug)]
struct Pull {
    lane: usize,
    remaining: usize,
    probe: bool,
    heartbeat: bool,
    deadline: Instant,
}

/// Slots, and who holds them.
#[derive(Debug)]
pub(super) struct Pulls {
    slots: usize,
    lanes: usize,
    running: [usize; 2],
    open: BTreeMap<u64, Pull>,
    next: u64,
    /// The first lane said that it is empty, and no slot has come free since.
    first_is_empty: bool,
}

impl Pulls {
    pub(super) fn new(slots: usize, lanes: usize) -> Self {
        Self { slots, lanes, running: [0; 2], open: BTreeMap::new(), next: 1, first_is_empty: false }
    }

    fn asked(&self, lane: usize) -> usize {
        self.open.values().filter(|pull| pull.lane == lane).map(|pull| pull.remaining).sum()
    }

    fn free(&self) -> usize {
        let asked: usize = self.open.values().map(|pull| pull.remaining).sum();
        self.slots.saturating_sub(self.running_total() + asked)
    }

    pub(super) fn running_total(&self) -> usize {
        self.running.iter().sum()
    }

    /// What to ask for now.
    pub(super) fn plan(&mut self, now: Instant) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.lanes == 1 {
            self.ask(0, self.free(), Some(EXPIRES), now, &mut requests);
            return requests;
        }
        if !self.first_is_empty {
            let probing = self.open.values().any(|pull| pull.probe);
            if !probing {
                self.ask(0, self.free(), None, now, &mut requests);
            }
            return requests;
        }
        let kept = usize::from(self.slots >= 2);
        let still_kept = kept.saturating_sub(self.running[0] + self.asked(0));
        let most = (self.slots - kept).saturating_sub(self.running[1] + self.asked(1));
        self.ask(1, self.free().saturating_sub(still_kept).min(most), Some(SECOND_LANE), now, &mut requests);
        self.ask(0, self.free(), Some(EXPIRES), now, &mut requests);
        requests
    }

    /// Whether [`Self::plan`] would ask for something.
    pub(super) fn wants(&self) -> bool {
        self.free() > 0 && !self.open.values().any(|pull| pull.probe)
    }

    fn ask(
        &mut self,
        lane: usize,
        batch: usize,
        expires: Option<Duration>,
        now: Instant,
        requests: &mut Vec<Request>,
    ) {
        let crowded = self.open.values().filter(|pull| pull.lane == lane).count() >= OPEN_MOST;
        if batch == 0 || (crowded && expires.is_some()) {
            return;
        }
        let id = self.next;
        self.next += 1;
        // A heartbeat may be at most half of the expiry.
        let heartbeat = expires.is_some_and(|expires| expires >= HEARTBEAT * 2);
        let deadline = now + if heartbeat { HEARTBEAT * 2 } else { expires.unwrap_or_default() } + MARGIN;
        let probe = expires.is_none();
        self.open.insert(id, Pull { lane, remaining: batch, probe, heartbeat, deadline });
        requests.push(Request { id, lane, batch, expires, heartbeat });
    }

    /// A message came for a pull. Answers whether there is a slot for it: one that comes late, for a pull that was
    /// given up, may find none.
    pub(super) fn delivered(&mut self, id: u64, lane: usize, now: Instant) -> bool {
        self.heard(id, now);
        let full = self.running_total() >= self.slots;
        match self.open.get_mut(&id) {
            Some(pull) => {
                pull.remaining -= 1;
                if pull.remaining == 0 {
                    self.open.remove(&id);
                }
            }
            None if full => return false,
            None => {}
        }
        self.running[lane] += 1;
        true
    }

    /// Whether anything may still come for it.
    pub(super) fn is_open(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    /// The server still knows this pull.
    pub(super) fn heard(&mut self, id: u64, now: Instant) {
        if let Some(pull) = self.open.get_mut(&id).filter(|pull| pull.heartbeat) {
            pull.deadline = now + HEARTBEAT * 2 + MARGIN;
        }
    }

    /// The server ended a pull.
    pub(super) fn ended(&mut self, id: u64) {
        if let Some(pull) = self.open.remove(&id) {
            if pull.probe {
                self.first_is_empty = true;
            } else if pull.lane == 1 {
                self.first_is_empty = false;
            }
        }
    }

    /// A message of a lane was decided.
    pub(super) fn finished(&mut self, lane: usize) {
        self.running[lane] = self.running[lane].saturating_sub(1);
        self.first_is_empty = false;
    }

    /// Gives up pulls that the server has gone silent about; answers how many.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let before = self.open.len();
        self.open.retain(|_, pull| pull.deadline > now);
        let lost = before - self.open.len();
        if lost > 0 {
            self.first_is_empty = false;
        }
        lost
    }

    /// The server forgot everything: the connection is new.
    pub(super) fn forget(&mut self) {
        self.open.clear();
        self.first_is_empty = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(requests: &[Request]) -> Vec<(usize, usize, bool)> {
        requests.iter().map(|r| (r.lane, r.batch, r.expires.is_none())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_lane_asks_for_what_is_free() {
        let now = Instant::now();
        let mut pulls = Pulls::new(3, 1);
        let first = pulls.plan(now);
        assert_eq!(asked(&first), [(0, 3, false)]);
        assert_eq!(pulls.plan(now), []);
        assert!(pulls.delivered(first[0].id, 0, now));
        assert_eq!(pulls.plan(now), []);
        pulls.finished(0);
        assert_eq!(asked(&pulls.plan(now)), [(0, 1, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_lane_is_asked_first_and_keeps_a_slot() {
        let now = Instant::now();
        let mut pulls = Pulls::new(4, 2);
        let probe = pulls.plan(now);
        assert_eq!(asked(&probe), [(0, 4, true)]);
        assert_eq!(pulls.plan(now), []);
        pulls.ended(probe[0].id);
        assert_eq!(asked(&pulls.plan(now)), [(1, 3, false), (0, 1, false)]);
        // Three scheduled jobs later, the last slot is still the first lane's.
        for _ in 0..3 {
            assert!(pulls.delivered(2, 1, now));
        }
        assert_eq!(pulls.plan(now), []);
        assert!(pulls.delivered(3, 0, now));
        pulls.finished(0);
        let probe = pulls.plan(now);
        assert_eq!(asked(&probe), [(0, 1, true)]);
        pulls.ended(probe[0].id);
        assert_eq!(asked(&pulls.plan(now)), [(0, 1, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_slot_is_shared_in_turns() {
        let now = Instant::now();
        let mut pulls = Pulls::new(1, 2);
        let probe = pulls.plan(now);
        pulls.ended(probe[0].id);
        let second = pulls.plan(now);
        assert_eq!(asked(&second), [(1, 1, false)]);
        pulls.ended(second[0].id);
        assert_eq!(asked(&pulls.plan(now)), [(0, 1, true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_gives_a_pull_up_and_heartbeats_keep_it() {
        let now = Instant::now();
        let mut pulls = Pulls::new(1, 1);
        let id = pulls.plan(now)[0].id;
        pulls.heard(id, now + Duration::from_secs(10));
        assert_eq!(pulls.expire(now + Duration::from_secs(20)), 0);
        assert_eq!(pulls.expire(now + Duration::from_secs(24)), 1);
        // A message of the lost pull still finds the free slot; the next one does not.
        assert!(pulls.delivered(id, 0, now));
        assert!(!pulls.delivered(id, 0, now));
    }

    proptest! {
        /// Whatever happens, no more is asked for and run than there are slots, and the kept slot stays kept.
        #[test]
        fn slots_are_never_overcommitted(slots in 1usize..6, lanes in 1usize..3, steps in prop::collection::vec((0u8..5, 0usize..8), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let now = runtime.block_on(async { Instant::now() });
            let mut pulls = Pulls::new(slots, lanes);
            for (step, pick) in steps {
                let ids: Vec<_> = pulls.open.iter().map(|(id, pull)| (*id, pull.lane)).collect();
                let picked = (!ids.is_empty()).then(|| ids[pick % ids.len()]);
                match (step, picked) {
                    (0, _) => { pulls.plan(now); }
                    (1, Some((id, lane))) => { prop_assert!(pulls.delivered(id, lane, now)); }
                    (2, Some((id, _))) => pulls.ended(id),
                    (3, _) => { let lane = pick % lanes; if pulls.running[lane] > 0 { pulls.finished(lane); } }
                    (4, _) if pick == 0 => pulls.forget(),
                    _ => {}
                }
                let total = pulls.running_total() + pulls.asked(0) + pulls.asked(1);
                prop_assert!(total <= slots);
                if lanes == 2 && slots >= 2 {
                    prop_assert!(pulls.running[1] + pulls.asked(1) < slots);
                }
            }
        }
    }
}
