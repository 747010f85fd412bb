//! Subjects and names of streams. No text from outside ever becomes part of a subject: every token is an id, an enum's
//! word, or one of ours.

use openwatch_model::scan::Lane;
use openwatch_model::{HostId, ScanId};

use crate::message::event::Kind;
use crate::message::result::Part;

/// Where jobs wait.
pub const JOBS: &str = "OW_JOBS";
/// What workers saw.
pub const RESULTS: &str = "OW_RESULTS";
/// What happened, for the stages.
pub const EVENTS: &str = "OW_EVENTS";
/// What happened, for outside consumers.
pub const EVENTS_PUBLIC: &str = "OW_EVENTS_PUBLIC";
/// Who did what.
pub const AUDIT: &str = "OW_AUDIT";
/// What could not be processed.
pub const DLQ: &str = "OW_DLQ";
/// What the server gave up on.
pub const ADVISORIES: &str = "OW_ADVISORIES";
/// Bucket of results over the inline limit.
pub const BUCKET_RESULTS: &str = "ow-results";
/// Bucket of corpus bundles.
pub const BUCKET_CORPORA: &str = "ow-corpora";
/// The one question: give me the secret for this attempt.
pub const VAULT_RELEASE: &str = "ow.v1.vault.release";
/// Queue group of the vault's replicas.
pub const VAULT_GROUP: &str = "vault";

/// `ow.v1.job.<lane>.<host>`.
pub fn job(lane: Lane, host: HostId) -> String {
    format!("ow.v1.job.{}.{host}", lane.as_str())
}

/// The lane and host of a job's subject.
pub fn parse_job(subject: &str) -> Option<(Lane, HostId)> {
    let (lane, host) = subject.strip_prefix("ow.v1.job.")?.split_once('.')?;
    Some((Lane::parse(lane)?, host.parse().ok()?))
}

/// `ow.v1.result.<part>.<host>.<scan>`.
pub fn result(part: Part, host: HostId, scan: ScanId) -> String {
    format!("ow.v1.result.{}.{host}.{scan}", part.as_str())
}

/// All results of a scan, whatever their part: a filter.
pub fn results(host: HostId, scan: ScanId) -> String {
    format!("ow.v1.result.*.{host}.{scan}")
}

/// The part, host and scan of a result's subject.
pub fn parse_result(subject: &str) -> Option<(Part, HostId, ScanId)> {
    let (part, rest) = subject.strip_prefix("ow.v1.result.")?.split_once('.')?;
    let (host, scan) = rest.split_once('.')?;
    Some((Part::parse(part)?, host.parse().ok()?, scan.parse().ok()?))
}

/// `ow.v1.evt.<kind>.<host>`, `-` when there is no host.
pub fn event(kind: Kind, host: Option<HostId>) -> String {
    match host {
        Some(host) => format!("ow.v1.evt.{}.{host}", kind.as_str()),
        None => format!("ow.v1.evt.{}.-", kind.as_str()),
    }
}

/// `ow.v1.audit.<code>` with `_` for the dots of the code.
pub fn audit(code: &str) -> String {
    format!("ow.v1.audit.{}", code.replace('.', "_"))
}

/// `ow.v1.dlq.<stage>`.
pub fn dead_letter(stage: &str) -> String {
    format!("ow.v1.dlq.{stage}")
}

/// Which stream takes a subject of ours.
pub fn stream_of(subject: &str) -> Option<&'static str> {
    let kind = subject.strip_prefix("ow.v1.")?.split('.').next()?;
    match kind {
        "job" => Some(JOBS),
        "result" => Some(RESULTS),
        "evt" => Some(EVENTS),
        "audit" => Some(AUDIT),
        "dlq" => Some(DLQ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_read_back() {
        let host: HostId = "0198c5de-0000-4000-8000-000000000001".parse().unwrap();
        let scan: ScanId = "0198c5de-0000-4000-8000-000000000002".parse().unwrap();
        for lane in Lane::ALL {
            assert_eq!(parse_job(&job(lane, host)), Some((lane, host)));
        }
        for part in Part::ALL {
            assert_eq!(parse_result(&result(part, host, scan)), Some((part, host, scan)));
        }
        for wrong in ["ow.v1.job.fast.x", "ow.v1.job.manual", "ow.v1.job.manual.*", "x"] {
            assert_eq!(parse_job(wrong), None);
        }
        assert_eq!(event(Kind::PolicyRejected, None), "ow.v1.evt.policy_rejected.-");
        assert_eq!(audit("scheduler.job.hmac_rejected"), "ow.v1.audit.scheduler_job_hmac_rejected");
    }

    #[test]
    fn every_subject_has_its_stream() {
        for (subject, stream) in [
            ("ow.v1.job.manual.x", Some(JOBS)),
            ("ow.v1.result.final.x.y", Some(RESULTS)),
            ("ow.v1.evt.scan_failed.x", Some(EVENTS)),
            ("ow.v1.audit.x", Some(AUDIT)),
            ("ow.v1.dlq.writer", Some(DLQ)),
            (VAULT_RELEASE, None),
            ("other", None),
        ] {
            assert_eq!(stream_of(subject), stream, "{subject}");
        }
    }
}
