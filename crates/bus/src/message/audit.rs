//! Audit records as they leave the database: one message for one cause and code, in chunks when there are many.

use bytes::Bytes;
use openwatch_model::Timestamp;
use openwatch_model::audit::AuditSeverity;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{CAUSE, instant, parse, version, write};
use crate::trace::Traceparent;
use crate::{DecodeError, Outgoing, subject};

/// Most details in one message.
pub const CHUNK: usize = 200;

const WHAT: &str = "audit records";

/// Records of one code that share a cause.
#[derive(Clone, Debug, PartialEq)]
pub struct Records {
    /// The message's id.
    pub id: Uuid,
    /// Dotted code of the registry.
    pub code: String,
    /// `info`, `warning`, `error` or `critical`.
    pub severity: String,
    /// When, by the database's clock.
    pub at: Timestamp,
    /// What led to it.
    pub cause: Option<String>,
    /// `system`, `worker`, `user` or `operator`.
    pub actor_type: String,
    /// Name of the actor.
    pub actor: String,
    /// One entry per record: the detail fields of the code. At most [`CHUNK`].
    pub details: Vec<Value>,
}

/// Version 1.
#[derive(Serialize, Deserialize)]
struct V1 {
    version: u64,
    id: Uuid,
    code: String,
    severity: String,
    #[serde(with = "instant")]
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    actor_type: String,
    actor: String,
    details: Vec<Value>,
}

impl Records {
    /// The word for a severity.
    pub fn severity(severity: AuditSeverity) -> String {
        severity.as_str().to_owned()
    }

    /// The message to publish.
    pub fn encode(&self, trace: Option<Traceparent>) -> Outgoing {
        let Self { id, code, severity, at, cause, actor_type, actor, details } = self.clone();
        let mut headers = Vec::new();
        headers.extend(cause.clone().map(|cause| (CAUSE.to_owned(), cause)));
        headers.extend(trace.map(|trace| (Traceparent::HEADER.to_owned(), trace.to_string())));
        let subject = subject::audit(&code);
        let payload = write(&V1 { version: 1, id, code, severity, at, cause, actor_type, actor, details });
        Outgoing { subject, message_id: id.to_string(), headers, payload }
    }

    /// Reads records.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        match version(WHAT, payload)? {
            1 => {
                let V1 { id, code, severity, at, cause, actor_type, actor, details, .. } =
                    parse(WHAT, payload)?;
                Ok(Self { id, code, severity, at, cause, actor_type, actor, details })
            }
            version => Err(DecodeError::UnknownVersion { what: WHAT, version }),
        }
    }
}
