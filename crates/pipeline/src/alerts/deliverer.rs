//! One channel's deliverer: claims what is due, sends some side by side, and notes how every try ended.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openwatch_bus::Bus;
use openwatch_model::audit::{ChannelDisabled, NotificationDelivered, NotificationFailed};
use openwatch_model::channel::wait_after;
use openwatch_store::channel::{self, Open};
use openwatch_store::delivery::{self, Delivery, Measured, Try};
use openwatch_store::{Store, StoreError};
use openwatch_trust::AlertsKeys;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::STAGE;
use super::channel::{Reach, Refused};
use super::deliver::LOOK;
use crate::out::Out;

/// Sent side by side: a receiver that takes its time must not make a burst wait for one another.
const SENDS: usize = 8;
/// A claimed delivery whose end was never noted is due again after this; longer than a try and its note take.
const LEASE: Duration = Duration::from_secs(60);
/// Wait between attempts to note how a try ended, while the database is away.
const NOTE_AGAIN: Duration = Duration::from_millis(500);

/// Delivers for one channel.
pub(super) struct Deliverer {
    store: Store,
    channel: Open,
    reach: Result<Reach, String>,
}

impl Deliverer {
    /// Opens the channel's target. One that cannot be opened fails its deliveries, each with the reason.
    pub(super) fn new(store: Store, bus: &Bus, keys: &AlertsKeys, channel: Open) -> Self {
        let reach = Reach::open(keys, &channel, bus);
        if let Err(error) = &reach {
            tracing::error!(error, channel = channel.name, "a channel cannot be used");
        }
        Self { store, channel, reach }
    }

    /// Runs until told to stop; then finishes what it is sending.
    pub(super) async fn run(self, mut woken: watch::Receiver<()>, stop: CancellationToken) {
        let mut sending = FuturesUnordered::new();
        while !stop.is_cancelled() {
            let mut pause = LOOK;
            // Before looking: what comes meanwhile wakes it again.
            woken.mark_unchanged();
            match self.claim(SENDS - sending.len()).await {
                Ok((due, next)) => {
                    sending.extend(due.into_iter().map(|it| self.deliver(it)));
                    pause = next.map_or(LOOK, |next| next.clamp(Duration::from_millis(10), LOOK));
                }
                Err(error) => tracing::warn!(%error, channel = self.channel.name, "deliveries wait"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                Some(()) = sending.next(), if !sending.is_empty() => {}
                Ok(()) = woken.changed(), if sending.len() < SENDS => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        while sending.next().await.is_some() {}
    }

    /// Takes what is due, and says when the next one is.
    async fn claim(&self, room: usize) -> Result<(Vec<Delivery>, Option<Duration>), StoreError> {
        if room == 0 {
            return Ok((Vec::new(), None));
        }
        let mut tx = self.store.begin().await?;
        let due = delivery::claim(&mut tx, self.channel.id, room, LEASE).await?;
        let next = delivery::next_due(&mut tx, self.channel.id).await?;
        let next = next.map(|at| (at - tx.now()).try_into().unwrap_or(Duration::ZERO));
        tx.commit().await?;
        Ok((due, next))
    }

    async fn deliver(&self, it: Delivery) {
        let since = Instant::now();
        let sent = match &self.reach {
            Ok(reach) => reach.send(&it).await,
            Err(error) => Err(Refused { error: error.clone(), status: None, after: None, gone: false }),
        };
        let took = since.elapsed();
        let outcome = if sent.is_ok() { "delivered" } else { "failed" };
        metrics::counter!("openwatch_deliveries_total", "channel" => self.channel.name.clone(), "outcome" => outcome)
            .increment(1);
        // The receiver has it: forgetting that would tell it twice. The lease ends the patience.
        while since.elapsed() < LEASE {
            match self.note(&it, &sent, took).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(%error, channel = self.channel.name, "the end of a delivery waits for the database");
                }
            }
            tokio::time::sleep(NOTE_AGAIN).await;
        }
    }

    async fn note(
        &self,
        it: &Delivery,
        sent: &Result<Option<u16>, Refused>,
        took: Duration,
    ) -> Result<(), StoreError> {
        let mut tx = self.store.begin().await?;
        let mut out = Out::new(STAGE, it.id.to_string());
        let name = self.channel.name.clone();
        let (end, status) = match sent {
            Ok(status) => {
                if let Some(alert_id) = it.alert {
                    let event = NotificationDelivered { alert_id, channel: name, attempt: it.attempt };
                    out.audit(&tx, &event);
                }
                (Try::Delivered, *status)
            }
            Err(refused) => (self.failed(&mut tx, &mut out, it, refused).await?, refused.status),
        };
        delivery::finish(&mut tx, it, &end, Measured { status, took }).await?;
        out.commit(tx).await
    }

    /// What becomes of a delivery that did not arrive.
    async fn failed(
        &self,
        tx: &mut openwatch_store::Tx<'_>,
        out: &mut Out,
        it: &Delivery,
        refused: &Refused,
    ) -> Result<Try, StoreError> {
        let (name, error) = (self.channel.name.clone(), refused.error.clone());
        if refused.gone && channel::set_enabled(tx, self.channel.id, false, Some(&error)).await? {
            tracing::error!(channel = name, error, "a channel is turned off: its receiver is gone");
            let event =
                ChannelDisabled { channel_id: self.channel.id, name: name.clone(), reason: error.clone() };
            out.audit(tx, &event);
        }
        // A test is one try: somebody waits for the answer.
        let again = !refused.gone && it.alert.is_some();
        let spread = f64::from(it.id.as_bytes()[15] ^ it.attempt as u8) / 255.0;
        match wait_after(it.round, refused.after, spread).filter(|_| again) {
            Some(wait) => {
                tracing::warn!(channel = name, error, wait_sec = wait.as_secs(), "a delivery is tried again");
                Ok(Try::Again { at: tx.now() + wait, error })
            }
            None => {
                if let Some(alert_id) = it.alert {
                    tracing::error!(channel = name, error, "a delivery is given up");
                    let event = NotificationFailed {
                        alert_id,
                        channel: name,
                        attempt: it.attempt,
                        error: error.clone(),
                    };
                    out.audit(tx, &event);
                }
                Ok(Try::GivenUp { error })
            }
        }
    }
}
