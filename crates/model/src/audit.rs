//! The audit registry: one struct per code, so that a detail field that is not declared cannot be sent.

use serde::Serialize;

use crate::liveness::{Reachability, Standing};
use crate::scan::FailureReason;
use crate::schedule::ClampKind;
use crate::transaction::ChangeKind;
use crate::{AlertId, CredentialId, HostId, ScanId, Status, Timestamp};

/// How much an audit event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditSeverity {
    /// Normal work.
    Info,
    /// Worth a look.
    Warning,
    /// Something was refused or failed.
    Error,
    /// Someone may be attacking.
    Critical,
}

impl AuditSeverity {
    /// The column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }
}

/// An event of the registry.
pub trait Audit: Serialize {
    /// Dotted code.
    const CODE: &'static str;
    /// Severity of the code.
    const SEVERITY: AuditSeverity;
}

/// One line of the registry.
pub struct Entry {
    /// Name of its struct.
    pub name: &'static str,
    /// Dotted code.
    pub code: &'static str,
    /// Severity.
    pub severity: AuditSeverity,
    /// What it says.
    pub about: &'static str,
    /// Names of the detail fields.
    pub fields: &'static [&'static str],
}

impl Entry {
    /// The entry of a code.
    pub fn find(code: &str) -> Option<&'static Self> {
        REGISTRY.iter().find(|entry| entry.code == code)
    }

    /// First part of the code: one of [`CATEGORIES`].
    pub fn category(&self) -> &'static str {
        self.code.split_once('.').map_or(self.code, |(category, _)| category)
    }
}

/// First parts that a code may have, and what belongs there.
pub const CATEGORIES: &[(&str, &str)] = &[
    ("alert", "the life of an alert"),
    ("auth", "tokens"),
    ("authz", "what somebody was not allowed to do"),
    ("compliance", "how a host's posture moved"),
    ("corpus", "rules in circulation"),
    ("credential", "secrets: stored, released, refused"),
    ("finding", "what changed on a host, rule by rule"),
    ("host", "machines and whether they answer"),
    ("host_key", "what machines prove themselves with"),
    ("message", "what could not be processed"),
    ("notification", "channels and what went to them"),
    ("outbox", "messages on their way to the bus"),
    ("policy", "what is in force"),
    ("scan", "the life of a scan"),
    ("scheduler", "cadence, dispatch and the policy behind them"),
    ("system", "processes and the schema"),
    ("writer", "results that could not be applied"),
];

macro_rules! registry {
    ($($(#[doc = $doc:literal])* $name:ident $code:literal $severity:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[doc = $doc])*
            #[derive(Clone, Debug, Serialize)]
            #[expect(missing_docs, reason = "detail fields are named after the model's words")]
            pub struct $name { $(pub $field: $type),* }

            impl Audit for $name {
                const CODE: &'static str = $code;
                const SEVERITY: AuditSeverity = AuditSeverity::$severity;
            }
        )*

        /// Every code there is.
        pub const REGISTRY: &[Entry] = &[
            $(Entry {
                name: stringify!($name),
                code: $code,
                severity: AuditSeverity::$severity,
                about: concat!($($doc),*),
                fields: &[$(stringify!($field)),*],
            }),*
        ];
    };
}

registry! {
    /// The scheduler refused to start.
    SchedulerStartupFailed "scheduler.startup.failed" Error { reason: String, policy_path: String }
    /// One row of the schedule table changed.
    ScheduleUpdated "scheduler.schedule.updated" Info { host_id: HostId, change_kind: &'static str, prior: ScheduleFacts, new: ScheduleFacts }
    /// A reload was refused; the policy in force stays.
    PolicyReloadRejected "scheduler.policy.reload.rejected" Error { reason: String, policy_version_attempted: Option<String>, policy_version_active: String }
    /// An interval of the policy was out of bounds.
    PolicyClamped "scheduler.policy.clamped" Warning { tier: &'static str, original_minutes: u64, clamped_minutes: u32, clamp_kind: ClampKind }
    /// A policy was signed with a revoked key.
    PolicyRevokedKeyRejected "scheduler.policy.revoked_key.rejected" Error { key_fingerprint: String, policy_version: Option<String> }
    /// A job was not what the scheduler signed.
    JobHmacRejected "scheduler.job.hmac_rejected" Critical { job_id: Option<ScanId>, host_id: Option<HostId>, failure: String, subject: String, stream_sequence: u64 }
    /// One pass over the due rows.
    TickDispatched "scheduler.tick.dispatched" Info { due_count: u64, dispatched_count: u64, skipped_maintenance_count: u64, skipped_backoff_count: u64 }
    /// A list of revoked signing keys came into force.
    PolicyRevocationsLoaded "policy.revocations.loaded" Warning { sequence: u64, revoked: Vec<String> }
    /// Somebody asked the schedulers to read their policy files again.
    PolicyReloadAsked "policy.reload.asked" Info { policy_version_active: Option<String> }
    /// A scheduler read its policy file again, and it was the one in force.
    PolicyReloadDone "policy.reload.done" Info { policy_version_active: String }
    /// A policy came into force.
    PolicyLoaded "policy.loaded" Info { policy_type: &'static str, new_version: String, previous_version: Option<String>, key_fingerprint: String }

    /// A scan was asked for.
    ScanQueued "scan.queued" Info { scan_id: ScanId, host_id: HostId, trigger: String }
    /// A worker is about to log in. Absent where none came so far, or was given up before it was heard of.
    ScanStarted "scan.started" Info { host_id: HostId, scan_id: ScanId, framework_id: String, policy_version: String, worker: String }
    /// A scan ended with outcomes.
    ScanCompleted "scan.completed" Info { host_id: HostId, scan_id: ScanId, framework_id: String, policy_version: String, passed: u32, failed: u32, skipped: u32, errored: u32, compliance_score: Option<f64> }
    /// A scan ended without outcomes.
    ScanFailed "scan.failed" Error { host_id: HostId, scan_id: ScanId, framework_id: String, policy_version: String, reason: FailureReason, rule_id: Option<String> }
    /// An attempt was given up and another begun.
    ScanRescued "scan.rescued" Warning { scan_id: ScanId, host_id: HostId, attempt: u32 }

    /// One transaction was recorded.
    FindingPersisted "finding.persisted" Info { host_id: HostId, rule_id: String, scan_id: ScanId, change_kind: ChangeKind, status: Status, prior_status: &'static str }
    /// A result could not be applied.
    WriterApplyFailed "writer.apply.failed" Error { scan_id: Option<ScanId>, host_id: Option<HostId>, reason: String, rule_count_attempted: u32, offending_rule_id: Option<String> }

    /// A host's score moved past a threshold.
    DriftDetected "compliance.drift.detected" Warning { host_id: HostId, scan_id: ScanId, drift_type: &'static str, prior_score: Option<f64>, current_score: Option<f64>, score_delta: Option<f64>, became_failing: crate::drift::SeverityCounts, became_passing: crate::drift::SeverityCounts, newly_observed_failing: u32 }
    /// A host's reachability was decided or changed.
    ConnectivityChecked "host.connectivity.checked" Info { host_id: HostId, ssh_accessible: bool, response_time_ms: Option<f64>, new_status: Reachability }
    /// Most hosts fell silent together, which is the probers' own network; or they answer again.
    ProberStandingChanged "host.prober.changed" Warning { status: Standing, asked: u32, silent: u32 }

    /// A secret was given to one attempt.
    CredentialReleased "credential.released" Info { credential_id: CredentialId, scan_id: ScanId, host_id: HostId, attempt: u32, worker: String }
    /// A secret was asked for and refused.
    CredentialRefused "credential.refused" Warning { scan_id: Option<ScanId>, reason: String, worker: String }
    /// A credential was stored.
    CredentialCreated "credential.created" Info { credential_id: CredentialId, name: String, auth_method: &'static str }
    /// A credential was changed; whether its secret was.
    CredentialUpdated "credential.updated" Info { credential_id: CredentialId, name: String, secret_rotated: bool }
    /// A credential was removed.
    CredentialDeleted "credential.deleted" Info { credential_id: CredentialId, name: String }
    /// A credential was encrypted by the vault.
    CredentialStored "credential.stored" Info { credential_id: CredentialId, key_id: String }

    /// Somebody asked for a new data-encryption key.
    KeyRotationRequested "credential.rotation.requested" Warning { retire_after_sec: u32 }
    /// A rotation of the data-encryption key came a step further.
    KeyRotationAdvanced "credential.rotation.advanced" Warning { phase: &'static str, old_key_id: String, next_key_id: String, requested_by: String }
    /// A host was registered.
    HostCreated "host.created" Info { host_id: HostId, name: String }
    /// How a host is reached was changed.
    HostUpdated "host.updated" Info { host_id: HostId, name: String, changed: Vec<String> }
    /// A host was removed.
    HostDeleted "host.deleted" Info { host_id: HostId, name: String }
    /// A host key was put on record.
    HostKeyAccepted "host_key.accepted" Info { host_id: HostId, algorithm: String, fingerprint: String, replaced: Option<String>, accepted_by: String }
    /// A host shows another key than the one on record.
    HostKeyChanged "host_key.changed" Critical { host_id: HostId, scan_id: ScanId }

    /// An alert was opened.
    AlertCreated "alert.created" Info { alert_id: AlertId, alert_type: &'static str, alert_severity: &'static str, host_id: Option<HostId> }
    /// Somebody took an alert.
    AlertAcknowledged "alert.acknowledged" Info { alert_id: AlertId, prior_state: &'static str, new_state: &'static str, reason: Option<String> }
    /// Somebody silenced an alert.
    AlertSilenced "alert.silenced" Info { alert_id: AlertId, prior_state: &'static str, new_state: &'static str, until: Option<String>, reason: Option<String> }
    /// A silence ran out.
    AlertUnsilencedAuto "alert.unsilenced.auto" Info { alert_id: AlertId, silenced_until: Option<String> }
    /// An alert is over.
    AlertResolved "alert.resolved" Info { alert_id: AlertId, prior_state: &'static str, new_state: &'static str, reason: Option<String> }
    /// Somebody put an alert away.
    AlertDismissed "alert.dismissed" Warning { alert_id: AlertId, prior_state: &'static str, new_state: &'static str, reason: Option<String> }
    /// A delivery reached its channel.
    NotificationDelivered "notification.delivery.succeeded" Info { alert_id: AlertId, channel: String, attempt: u32 }
    /// A delivery was given up.
    NotificationFailed "notification.delivery.failed" Error { alert_id: AlertId, channel: String, attempt: u32, error: String }

    /// A message could not be processed and was put aside.
    MessageDeadLettered "message.dead_lettered" Error { stream: String, subject: String, stage: String, deliveries: u64, reason: String }
    /// A dead letter was sent to its stream again.
    MessageReplayed "message.replayed" Warning { letter: u64, stream: String, subject: String, stage: String }
    /// A dead letter was thrown away.
    MessageDropped "message.dropped" Warning { letter: u64, stream: String, subject: String, stage: String }
    /// Messages wait in the outbox longer than they should.
    OutboxStalled "outbox.relay.stalled" Error { sender: String, waiting: u64, oldest_seconds: u64 }
    /// A corpus was published.
    CorpusPublished "corpus.published" Info { digest: String, rules: u32, key_fingerprint: String }
    /// A token was made.
    ApiKeyCreated "auth.api_key.created" Info { name: String, role: String }
    /// A token was revoked.
    ApiKeyRevoked "auth.api_key.revoked" Info { name: String }
    /// A channel was made.
    ChannelCreated "notification.channel.created" Info { channel_id: crate::ChannelId, name: String, kind: &'static str, allow_private: bool }
    /// A channel was turned on or off by somebody.
    ChannelChanged "notification.channel.changed" Info { channel_id: crate::ChannelId, name: String, enabled: bool }
    /// A receiver said that it is gone for good; nothing is sent there any more.
    ChannelDisabled "notification.channel.disabled" Error { channel_id: crate::ChannelId, name: String, reason: String }
    /// Somebody sent a test through a channel.
    ChannelTested "notification.channel.tested" Info { channel_id: crate::ChannelId, name: String, delivery_id: String }
    /// Somebody changed what a channel hears or where it leads.
    ChannelUpdated "notification.channel.updated" Info { channel_id: crate::ChannelId, name: String, changed: Vec<&'static str> }
    /// Somebody had deliveries that were given up tried again.
    DeliveriesReplayed "notification.delivery.replayed" Info { channel_id: crate::ChannelId, name: String, deliveries: u64 }
    /// A channel was removed.
    ChannelDeleted "notification.channel.deleted" Info { channel_id: crate::ChannelId, name: String }
    /// Somebody ended a silence by hand.
    AlertUnsilenced "alert.unsilenced" Info { alert_id: AlertId, prior_state: &'static str, new_state: &'static str, reason: Option<String> }
    /// A request lacked permission.
    PermissionDenied "authz.permission.denied" Warning { token_name: String, permission: String }
    /// A process began its work.
    SystemStarted "system.startup" Info { process: String, version: &'static str }
    /// A process ended in order.
    SystemStopped "system.shutdown" Info { process: String, version: &'static str }
    /// The schema was brought up to date.
    MigrationApplied "system.migration.applied" Info { version: i64 }
}

/// The schedule row's columns, before and after (SCH-28).
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of host_compliance_schedule")]
pub struct ScheduleFacts {
    pub compliance_state: String,
    pub compliance_score: Option<f64>,
    pub has_critical_findings: bool,
    pub current_interval_minutes: i32,
    #[serde(with = "time::serde::rfc3339")]
    pub next_scheduled_scan: Timestamp,
    pub next_reason: String,
    pub maintenance_mode: bool,
    #[serde(with = "time::serde::rfc3339::option")]
    pub maintenance_until: Option<Timestamp>,
    pub policy_version_at_last_scan: Option<String>,
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A stage of the pipeline.
    Stage(&'static str),
    /// A worker, by name.
    Worker(String),
    /// The holder of an API token, by the token's name.
    Token(String),
    /// Someone at a terminal of the server.
    Operator,
}

impl Actor {
    /// The `actor_type` column.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stage(_) => "system",
            Self::Worker(_) => "worker",
            Self::Token(_) => "user",
            Self::Operator => "operator",
        }
    }

    /// The `actor_label` column.
    pub fn label(&self) -> &str {
        match self {
            Self::Stage(name) => name,
            Self::Worker(name) | Self::Token(name) => name,
            Self::Operator => "operator",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_well_formed_and_unique() {
        let mut seen = BTreeSet::new();
        for entry in REGISTRY {
            let parts: Vec<_> = entry.code.split('.').collect();
            assert!((2..=4).contains(&parts.len()), "{}", entry.code);
            for part in parts {
                let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                assert!(
                    part.starts_with(|c: char| c.is_ascii_lowercase()) && part.chars().all(letters),
                    "{}",
                    entry.code
                );
            }
            assert!(seen.insert(entry.code), "{} twice", entry.code);
            assert!(CATEGORIES.iter().any(|(name, _)| *name == entry.category()), "{}", entry.code);
            assert!(entry.about.ends_with('.'), "{} says nothing", entry.code);
        }
    }

    #[test]
    fn categories_are_sorted_and_each_has_a_code() {
        assert!(CATEGORIES.is_sorted());
        for (name, _) in CATEGORIES {
            assert!(REGISTRY.iter().any(|entry| entry.category() == *name), "{name} is empty");
        }
    }

    #[test]
    fn seed_codes_exist() {
        for code in [
            "scheduler.startup.failed",
            "scheduler.schedule.updated",
            "scheduler.policy.reload.rejected",
            "scheduler.policy.clamped",
            "scheduler.policy.revoked_key.rejected",
            "scheduler.job.hmac_rejected",
            "scheduler.tick.dispatched",
            "scan.started",
            "scan.completed",
            "scan.failed",
            "finding.persisted",
            "writer.apply.failed",
            "compliance.drift.detected",
            "host.connectivity.checked",
        ] {
            assert!(REGISTRY.iter().any(|entry| entry.code == code), "{code}");
        }
    }
}
