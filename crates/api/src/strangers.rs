//! Those who guess tokens: after some misses from one address it has to wait. Whoever is known from before does not: behind
//! a proxy all have one address, and nobody may lock the others out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Failure};

/// Misses in one window before an address has to wait for the next.
const MISSES: u32 = 20;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses, and tokens, that are remembered; beyond it all are forgotten rather than the table grow.
const REMEMBERED: usize = 10_000;

/// What a token is known by: its hash.
type Hash = [u8; 32];

/// Misses by address, and the tokens that were in force when they last came. Of this process alone: it protects the database
/// and the log, tokens are safe by their length.
#[derive(Default)]
pub(crate) struct Strangers(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    misses: BTreeMap<IpAddr, (Instant, u32)>,
    known: BTreeSet<Hash>,
}

impl std::fmt::Debug for Strangers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Strangers")
    }
}

impl Strangers {
    /// Refuses an address that missed too often, unless the token is known. That is no proof of anything: the database is
    /// asked all the same.
    pub(crate) fn check(&self, from: Option<IpAddr>, token: &Hash) -> Result<(), Failure> {
        let Some(from) = from else { return Ok(()) };
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.known.contains(token) {
            return Ok(());
        }
        match seen.misses.get(&from) {
            Some((since, misses)) if *misses >= MISSES && since.elapsed() < WINDOW => {
                let wait = (WINDOW - since.elapsed()).as_secs() + 1;
                metrics::counter!("openwatch_api_rate_limited_total").increment(1);
                let detail = format!("{MISSES} tokens from {from} were not valid; try again in {wait} s");
                Err(Failure::new(Code::RateLimited, detail))
            }
            _ => Ok(()),
        }
    }

    /// Notes a token that is in force.
    pub(crate) fn came(&self, token: &Hash) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.known.contains(token) {
            return;
        }
        if seen.known.len() >= REMEMBERED {
            seen.known.clear();
        }
        seen.known.insert(*token);
    }

    /// Notes a token that is not in force, or not any more.
    pub(crate) fn missed(&self, from: Option<IpAddr>, token: &Hash) {
        metrics::counter!("openwatch_api_unknown_tokens_total").increment(1);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.known.remove(token);
        let Some(from) = from else { return };
        if seen.misses.len() >= REMEMBERED && !seen.misses.contains_key(&from) {
            seen.misses.clear();
        }
        let entry = seen.misses.entry(from).or_insert_with(|| (Instant::now(), 0));
        if entry.0.elapsed() >= WINDOW {
            *entry = (Instant::now(), 0);
        }
        entry.1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_misses_often_waits_and_nobody_else_does() {
        let strangers = Strangers::default();
        let (guesser, other) = (Some([192, 0, 2, 1].into()), Some([192, 0, 2, 2].into()));
        let (good, bad) = ([1; 32], [2; 32]);
        strangers.came(&good);
        for _ in 0..MISSES {
            strangers.check(guesser, &bad).unwrap();
            strangers.missed(guesser, &bad);
        }
        assert_eq!(strangers.check(guesser, &bad).unwrap_err().code, Code::RateLimited);
        strangers.check(other, &bad).unwrap();
        strangers.check(None, &bad).unwrap();
        strangers.check(guesser, &good).unwrap();
        // Revoked: a stranger from now on.
        strangers.missed(guesser, &good);
        assert_eq!(strangers.check(guesser, &good).unwrap_err().code, Code::RateLimited);
    }
}
