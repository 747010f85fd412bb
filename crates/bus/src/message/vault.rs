//! The one question of the pipeline: the secret for this attempt, sealed to a key that only the asker holds.

use bytes::Bytes;
use openwatch_model::{HostId, ScanId};
use serde::{Deserialize, Serialize};

use super::{base64_text, parse, version, write};
use crate::DecodeError;

/// A worker asks. The request is signed with the executor key; see the header names in [`super`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The scan.
    pub scan: ScanId,
    /// The attempt.
    pub attempt: u32,
    /// The job's signature, hex: proof that the asker holds the job that was issued.
    pub tag: String,
    /// X25519 public key made for this question.
    pub public_key: Vec<u8>,
    /// Name of the worker.
    pub worker: String,
    /// The jump host whose secret is wanted; absent when it is that of the scanned host.
    pub jump: Option<HostId>,
}

/// What the vault answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The secret and the attempt's result key, sealed to the public key of the question.
    Sealed {
        /// What `trust` opens.
        sealed: Vec<u8>,
    },
    /// No.
    Refused {
        /// A stable word for the reason, such as `scan_closed`.
        code: String,
    },
}

/// A worker says which keys it holds, by their ids. Signed like a question; nothing is given for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Name of the worker.
    pub worker: String,
    /// The key that it signs with.
    pub current: String,
    /// All keys that it understands.
    pub key_ids: Vec<String>,
}

const HOLDING: &str = "keys held";
const REQUEST: &str = "vault request";
const REPLY: &str = "vault reply";

/// Version 1 of the question, and version 2 of the one for a jump host's secret: a vault that has never heard of jump
/// hosts must not give another secret instead.
#[derive(Serialize, Deserialize)]
struct RequestFields {
    version: u64,
    scan_id: ScanId,
    attempt: u32,
    tag: String,
    #[serde(with = "base64_text")]
    public_key: Vec<u8>,
    worker: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jump: Option<HostId>,
}

/// Version 1 of the answer.
#[derive(Serialize, Deserialize)]
struct ReplyV1 {
    version: u64,
    #[serde(flatten)]
    answer: AnswerV1,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
enum AnswerV1 {
    Sealed {
        #[serde(with = "base64_text")]
        sealed: Vec<u8>,
    },
    Refused {
        code: String,
    },
}

/// Version 1 of what a worker holds.
#[derive(Serialize, Deserialize)]
struct HoldingV1 {
    version: u64,
    worker: String,
    current: String,
    key_ids: Vec<String>,
}

impl Holding {
    /// The bytes to sign and to send.
    pub fn encode(&self) -> Bytes {
        let Self { worker, current, key_ids } = self.clone();
        write(&HoldingV1 { version: 1, worker, current, key_ids })
    }

    /// Reads one. Check its signature first.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match version(HOLDING, payload)? {
            1 => {
                let HoldingV1 { worker, current, key_ids, .. } = parse(HOLDING, payload)?;
                Ok(Self { worker, current, key_ids })
            }
            version => Err(DecodeError::UnknownVersion { what: HOLDING, version }),
        }
    }
}

impl Request {
    /// The bytes to sign and to send.
    pub fn encode(&self) -> Bytes {
        let Self { scan, attempt, tag, public_key, worker, jump } = self.clone();
        let version = if jump.is_some() { 2 } else { 1 };
        write(&RequestFields { version, scan_id: scan, attempt, tag, public_key, worker, jump })
    }

    /// Reads a question. Check its signature first.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match version(REQUEST, payload)? {
            1 | 2 => {
                let RequestFields { version, scan_id: scan, attempt, tag, public_key, worker, jump } =
                    parse(REQUEST, payload)?;
                if (version == 2) != jump.is_some() {
                    let reason = "version 2, and only that, names a jump host".into();
                    return Err(DecodeError::Malformed { what: REQUEST, reason });
                }
                Ok(Self { scan, attempt, tag, public_key, worker, jump })
            }
            version => Err(DecodeError::UnknownVersion { what: REQUEST, version }),
        }
    }
}

impl Reply {
    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let answer = match self.clone() {
            Self::Sealed { sealed } => AnswerV1::Sealed { sealed },
            Self::Refused { code } => AnswerV1::Refused { code },
        };
        write(&ReplyV1 { version: 1, answer })
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match version(REPLY, payload)? {
            1 => Ok(match parse::<ReplyV1>(REPLY, payload)?.answer {
                AnswerV1::Sealed { sealed } => Self::Sealed { sealed },
                AnswerV1::Refused { code } => Self::Refused { code },
            }),
            version => Err(DecodeError::UnknownVersion { what: REPLY, version }),
        }
    }
}
