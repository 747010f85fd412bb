//! Proof of life: when a loop last went round.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Shared between a loop, which ticks, and health, which looks.
#[derive(Clone, Debug)]
pub struct Pulse {
    start: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Pulse {
    /// A pulse that has just ticked.
    pub fn new() -> Self {
        Self { start: Instant::now(), last_ms: Arc::default() }
    }

    /// The loop went round.
    pub fn tick(&self) {
        self.last_ms.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Time since the last round. A consume loop goes round at least every second.
    pub fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}
