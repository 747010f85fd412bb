//! From an address to a verified host key. No secret has been seen by then.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openwatch_model::credential::Secret;
use openwatch_model::host::KnownKey;
use russh::client::Handle;
use tokio_util::sync::CancellationToken;

use crate::classify::first_words;
use crate::error::RemoteError;
use crate::guard::{Guard, GuardError, Seen, lock};
use crate::host_key::HostKeyPolicy;
use crate::jump::Jump;
use crate::session::Session;
use crate::{algorithms, auth, dial};

/// Where to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name, IPv4 or IPv6 address.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user.
    pub user: String,
}

impl Target {
    /// `address:port`, for messages.
    pub(crate) fn peer(&self) -> String {
        dial::peer_name(&self.address, self.port)
    }
}

/// How long each step may take before any command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One TCP connect.
    pub connect: Duration,
    /// Key exchange, host key check included.
    pub handshake: Duration,
    /// The whole login.
    pub login: Duration,
    /// From asking for a shell to its first answer, at most; less when a run has little time. A busy host needs its time
    /// for it, and one that never answers costs it twice.
    pub hello: Duration,
    /// Connects tried when the host drops them before authentication; 1 means no retry.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(15),
            login: Duration::from_secs(20),
            hello: Duration::from_secs(30),
            attempts: 4,
        }
    }
}

/// Everything needed to dial the same host again.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) target: Target,
    /// How messages name the target: address and port, and what it is reached through.
    pub(crate) peer: String,
    /// What it is reached through.
    pub(crate) via: Option<Jump>,
    pub(crate) policy: HostKeyPolicy,
    pub(crate) limits: Limits,
    pub(crate) cancel: CancellationToken,
}

/// An encrypted connection to a host whose key has been verified. Nobody has logged in.
pub struct Connection {
    pub(crate) handle: Handle<Guard>,
    pub(crate) route: Route,
    pub(crate) seen: Arc<Mutex<Seen>>,
    pub(crate) round_trip: Duration,
    /// Set while lanes run and small packets come all the time.
    pub(crate) steady: Arc<AtomicBool>,
    key: KnownKey,
    first_contact: bool,
}

/// Dials a host and verifies its key. Connects that the host drops before authentication (it does so when it is busy)
/// are tried again with growing, random delays.
///
/// # Errors
/// Whatever kept us from a verified key; nothing secret has been sent.
pub async fn connect(
    target: &Target,
    policy: &HostKeyPolicy,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Connection, RemoteError> {
    dial_by(None, target, policy, limits, cancel).await
}

/// The same from a host that has let us in. The key of this host is verified here, end to end: the one in between sees
/// ciphertext.
///
/// # Errors
/// As [`connect`], and when the host in between does not connect us.
pub async fn connect_through(
    jump: &Jump,
    target: &Target,
    policy: &HostKeyPolicy,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Connection, RemoteError> {
    dial_by(Some(jump.clone()), target, policy, limits, cancel).await
}

async fn dial_by(
    via: Option<Jump>,
    target: &Target,
    policy: &HostKeyPolicy,
    limits: &Limits,
    cancel: &CancellationToken,
) -> Result<Connection, RemoteError> {
    let peer = match &via {
        Some(jump) => format!("{} (through {})", target.peer(), jump.peer()),
        None => target.peer(),
    };
    let route = Route {
        target: target.clone(),
        peer,
        via,
        policy: policy.clone(),
        limits: limits.clone(),
        cancel: cancel.clone(),
    };
    cancel.run_until_cancelled(route.connect()).await.unwrap_or(Err(RemoteError::Cancelled))
}

impl Route {
    pub(crate) async fn connect(self) -> Result<Connection, RemoteError> {
        let peer = self.peer.clone();
        let mut tried = 1;
        loop {
            match self.attempt().await {
                Err(Attempt::Dropped(_)) if tried < self.limits.attempts => {
                    tracing::debug!(peer, tried, "connection dropped before authentication, trying again");
                    tokio::time::sleep(backoff(tried)).await;
                    tried += 1;
                }
                Err(Attempt::Dropped(detail)) => return Err(RemoteError::HandshakeFailed { peer, detail }),
                Err(Attempt::Final(error)) => return Err(error),
                Ok(connection) => return Ok(connection),
            }
        }
    }

    async fn attempt(&self) -> Result<Connection, Attempt> {
        let peer = self.peer.clone();
        let host_keys = algorithms::offered(if self.is_pinned() { &[] } else { &self.policy.known });
        if host_keys.is_empty() {
            let algorithms =
                self.policy.known.iter().map(|k| k.algorithm.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Attempt::Final(RemoteError::HostKeyUnusable { peer, algorithms }));
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let guard = Guard { peer: peer.clone(), policy: self.policy.clone(), seen: seen.clone() };
        let config = Arc::new(russh::client::Config {
            preferred: algorithms::preferred(host_keys),
            window_size: 1 << 20,
            keepalive_interval: Some(Duration::from_secs(15)),
            keepalive_max: 3,
            nodelay: true,
            ..Default::default()
        });
        let Target { address, port, .. } = &self.target;
        let (handle, round_trip, steady) = match &self.via {
            None => {
                let stream = dial::dial(address, *port, self.limits.connect).await.map_err(Attempt::Final)?;
                let (round_trip, steady) = (stream.round_trip, stream.steady.clone());
                (self.shake(config, stream, guard).await?, round_trip, steady)
            }
            Some(jump) => {
                let carried =
                    jump.carry(address, *port, self.limits.connect).await.map_err(Attempt::Final)?;
                (self.shake(config, carried.stream, guard).await?, carried.round_trip, carried.steady)
            }
        };
        if signed_with_sha1(&handle) {
            return Err(Attempt::Final(RemoteError::HostKeyWeakSignature { peer }));
        }
        let (key, first_contact) = {
            let seen = lock(&seen);
            (seen.key.clone(), seen.first_contact)
        };
        // No key means a key exchange that proved nothing; the default algorithm list contains none of that kind.
        let key = key.ok_or_else(|| {
            Attempt::Final(RemoteError::HandshakeFailed { peer, detail: "the host showed no key".into() })
        })?;
        Ok(Connection { handle, route: self.clone(), seen, round_trip, steady, key, first_contact })
    }

    async fn shake<S>(
        &self,
        config: Arc<russh::client::Config>,
        stream: S,
        guard: Guard,
    ) -> Result<Handle<Guard>, Attempt>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let shaking = russh::client::connect_stream(config, stream, guard);
        match tokio::time::timeout(self.limits.handshake, shaking).await {
            Ok(Ok(handle)) => Ok(handle),
            Ok(Err(error)) => Err(self.handshake_failure(error)),
            Err(_) => {
                let detail = format!("not finished within {:?}", self.limits.handshake);
                Err(Attempt::Final(RemoteError::HandshakeFailed { peer: self.peer.clone(), detail }))
            }
        }
    }

    fn is_pinned(&self) -> bool {
        matches!(self.policy.trust, crate::host_key::Trust::Pinned(_))
    }

    fn handshake_failure(&self, error: GuardError) -> Attempt {
        let peer = self.peer.clone();
        match error {
            GuardError::No(error) => Attempt::Final(error),
            GuardError::Ssh(russh::Error::NoCommonAlgo {
                kind: russh::AlgorithmKind::Key, theirs, ..
            }) => Attempt::Final(self.no_common_key(&theirs)),
            GuardError::Ssh(error) if is_drop(&error) => Attempt::Dropped(format!("{error}")),
            GuardError::Ssh(error) => {
                // It may quote the host at length.
                Attempt::Final(RemoteError::HandshakeFailed { peer, detail: first_words(&error.to_string()) })
            }
        }
    }

    /// The host offers keys, and none of a kind that we asked for.
    fn no_common_key(&self, theirs: &[String]) -> RemoteError {
        let peer = self.peer.clone();
        let all = |is: fn(&String) -> bool| !theirs.is_empty() && theirs.iter().all(is);
        if all(|kind| kind.contains("-cert-v01@")) {
            return RemoteError::HostCertificate { peer };
        }
        if all(|kind| kind == "ssh-rsa") {
            return RemoteError::HostKeyWeakSignature { peer };
        }
        let kinds = first_words(&theirs.join(", "));
        if self.policy.known.is_empty() {
            RemoteError::HostKeyUnusable { peer, algorithms: kinds }
        } else {
            RemoteError::HostKeyChanged { peer, presented: format!("of another kind ({kinds})"), key: None }
        }
    }
}

/// How one connect ended, when not well.
enum Attempt {
    /// Dropped by the host before authentication: worth another try.
    Dropped(String),
    Final(RemoteError),
}

fn is_drop(error: &russh::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match error {
        russh::Error::Disconnect | russh::Error::HUP => true,
        russh::Error::IO(e) => {
            matches!(
                e.kind(),
                ConnectionReset | UnexpectedEof | BrokenPipe | ConnectionAborted | NotConnected
            )
        }
        _ => false,
    }
}

/// The library negotiates SHA-2 but takes the host's word for what it signed with.
fn signed_with_sha1(handle: &Handle<Guard>) -> bool {
    handle.agent_session_binding().is_some_and(|proof| {
        let name = b"ssh-rsa";
        let signature = proof.signature();
        signature.get(..4) == Some(&(name.len() as u32).to_be_bytes())
            && signature.get(4..11) == Some(name.as_slice())
    })
}

/// 0.2 s, 0.4 s, 0.8 s ... at most 2 s, then somewhere between half and all of it.
fn backoff(tried: u32) -> Duration {
    let most = Duration::from_millis(200)
        .saturating_mul(1 << tried.saturating_sub(1).min(4))
        .min(Duration::from_secs(2));
    let mut byte = [0u8; 1];
    // Without randomness the delay is merely less spread out.
    let _ = getrandom::fill(&mut byte);
    most / 2 + (most / 2).mul_f64(f64::from(byte[0]) / 255.0)
}

impl Connection {
    /// The key the host has proved to hold.
    pub fn host_key(&self) -> &KnownKey {
        &self.key
    }

    /// Whether that key was accepted because none was on record.
    pub fn is_first_contact(&self) -> bool {
        self.first_contact
    }

    /// Logs in: key, then password, then keyboard-interactive with the same password. Nothing that the host has refused
    /// is tried a second time: accounts lock.
    ///
    /// # Errors
    /// The key is unreadable or weak, the host said no, or the connection broke.
    pub async fn login(self, secret: &Secret) -> Result<Session, RemoteError> {
        let cancel = self.route.cancel.clone();
        let entering = async { auth::authenticate(self, secret).await.map(Session::new) };
        cancel.run_until_cancelled(entering).await.unwrap_or(Err(RemoteError::Cancelled))
    }

    /// Logs in the same way, to go on to other hosts from there instead of running anything.
    ///
    /// # Errors
    /// As [`Connection::login`]; the error says that it happened on the way.
    pub async fn into_jump(self, secret: Secret) -> Result<Jump, RemoteError> {
        let cancel = self.route.cancel.clone();
        let entering = cancel.run_until_cancelled(Jump::enter(self, secret));
        entering.await.unwrap_or(Err(RemoteError::Cancelled)).map_err(RemoteError::at_jump)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.route.peer).field("key", &self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_and_stay_bounded() {
        for tried in 1..40 {
            let delay = backoff(tried);
            assert!(
                delay >= Duration::from_millis(100) && delay <= Duration::from_secs(2),
                "{tried}: {delay:?}"
            );
        }
        assert!(backoff(4) >= Duration::from_millis(800));
    }
}
