//! How a scan ends without outcomes, and what follows from it: the one table that worker, writer and alerts decide by.

use serde::{Deserialize, Serialize};

use crate::alert::AlertType;

/// Why a scan has no outcomes: the closed set of `scan.failed` reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// `require_known` and no key on record, or none that matches by policy.
    HostKeyUnknown,
    /// The host shows another key than the one on record.
    HostKeyMismatch,
    /// The stored secret cannot be decrypted.
    CredentialDecryptionFailed,
    /// The host has no credential.
    NoCredential,
    /// The host refused the login. Never retried by itself: accounts lock.
    AuthFailed,
    /// Login works but root cannot be reached as configured.
    SudoFailed,
    /// Nobody listens on the port.
    ConnectRefused,
    /// No route, no answer, no name.
    Unreachable,
    /// The login account cannot run a shell.
    NoShell,
    /// Over the scan's time limit.
    Timeout,
    /// The worker was told to stop, time and again.
    Cancelled,
    /// More than a fifth of the checks were lost to transport.
    TransportLost,
    /// One rule printed more than 10 MiB.
    EvidenceOversize,
    /// The corpus named by the job is missing, unsigned or unreadable.
    CorpusUnavailable,
    /// The engine broke: it contradicts itself, or the worker may not do its work.
    KensaError,
    /// The worker broke while it measured this host, twice.
    WorkerPanic,
    /// The job was refused: see [`Rejection`](crate::scan::Rejection).
    HmacRejected,
    /// No worker reported a result in time, over all attempts.
    Lost,
    /// The writer refused the result.
    InvalidResult,
}

/// Who has to do something about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Somebody: the same again would end the same way.
    Permanent,
    /// Nobody yet: it may have passed by the next time.
    Transient,
    /// Somebody, now: it looks like an attack.
    Security,
}

/// What follows from a failure (requirements 2f).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Consequence {
    /// What kind of failure it is.
    pub class: Class,
    /// Deliveries of one job after which the worker reports it; before that it gives the job back with a delay. One where
    /// trying again at once would lock an account or change nothing.
    pub deliveries: u64,
    /// Counts towards the host's backoff.
    pub backoff: bool,
    /// The alert that the first one opens. Reasons that count towards backoff open `scan_failing` with the third in a row.
    pub alert: Option<AlertType>,
    /// The message at fault is kept in the dead-letter stream.
    pub dead_letter: bool,
}

impl FailureReason {
    /// Every reason.
    pub const ALL: [Self; 19] = [
        Self::HostKeyUnknown,
        Self::HostKeyMismatch,
        Self::CredentialDecryptionFailed,
        Self::NoCredential,
        Self::AuthFailed,
        Self::SudoFailed,
        Self::ConnectRefused,
        Self::Unreachable,
        Self::NoShell,
        Self::Timeout,
        Self::Cancelled,
        Self::TransportLost,
        Self::EvidenceOversize,
        Self::CorpusUnavailable,
        Self::KensaError,
        Self::WorkerPanic,
        Self::HmacRejected,
        Self::Lost,
        Self::InvalidResult,
    ];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostKeyUnknown => "host_key_unknown",
            Self::HostKeyMismatch => "host_key_mismatch",
            Self::CredentialDecryptionFailed => "credential_decryption_failed",
            Self::NoCredential => "no_credential",
            Self::AuthFailed => "auth_failed",
            Self::SudoFailed => "sudo_failed",
            Self::ConnectRefused => "connect_refused",
            Self::Unreachable => "unreachable",
            Self::NoShell => "no_shell",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
            Self::TransportLost => "transport_lost",
            Self::EvidenceOversize => "evidence_oversize",
            Self::CorpusUnavailable => "corpus_unavailable",
            Self::KensaError => "kensa_error",
            Self::WorkerPanic => "worker_panic",
            Self::HmacRejected => "hmac_rejected",
            Self::Lost => "lost",
            Self::InvalidResult => "invalid_result",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text)
    }

    /// What follows from it: the table.
    pub fn consequence(self) -> Consequence {
        use Class::{Permanent, Security, Transient};
        let row = |class, deliveries, backoff| Consequence {
            class,
            deliveries,
            backoff,
            alert: None,
            dead_letter: false,
        };
        let alarm =
            |alert, dead_letter| Consequence { alert: Some(alert), dead_letter, ..row(Security, 1, false) };
        match self {
            Self::ConnectRefused | Self::Unreachable => row(Transient, 3, true),
            Self::CorpusUnavailable | Self::Cancelled => row(Transient, 3, false),
            Self::Timeout | Self::TransportLost | Self::KensaError | Self::Lost => row(Transient, 1, true),
            // Once may be the worker; twice is the host, and the job is poison.
            Self::WorkerPanic => Consequence { dead_letter: true, ..row(Transient, 2, true) },
            // These count, so that an account is asked ever less often while nobody mends it.
            Self::AuthFailed | Self::SudoFailed | Self::NoShell => row(Permanent, 1, true),
            Self::InvalidResult => Consequence { dead_letter: true, ..row(Permanent, 1, true) },
            Self::HostKeyUnknown
            | Self::CredentialDecryptionFailed
            | Self::NoCredential
            | Self::EvidenceOversize => row(Permanent, 1, false),
            Self::HostKeyMismatch => alarm(AlertType::HostKeyChanged, false),
            Self::HmacRejected => alarm(AlertType::JobTampered, true),
        }
    }

    /// The reason to report where the host was reached before: what would have been "away" is a connection that broke.
    #[must_use]
    pub fn after_login(self) -> Self {
        match self {
            Self::ConnectRefused | Self::Unreachable => Self::TransportLost,
            other => other,
        }
    }
}

/// How a scan failed, in words and as a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason.
    pub reason: FailureReason,
    /// One line for a person; never a secret.
    pub detail: String,
    /// The rule at fault, where one is.
    pub rule: Option<String>,
}

impl Failure {
    /// One that is no rule's fault.
    pub fn new(reason: FailureReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), rule: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_read_back_as_written() {
        for reason in FailureReason::ALL {
            assert_eq!(FailureReason::parse(reason.as_str()), Some(reason));
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again_and_a_login_never_is() {
        for reason in FailureReason::ALL {
            let it = reason.consequence();
            assert!(it.deliveries == 1 || it.class == Class::Transient, "{reason:?}");
            assert_eq!(it.class == Class::Security, it.alert.is_some(), "{reason:?}");
        }
        assert_eq!(FailureReason::AuthFailed.consequence().deliveries, 1);
        assert_eq!(FailureReason::Unreachable.after_login().consequence().deliveries, 1);
    }
}
