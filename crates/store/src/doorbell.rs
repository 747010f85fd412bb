//! Waking the relay of the same process: most rows of the outbox are put in line where they are also taken from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::outbox::OutboxMessage;

/// How soon what was put in line is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ring {
    /// With what else comes soon: events, records, and jobs of which many fall due at once.
    Soon,
    /// By itself.
    Now,
}

impl Ring {
    /// What is packed goes with others anyway.
    pub(crate) fn of(messages: &[OutboxMessage]) -> Self {
        if messages.iter().all(|message| message.packed) { Self::Soon } else { Self::Now }
    }
}

/// Shared by all clones of a [`crate::Store`]. A call through the database wakes every process that listens to anything;
/// this wakes the one that is meant.
#[derive(Clone, Default)]
pub(crate) struct Doorbell(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Sender whose rows are relayed here.
    answered_by: Mutex<Option<String>>,
    bell: Notify,
    /// Rung besides for [`Ring::Now`].
    hurry: Notify,
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

    pub(crate) fn ring(&self, how: Ring) {
        if how == Ring::Now {
            self.0.hurry.notify_one();
        }
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

    /// Waits until somebody is in a hurry, unless somebody was since the last time. Safe to drop while it waits.
    pub(crate) async fn hurried(&self) {
        self.0.0.hurry.notified().await;
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        *self.0.answered_by() = None;
    }
}
