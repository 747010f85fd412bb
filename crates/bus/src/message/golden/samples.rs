//! One message of every kind, as today's build writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::alert::{AlertSeverity, AlertState, AlertType};
use openwatch_model::credential::SudoMode;
use openwatch_model::drift::{SeverityCounts, Summary, Thresholds, detect};
use openwatch_model::host::{HostKeyMode, KnownKey, Platform};
use openwatch_model::liveness::{ProbeError, Reachability, Standing};
use openwatch_model::outcome::{CheckEvidence, Counts, Truncated};
use openwatch_model::scan::{
    Failure, FailureReason, Job, Jump, Lane, Measurement, Rejection, RuleTiming, ScanResult, Selection,
    Verdict,
};
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::transaction::{Change, ChangeKind};
use openwatch_model::{AlertId, Evidence, HostId, Outcome, ScanId, Severity, Status, Timestamp};
use serde_json::json;
use uuid::Uuid;

use crate::message::event::{
    AlertOpened, AlertResolved, AlertUpdated, Body, DriftDetected, Event, FindingChanged, HostConnectivity,
    HostKeyChanged, JobRejected, Kind, PolicyAccepted, PolicyRejected, ProberConnectivity, ScanCompleted,
    ScanFailed, ScanStarted, ScheduleUpdated,
};
use crate::message::result::{BlobRef, Part, Rejected, Started};
use crate::message::{audit, job, result, vault};
use crate::trace::Traceparent;
use crate::{Outgoing, subject};

pub(super) fn host() -> HostId {
    "6f1c1a52-3c0b-4d8e-9a51-0c2f6d1e7b01".parse().unwrap()
}

pub(super) fn jump_host() -> HostId {
    "0b7e6a10-9a54-4a0e-8c11-5d3f7a2b6c02".parse().unwrap()
}

pub(super) fn scan() -> ScanId {
    "b2f4f0de-6a0a-4f3e-8a70-5b6f3f1c9d02".parse().unwrap()
}

pub(super) fn at() -> Timestamp {
    Timestamp::from_unix_timestamp_nanos(1_767_225_600_123_456_000).unwrap()
}

pub(super) fn trace() -> Traceparent {
    "00-b2f4f0de6a0a4f3e8a705b6f3f1c9d02-00f067aa0ba902b7-01".parse().unwrap()
}

pub(super) fn sample_job() -> Job {
    Job {
        scan: scan(),
        attempt: 2,
        host: host(),
        host_number: 41,
        selection: Selection { framework: "cis_rhel9".into(), rules: vec!["sshd-no-root".into()] },
        policy_version: "1.4.0".into(),
        enqueued_at_ns: 1_767_225_600_123_456_789,
        lane: Lane::Manual,
        actor: "ops".into(),
        address: "192.0.2.10".into(),
        port: 22,
        user: "scanner".into(),
        sudo: SudoMode::Sudo,
        timeout: Duration::from_secs(600),
        host_key_mode: HostKeyMode::RequireKnown,
        known_keys: vec![KnownKey { algorithm: "ssh-ed25519".into(), key: "AAAAC3NzaC1lZDI1NTE5".into() }],
        corpus: "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8".into(),
        variables: BTreeMap::from([("max_retries".into(), "3".into())]),
        jump: None,
    }
}

/// The same host, reached through another one.
pub(super) fn sample_job_through() -> Job {
    let jump = Jump {
        host: jump_host(),
        address: "198.51.100.7".into(),
        port: 2222,
        user: "hopper".into(),
        known_keys: vec![KnownKey { algorithm: "ssh-ed25519".into(), key: "AAAAC3NzaC1lZDI1NTE6".into() }],
    };
    Job { jump: Some(jump), ..sample_job() }
}

pub(super) fn sample_result(verdict: Verdict) -> ScanResult {
    ScanResult {
        scan: scan(),
        attempt: 2,
        host: host(),
        host_number: 41,
        worker: "worker-1".into(),
        started_at: at(),
        finished_at: at() + Duration::from_secs(12),
        engine: "0.1.0".into(),
        corpus: sample_job().corpus,
        learned_key: None,
        learned_jump_key: None,
        shown_key: None,
        verdict,
    }
}

pub(super) fn completed() -> ScanResult {
    let evidence = CheckEvidence {
        method: "command".into(),
        command: "sshd -T".into(),
        exit_code: Some(0),
        stdout: "permitrootlogin yes\n".into(),
        expected: Some("no".into()),
        actual: Some("yes".into()),
        truncated: Some(Truncated { original_bytes: 70_000, sha256: "ab".repeat(32) }),
        ..CheckEvidence::default()
    };
    let outcome = Outcome {
        rule: "sshd-no-root".into(),
        status: Status::Fail,
        severity: Some(Severity::High),
        detail: "PermitRootLogin is yes, wanted no".into(),
        skip_reason: None,
        framework_refs: BTreeMap::from([("cis_rhel9".into(), vec!["5.1.20".into()])]),
        evidence: Evidence { checks: vec![evidence] },
    };
    sample_result(Verdict::Completed(Measurement {
        platform: Platform { family: "rhel".into(), version: "9.4".into(), name: "RHEL 9.4".into() },
        capabilities: BTreeMap::from([("systemd".into(), true)]),
        outcomes: vec![outcome],
        timings: vec![RuleTiming { rule: "sshd-no-root".into(), duration_ms: 20, lane: 1 }],
        lost_checks: 0,
        planned_checks: 1,
        fallback: None,
        executions: 3,
    }))
}

pub(super) fn failed() -> ScanResult {
    let detail = "the host refused the key".into();
    let mut result =
        sample_result(Verdict::Failed(Failure { reason: FailureReason::AuthFailed, detail, rule: None }));
    result.learned_key = sample_job().known_keys.into_iter().next();
    result
}

pub(super) fn started() -> Started {
    Started { scan: scan(), attempt: 2, host: host(), worker: "worker-1".into(), at: at() }
}

pub(super) fn rejected() -> Rejected {
    Rejected {
        subject: subject::job(Lane::Manual, host()),
        sequence: 77,
        stored_at: Some(at()),
        failure: Rejection::HmacMismatch,
        message_id: Some(job::message_id(scan(), 2)),
        tag: Some("00".repeat(32)),
        excerpt: b"{\"version\":1".to_vec(),
        size: 640,
        worker: "worker-1".into(),
        at: at(),
    }
}

pub(super) fn summary() -> Summary {
    Summary {
        before: Score { pass: 9, fail: 1 },
        after: Score { pass: 7, fail: 3 },
        became_failing: SeverityCounts { critical: 1, high: 1, medium: 0, low: 0 },
        became_passing: SeverityCounts::default(),
        newly_observed_failing: 0,
        rules_added: 0,
        rules_removed: 1,
        low_confidence: false,
        low_overlap: false,
    }
}

pub(super) fn body(kind: Kind) -> Body {
    let alert_id = AlertId("1d5b2c1e-6a0a-4f3e-8a70-5b6f3f1c9d04".parse().unwrap());
    let (alert, severity) = (AlertType::DriftMajor, AlertSeverity::Critical);
    match kind {
        Kind::ScanStarted => ScanStarted {
            scan_id: scan(),
            host_id: host(),
            attempt: 2,
            trigger: Lane::Manual,
            framework_id: "*".into(),
            policy_version: "1.4.0".into(),
            worker: "worker-1".into(),
        }
        .into(),
        Kind::ScanCompleted => ScanCompleted {
            scan_id: scan(),
            host_id: host(),
            attempt: 2,
            host_number: 41,
            trigger: Lane::Scheduled,
            framework_id: "*".into(),
            full: true,
            superseded: false,
            policy_version: "1.4.0".into(),
            corpus: sample_job().corpus,
            engine: "0.1.0".into(),
            counts: Counts { pass: 7, fail: 3, skipped: 2, error: 1 },
            score: Some(70.0),
            critical_failing: true,
            summary: summary(),
            changes: 2,
            finished_at: at(),
        }
        .into(),
        Kind::ScanFailed => ScanFailed {
            scan_id: scan(),
            host_id: host(),
            attempt: 3,
            host_number: 41,
            trigger: Lane::Scheduled,
            framework_id: "*".into(),
            full: true,
            policy_version: "1.4.0".into(),
            reason: FailureReason::Timeout,
            rule_id: None,
            consecutive_failures: 3,
            failed_scans: None,
            suppress_until: Some(at() + Duration::from_secs(7200)),
            finished_at: at(),
        }
        .into(),
        Kind::FindingChanged => FindingChanged {
            scan_id: scan(),
            host_id: host(),
            chunk: 1,
            chunks: 1,
            changes: vec![Change {
                rule: "sshd-no-root".into(),
                kind: ChangeKind::StateChanged,
                status: Status::Fail,
                severity: Some(Severity::High),
                prior_status: Some(Status::Pass),
                prior_severity: Some(Severity::High),
            }],
        }
        .into(),
        Kind::JobRejected => JobRejected {
            scan_id: Some(scan()),
            host_id: Some(host()),
            failure: Rejection::HmacMismatch,
            stream_sequence: 77,
            worker: "worker-1".into(),
        }
        .into(),
        Kind::ScheduleUpdated => ScheduleUpdated {
            host_id: host(),
            scan_id: Some(scan()),
            change_kind: "scan_completed".into(),
            compliance_state: ComplianceState::NonCompliant,
            compliance_score: Some(70.0),
            interval_minutes: 360,
            next_scan_at: at() + Duration::from_secs(21_600),
            policy_version: "1.4.0".into(),
        }
        .into(),
        Kind::DriftDetected => {
            DriftDetected::new(host(), scan(), "1.4.0".into(), detect(summary(), Thresholds::default()))
                .into()
        }
        Kind::HostConnectivity => HostConnectivity {
            host_id: host(),
            prior: Reachability::Reachable,
            status: Reachability::Unreachable,
            transition: 5,
            response_time_ms: None,
            error: Some(ProbeError::TcpTimeout),
        }
        .into(),
        Kind::ProberConnectivity => {
            ProberConnectivity { status: Standing::Isolated, transition: 3, asked: 20, silent: 19 }.into()
        }
        Kind::HostKeyChanged => HostKeyChanged { host_id: host(), scan_id: scan(), host_number: 41 }.into(),
        Kind::AlertOpened => {
            AlertOpened { alert_id, kind: alert, severity, host_id: Some(host()), state: AlertState::Active }
                .into()
        }
        Kind::AlertUpdated => AlertUpdated {
            alert_id,
            kind: alert,
            severity,
            host_id: Some(host()),
            state: AlertState::Acknowledged,
            prior_state: AlertState::Active,
            occurrences: 4,
        }
        .into(),
        Kind::AlertResolved => AlertResolved {
            alert_id,
            kind: alert,
            severity,
            host_id: Some(host()),
            state: AlertState::Resolved,
            prior_state: AlertState::Acknowledged,
            automatic: true,
        }
        .into(),
        Kind::PolicyRejected => PolicyRejected {
            reason: "signature_invalid".into(),
            attempted_version: Some("1.5.0".into()),
            active_version: Some("1.4.0".into()),
        }
        .into(),
        Kind::PolicyAccepted => {
            PolicyAccepted { version: "1.5.0".into(), previous_version: Some("1.4.0".into()) }.into()
        }
    }
}

pub(super) fn sample_event(kind: Kind) -> Event {
    let host =
        (!matches!(kind, Kind::PolicyRejected | Kind::PolicyAccepted | Kind::ProberConnectivity)).then(host);
    let id = Uuid::from_u128(0x0a3c_1b2d_4e5f_4a6b_8c7d_9e0f_1a2b_3c4d);
    Event { id, host, at: at(), cause: Some(scan().to_string()), body: body(kind) }
}

pub(super) fn records() -> audit::Records {
    audit::Records {
        id: Uuid::from_u128(0x0a3c_1b2d_4e5f_4a6b_8c7d_9e0f_1a2b_3c4e),
        code: "scan.failed".into(),
        severity: "error".into(),
        at: at(),
        cause: Some(scan().to_string()),
        actor_type: "system".into(),
        actor: "writer".into(),
        details: vec![json!({ "reason": "timeout", "scan_id": scan() })],
    }
}

pub(super) fn question() -> vault::Request {
    let tag = "00".repeat(32);
    let worker = "worker-1".into();
    vault::Request { scan: scan(), attempt: 2, tag, public_key: vec![7; 32], worker, jump: None }
}

pub(super) fn question_of_jump() -> vault::Request {
    vault::Request { jump: Some(jump_host()), ..question() }
}

pub(super) fn holding() -> vault::Holding {
    let (current, next) = ("9ece6b51b92ba7af".to_owned(), "f00dfeedf00dfeed".to_owned());
    vault::Holding { worker: "worker-1".into(), current: current.clone(), key_ids: vec![current, next] }
}

/// What a worker says of keys: one believed on the way, one not believed at the end of it.
pub(super) fn keys_seen() -> ScanResult {
    let key = |text: &str| KnownKey { algorithm: "ssh-ed25519".into(), key: text.into() };
    let mut result = failed();
    result.learned_key = None;
    result.learned_jump_key = Some((jump_host(), key("AAAAC3NzaC1lZDI1NTE6")));
    result.shown_key = Some(key("AAAAC3NzaC1lZDI1NTE7"));
    result
}

pub(super) fn blob() -> BlobRef {
    BlobRef::of(subject::BUCKET_RESULTS, format!("{}.2.f00d", scan()), b"compressed bytes")
}

pub(super) fn outgoing(subject: &str, message_id: String, payload: bytes::Bytes) -> Outgoing {
    Outgoing { subject: subject.to_owned(), message_id, headers: Vec::new(), payload }
}

/// One message per kind and version, as it is published; a compressed payload is shown uncompressed.
pub(super) fn samples() -> Vec<(String, Outgoing)> {
    let part = |part: Part, payload| {
        outgoing(&subject::result(part, host(), scan()), result::message_id(scan(), 2, 1, part), payload)
    };
    let open = |result: &ScanResult| {
        let payload = result::encode_final(result);
        bytes::Bytes::from(zstd::decode_all(&payload[..]).unwrap())
    };
    let vault = |payload| outgoing(subject::VAULT_RELEASE, String::new(), payload);
    let job = |job: &Job| {
        outgoing(&subject::job(Lane::Manual, host()), job::message_id(scan(), 2), job::encode(job))
    };
    let refused = vault::Reply::Refused { code: "scan_closed".into() };
    let sealed = vault::Reply::Sealed { sealed: vec![1, 2, 3] };
    let mut samples = vec![
        ("job.v1".to_owned(), job(&sample_job())),
        ("job.v2".to_owned(), job(&sample_job_through())),
        ("result.started.v1".to_owned(), part(Part::Started, started().encode())),
        ("result.final.completed.v1".to_owned(), part(Part::Final, open(&completed()))),
        ("result.final.failed.v1".to_owned(), part(Part::Final, open(&failed()))),
        ("result.final.keys_seen.v1".to_owned(), part(Part::Final, open(&keys_seen()))),
        ("result.final.stored.v1".to_owned(), part(Part::Final, result::encode_stored(&blob()))),
        ("result.rejected.v1.1".to_owned(), part(Part::Rejected, rejected().encode())),
        ("vault.request.v1".to_owned(), vault(question().encode())),
        ("vault.request.v2".to_owned(), vault(question_of_jump().encode())),
        ("vault.holding.v1".to_owned(), vault(holding().encode())),
        ("vault.reply.sealed.v1".to_owned(), vault(sealed.encode())),
        ("vault.reply.refused.v1".to_owned(), vault(refused.encode())),
        ("audit.v1".to_owned(), records().encode(Some(trace()))),
    ];
    for kind in Kind::ALL.iter().copied() {
        samples.push((
            format!("event.{}.v{}", kind.as_str(), kind.version()),
            sample_event(kind).encode(Some(trace())),
        ));
    }
    samples
}
