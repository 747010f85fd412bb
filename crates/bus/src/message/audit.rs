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

/// Records of one code that share a cause. `D` is a detail: owned, or borrowed where it is only sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Records<D = Value> {
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
    pub details: Vec<D>,
}

/// Version 1, of texts and details that are owned or borrowed.
#[derive(Serialize, Deserialize)]
struct V1<T, D> {
    version: u64,
    id: Uuid,
    code: T,
    severity: T,
    #[serde(with = "instant")]
    at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<T>,
    actor_type: T,
    actor: T,
    details: D,
}

impl Records {
    /// The word for a severity.
    pub fn severity(severity: AuditSeverity) -> String {
        severity.as_str().to_owned()
    }

    /// Reads records.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &Bytes) -> Result<Self, DecodeError> {
        match version(WHAT, payload)? {
            1 => {
                let V1::<String, Vec<Value>> {
                    id,
                    code,
                    severity,
                    at,
                    cause,
                    actor_type,
                    actor,
                    details,
                    ..
                } = parse(WHAT, payload)?;
                Ok(Self { id, code, severity, at, cause, actor_type, actor, details })
            }
            version => Err(DecodeError::UnknownVersion { what: WHAT, version }),
        }
    }
}

impl<D: Serialize> Records<D> {
    /// The message to publish.
    pub fn encode(&self, trace: Option<Traceparent>) -> Outgoing {
        let mut headers = Vec::new();
        headers.extend(self.cause.clone().map(|cause| (CAUSE.to_owned(), cause)));
        headers.extend(trace.map(|trace| (Traceparent::HEADER.to_owned(), trace.to_string())));
        let payload = write(&V1 {
            version: 1,
            id: self.id,
            code: &self.code,
            severity: &self.severity,
            at: self.at,
            cause: self.cause.as_ref(),
            actor_type: &self.actor_type,
            actor: &self.actor,
            details: &self.details,
        });
        Outgoing { subject: subject::audit(&self.code), message_id: self.id.to_string(), headers, payload }
    }
}
