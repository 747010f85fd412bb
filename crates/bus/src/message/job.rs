//! A job: one attempt at one scan. The signature in the headers covers these exact bytes and the lane.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use openwatch_model::credential::SudoMode;
use openwatch_model::host::{HostKeyMode, KnownKey};
use openwatch_model::scan::{Job, Jump, Lane, Selection};
use openwatch_model::{HostId, ScanId};
use serde::{Deserialize, Serialize};

use super::{parse, version, write};
use crate::DecodeError;

const WHAT: &str = "job";

/// `Nats-Msg-Id` of a job.
pub fn message_id(scan: ScanId, attempt: u32) -> String {
    format!("{scan}.{attempt}")
}

/// Version 1, and version 2 of a host that is reached through another one.
///
/// Not merely an optional field: a worker that has never heard of jump hosts would dial the address directly, and in its
/// own network that may be another machine. It refuses version 2 instead. Hosts without one stay at version 1, so that
/// workers of either age serve them.
#[derive(Serialize, Deserialize)]
struct Fields {
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jump: Option<JumpFields>,
}

#[derive(Serialize, Deserialize)]
struct JumpFields {
    host_id: HostId,
    address: String,
    port: u16,
    user: String,
    known_keys: Vec<KnownKey>,
}

/// The bytes to sign and to publish.
pub fn encode(job: &Job) -> Bytes {
    write(&Fields {
        version: if job.jump.is_some() { 2 } else { 1 },
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
        jump: job.jump.clone().map(|Jump { host, address, port, user, known_keys }| JumpFields {
            host_id: host,
            address,
            port,
            user,
            known_keys,
        }),
    })
}

/// Reads a job. Check its signature first.
///
/// # Errors
/// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`]; neither gets better by waiting.
pub fn decode(payload: &[u8]) -> Result<Job, DecodeError> {
    match version(WHAT, payload)? {
        1 => parse::<Fields>(WHAT, payload).map(|fields| Job::from(Fields { jump: None, ..fields })),
        2 => match parse::<Fields>(WHAT, payload)? {
            Fields { jump: None, .. } => {
                Err(DecodeError::Malformed { what: WHAT, reason: "version 2 names a jump host".into() })
            }
            fields => Ok(Job::from(fields)),
        },
        version => Err(DecodeError::UnknownVersion { what: WHAT, version }),
    }
}

impl From<Fields> for Job {
    fn from(it: Fields) -> Self {
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
            jump: it.jump.map(|it| Jump {
                host: it.host_id,
                address: it.address,
                port: it.port,
                user: it.user,
                known_keys: it.known_keys,
            }),
        }
    }
}
