//! Everything that can go wrong between us and a host, named by what happened to the world.

use openwatch_model::host::KnownKey;
use openwatch_model::scan::FailureReason;
use thiserror::Error;

/// Why there is no connection, no session, or no answer at all. Completes "failed to ...".
///
/// Losing single commands is not an error: see [`openwatch_model::plan::Lost`].
#[derive(Debug, Error)]
pub enum RemoteError {
    /// The name does not resolve.
    #[error("find an address for {address}: {source}")]
    NameUnresolved {
        /// The name asked for.
        address: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// Nobody listens.
    #[error("connect to {peer}: connection refused; is an SSH server listening there?")]
    ConnectRefused {
        /// Address and port.
        peer: String,
    },
    /// No route, or no answer in time.
    #[error("connect to {peer}: {detail}")]
    Unreachable {
        /// Address and port.
        peer: String,
        /// What was seen.
        detail: String,
    },
    /// A TCP connection, but no SSH handshake.
    #[error("complete the SSH handshake with {peer}: {detail}")]
    HandshakeFailed {
        /// Address and port.
        peer: String,
        /// What was seen.
        detail: String,
    },
    /// The host in between does not connect us to the next one.
    #[error("reach {peer} through the jump host {jump}: {detail}")]
    NotCarried {
        /// Address and port of the host that was wanted.
        peer: String,
        /// Address and port of the host in between.
        jump: String,
        /// What it said.
        detail: String,
    },
    /// It went wrong at the host in between, not at the one that was wanted.
    #[error("go through the jump host: {0}")]
    AtJump(Box<RemoteError>),
    /// No key on record, and policy wants one.
    #[error(
        "trust {peer}: no host key on record and the policy requires one; it shows {presented}: if that is its key, accept it"
    )]
    HostKeyUnknown {
        /// Address and port.
        peer: String,
        /// Algorithm and fingerprint shown.
        presented: String,
        /// What it showed.
        key: Box<KnownKey>,
    },
    /// The keys on record, or those the host offers, are all of kinds that are not accepted.
    #[error(
        "trust {peer}: the only host keys to go by ({algorithms}) are of kinds that are not accepted; use an ed25519, ecdsa or rsa key"
    )]
    HostKeyUnusable {
        /// Address and port.
        peer: String,
        /// Kinds on record or on offer.
        algorithms: String,
    },
    /// The host shows a key that is not the one on record.
    #[error(
        "trust {peer}: its host key is now {presented}, which is not on record; if the host was rebuilt, accept the new key"
    )]
    HostKeyChanged {
        /// Address and port.
        peer: String,
        /// Algorithm and fingerprint shown, or what was missing.
        presented: String,
        /// What it showed; absent when it showed no key of a kind that is on record.
        key: Option<Box<KnownKey>>,
    },
    /// The host shows a key that was revoked.
    #[error("trust {peer}: its host key {presented} is revoked")]
    HostKeyRevoked {
        /// Address and port.
        peer: String,
        /// Algorithm and fingerprint.
        presented: String,
    },
    /// The host proves itself with a certificate, which is not supported.
    #[error(
        "trust {peer}: it shows a host certificate, which is not supported; let it offer a plain key as well"
    )]
    HostCertificate {
        /// Address and port.
        peer: String,
    },
    /// The host signed with RSA and SHA-1.
    #[error("trust {peer}: it signs with SHA-1; enable rsa-sha2-512 or an ed25519 key there")]
    HostKeyWeakSignature {
        /// Address and port.
        peer: String,
    },
    /// The private key cannot be read.
    #[error("read the private key of the credential: {detail}")]
    PrivateKeyUnreadable {
        /// What kind of trouble; never key material.
        detail: &'static str,
    },
    /// The private key is encrypted and there is no passphrase.
    #[error("read the private key of the credential: it is encrypted and the credential has no passphrase")]
    PrivateKeyEncrypted,
    /// The private key is too weak to be used.
    #[error("use the private key of the credential: {detail}; replace it with an ed25519 key")]
    PrivateKeyWeak {
        /// What is weak about it.
        detail: String,
    },
    /// Nothing to log in with.
    #[error("log in to {peer}: the credential holds neither a key nor a password")]
    NothingToOffer {
        /// Address and port.
        peer: String,
    },
    /// The host said no.
    #[error("log in to {peer} as {user}: {detail}")]
    AuthFailed {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
        /// What was tried and what the host still wants.
        detail: String,
    },
    /// Login works, but no shell runs.
    #[error("run a shell on {peer} as {user}: {detail}")]
    NoShell {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
        /// First words of what came instead.
        detail: String,
    },
    /// sudo is not installed.
    #[error("become root on {peer}: sudo is not installed or not in the path of {user}")]
    SudoMissing {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
    },
    /// sudo wants a password and the credential has none.
    #[error(
        "become root on {peer}: sudo asks {user} for a password and none was given; give one with the credential (`check`: --sudo-password-file) or allow NOPASSWD"
    )]
    SudoPasswordRequired {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
    },
    /// sudo did not take the password. Tried once.
    #[error("become root on {peer}: sudo did not accept the password of {user}")]
    SudoPasswordWrong {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
    },
    /// sudo wants a terminal.
    #[error("become root on {peer}: sudo wants a terminal; add `Defaults:{user} !requiretty` to sudoers")]
    SudoRequiresTty {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
    },
    /// Neither root, nor a question for the password that we know, nor a refusal.
    #[error(
        "become root on {peer}: sudo did not answer {user} within {} s; it is slow there, or asks in a way of its own",
        waited.as_secs_f32().ceil()
    )]
    SudoSilent {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
        /// How long it had.
        waited: std::time::Duration,
    },
    /// The sudo policy says no.
    #[error("become root on {peer}: sudo does not allow {user} to run /bin/sh and timeout as root: {detail}")]
    SudoRefused {
        /// Address and port.
        peer: String,
        /// Login user.
        user: String,
        /// What sudo said.
        detail: String,
    },
    /// The whole scan's time was up before anything could run.
    #[error("finish on {peer} within the time limit")]
    OutOfTime {
        /// Address and port.
        peer: String,
    },
    /// The connection broke where it cannot be taken up again.
    #[error("stay connected to {peer}: {detail}")]
    ConnectionLost {
        /// Address and port.
        peer: String,
        /// What was seen.
        detail: String,
    },
    /// We were told to stop.
    #[error("finish: cancelled")]
    Cancelled,
}

impl RemoteError {
    /// Says that it happened at the host in between.
    #[must_use]
    pub fn at_jump(self) -> Self {
        match self {
            it @ (Self::AtJump(_) | Self::Cancelled) => it,
            it => Self::AtJump(Box::new(it)),
        }
    }

    /// The host key that was shown and not believed, for a person to judge. Not of a jump host.
    pub fn shown_key(&self) -> Option<&KnownKey> {
        match self {
            Self::HostKeyUnknown { key, .. } => Some(key),
            Self::HostKeyChanged { key, .. } => key.as_deref(),
            _ => None,
        }
    }

    /// The reason a scan reports for it.
    pub fn reason(&self) -> FailureReason {
        match self {
            Self::AtJump(at_jump) => at_jump.reason(),
            Self::NameUnresolved { .. }
            | Self::Unreachable { .. }
            | Self::HandshakeFailed { .. }
            | Self::NotCarried { .. } => FailureReason::Unreachable,
            Self::ConnectRefused { .. } => FailureReason::ConnectRefused,
            Self::HostKeyUnknown { .. } | Self::HostKeyUnusable { .. } => FailureReason::HostKeyUnknown,
            Self::HostKeyChanged { .. }
            | Self::HostKeyRevoked { .. }
            | Self::HostCertificate { .. }
            | Self::HostKeyWeakSignature { .. } => FailureReason::HostKeyMismatch,
            Self::NothingToOffer { .. } => FailureReason::NoCredential,
            Self::PrivateKeyUnreadable { .. }
            | Self::PrivateKeyEncrypted
            | Self::PrivateKeyWeak { .. }
            | Self::AuthFailed { .. } => FailureReason::AuthFailed,
            Self::NoShell { .. } => FailureReason::NoShell,
            Self::SudoMissing { .. }
            | Self::SudoPasswordRequired { .. }
            | Self::SudoPasswordWrong { .. }
            | Self::SudoRequiresTty { .. }
            | Self::SudoSilent { .. }
            | Self::SudoRefused { .. } => FailureReason::SudoFailed,
            Self::OutOfTime { .. } => FailureReason::Timeout,
            Self::ConnectionLost { .. } => FailureReason::TransportLost,
            Self::Cancelled => FailureReason::Cancelled,
        }
    }
}
