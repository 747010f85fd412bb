//! Delivers what waits: one task per channel, so that a slow or dead one delays nobody else.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use openwatch_model::ChannelId;
use openwatch_model::audit::{NotificationDelivered, NotificationFailed};
use openwatch_store::channel::{self, Channel, ChannelKind};
use openwatch_store::delivery::{self, Delivery, Try};
use openwatch_store::listen;
use openwatch_store::{Store, StoreError};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use crate::out::Out;

/// How often channels are looked at for changes, and deliveries when nobody called.
const LOOK: Duration = Duration::from_secs(2);
/// A claimed delivery whose end was never noted is due again after this.
const LEASE: Duration = Duration::from_secs(60);
/// Limit of one try.
const TRY_LIMIT: Duration = Duration::from_secs(10);
/// Tries before a delivery is given up: with doubling waits these span about five hours.
const TRIES: u32 = 10;
/// First wait; doubles with every try.
const FIRST_WAIT: Duration = Duration::from_secs(10);
/// Deliveries claimed at once.
const BATCH: u32 = 10;

/// Runs a deliverer for each channel until told to stop.
pub(super) async fn run(store: Store, shutdown: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut running: BTreeMap<ChannelId, (Channel, AbortHandle)> = BTreeMap::new();
    while !shutdown.is_cancelled() {
        match channels(&store).await {
            Ok(wanted) => {
                running.retain(|id, (channel, task)| {
                    let keep = wanted.iter().any(|w| w.id == *id && w == channel) && !task.is_finished();
                    if !keep {
                        // Cut off between sending and noting, a delivery is tried again after its lease.
                        task.abort();
                    }
                    keep
                });
                for channel in wanted {
                    running.entry(channel.id).or_insert_with(|| {
                        let task = tasks.spawn(deliverer(store.clone(), channel.clone(), shutdown.clone()));
                        (channel, task)
                    });
                }
            }
            Err(error) => tracing::warn!(%error, "deliveries wait for the database"),
        }
        while tasks.try_join_next().is_some() {}
        let _ = tokio::time::timeout(LOOK, shutdown.cancelled()).await;
    }
    // ALR-16: sends under way may finish.
    let drain = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(TRY_LIMIT, drain).await;
}

async fn channels(store: &Store) -> Result<Vec<Channel>, StoreError> {
    let mut tx = store.begin().await?;
    Ok(channel::list(&mut tx).await?.into_iter().filter(|channel| channel.enabled).collect())
}

async fn deliverer(store: Store, channel: Channel, shutdown: CancellationToken) {
    let client =
        reqwest::Client::builder().timeout(TRY_LIMIT).redirect(reqwest::redirect::Policy::none()).build();
    let Ok(client) = client else { return };
    let mut calls = store.listen(&[listen::DELIVERY]).await.ok();
    while !shutdown.is_cancelled() {
        match deliver_due(&store, &channel, &client).await {
            Ok(0) => {
                let called = async {
                    match calls.as_mut() {
                        Some(calls) => calls.recv().await.is_ok(),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(LOOK) => {}
                    heard = called => if !heard { calls = None },
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, channel = channel.channel.name, "deliveries wait");
                let _ = tokio::time::timeout(LOOK, shutdown.cancelled()).await;
            }
        }
    }
}

async fn deliver_due(
    store: &Store,
    channel: &Channel,
    client: &reqwest::Client,
) -> Result<usize, StoreError> {
    let mut tx = store.begin().await?;
    let due = delivery::claim(&mut tx, channel.id, BATCH, LEASE).await?;
    tx.commit().await?;
    for it in &due {
        let sent = send(&channel.channel.kind, client, it).await;
        note(store, channel, it, sent).await?;
    }
    Ok(due.len())
}

/// Sends one delivery. The error never holds the address: it may carry a token.
async fn send(kind: &ChannelKind, client: &reqwest::Client, it: &Delivery) -> Result<(), String> {
    let body = serde_json::to_vec(&it.payload).map_err(|e| e.to_string())?;
    match kind {
        ChannelKind::Stdout => {
            let mut line = body;
            line.push(b'\n');
            std::io::stdout().lock().write_all(&line).map_err(|e| e.to_string())
        }
        ChannelKind::Webhook { url, .. } => {
            let url = reqwest::Url::parse(url).map_err(|_| "the address cannot be read".to_owned())?;
            allowed(&url).await?;
            let request = client
                .post(url)
                .header("content-type", "application/json")
                .header("webhook-id", it.id.to_string())
                .header("webhook-timestamp", it.created_at.unix_timestamp().to_string())
                .body(body);
            let answer = request.send().await.map_err(|e| e.without_url().to_string())?;
            let status = answer.status();
            if status.is_success() { Ok(()) } else { Err(format!("the receiver answered {status}")) }
        }
    }
}

/// Plain HTTP only to this machine; HTTPS never to a private or link-local address (SSRF), judged on what the name
/// resolves to now.
async fn allowed(url: &reqwest::Url) -> Result<(), String> {
    let host = url.host_str().ok_or("the address has no host")?.trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().ok_or("the address has no port")?;
    let resolved = tokio::net::lookup_host((host, port)).await.map_err(|_| "the host has no address")?;
    let all: Vec<IpAddr> = resolved.map(|a| a.ip()).collect();
    let fits = match url.scheme() {
        "http" => all.iter().all(IpAddr::is_loopback),
        "https" => all.iter().all(|ip| ip.is_loopback() || is_public(ip)),
        _ => false,
    };
    if fits {
        Ok(())
    } else {
        Err("the address is not https to a public host (or http to this machine)".to_owned())
    }
}

fn is_public(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let shared = ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]);
            !(ip.is_private() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast() || shared)
        }
        IpAddr::V6(ip) => {
            let mapped = ip.to_ipv4_mapped().is_none_or(|v4| is_public(&IpAddr::V4(v4)));
            mapped && !(ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_unspecified())
        }
    }
}

async fn note(
    store: &Store,
    channel: &Channel,
    it: &Delivery,
    sent: Result<(), String>,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let mut out = Out::new(STAGE, it.id.to_string());
    let name = channel.channel.name.clone();
    let outcome = if sent.is_ok() { "delivered" } else { "failed" };
    metrics::counter!("openwatch_deliveries_total", "channel" => name.clone(), "outcome" => outcome)
        .increment(1);
    let end = match sent {
        Ok(()) => {
            let event = NotificationDelivered { alert_id: it.alert, channel: name, attempt: it.attempt };
            out.audit(&mut tx, &event).await?;
            Try::Delivered
        }
        Err(error) if it.attempt >= TRIES => {
            tracing::error!(channel = name, error, "a delivery is given up");
            let event = NotificationFailed {
                alert_id: it.alert,
                channel: name,
                attempt: it.attempt,
                error: error.clone(),
            };
            out.audit(&mut tx, &event).await?;
            Try::GivenUp { error }
        }
        Err(error) => {
            let wait = FIRST_WAIT * 2u32.saturating_pow(it.attempt.saturating_sub(1).min(12));
            tracing::warn!(channel = name, error, wait_sec = wait.as_secs(), "a delivery is tried again");
            Try::Again { at: tx.now() + wait, error }
        }
    };
    delivery::finish(&mut tx, it, &end).await?;
    out.commit(tx).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_inside_are_refused() {
        let check = async |text: &str| allowed(&reqwest::Url::parse(text).unwrap()).await.is_ok();
        assert!(check("http://127.0.0.1:9/x").await);
        assert!(check("https://93.184.215.14/x").await);
        for bad in [
            "http://93.184.215.14/",
            "https://10.0.0.1/",
            "https://169.254.169.254/",
            "https://100.64.0.1/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "ftp://127.0.0.1/",
        ] {
            assert!(!check(bad).await, "{bad}");
        }
    }
}
