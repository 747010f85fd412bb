//! The connection: one per process and user. Built once, it repairs itself for ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{ConnectErrorKind, ConnectOptions, Event, ServerError};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::{BusError, Profile, User};

/// How to reach the servers, and as whom.
#[derive(Clone)]
pub struct BusOptions {
    /// Addresses, such as `nats://127.0.0.1:4222`; in a cluster, all of them.
    pub servers: Vec<String>,
    /// Who we are.
    pub user: User,
    /// The NKEY seed; `None` only for servers that ask nobody (tests).
    pub seed: Option<Zeroizing<String>>,
    /// TLS; `None` on a loopback connection.
    pub tls: Option<Tls>,
    /// Which topology the servers hold: decides whether batches save anything.
    pub profile: Profile,
    /// How long to wait for a server at start.
    pub start_timeout: Duration,
    /// How long to wait for one answer of JetStream. A lost leader costs this much, so keep it short.
    pub ack_timeout: Duration,
}

/// TLS material, all PEM files.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authority that signed the servers; `None`: those of the operating system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, where the servers ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl BusOptions {
    /// With the defaults: no TLS, small profile, ten seconds to start, four for an answer.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>, user: User) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            user,
            seed: None,
            tls: None,
            profile: Profile::Small,
            start_timeout: Duration::from_secs(10),
            ack_timeout: Duration::from_secs(4),
        }
    }

    /// With this seed.
    #[must_use]
    pub fn seed(mut self, seed: Zeroizing<String>) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// A connection to NATS. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Bus {
    pub(crate) client: async_nats::Client,
    pub(crate) user: User,
    pub(crate) profile: Profile,
    pub(crate) ack_timeout: Duration,
    /// Subjects that the server refused us, as they happen.
    violations: broadcast::Sender<Arc<str>>,
    /// Counts connections: a change means that the server forgot our outstanding pulls.
    generation: watch::Receiver<u64>,
}

impl Bus {
    /// Connects, waiting for a server up to `start_timeout`. Afterwards the connection repairs itself for ever.
    ///
    /// # Errors
    /// [`BusError::Unreachable`] when nobody answers in time, [`BusError::LoginRefused`] when the key is not known.
    pub async fn connect(options: BusOptions) -> Result<Self, BusError> {
        let user = options.user;
        if let Some(seed) = &options.seed {
            crate::user::public_key(seed)
                .map_err(|error| BusError::LoginRefused { user: user.as_str(), reason: error.to_string() })?;
        }
        let (violations, _) = broadcast::channel(256);
        let (generation_tx, generation) = watch::channel(0u64);
        let generation_tx = Arc::new(generation_tx);
        let deadline = Instant::now() + options.start_timeout;
        let client = loop {
            let connect = nats_options(&options, violations.clone(), generation_tx.clone())
                .connect(&options.servers[..]);
            let reason = match tokio::time::timeout_at(deadline, connect).await {
                Ok(Ok(client)) => break client,
                Ok(Err(error)) if is_login(&error) => {
                    return Err(BusError::LoginRefused { user: user.as_str(), reason: error.to_string() });
                }
                Ok(Err(error)) => match tls_refusal(&error) {
                    Some(reason) => {
                        return Err(BusError::Tls { servers: options.servers.join(", "), reason });
                    }
                    None => error.to_string(),
                },
                Err(_) => "no answer".to_owned(),
            };
            let pause = Duration::from_millis(200);
            if Instant::now() + pause >= deadline {
                let servers = options.servers.join(", ");
                return Err(BusError::Unreachable { servers, waited: options.start_timeout, reason });
            }
            tokio::time::sleep(pause).await;
        };
        let (profile, ack_timeout) = (options.profile, options.ack_timeout);
        Ok(Self { client, user, profile, ack_timeout, violations, generation })
    }

    /// Whether there is a connection right now.
    pub fn connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Who we are.
    pub fn user(&self) -> User {
        self.user
    }

    /// The topology the servers hold, as told at start.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Whether there is a connection that takes what is written: a readiness probe. A server that says nothing any
    /// more is noticed by the connection's own pings, which end the connection.
    ///
    /// # Errors
    /// [`BusError::TimedOut`] or [`BusError::Disconnected`].
    pub async fn ping(&self) -> Result<(), BusError> {
        let subject = || "PING".to_owned();
        if !self.connected() {
            return Err(BusError::Disconnected { subject: subject() });
        }
        match tokio::time::timeout(self.ack_timeout, self.client.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(BusError::Disconnected { subject: subject() }),
            Err(_) => Err(BusError::TimedOut { subject: subject(), after: self.ack_timeout }),
        }
    }

    /// Sends what is buffered and closes. Later uses answer with an error, they do not panic.
    pub async fn close(&self) {
        let closed = async {
            let _ = self.client.drain().await;
            // It drains on its own, and until then takes what it is given: closed it is when it takes nothing any more.
            while self.client.flush().await.is_ok() {}
        };
        if tokio::time::timeout(Duration::from_secs(2), closed).await.is_err() {
            tracing::debug!("the connection to NATS did not drain in time");
        }
    }

    pub(crate) fn generation(&self) -> watch::Receiver<u64> {
        self.generation.clone()
    }

    /// Resolves when the server refuses us this subject; never, if it does not.
    pub(crate) fn denied(&self, subject: &str) -> impl Future<Output = ()> + use<> {
        let mut violations = self.violations.subscribe();
        let subject = subject.to_owned();
        async move {
            loop {
                match violations.recv().await {
                    Ok(refused) if *refused == *subject => return,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        }
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus")
            .field("user", &self.user)
            .field("connected", &self.connected())
            .finish_non_exhaustive()
    }
}

fn is_login(error: &async_nats::ConnectError) -> bool {
    matches!(error.kind(), ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication)
}

/// What did not fit when certificates were shown. Time does not heal it, unlike a server that is away.
fn tls_refusal(error: &async_nats::ConnectError) -> Option<String> {
    let mut refused = error.kind() == ConnectErrorKind::Tls;
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        // The TLS library tells its own errors as invalid data; so does nothing else down there.
        let io = source.downcast_ref::<std::io::Error>();
        refused |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData);
        cause = source;
    }
    refused.then(|| cause.to_string())
}

fn nats_options(
    options: &BusOptions,
    violations: broadcast::Sender<Arc<str>>,
    generation: Arc<watch::Sender<u64>>,
) -> ConnectOptions {
    let user = options.user.as_str();
    let mut nats = match &options.seed {
        Some(seed) => ConnectOptions::with_nkey(seed.trim().to_owned()),
        None => ConnectOptions::new(),
    };
    if let Some(tls) = &options.tls {
        nats = nats.require_tls(true);
        if let Some(ca) = &tls.ca {
            nats = nats.add_root_certificates(ca.clone());
        }
        if let Some((certificate, key)) = &tls.identity {
            nats = nats.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    nats.name(format!("openwatch-{user}"))
        .custom_inbox_prefix(options.user.inbox())
        .max_reconnects(None)
        .reconnect_delay_callback(|attempt| Duration::from_millis((50u64 << attempt.min(6)).min(2000)))
        .connection_timeout(Duration::from_secs(5))
        .ping_interval(Duration::from_secs(10))
        .request_timeout(Some(options.ack_timeout))
        .event_callback(move |event| {
            on_event(user, &event, &violations, &generation);
            std::future::ready(())
        })
}

fn on_event(
    user: &'static str,
    event: &Event,
    violations: &broadcast::Sender<Arc<str>>,
    generation: &watch::Sender<u64>,
) {
    match event {
        Event::Connected => {
            generation.send_modify(|count| *count += 1);
            tracing::info!(user, "connected to NATS");
        }
        Event::Disconnected => {
            metrics::counter!("openwatch_bus_disconnects_total").increment(1);
            tracing::warn!(user, "lost the connection to NATS; reconnecting");
        }
        Event::ServerError(ServerError::Other(text)) => match violated_subject(text) {
            Some(subject) => {
                metrics::counter!("openwatch_bus_permission_violations_total").increment(1);
                tracing::error!(user, subject, "NATS refused a subject: check nats/permissions.conf");
                // Nobody waiting for it is fine.
                let _ = violations.send(subject.into());
            }
            None => tracing::warn!(user, error = text.as_str(), "NATS reported an error"),
        },
        Event::SlowConsumer(_) => {
            metrics::counter!("openwatch_bus_slow_consumer_total").increment(1);
            tracing::warn!(
                user,
                "messages were dropped here because they were not taken in time; they come back"
            );
        }
        other => tracing::debug!(user, event = %other, "NATS connection"),
    }
}

/// The subject in `Permissions Violation for Publish to "x"`.
fn violated_subject(text: &str) -> Option<&str> {
    text.to_ascii_lowercase().contains("permissions violation").then_some(())?;
    let start = text.find('"')? + 1;
    let length = text[start..].find('"')?;
    Some(&text[start..start + length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_name_their_subject() {
        let text = "Permissions Violation for Publish to \"ow.v1.job.manual.x\"";
        assert_eq!(violated_subject(text), Some("ow.v1.job.manual.x"));
        let text = "permissions violation for subscription to \"a.>\" using queue \"q\"";
        assert_eq!(violated_subject(text), Some("a.>"));
        assert_eq!(violated_subject("maximum connections exceeded"), None);
    }
}
