//! A job: one attempt at one scan. The signature in the headers covers these exact bytes and the lane.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use openwatch_model::credential::SudoMode;
use openwatch_model::host::{HostKeyMode, KnownKey};
use openwatch_model::scan::{Job, Lane, Selection};
use openwatch_model::{HostId, ScanId};
use serde::{Deserialize, Serialize};

use super::{parse, version, write};
use crate::DecodeError;

const WHAT: &str = "job";

/// `Nats-Msg-Id` of a job.
pub fn message_id(scan: ScanId, attempt: u32) -> String {
    format!("{scan}.{attempt}")
}

/// Version 1.
#[derive(Serialize, Deserialize)]
struct V1 {
    version: u64,
    scan_id: ScanId,
    attempt: u32,
    host_id: HostId,
    host_number: i64,
    framework_id: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rules: Vec<String>,
    policy_version: String,
    /// Integer nanoseconds: a round trip through a table must not change signed bytes.
    enqueued_at_ns: i64,
    trigger: Lane,
    actor: String,
    address: String,
    port: u16,
    user: String,
    sudo: SudoMode,
    timeout_ms: u64,
    host_key_mode: HostKeyMode,
    #[serde(default)]
    known_keys: Vec<KnownKey>,
    corpus: String,
    #[serde(default)]
    variables: BTreeMap<String, String>,
}

/// The bytes to sign and to publish.
pub fn encode(job: &Job) -> Bytes {
    write(&V1 {
        version: 1,
        scan_id: job.scan,
        attempt: job.attempt,
        host_id: job.host,
        host_number: job.host_number,
        framework_id: job.selection.framework.clone(),
        rules: job.selection.rules.clone(),
        policy_version: job.policy_version.clone(),
        enqueued_at_ns: job.enqueued_at_ns,
        trigger: job.lane,
        actor: job.actor.clone(),
        address: job.address.clone(),
        port: job.port,
        user: job.user.clone(),
        sudo: job.sudo,
        timeout_ms: job.timeout.as_millis() as u64,
        host_key_mode: job.host_key_mode,
        known_keys: job.known_keys.clone(),
        corpus: job.corpus.clone(),
        variables: job.variables.clone(),
    })
}

/// Reads a job. Check its signature first.
///
/// # Errors
/// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`]; neither gets better by waiting.
pub fn decode(payload: &[u8]) -> Result<Job, DecodeError> {
    match version(WHAT, payload)? {
        1 => parse::<V1>(WHAT, payload).map(Job::from),
        version => Err(DecodeError::UnknownVersion { what: WHAT, version }),
    }
}

impl From<V1> for Job {
    fn from(it: V1) -> Self {
        Self {
            scan: it.scan_id,
            attempt: it.attempt,
            host: it.host_id,
            host_number: it.host_number,
            selection: Selection { framework: it.framework_id, rules: it.rules },
            policy_version: it.policy_version,
            enqueued_at_ns: it.enqueued_at_ns,
            lane: it.trigger,
            actor: it.actor,
            address: it.address,
            port: it.port,
            user: it.user,
            sudo: it.sudo,
            timeout: Duration::from_millis(it.timeout_ms),
            host_key_mode: it.host_key_mode,
            known_keys: it.known_keys,
            corpus: it.corpus,
            variables: it.variables,
        }
    }
}
