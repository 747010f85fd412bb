//! Waiting for something to become true, never for a time to pass.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long a thing may take before a test calls it missing: generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks until the answer is `Some`, for up to [`PATIENCE`].
///
/// # Panics
/// When the time is over; `what` says what never came.
pub async fn eventually<T, F>(what: &str, ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    eventually_within(PATIENCE, what, ask).await
}

/// The same with a limit of its own.
///
/// # Panics
/// When the time is over; `what` says what never came.
pub async fn eventually_within<T, F>(limit: Duration, what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let since = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(since.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}
