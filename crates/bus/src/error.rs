//! What can go wrong at the edge to NATS.

use std::time::Duration;

/// Why the bus could not do something.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// No server answered within the time given at start.
    #[error(
        "failed to reach NATS at {servers} within {waited:?}: {reason}; is the server running, and is the address right?"
    )]
    Unreachable {
        /// The addresses tried.
        servers: String,
        /// How long.
        waited: Duration,
        /// The last answer.
        reason: String,
    },
    /// The servers' certificates are not believed, or they do not accept ours.
    #[error(
        "failed to agree on TLS with NATS at {servers}: {reason}; check the CA, our certificate and its key"
    )]
    Tls {
        /// The addresses tried.
        servers: String,
        /// What did not fit.
        reason: String,
    },
    /// The server does not know the key, or the key cannot be read.
    #[error(
        "failed to log in to NATS as `{user}`: {reason}; check its seed file and the server's users.conf"
    )]
    LoginRefused {
        /// Name of the user.
        user: &'static str,
        /// Why.
        reason: String,
    },
    /// The user may not use that subject.
    #[error(
        "failed to use `{subject}`: the NATS user `{user}` has no permission for it; see nats/permissions.conf"
    )]
    Denied {
        /// Name of the user.
        user: &'static str,
        /// The subject.
        subject: String,
    },
    /// No answer in time. It may have been done or not: repeat it with the same message id.
    #[error("failed to get an answer on `{subject}` within {after:?}")]
    TimedOut {
        /// What was asked.
        subject: String,
        /// How long was waited.
        after: Duration,
    },
    /// Nobody listens: no stream has the subject, no consumer or service is there, or the cluster elects a leader.
    #[error("failed to use `{subject}`: nobody answers there; has `openwatch topology apply` run?")]
    NobodyThere {
        /// What was asked.
        subject: String,
    },
    /// The connection is closed or being rebuilt.
    #[error("failed to use `{subject}`: the connection to NATS is down")]
    Disconnected {
        /// What was asked.
        subject: String,
    },
    /// JetStream answered no.
    #[error("failed to use `{subject}`: JetStream answered {code} ({error}): {description}")]
    Refused {
        /// What was asked.
        subject: String,
        /// HTTP-like code.
        code: u32,
        /// JetStream's own number.
        error: u32,
        /// In its words.
        description: String,
    },
    /// More bytes than can be sent or are accepted.
    #[error("failed to carry {what}: {bytes} bytes are more than the {limit} allowed")]
    TooLarge {
        /// What was too large.
        what: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The object's bytes are not those that were put.
    #[error("failed to read object `{name}` of `{bucket}`: {reason}")]
    Corrupt {
        /// The bucket.
        bucket: String,
        /// The object.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server said something this crate cannot read.
    #[error("failed to read the answer on `{subject}`: {reason}")]
    Garbled {
        /// What was asked.
        subject: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Streams or consumers exist with another configuration.
    #[error("failed to apply the topology: {}; change it with the nats client, or remove it and apply again", join(.0))]
    Incompatible(Vec<crate::topology::Difference>),
    /// A handler gave up its stage.
    #[error("failed to go on with `{stage}`: {source}")]
    Fatal {
        /// The stage.
        stage: &'static str,
        /// What the handler said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn join(differences: &[crate::topology::Difference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// JetStream's own number for a message of which an earlier sending is still being stored, by the members of a cluster say:
/// soon it is either there or not.
const IN_PROCESS: u32 = 10158;

impl BusError {
    /// Whether waiting may help: the world is away, nothing is wrong with what was asked.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::TimedOut { .. }
            | Self::NobodyThere { .. }
            | Self::Disconnected { .. } => true,
            // 503: storage or quorum; 429: the stream's ingest queue is full.
            Self::Refused { code: 429 | 503, .. } | Self::Refused { error: IN_PROCESS, .. } => true,
            _ => false,
        }
    }

    /// Whether the server judged the message itself: the same message is refused for ever.
    pub fn is_verdict(&self) -> bool {
        match self {
            Self::TooLarge { .. } => true,
            Self::Refused { error: IN_PROCESS, .. } => false,
            Self::Refused { code, .. } => (400..500).contains(code) && ![404, 408, 429].contains(code),
            _ => false,
        }
    }

    /// Whether what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code: 404, .. })
    }
}

/// Why a payload cannot be read. None of these gets better by waiting: reject the message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not the JSON that the version asks for.
    #[error("failed to read {what}: {reason}")]
    Malformed {
        /// Kind of message.
        what: &'static str,
        /// What is wrong, without the message's content.
        reason: String,
    },
    /// A version that this build does not know.
    #[error("failed to read {what}: version {version} is not supported")]
    UnknownVersion {
        /// Kind of message.
        what: &'static str,
        /// The version found.
        version: u64,
    },
    /// A kind that this build does not know.
    #[error("failed to read a message of the unknown kind `{kind}`")]
    UnknownKind {
        /// The kind found, clipped.
        kind: String,
    },
    /// More bytes than allowed, after decompression.
    #[error("failed to read {what}: more than {limit} bytes")]
    TooLarge {
        /// Kind of message.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_refuses_for_ever_is_told_from_what_passes() {
        let refused = |code, error| BusError::Refused {
            subject: "ow.v1.evt.x".to_owned(),
            code,
            error,
            description: String::new(),
        };
        for (error, outage, verdict) in [
            (refused(400, 10060), false, true),
            (refused(404, 10059), false, false),
            // Its id was used for something else; or an earlier sending of it is still being stored.
            (refused(409, 10071), false, true),
            (refused(409, IN_PROCESS), true, false),
            (refused(429, 10167), true, false),
            (refused(503, 10077), true, false),
        ] {
            assert_eq!((error.is_outage(), error.is_verdict()), (outage, verdict), "{error}");
        }
    }
}
