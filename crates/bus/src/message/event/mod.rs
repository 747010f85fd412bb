//! Events: what happened, for the stages and for the outside. CloudEvents in NATS binary mode, so that any stock client
//! reads them: attributes in `ce-*` headers, the body as plain JSON.
//!
//! They carry ids, counts, statuses and scores. Never evidence, addresses, names of users, or secrets.

mod body;

use openwatch_model::{HostId, Timestamp};
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use body::{
    AlertOpened, AlertResolved, AlertUpdated, CHANGES_MOST, DriftDetected, FindingChanged, HostConnectivity,
    HostKeyChanged, JobRejected, PolicyAccepted, PolicyRejected, ProberConnectivity, ScanCompleted,
    ScanFailed, ScanStarted, ScheduleUpdated,
};

use super::{CAUSE, instant, parse, write};
use crate::trace::Traceparent;
use crate::{DecodeError, Outgoing, subject};

const WHAT: &str = "event";
const SOURCE: &str = "/openwatch";

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $token:literal $dotted:literal)*) => {
        /// The closed set of kinds.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name),* }

        /// What happened, by kind. Each struct is version 1 of its body.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Body { $($(#[$doc])* $name($name)),* }

        impl Kind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The subject token.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $token),* }
            }

            /// The middle of the CloudEvents type.
            pub fn dotted(self) -> &'static str {
                match self { $(Self::$name => $dotted),* }
            }
        }

        impl Body {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$name(_) => Kind::$name),* }
            }

            fn encode(&self) -> bytes::Bytes {
                match self { $(Self::$name(body) => write(body)),* }
            }

            fn decode(kind: Kind, payload: &[u8]) -> Result<Self, DecodeError> {
                match kind { $(Kind::$name => read(payload).map(Self::$name)),* }
            }
        }

        $(impl From<$name> for Body {
            fn from(body: $name) -> Self { Self::$name(body) }
        })*
    };
}

kinds! {
    /// A worker is about to log in.
    ScanStarted "scan_started" "scan.started"
    /// A result was applied.
    ScanCompleted "scan_completed" "scan.completed"
    /// A scan ended without a result.
    ScanFailed "scan_failed" "scan.failed"
    /// Transactions were recorded.
    FindingChanged "finding_changed" "finding.changed"
    /// A job was not what the scheduler signed.
    JobRejected "job_rejected" "job.rejected"
    /// A host's next scan moved.
    ScheduleUpdated "schedule_updated" "schedule.updated"
    /// A host's score moved past a threshold.
    DriftDetected "drift_detected" "drift.detected"
    /// A host became reachable or unreachable.
    HostConnectivity "host_connectivity" "host.connectivity"
    /// The probers lost the network, or have it back.
    ProberConnectivity "prober_connectivity" "prober.connectivity"
    /// A host shows another key than the one on record.
    HostKeyChanged "host_key_changed" "host_key.changed"
    /// An alert was opened.
    AlertOpened "alert_opened" "alert.opened"
    /// An open alert repeated or changed hands.
    AlertUpdated "alert_updated" "alert.updated"
    /// An alert is over.
    AlertResolved "alert_resolved" "alert.resolved"
    /// A policy was refused.
    PolicyRejected "policy_rejected" "policy.rejected"
    /// A policy was found good.
    PolicyAccepted "policy_accepted" "policy.accepted"
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Result<T, DecodeError> {
    parse(WHAT, payload)
}

impl Kind {
    /// Reads a subject token.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text)
    }

    /// The version that this build writes.
    pub fn version(self) -> u64 {
        1
    }

    /// The CloudEvents type: `openwatch.scan.completed.v1`.
    pub fn ce_type(self) -> String {
        format!("openwatch.{}.v{}", self.dotted(), self.version())
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The outbox row's id: `ce-id` and `Nats-Msg-Id`.
    pub id: Uuid,
    /// The host it is about, where there is one.
    pub host: Option<HostId>,
    /// When it happened, by the database's clock.
    pub at: Timestamp,
    /// What led to it: the id of a message, a scan or a request.
    pub cause: Option<String>,
    /// What happened.
    pub body: Body,
}

impl Event {
    /// The message to publish.
    pub fn encode(&self, trace: Option<Traceparent>) -> Outgoing {
        let kind = self.body.kind();
        let header = |name: &str, value: String| (name.to_owned(), value);
        let mut headers = vec![
            header("ce-specversion", "1.0".to_owned()),
            header("ce-id", self.id.to_string()),
            header("ce-type", kind.ce_type()),
            header("ce-source", SOURCE.to_owned()),
            header("ce-time", instant::format(self.at)),
            header("content-type", "application/json".to_owned()),
        ];
        headers.extend(self.host.map(|host| header("ce-subject", host.to_string())));
        headers.extend(self.cause.clone().map(|cause| header(CAUSE, cause)));
        headers.extend(trace.map(|trace| header(Traceparent::HEADER, trace.to_string())));
        Outgoing {
            subject: subject::event(kind, self.host),
            message_id: self.id.to_string(),
            headers,
            payload: self.body.encode(),
        }
    }

    /// Reads an event from its headers and body.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`], [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(headers: &[(String, String)], payload: &[u8]) -> Result<Self, DecodeError> {
        let find = |name: &str| {
            headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
        };
        let malformed =
            |name: &str| DecodeError::Malformed { what: WHAT, reason: format!("no valid {name} header") };
        let kind = read_type(find("ce-type").ok_or_else(|| malformed("ce-type"))?)?;
        let id = find("ce-id").and_then(|id| id.parse().ok()).ok_or_else(|| malformed("ce-id"))?;
        let at = find("ce-time").and_then(instant::parse).ok_or_else(|| malformed("ce-time"))?;
        let host = match find("ce-subject") {
            Some(host) => Some(host.parse().map_err(|_| malformed("ce-subject"))?),
            None => None,
        };
        let cause = find(CAUSE).map(str::to_owned);
        Ok(Self { id, host, at, cause, body: Body::decode(kind, payload)? })
    }
}

/// `openwatch.<dotted>.v<version>`.
fn read_type(text: &str) -> Result<Kind, DecodeError> {
    let unknown = || DecodeError::UnknownKind { kind: text.chars().take(100).collect() };
    let (name, version) =
        text.strip_prefix("openwatch.").and_then(|t| t.rsplit_once(".v")).ok_or_else(unknown)?;
    let kind = Kind::ALL.iter().copied().find(|kind| kind.dotted() == name).ok_or_else(unknown)?;
    let version: u64 = version.parse().map_err(|_| unknown())?;
    if version == kind.version() {
        Ok(kind)
    } else {
        Err(DecodeError::UnknownVersion { what: kind.as_str(), version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_one_token_and_read_back() {
        for kind in Kind::ALL.iter().copied() {
            assert!(!kind.as_str().contains(['.', '*', '>', ' ']));
            assert_eq!(Kind::parse(kind.as_str()), Some(kind));
            assert_eq!(read_type(&kind.ce_type()).ok(), Some(kind));
        }
    }

    #[test]
    fn unknown_kinds_and_versions_are_told_apart() {
        assert!(matches!(read_type("openwatch.tea.ready.v1"), Err(DecodeError::UnknownKind { .. })));
        assert!(matches!(read_type("com.example"), Err(DecodeError::UnknownKind { .. })));
        assert!(matches!(
            read_type("openwatch.scan.failed.v9"),
            Err(DecodeError::UnknownVersion { version: 9, .. })
        ));
        let headers = [("ce-type".to_owned(), "openwatch.scan.failed.v1".to_owned())];
        assert!(matches!(Event::decode(&headers, b"{}"), Err(DecodeError::Malformed { .. })));
    }
}
