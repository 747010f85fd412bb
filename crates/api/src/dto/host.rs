//! Hosts: machines that are scanned.

use std::collections::BTreeMap;

use openwatch_model::credential::SudoMode;
use openwatch_model::host::KnownKey;
use openwatch_model::liveness::{ProbeError, Reachability};
use openwatch_model::outcome::{FrameworkRefs, Severity, Status};
use openwatch_model::score::ComplianceState;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

use super::CountsView;

/// A host to be registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewHost {
    /// Unique, 1 to 253 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// What to dial: a name, an IPv4 or an IPv6 address.
    pub address: String,
    /// SSH port; 22 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Login user; that of the credential when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How to become root: `none` or `sudo`; `none` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "sudo")]
    pub sudo: Option<SudoMode>,
    /// Name or id of the credential; the default credential when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Name or id of the host that it is reached through; absent: it is dialled directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
    /// For policies and filters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Host keys that are known beforehand. Needs the permission to accept host keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_keys: Vec<HostKey>,
}

/// What changes of a host; what is absent stays. `null` takes a credential or a jump host away.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostChange {
    /// Name or id of the credential; `null`: the default one.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub credential: Option<Option<String>>,
    /// Name or id of the host that it is reached through; `null`: it is dialled directly.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub jump: Option<Option<String>>,
    /// Login user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How to become root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "sudo")]
    pub sudo: Option<SudoMode>,
    /// All labels that it is to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Tells `null` from absence.
fn given<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// One public key of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostKey {
    /// SSH algorithm name, such as `ssh-ed25519`.
    pub algorithm: String,
    /// Base64 of the key: the middle column of a `known_hosts` or `authorized_keys` line.
    pub key: String,
}

impl From<HostKey> for KnownKey {
    fn from(key: HostKey) -> Self {
        Self { algorithm: key.algorithm, key: key.key }
    }
}

impl From<KnownKey> for HostKey {
    fn from(key: KnownKey) -> Self {
        Self { algorithm: key.algorithm, key: key.key }
    }
}

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// What is dialled.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user, where it is not the credential's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// How to become root.
    #[schema(value_type = String, example = "sudo")]
    pub sudo: SudoMode,
    /// Name of its credential; absent: the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Name of the host that it is reached through; absent: it is dialled directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
    /// For policies and filters.
    pub labels: BTreeMap<String, String>,
    /// Operating system, as its last scan saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// When it was registered.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// How it complies, and when that is measured next.
    pub compliance: HostCompliance,
    /// When the scheduler scans it next and why then; only where one host as it is now was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<HostSchedule>,
    /// Whether it answers; absent before the first probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness: Option<HostLiveness>,
}

/// How a host complies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostCompliance {
    /// `unknown`, `critical`, `non_compliant`, `partial` or `compliant`.
    #[schema(value_type = String, example = "partial")]
    pub state: ComplianceState,
    /// Percent of the rules with a verdict that pass; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Whether a critical rule fails.
    pub critical_failing: bool,
    /// Rules by status, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<CountsView>,
    /// When its last full scan was applied: what is told here was verified then.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_scanned_at: Option<OffsetDateTime>,
    /// That scan found nothing new: what was known is verified unchanged.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchanged: bool,
    /// When it is due next.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_scan_at: Option<OffsetDateTime>,
}

/// When a host is scanned next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostSchedule {
    /// About when; absent when nobody can say, and then `why` tells what has to end first.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub next_scan_at: Option<OffsetDateTime>,
    /// What made it due then, and after that what holds it back.
    pub why: Vec<ScheduleCause>,
    /// Minutes between scheduled scans of a host in its state.
    pub interval_minutes: u32,
    /// Whether somebody put it into maintenance: no scheduled scan and no probe.
    pub maintenance: bool,
    /// When that ends by itself.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub maintenance_until: Option<OffsetDateTime>,
    /// Scans that failed in a row.
    pub consecutive_failures: u32,
    /// Left alone by the scheduler until then, after failures.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub suppress_until: Option<OffsetDateTime>,
}

/// One cause of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScheduleCause {
    /// `first_contact`, `spread`, `interval`, `retry`, `backoff`, `open_scan`, `maintenance`, `policy_maintenance`,
    /// `fleet_maintenance` or `rate_limit`.
    #[schema(example = "interval")]
    pub code: String,
    /// The same for a person, with its numbers.
    pub text: String,
}

/// Maintenance to begin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MaintenanceWish {
    /// When it ends by itself; absent: when it is called off.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub until: Option<OffsetDateTime>,
}

/// Whether a host answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostLiveness {
    /// `unknown`, `reachable` or `unreachable`.
    #[schema(value_type = String, example = "reachable")]
    pub reachability: Reachability,
    /// When it was probed last.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_probed_at: Option<OffsetDateTime>,
    /// How long the last answer took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_time_ms: Option<f64>,
    /// Since when it answers, or does not; absent while that is unknown.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub since: Option<OffsetDateTime>,
    /// Probes in a row that found no SSH; it takes more than one to call a host unreachable.
    #[serde(default)]
    pub missed: u32,
    /// Why the last one did not: `tcp_timeout`, `connection_refused`, `banner_mismatch` or `tcp_error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "tcp_timeout")]
    pub error: Option<ProbeError>,
}

/// The key that a host is to be trusted with from now on: the whole key, or the fingerprint of one that it has shown. It
/// replaces the one on record for the host's address, port and this algorithm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AcceptKey {
    /// The whole key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<HostKey>,
    /// `SHA256:...` of a key that a scan was shown and did not believe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// A key of a host, as people compare them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostKeyView {
    /// `on_record`: the host is held to it. `revoked`: no longer. `shown`: a scan was shown it and did not believe it.
    pub state: String,
    /// SSH algorithm name.
    pub algorithm: String,
    /// As `ssh-keygen -l` prints it: `SHA256:` and unpadded base64.
    pub fingerprint: String,
    /// Base64 of the key.
    pub key: String,
    /// Since when it is on record, or when it was shown last.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// `first contact`, or who accepted it; absent for one that was only shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted_by: Option<String>,
    /// The scan that was shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scan_id: Option<Uuid>,
}

/// A key that was put on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AcceptedKey {
    /// The host.
    pub host_id: Uuid,
    /// SSH algorithm name.
    pub algorithm: String,
    /// As `ssh-keygen -l` prints it: `SHA256:` and unpadded base64.
    pub fingerprint: String,
    /// Fingerprint of the key that it replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

/// What one rule says about a host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostRule {
    /// The rule.
    pub rule_id: String,
    /// `pass`, `fail`, `skipped` or `error`.
    #[schema(value_type = String, example = "fail")]
    pub status: Status,
    /// Where the rule has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "high")]
    pub severity: Option<Severity>,
    /// Why it was skipped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_reason: Option<String>,
    /// Framework to controls.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub framework_refs: FrameworkRefs,
    /// Whether the newest full scan had it. A rule that dropped out of the corpus stays as it was last seen.
    pub in_corpus: bool,
    /// When it was seen on this host for the first time.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub first_seen_at: Option<OffsetDateTime>,
    /// When its status or severity last changed.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_changed_at: Option<OffsetDateTime>,
    /// When it was last measured.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub last_checked_at: Option<OffsetDateTime>,
    /// How often it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_count: Option<i64>,
    /// What was run and what it said, of the moment asked about; only where it was asked for. See `specs/schemas/evidence.json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<serde_json::Value>,
    /// SHA-256 of the evidence, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_sha256: Option<String>,
}
