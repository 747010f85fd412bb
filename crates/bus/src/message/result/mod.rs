//! What a worker says: `started` before it logs in, `final` at the end, or `rejected` for a job it would not touch.
//!
//! Payloads are JSON, the final one zstd-compressed: one document in three frames, of which the middle one is its
//! outcomes. A final result over [`INLINE_MOST`] goes to the object store first and the message names it.

mod frames;
mod wire;

use bytes::Bytes;
use openwatch_model::scan::{Rejection, ScanResult};
use openwatch_model::{HostId, Outcome, ScanId, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use self::frames::decompress;
use self::wire::{FinalV1, RejectedV1, StartedV1, StoredV1};
use super::{parse, version, write};
use crate::DecodeError;

/// Compressed bytes that travel in the message itself.
pub const INLINE_MOST: usize = 900 * 1024;
/// Compressed bytes that a blob may have.
pub const BLOB_MOST: usize = 64 << 20;
/// Bytes of a result after decompression: more is an attack or a mistake.
pub const RESULT_MOST: usize = 128 << 20;
/// Bytes of a rejected job that are kept.
pub const EXCERPT_MOST: usize = 1024;

const STARTED: &str = "started result";
const FINAL: &str = "final result";
const OUTCOMES: &str = "list of outcomes of a final result";
const REJECTED: &str = "rejected result";

/// Which part of the story a result message is; a token of its subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// About to log in.
    Started,
    /// The end.
    Final,
    /// Not touched.
    Rejected,
}

impl Part {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Started, Self::Final, Self::Rejected];

    /// The subject token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Final => "final",
            Self::Rejected => "rejected",
        }
    }

    /// Reads a subject token.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.as_str() == text)
    }
}

/// `Nats-Msg-Id` of a result part: each delivery of a job speaks for itself.
pub fn message_id(scan: ScanId, attempt: u32, delivery: u64, part: Part) -> String {
    format!("{scan}.{attempt}.{delivery}.{}", part.as_str())
}

/// The vault has answered; the worker is about to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// The scan.
    pub scan: ScanId,
    /// The attempt.
    pub attempt: u32,
    /// The host.
    pub host: HostId,
    /// Name of the worker.
    pub worker: String,
    /// The worker's clock: shown, never used to order.
    pub at: Timestamp,
}

/// A job that was not what the scheduler signed. Nothing in it is to be trusted, its subject included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Where it was published.
    pub subject: String,
    /// Its place in the job stream.
    pub sequence: u64,
    /// When the stream stored it. With `sequence` its identity: a stream that is deleted and made anew counts from one again.
    pub stored_at: Option<Timestamp>,
    /// What was wrong with it.
    pub failure: Rejection,
    /// `Nats-Msg-Id` it came with: `<scan>.<attempt>` of the job it claims to be.
    pub message_id: Option<String>,
    /// The signature it came with.
    pub tag: Option<String>,
    /// The first bytes of it, at most [`EXCERPT_MOST`].
    pub excerpt: Vec<u8>,
    /// All of its bytes, counted.
    pub size: u64,
    /// Name of the worker.
    pub worker: String,
    /// The worker's clock.
    pub at: Timestamp,
}

/// A final result that lies in the object store, and how to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// The bucket.
    pub bucket: String,
    /// `<scan>.<attempt>.<random>`, never used twice.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes, hex.
    pub sha256: String,
}

impl BlobRef {
    /// Of compressed result bytes.
    pub fn of(bucket: &str, name: String, bytes: &[u8]) -> Self {
        let sha256 = hex::encode(Sha256::digest(bytes));
        Self { bucket: bucket.to_owned(), name, size: bytes.len() as u64, sha256 }
    }

    /// Whether these are the bytes that were meant.
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        self.size == bytes.len() as u64 && self.sha256 == hex::encode(Sha256::digest(bytes))
    }
}

/// A final result as it came.
#[derive(Clone, Debug)]
pub enum Final {
    /// All of it.
    Whole(Box<Unread>),
    /// Fetch it, check it with [`BlobRef::is_of`], read it with [`decode_whole`].
    Stored(BlobRef),
}

/// A final result of which all is read but the outcomes: of nearly every scan it is enough to know that they are those of
/// the scan before.
#[derive(Clone, Debug)]
pub struct Unread {
    head: ScanResult,
    outcomes: Packed,
}

/// The outcomes of a result.
#[derive(Clone, Debug)]
enum Packed {
    /// It did not complete.
    None,
    /// Compressed by themselves.
    Frame(Bytes),
    /// Compressed together with the rest, as others may.
    Text(Box<RawValue>),
}

impl Unread {
    /// The result; a completed one has no outcomes yet.
    pub fn head(&self) -> &ScanResult {
        &self.head
    }

    /// SHA-256 of the outcomes as they came, still compressed. The same bytes are the same outcomes; the same outcomes may
    /// come in others.
    pub fn outcomes_digest(&self) -> [u8; 32] {
        let bytes = match &self.outcomes {
            Packed::None => &[],
            Packed::Frame(bytes) => &bytes[..],
            Packed::Text(text) => text.get().as_bytes(),
        };
        Sha256::digest(bytes).into()
    }

    /// Reads the outcomes; their evidence stays text.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] or [`DecodeError::TooLarge`].
    pub fn outcomes(&self) -> Result<Vec<Outcome<Box<RawValue>>>, DecodeError> {
        self.outcomes_as()
    }

    /// Reads all of it, as only tests need it.
    #[cfg(test)]
    pub(super) fn read(mut self) -> Result<ScanResult, DecodeError> {
        let outcomes = self.outcomes_as()?;
        if let openwatch_model::scan::Verdict::Completed(measured) = &mut self.head.verdict {
            measured.outcomes = outcomes;
        }
        Ok(self.head)
    }

    fn outcomes_as<E>(&self) -> Result<Vec<Outcome<E>>, DecodeError>
    where
        Outcome<E>: DeserializeOwned,
    {
        match &self.outcomes {
            Packed::None => Ok(Vec::new()),
            Packed::Frame(bytes) => parse(OUTCOMES, &decompress(bytes, RESULT_MOST)?),
            Packed::Text(text) => parse(OUTCOMES, text.get().as_bytes()),
        }
    }
}

impl Started {
    /// The bytes to sign and to publish.
    pub fn encode(&self) -> Bytes {
        let Self { scan, attempt, host, worker, at } = self.clone();
        write(&StartedV1 { version: 1, scan_id: scan, attempt, host_id: host, worker, at })
    }

    /// Reads a part `started`.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match version(STARTED, payload)? {
            1 => {
                let StartedV1 { scan_id: scan, attempt, host_id: host, worker, at, .. } =
                    parse(STARTED, payload)?;
                Ok(Self { scan, attempt, host, worker, at })
            }
            version => Err(DecodeError::UnknownVersion { what: STARTED, version }),
        }
    }
}

impl Rejected {
    /// The bytes to sign and to publish; the excerpt is clipped.
    pub fn encode(&self) -> Bytes {
        let mut it = self.clone();
        it.excerpt.truncate(EXCERPT_MOST);
        let Self { subject, sequence, stored_at, failure, message_id, tag, excerpt, size, worker, at } = it;
        write(&RejectedV1 {
            version: 1,
            subject,
            sequence,
            stored_at,
            failure,
            message_id,
            tag,
            excerpt,
            size,
            worker,
            at,
        })
    }

    /// Reads a part `rejected`.
    ///
    /// # Errors
    /// [`DecodeError::UnknownVersion`] or [`DecodeError::Malformed`].
    pub fn decode(payload: &[u8]) -> Result<Self, DecodeError> {
        match version(REJECTED, payload)? {
            1 => {
                let it: RejectedV1 = parse(REJECTED, payload)?;
                let RejectedV1 {
                    subject,
                    sequence,
                    stored_at,
                    failure,
                    message_id,
                    tag,
                    excerpt,
                    size,
                    worker,
                    at,
                    ..
                } = it;
                Ok(Self { subject, sequence, stored_at, failure, message_id, tag, excerpt, size, worker, at })
            }
            version => Err(DecodeError::UnknownVersion { what: REJECTED, version }),
        }
    }
}

/// A final result, compressed. Up to [`INLINE_MOST`] these are the bytes to sign and to publish; above it, put them
/// into the bucket and publish [`encode_stored`].
pub fn encode_final(result: &ScanResult) -> Bytes {
    frames::write(result).expect("plain structs are written into memory without fail").into()
}

/// The message of a result that lies in the object store: these bytes are signed and published.
pub fn encode_stored(blob: &BlobRef) -> Bytes {
    write(&StoredV1 { version: 1, blob: blob.clone() })
}

/// Reads a part `final`, decompressing no more than [`RESULT_MOST`].
///
/// # Errors
/// [`DecodeError::UnknownVersion`], [`DecodeError::Malformed`] or [`DecodeError::TooLarge`].
pub fn decode_final(payload: &Bytes) -> Result<Final, DecodeError> {
    // Compressed bytes are a result, plain JSON names one.
    if payload.starts_with(b"{") {
        return match version(FINAL, payload)? {
            1 => parse::<StoredV1>(FINAL, payload).map(|it| Final::Stored(it.blob)),
            version => Err(DecodeError::UnknownVersion { what: FINAL, version }),
        };
    }
    decode_whole(payload).map(|unread| Final::Whole(Box::new(unread)))
}

/// Reads the compressed bytes of a result.
///
/// # Errors
/// [`DecodeError::UnknownVersion`], [`DecodeError::Malformed`] or [`DecodeError::TooLarge`].
pub fn decode_whole(compressed: &Bytes) -> Result<Unread, DecodeError> {
    let (json, frame) = match frames::apart(compressed)? {
        Some((json, outcomes)) => (json, Some(outcomes)),
        None => (decompress(compressed, RESULT_MOST)?, None),
    };
    // Read once when it is what it nearly always is; its version alone decides what an error is called.
    match parse::<FinalV1<&RawValue>>(FINAL, &json) {
        Ok(it) if it.version == 1 => {
            let (head, text) = it.into_parts().ok_or_else(|| DecodeError::Malformed {
                what: FINAL,
                reason: "one of completed and failed is wanted".to_owned(),
            })?;
            let outcomes = match (text, frame) {
                (None, _) => Packed::None,
                (Some(_), Some(frame)) => Packed::Frame(frame),
                (Some(text), None) => Packed::Text(text.to_owned()),
            };
            Ok(Unread { head, outcomes })
        }
        Ok(it) => Err(DecodeError::UnknownVersion { what: FINAL, version: it.version }),
        Err(error) => match version(FINAL, &json)? {
            1 => Err(error),
            version => Err(DecodeError::UnknownVersion { what: FINAL, version }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = Bytes::from(zstd::encode_all(&vec![b' '; RESULT_MOST + 1][..], 1).unwrap());
        assert!(bomb.len() < 100_000);
        assert!(matches!(decode_final(&bomb), Err(DecodeError::TooLarge { .. })));
        assert!(matches!(decompress(&bomb, 10), Err(DecodeError::TooLarge { limit: 10, .. })));
        let three = Bytes::from([&bomb[..], &bomb[..], &bomb[..]].concat());
        assert!(matches!(decode_final(&three), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn nonsense_is_malformed() {
        for payload in [&b""[..], b"x", b"{}", b"[]", b"\x28\xb5\x2f\xfd", b"{\"version\":1}"] {
            let payload = Bytes::from_static(payload);
            assert!(matches!(decode_final(&payload), Err(DecodeError::Malformed { .. })), "{payload:?}");
        }
        let later = Bytes::from_static(b"{\"version\":2}");
        assert!(matches!(decode_final(&later), Err(DecodeError::UnknownVersion { version: 2, .. })));
        let later = zstd::encode_all(&later[..], 1).unwrap().into();
        assert!(matches!(decode_final(&later), Err(DecodeError::UnknownVersion { version: 2, .. })));
    }

    #[test]
    fn a_blob_is_known_by_size_and_digest() {
        let blob = BlobRef::of("ow-results", "a.1.x".into(), b"bytes");
        assert!(blob.is_of(b"bytes"));
        assert!(!blob.is_of(b"bytez"));
        assert!(matches!(decode_final(&encode_stored(&blob)), Ok(Final::Stored(read)) if read == blob));
    }
}
