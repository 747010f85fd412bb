//! What goes over the wire, one file per resource. The command line decodes answers with these same types.

mod admin;
mod alert;
mod audit;
mod channel;
mod credential;
mod drift;
mod host;
mod keys;
mod policy;
mod scan;
mod status;
mod token;
mod transaction;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

pub use admin::{ConsumerView, DeadLetterView, MetricsSnapshot, OutboxView, Replayed, Sample, StreamView};
pub use alert::{Alert, AlertAction, AlertStep, SilenceAction};
pub use audit::AuditEvent;
pub use channel::{
    Channel, ChannelChange, ChannelTarget, DeliveriesReplayed, Delivery, DeliveryTry, MadeChannel,
    NewChannel, NewMail, ReplayDeliveries, TestAsked,
};
pub use credential::{Credential, CredentialChange, KeyView, NewCredential};
pub use drift::{BySeverity, Drift};
pub use host::{
    AcceptKey, AcceptedKey, Host, HostChange, HostCompliance, HostKey, HostKeyView, HostLiveness, HostRule,
    HostSchedule, MaintenanceWish, NewHost, ScheduleCause,
};
pub use keys::{KeyHolder, KeyRotation, KeysView, RotateKey};
pub use policy::{PolicyInForce, ReloadAsked, SchedulerSnapshot};
pub use scan::{
    CountsView, EvidenceView, Initiator, NewHostScan, NewScan, QueuedScan, Scan, ScanDetail, ScanRule,
    Selected,
};
pub use status::{OldestHost, QueueDepth, SeverityCount, StateCount, StatusReport};
pub use token::{MintedToken, NewToken, Token};
pub use transaction::Transaction;

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `cursor` for the rows after these; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A request that ended without success (RFC 9457). Match on `code`, never on the text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `urn:openwatch:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the code means.
    pub title: String,
    /// The HTTP status, again.
    pub status: u16,
    /// What happened here, and what to do about it.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// Stable and dotted, such as `host.not_found`.
    pub code: String,
    /// Whose move it is: `client` or `server`.
    pub fault: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// Finds the request in logs and audit rows.
    pub correlation_id: String,
    /// The members at fault, where there are some.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldProblem>,
    /// The scan that is in the way, for `conflict.scan_active`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan_id: Option<Uuid>,
}

/// One member of a request that is at fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldProblem {
    /// A JSON pointer into the body, or the name of a parameter.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What `/health/live` and `/health/ready` answer, with 200 when `ok` and 503 when not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HealthReport {
    /// All checks said yes.
    pub ok: bool,
    /// One per loop or dependency.
    pub checks: Vec<CheckReport>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    /// Of the loop or dependency.
    pub name: String,
    /// Its answer.
    pub ok: bool,
}
