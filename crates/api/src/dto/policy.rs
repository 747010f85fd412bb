//! The policy in force, and what the scheduler did so far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The policy that every stage follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PolicyInForce {
    /// Its version.
    pub version: String,
    /// SHA-256 of the public key that verified it, hex.
    pub key_fingerprint: String,
    /// Who put it in force.
    pub loaded_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub loaded_at: OffsetDateTime,
    /// As it was signed.
    pub document: String,
}

/// The schedulers were told to read their files again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReloadAsked {
    /// The version in force until they have.
    pub version: String,
    /// When they were told. What they say is in the audit log since then: `policy.loaded`, `policy.reload.done` or
    /// `scheduler.policy.reload.rejected`.
    #[serde(with = "time::serde::rfc3339")]
    pub asked_at: OffsetDateTime,
}

/// What all schedulers did so far, over all their lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SchedulerSnapshot {
    /// When one of them last looked at the due rows.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_tick_at: Option<OffsetDateTime>,
    /// `due_count` is that of the last tick; the others only rise: `tick_count`, `dispatched_count`,
    /// `skipped_maintenance_count`, `skipped_backoff_count`, `skipped_open_count`, `host_error_count`, `tick_error_count`,
    /// `refuse_count`, `policy_clamped_count`, `hmac_reject_count`.
    #[serde(flatten)]
    pub counters: BTreeMap<String, u64>,
}
