//! Waking the relay of the same process: most rows of the outbox are put in line where they are also taken from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Shared by all clones of a [`crate::Store`]. A call through the database wakes every process that listens to anything;
/// this wakes the one that is meant.
#[derive(Clone, Default)]
pub(crate) struct Doorbell(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Sender whose rows are relayed here.
    answered_by: Mutex<Option<String>>,
    bell: Notify,
}

/// Somebody answers the bell, until this is dropped.
pub(crate) struct Answering(Doorbell);

impl Doorbell {
    /// From now on a relay of this process sends what this sender puts in line.
    pub(crate) fn answer(&self, sender: &str) -> Answering {
        *self.answered_by() = Some(sender.to_owned());
        Answering(self.clone())
    }

    /// Whether ringing is enough. A relay that ends at this moment leaves the row to the next one, which looks at all of
    /// them when it begins, and every second.
    pub(crate) fn is_answered_by(&self, sender: &str) -> bool {
        self.answered_by().as_deref() == Some(sender)
    }

    pub(crate) fn ring(&self) {
        self.0.bell.notify_one();
    }

    fn answered_by(&self) -> MutexGuard<'_, Option<String>> {
        self.0.answered_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answering {
    /// Waits until it rings, unless it has rung since the last time. Safe to drop while it waits.
    pub(crate) async fn rung(&self) {
        self.0.0.bell.notified().await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.answered_by() = None;
    }
}
