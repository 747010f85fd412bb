//! Stages with tables stop pulling while PostgreSQL is away.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use openwatch_store::Store;

/// Time between asks while the database is away.
const PAUSE: Duration = Duration::from_millis(500);
/// A database that answered so recently is not asked again for each message. When it has gone since, messages fail once,
/// and wait here when they come again.
const TRUSTED: Duration = Duration::from_secs(1);

/// A gate for the consume loop: open as soon as the database answers.
pub(crate) fn database_gate(
    store: &Store,
) -> impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static + use<> {
    let (store, answered) = (store.clone(), Arc::new(Mutex::new(None::<Instant>)));
    move || {
        let (store, answered) = (store.clone(), answered.clone());
        Box::pin(async move {
            let known = *answered.lock().unwrap_or_else(PoisonError::into_inner);
            if known.is_some_and(|at| at.elapsed() < TRUSTED) {
                return;
            }
            let mut told = false;
            while let Err(error) = store.ping().await {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "nothing is pulled until the database answers");
                }
                tokio::time::sleep(PAUSE).await;
            }
            *answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        })
    }
}
