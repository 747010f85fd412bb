//! What the SSH library asks us while it works: is this host key good, and what about channels the host opens.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openwatch_model::host::KnownKey;
use russh::client::{ChannelOpenHandle, DisconnectReason, Handler, Msg, Session};
use russh::keys::{PublicKey, PublicKeyOrCertificate};
use russh::{Channel, Disconnect};

use crate::classify::first_words;
use crate::error::RemoteError;
use crate::host_key::{HostKeyPolicy, HostKeyVerdict, describe};

/// What the guard has seen, shared with whoever waits for the handshake.
#[derive(Default, Debug)]
pub(crate) struct Seen {
    pub(crate) key: Option<KnownKey>,
    pub(crate) first_contact: bool,
    /// The host's own words at its end of the connection.
    pub(crate) goodbye: Option<String>,
}

/// One connection's guard.
pub(crate) struct Guard {
    pub(crate) peer: String,
    pub(crate) policy: HostKeyPolicy,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

/// Errors of the handshake: the library's, or our own no.
#[derive(Debug)]
pub(crate) enum GuardError {
    Ssh(russh::Error),
    No(RemoteError),
}

impl From<russh::Error> for GuardError {
    fn from(error: russh::Error) -> Self {
        Self::Ssh(error)
    }
}

impl Guard {
    fn check(&self, presented: &PublicKeyOrCertificate) -> Result<(), RemoteError> {
        let peer = self.peer.clone();
        let PublicKeyOrCertificate::PublicKey { key, .. } = presented else {
            return Err(RemoteError::HostCertificate { peer });
        };
        let Some(key) = known_key(key) else {
            return Err(RemoteError::HandshakeFailed { peer, detail: "unreadable host key".into() });
        };
        let verdict = self.policy.judge(&key);
        let presented = describe(&key);
        match verdict {
            HostKeyVerdict::Revoked => return Err(RemoteError::HostKeyRevoked { peer, presented }),
            HostKeyVerdict::Changed => {
                return Err(RemoteError::HostKeyChanged { peer, presented, key: Some(Box::new(key)) });
            }
            HostKeyVerdict::Unknown => {
                return Err(RemoteError::HostKeyUnknown { peer, presented, key: Box::new(key) });
            }
            HostKeyVerdict::Known | HostKeyVerdict::FirstContact => {}
        }
        let mut seen = lock(&self.seen);
        seen.key = Some(key);
        seen.first_contact = verdict == HostKeyVerdict::FirstContact;
        Ok(())
    }
}

/// A host key in our own words.
fn known_key(key: &PublicKey) -> Option<KnownKey> {
    Some(KnownKey {
        algorithm: key.algorithm().as_str().to_owned(),
        key: STANDARD.encode(key.to_bytes().ok()?),
    })
}

/// A poisoned lock only means that another task panicked; what it guards is still plain data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Handler for Guard {
    type Error = GuardError;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, GuardError> {
        self.check(presented).map_err(GuardError::No)?;
        Ok(true)
    }

    async fn disconnected(&mut self, reason: DisconnectReason<GuardError>) -> Result<(), GuardError> {
        if let DisconnectReason::ReceivedDisconnect(info) = reason {
            let code = match info.reason_code {
                Disconnect::NoMoreAuthMethodsAvailable => "no more ways to log in: ",
                Disconnect::TooManyConnections => "too many connections: ",
                _ => "",
            };
            let words = first_words(&info.message);
            lock(&self.seen).goodbye = Some(format!("{code}{words}"));
        }
        Ok(())
    }

    // The library accepts channels that the host opens; we asked for none, so each is refused by dropping its handle.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _: Channel<Msg>,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), GuardError> {
        Ok(())
    }
}
