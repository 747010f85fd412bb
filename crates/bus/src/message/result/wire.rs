//! The parts of a result as they are on the wire, version 1 of each.

use std::collections::BTreeMap;

use openwatch_model::host::{KnownKey, Platform};
use openwatch_model::scan::{
    Failure, FailureReason, Measurement, Rejection, RuleTiming, ScanResult, Verdict,
};
use openwatch_model::{HostId, ScanId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::BlobRef;
use crate::message::{base64_text, instant};

/// Version 1 of `started`.
#[derive(Serialize, Deserialize)]
pub(super) struct StartedV1 {
    pub(super) version: u64,
    pub(super) scan_id: ScanId,
    pub(super) attempt: u32,
    pub(super) host_id: HostId,
    pub(super) worker: String,
    #[serde(with = "instant")]
    pub(super) at: Timestamp,
}

/// Version 1 of `rejected`.
#[derive(Serialize, Deserialize)]
pub(super) struct RejectedV1 {
    pub(super) version: u64,
    pub(super) subject: String,
    pub(super) sequence: u64,
    /// Added within version 1.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "instant::optional")]
    pub(super) stored_at: Option<Timestamp>,
    pub(super) failure: Rejection,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tag: Option<String>,
    #[serde(with = "base64_text")]
    pub(super) excerpt: Vec<u8>,
    pub(super) size: u64,
    pub(super) worker: String,
    #[serde(with = "instant")]
    pub(super) at: Timestamp,
}

/// Version 1 of `final`. Its outcomes stand aside: they are written by themselves, and their text is read later.
#[derive(Serialize, Deserialize)]
#[serde(bound(deserialize = "O: Deserialize<'de>"))]
pub(super) struct FinalV1<O> {
    pub(super) version: u64,
    pub(super) scan_id: ScanId,
    pub(super) attempt: u32,
    pub(super) host_id: HostId,
    pub(super) host_number: i64,
    pub(super) worker: String,
    #[serde(with = "instant")]
    pub(super) started_at: Timestamp,
    #[serde(with = "instant")]
    pub(super) finished_at: Timestamp,
    pub(super) engine: String,
    pub(super) corpus: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) learned_key: Option<KnownKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) learned_jump_key: Option<JumpKeyV1>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shown_key: Option<KnownKey>,
    // Two fields, of which one is there: a flattened enum would hold the whole document a second time while it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) completed: Option<Box<CompletedV1<O>>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<FailedV1>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct JumpKeyV1 {
    pub(super) host_id: HostId,
    #[serde(flatten)]
    pub(super) key: KnownKey,
}

#[derive(Serialize, Deserialize)]
pub(super) struct CompletedV1<O> {
    pub(super) platform: Platform,
    pub(super) capabilities: BTreeMap<String, bool>,
    pub(super) outcomes: O,
    pub(super) timings: Vec<TimingV1>,
    pub(super) lost_checks: u32,
    pub(super) planned_checks: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fallback: Option<String>,
    pub(super) executions: u32,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TimingV1 {
    pub(super) rule: String,
    pub(super) duration_ms: u64,
    pub(super) lane: u8,
}

#[derive(Serialize, Deserialize)]
pub(super) struct FailedV1 {
    pub(super) reason: FailureReason,
    pub(super) detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
}

/// Version 1 of the message of a stored result.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredV1 {
    pub(super) version: u64,
    pub(super) blob: BlobRef,
}

impl FinalV1<[(); 0]> {
    /// A result; its outcomes are left to be filled in.
    pub(super) fn without_outcomes(it: &ScanResult) -> Self {
        let (mut completed, mut failed) = (None, None);
        match &it.verdict {
            Verdict::Completed(m) => {
                completed = Some(Box::new(CompletedV1 {
                    platform: m.platform.clone(),
                    capabilities: m.capabilities.clone(),
                    outcomes: [],
                    timings: m.timings.iter().cloned().map(TimingV1::from).collect(),
                    lost_checks: m.lost_checks,
                    planned_checks: m.planned_checks,
                    fallback: m.fallback.clone(),
                    executions: m.executions,
                }));
            }
            Verdict::Failed(failure) => {
                let Failure { reason, detail, rule } = failure.clone();
                failed = Some(FailedV1 { reason, detail, rule });
            }
        }
        Self {
            version: 1,
            scan_id: it.scan,
            attempt: it.attempt,
            host_id: it.host,
            host_number: it.host_number,
            worker: it.worker.clone(),
            started_at: it.started_at,
            finished_at: it.finished_at,
            engine: it.engine.clone(),
            corpus: it.corpus.clone(),
            learned_key: it.learned_key.clone(),
            learned_jump_key: it.learned_jump_key.clone().map(|(host_id, key)| JumpKeyV1 { host_id, key }),
            shown_key: it.shown_key.clone(),
            completed,
            failed,
        }
    }
}

impl<'a> FinalV1<&'a RawValue> {
    /// The result without its outcomes, and their text. `None` when it says both of how it ended, or neither.
    pub(super) fn into_parts(self) -> Option<(ScanResult, Option<&'a RawValue>)> {
        let it = self;
        let outcomes = it.completed.as_ref().map(|m| m.outcomes);
        let verdict = match (it.completed, it.failed) {
            (Some(m), None) => Verdict::Completed(Measurement {
                platform: m.platform,
                capabilities: m.capabilities,
                outcomes: Vec::new(),
                timings: m.timings.into_iter().map(RuleTiming::from).collect(),
                lost_checks: m.lost_checks,
                planned_checks: m.planned_checks,
                fallback: m.fallback,
                executions: m.executions,
            }),
            (None, Some(FailedV1 { reason, detail, rule })) => {
                Verdict::Failed(Failure { reason, detail, rule })
            }
            _ => return None,
        };
        let result = ScanResult {
            scan: it.scan_id,
            attempt: it.attempt,
            host: it.host_id,
            host_number: it.host_number,
            worker: it.worker,
            started_at: it.started_at,
            finished_at: it.finished_at,
            engine: it.engine,
            corpus: it.corpus,
            learned_key: it.learned_key,
            learned_jump_key: it.learned_jump_key.map(|it| (it.host_id, it.key)),
            shown_key: it.shown_key,
            verdict,
        };
        Some((result, outcomes))
    }
}

impl From<RuleTiming> for TimingV1 {
    fn from(RuleTiming { rule, duration_ms, lane }: RuleTiming) -> Self {
        Self { rule, duration_ms, lane }
    }
}

impl From<TimingV1> for RuleTiming {
    fn from(TimingV1 { rule, duration_ms, lane }: TimingV1) -> Self {
        Self { rule, duration_ms, lane }
    }
}
