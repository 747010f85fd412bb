//! Alerts behind real stages: one for each transition, a life that people control, and channels that are told.

mod again;
mod channels;
mod guard;
mod kill;
mod life;
mod mail;
mod router;

use std::sync::atomic::{AtomicU64, Ordering};

use openwatch_bus::message::event::{Body, Event};
use openwatch_bus::{Outgoing, User};
use openwatch_model::{HostId, Timestamp};
use openwatch_tests::{Stages, eventually};
use uuid::Uuid;

/// Every alert with its state and the number of its transitions, oldest first.
async fn alerts(stages: &Stages) -> Vec<String> {
    let all =
        "select concat_ws(' ', alert_type, state, transition) from alert order by created_at, alert_type";
    stages.texts(all).await
}

/// Waits until the alerts are these.
async fn become_alerts(stages: &Stages, wanted: &[&str]) {
    let are = || async { (alerts(stages).await == wanted).then_some(()) };
    eventually(&format!("{wanted:?}"), are).await;
}

/// Sends an event as the stage would whose event it is.
async fn tell(stages: &Stages, host: Option<HostId>, at: Timestamp, body: impl Into<Body>) -> Outgoing {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let id =
        Uuid::from_u128(u128::from(NUMBER.fetch_add(1, Ordering::Relaxed)) | Uuid::new_v4().as_u128() << 64);
    let message = Event { id, host, at, cause: Some("test".to_owned()), body: body.into() }.encode(None);
    stages.world.bus(User::Admin).await.publish(&message).await.unwrap();
    message
}
