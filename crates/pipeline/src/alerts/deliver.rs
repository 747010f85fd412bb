//! Delivers what waits: one task per channel, so that a slow or dead one delays nobody else.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_bus::Bus;
use openwatch_model::ChannelId;
use openwatch_store::channel::{self, Open, Sealed};
use openwatch_store::listen;
use openwatch_store::{Listener, Store, StoreError, Wake};
use openwatch_trust::AlertsKeys;
use openwatch_trust::keyring::KeyNames;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::TRY_LIMIT;
use super::deliverer::Deliverer;
use crate::keys::Held;

/// How often channels are looked at for changes when nobody called.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// What deliveries may touch.
pub(super) struct Deliveries {
    pub(super) store: Store,
    pub(super) bus: Bus,
    pub(super) keys: Held<AlertsKeys>,
}

/// A deliverer that runs.
struct Running {
    channel: Open,
    stop: CancellationToken,
    task: AbortHandle,
}

impl Deliveries {
    /// Runs a deliverer for each channel until told to stop.
    pub(super) async fn run(self, shutdown: CancellationToken) {
        let (wake, _) = watch::channel(());
        let mut tasks = JoinSet::new();
        let mut running = BTreeMap::new();
        let mut calls = None;
        while !shutdown.is_cancelled() {
            if calls.is_none() {
                // One connection for all channels: a fleet of them must not use up the pool.
                calls = self.store.listen(&[listen::DELIVERY, listen::CHANNEL]).await.ok();
            }
            match self.channels().await {
                Ok(wanted) => self.keep(wanted, &mut running, &mut tasks, &wake, &shutdown),
                Err(error) => tracing::warn!(%error, "deliveries wait for the database"),
            }
            while tasks.try_join_next().is_some() {}
            shutdown.run_until_cancelled(called(&mut calls, &wake)).await;
        }
        // ALR-16: sends under way may finish.
        let drain = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TRY_LIMIT, drain).await;
    }

    /// Channels in use; those under another key are sealed again on the way.
    async fn channels(&self) -> Result<Vec<Open>, StoreError> {
        let mut tx = self.store.begin().await?;
        let keys = self.keys.borrow().clone();
        let key_id = keys.current().to_string();
        for (id, sealed) in channel::under_other_key(&mut tx, &key_id).await? {
            match keys.reseal_channel(&sealed.bytes, id) {
                Ok(bytes) => channel::reseal(&mut tx, id, &Sealed { bytes, key_id: key_id.clone() }).await?,
                Err(error) => tracing::debug!(%error, channel.id = %id, "a channel cannot be sealed again"),
            }
        }
        let open = channel::open(&mut tx).await?;
        tx.commit().await?;
        Ok(open)
    }

    /// Starts what is missing and stops what is gone or changed. What stops finishes what it is sending.
    fn keep(
        &self,
        wanted: Vec<Open>,
        running: &mut BTreeMap<ChannelId, Running>,
        tasks: &mut JoinSet<()>,
        wake: &watch::Sender<()>,
        shutdown: &CancellationToken,
    ) {
        running.retain(|id, it| {
            let keep = wanted.iter().any(|w| w.id == *id && *w == it.channel) && !it.task.is_finished();
            if !keep {
                it.stop.cancel();
            }
            keep
        });
        for channel in wanted {
            running.entry(channel.id).or_insert_with(|| {
                let stop = shutdown.child_token();
                let keys = self.keys.borrow().clone();
                let deliverer = Deliverer::new(self.store.clone(), &self.bus, &keys, channel.clone());
                let task = tasks.spawn(deliverer.run(wake.subscribe(), stop.clone()));
                Running { channel, stop, task }
            });
        }
    }
}

/// Wakes the deliverers with every delivery, and returns when channels may have changed.
async fn called(calls: &mut Option<Listener>, wake: &watch::Sender<()>) {
    let look = tokio::time::sleep(LOOK);
    tokio::pin!(look);
    loop {
        let call = async {
            match calls.as_mut() {
                Some(calls) => calls.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut look => return,
            call = call => match call {
                Ok(Wake::Call { channel, .. }) if channel == listen::DELIVERY => { wake.send_replace(()); }
                Ok(_) => {
                    wake.send_replace(());
                    return;
                }
                Err(_) => {
                    *calls = None;
                    return;
                }
            },
        }
    }
}
