//! Whether this process is alive and whether it can do its work. Both can say no.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;

use crate::dto::{CheckReport, HealthReport};

/// Longest a single readiness check may take; longer is a no.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// The checks of one process: loops report that they still turn, dependencies are asked whether they answer.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    start: Instant,
    loops: Mutex<BTreeMap<String, Loop>>,
    checks: Mutex<Vec<(String, Check)>>,
}

#[derive(Clone)]
struct Loop {
    last_ms: Arc<AtomicU64>,
    limit: Duration,
}

/// A loop's way to say that it still turns. Never ticked again means dead, whoever dropped it.
#[derive(Clone)]
pub struct Beat {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            inner: Arc::new(Inner {
                start: Instant::now(),
                loops: Mutex::default(),
                checks: Mutex::default(),
            }),
        }
    }
}

impl Health {
    /// No loops and no checks: alive and ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Watches a loop that must tick at least every `limit`, beginning now.
    pub fn watch(&self, name: &str, limit: Duration) -> Beat {
        let last_ms = Arc::new(AtomicU64::new(0));
        let beat = Beat { start: self.inner.start, last_ms: last_ms.clone() };
        beat.tick();
        let mut loops = self.inner.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.insert(name.to_owned(), Loop { last_ms, limit });
        beat
    }

    /// Adds something without which this process cannot do its work. The reason of a no is logged, never sent: the
    /// endpoint is open to everyone.
    pub fn require<F, Fut>(&self, name: &str, check: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), String>> + Send + 'static,
    {
        let check: Check = Arc::new(move || Box::pin(check()));
        let mut checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner);
        checks.push((name.to_owned(), check));
    }

    /// Whether every watched loop ticked lately.
    pub fn live(&self) -> HealthReport {
        let now_ms = millis(self.inner.start);
        let loops = self.inner.loops.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let checks = loops.into_iter().map(|(name, one)| {
            let silent_ms = now_ms.saturating_sub(one.last_ms.load(Ordering::Relaxed));
            CheckReport { name, ok: u128::from(silent_ms) <= one.limit.as_millis() }
        });
        report(checks.collect())
    }

    /// Whether every dependency answers now.
    pub async fn ready(&self) -> HealthReport {
        let checks = self.inner.checks.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = checks.into_iter().map(|(name, check)| async move {
            let answer = tokio::time::timeout(CHECK_LIMIT, check()).await;
            let failure = match answer {
                Ok(Ok(())) => None,
                Ok(Err(reason)) => Some(reason),
                Err(_) => Some(format!("no answer within {CHECK_LIMIT:?}")),
            };
            if let Some(reason) = &failure {
                tracing::warn!(check = %name, %reason, "not ready");
            }
            CheckReport { name, ok: failure.is_none() }
        });
        report(join_all(asked).await)
    }
}

impl Beat {
    /// Still here.
    pub fn tick(&self) {
        self.last_ms.store(millis(self.start), Ordering::Relaxed);
    }
}

fn millis(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn report(checks: Vec<CheckReport>) -> HealthReport {
    HealthReport { ok: checks.iter().all(|check| check.ok), checks }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stops_turning_is_noticed() {
        let health = Health::new();
        assert!(health.live().ok);
        let beat = health.watch("relay", Duration::from_millis(40));
        assert!(health.live().ok);
        std::thread::sleep(Duration::from_millis(80));
        assert!(!health.live().ok);
        beat.tick();
        assert!(health.live().ok);
    }

    #[tokio::test]
    async fn one_failing_dependency_is_enough_to_be_unready() {
        let health = Health::new();
        health.require("database", || async { Ok(()) });
        assert!(health.ready().await.ok);
        health.require("nats", || async { Err("no server".into()) });
        let report = health.ready().await;
        assert!(!report.ok);
        let verdicts: Vec<_> = report.checks.iter().map(|c| (c.name.as_str(), c.ok)).collect();
        assert_eq!(verdicts, [("database", true), ("nats", false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dependency_that_hangs_is_a_no() {
        let health = Health::new();
        health.require("database", std::future::pending);
        assert!(!health.ready().await.ok);
    }
}
