//! Channels made as the API makes them.

use std::collections::BTreeMap;

use openwatch_model::ChannelId;
use openwatch_model::alert::AlertSeverity;
use openwatch_model::channel::Target;
use openwatch_store::Role;
use openwatch_store::channel::{self, NewChannel, Sealed};
use openwatch_trust::keyring::KeyNames;
use uuid::Uuid;

use super::Stages;

/// What signs the webhooks of tests.
pub const WEBHOOK_SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

impl Stages {
    /// Makes a channel for alerts from `low` on, which may reach this machine.
    pub async fn channel(&self, name: &str, target: Target) -> ChannelId {
        self.channel_with(name, target, |_| ()).await
    }

    /// A webhook for alerts from `low` on.
    pub async fn webhook(&self, name: &str, url: String) -> ChannelId {
        self.channel(name, Target::Webhook { url, secret: WEBHOOK_SECRET.to_owned() }).await
    }

    /// The same; `change` says what is unusual about it.
    ///
    /// # Panics
    /// When the name is taken.
    pub async fn channel_with(
        &self,
        name: &str,
        target: Target,
        change: impl FnOnce(&mut NewChannel),
    ) -> ChannelId {
        let id = ChannelId(Uuid::new_v4());
        let keys = self.keys.api().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let plain = serde_json::to_vec(&target).expect("a target is JSON");
        let bytes = keys.seal_channel(&plain, id).expect("a key to seal to");
        let mut new = NewChannel {
            id,
            name: name.to_owned(),
            kind: target.kind(),
            target: String::new(),
            allow_private: true,
            min_severity: AlertSeverity::Low,
            tags: BTreeMap::new(),
            sealed: Sealed { bytes, key_id: keys.current().to_string() },
        };
        change(&mut new);
        let store = self.world.store(Role::Api).await;
        let mut tx = store.begin().await.expect("the database answers");
        channel::add(&mut tx, &new, "tester").await.expect("the channel is new");
        tx.commit().await.expect("the database answers");
        id
    }
}
