//! Those who guess tokens: after some misses from one address it has to wait.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Code, Failure};

/// Misses in one window before an address has to wait for the next.
const MISSES: u32 = 20;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond it the whole table is begun anew rather than grow.
const REMEMBERED: usize = 10_000;

/// Misses by address. Of this process alone: it protects the database and the log, tokens are safe by their length.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<BTreeMap<IpAddr, (Instant, u32)>>);

impl Strangers {
    /// Refuses an address that missed too often.
    pub(crate) fn check(&self, from: Option<IpAddr>) -> Result<(), Failure> {
        let Some(from) = from else { return Ok(()) };
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get(&from) {
            Some((since, misses)) if *misses >= MISSES && since.elapsed() < WINDOW => {
                let wait = (WINDOW - since.elapsed()).as_secs() + 1;
                metrics::counter!("openwatch_api_rate_limited_total").increment(1);
                let detail = format!("{MISSES} tokens from {from} were not valid; try again in {wait} s");
                Err(Failure::new(Code::RateLimited, detail))
            }
            _ => Ok(()),
        }
    }

    /// Notes a token that nobody knows.
    pub(crate) fn missed(&self, from: Option<IpAddr>) {
        metrics::counter!("openwatch_api_unknown_tokens_total").increment(1);
        let Some(from) = from else { return };
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED && !seen.contains_key(&from) {
            seen.clear();
        }
        let entry = seen.entry(from).or_insert_with(|| (Instant::now(), 0));
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
        for _ in 0..MISSES {
            strangers.check(guesser).unwrap();
            strangers.missed(guesser);
        }
        assert_eq!(strangers.check(guesser).unwrap_err().code, Code::RateLimited);
        strangers.check(other).unwrap();
        strangers.check(None).unwrap();
    }
}
