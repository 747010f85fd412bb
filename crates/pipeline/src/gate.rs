//! Stages with tables stop pulling while PostgreSQL is away.

use std::time::Duration;

use futures::future::BoxFuture;
use openwatch_store::Store;

/// Time between asks while the database is away.
const PAUSE: Duration = Duration::from_millis(500);

/// A gate for the consume loop: open as soon as the database answers.
pub(crate) fn database_gate(
    store: &Store,
) -> impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static + use<> {
    let store = store.clone();
    move || {
        let store = store.clone();
        Box::pin(async move {
            let mut told = false;
            while let Err(error) = store.ping().await {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "nothing is pulled until the database answers");
                }
                tokio::time::sleep(PAUSE).await;
            }
        })
    }
}
