//! Tags that prove who made a job, a result or a question to the vault.
//!
//! Every tag is HMAC-SHA256 over one layout:
//!
//! ```text
//! len(domain) || domain || len(field 1) || field 1 || ... || len(field n) || field n
//! ```
//!
//! where each `len` is 8 bytes, big-endian. Lengths make fields impossible to shift into one another; the domain makes a
//! tag of one use worthless in another.
//!
//! | use | domain | fields | key |
//! |---|---|---|---|
//! | job | `openwatch.job.v1` | lane, payload | queue key |
//! | result by a worker | `openwatch.worker-result.v1` | part, subject, payload | executor key |
//! | question to the vault | `openwatch.vault-request.v1` | request | executor key |
//! | its answer | `openwatch.vault-answer.v1` | request, answer | executor key |
//! | result of an attempt | `openwatch.attempt-result.v1` | part, subject, payload | result key of that attempt |

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use openwatch_model::ScanId;
use openwatch_model::scan::Rejection;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::KeyId;
use crate::key::Key;

/// What a layout is for. See the table at the top.
#[derive(Clone, Copy)]
pub(crate) enum Domain {
    Job,
    WorkerResult,
    VaultRequest,
    VaultAnswer,
    AttemptResult,
}

impl Domain {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Job => b"openwatch.job.v1",
            Self::WorkerResult => b"openwatch.worker-result.v1",
            Self::VaultRequest => b"openwatch.vault-request.v1",
            Self::VaultAnswer => b"openwatch.vault-answer.v1",
            Self::AttemptResult => b"openwatch.attempt-result.v1",
        }
    }
}

/// An HMAC-SHA256 tag; 64 lower-case hex digits as text. Not secret. Compares in constant time.
#[derive(Clone, Copy, Debug)]
pub struct Tag([u8; 32]);

impl Tag {
    /// The bytes, for a column.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From a column.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for Tag {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Tag {}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for Tag {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tag = [0; 32];
        hex::decode_to_slice(text, &mut tag).map_err(|_| MacError::Mismatch)?;
        Ok(Self(tag))
    }
}

/// A tag and the name of the key that made it: what travels in the headers `Ow-Kid` and `Ow-Mac`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// Value of `Ow-Kid`.
    pub kid: KeyId,
    /// Value of `Ow-Mac`.
    pub tag: Tag,
}

impl Signed {
    /// Reads the two headers.
    ///
    /// # Errors
    /// `Missing` without either; `UnknownKey` when the key id is no key id; `Mismatch` when the tag is no tag.
    pub fn from_headers(kid: Option<&str>, tag: Option<&str>) -> Result<Self, MacError> {
        let (Some(kid), Some(tag)) = (kid, tag) else { return Err(MacError::Missing) };
        Ok(Self { kid: kid.parse().map_err(|_| MacError::UnknownKey)?, tag: tag.parse()? })
    }
}

/// Why a message is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// No tag or no key id.
    #[error("verify the message: it carries no tag or no key id")]
    Missing,
    /// Signed with a key that this process does not hold.
    #[error("verify the message: its key id names no key of this process; reload or issue its key file")]
    UnknownKey,
    /// The tag is not that of these bytes.
    #[error("verify the message: its tag does not match its bytes")]
    Mismatch,
}

impl From<MacError> for Rejection {
    fn from(error: MacError) -> Self {
        match error {
            MacError::Missing => Self::PayloadMissingHmac,
            MacError::UnknownKey => Self::UnknownKey,
            MacError::Mismatch => Self::HmacMismatch,
        }
    }
}

/// The key that proves the outcomes of one attempt at one scan. The vault makes it and releases it together with the
/// secret, the writer makes it again; a worker that was given no secret has none.
pub struct ResultKey {
    pub(crate) kid: KeyId,
    pub(crate) key: Key,
}

impl ResultKey {
    /// HKDF-SHA256 of the result root, info `openwatch-result-v1 || scan (16 bytes) || attempt (4 bytes, big-endian)`.
    pub(crate) fn derive(kid: KeyId, root: &Key, scan: ScanId, attempt: u32) -> Self {
        let info = [b"openwatch-result-v1".as_slice(), scan.0.as_bytes(), &attempt.to_be_bytes()];
        Self { kid, key: root.derive(&info) }
    }

    /// Name of the data-encryption key behind it.
    pub fn kid(&self) -> KeyId {
        self.kid
    }

    /// Signs a result. The subject is the whole subject it is published on.
    pub fn sign(&self, part: &str, subject: &str, payload: &[u8]) -> Signed {
        let fields = [part.as_bytes(), subject.as_bytes(), payload];
        Signed { kid: self.kid, tag: sign(&self.key, Domain::AttemptResult, &fields) }
    }

    /// Verifies a result in constant time.
    ///
    /// # Errors
    /// `UnknownKey` when it names another key, `Mismatch` when the tag is not that of these bytes.
    pub fn verify(&self, part: &str, subject: &str, payload: &[u8], signed: &Signed) -> Result<(), MacError> {
        if signed.kid != self.kid {
            return Err(MacError::UnknownKey);
        }
        verify(&self.key, Domain::AttemptResult, &[part.as_bytes(), subject.as_bytes(), payload], &signed.tag)
    }
}

pub(crate) fn sign(key: &Key, domain: Domain, fields: &[&[u8]]) -> Tag {
    Tag(feed(key, domain, fields).finalize().into_bytes().into())
}

pub(crate) fn verify(key: &Key, domain: Domain, fields: &[&[u8]], tag: &Tag) -> Result<(), MacError> {
    feed(key, domain, fields).verify_slice(&tag.0).map_err(|_| MacError::Mismatch)
}

fn feed(key: &Key, domain: Domain, fields: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.bytes()).expect("HMAC takes keys of any length");
    for field in std::iter::once(&domain.as_bytes()).chain(fields) {
        mac.update(&(field.len() as u64).to_be_bytes());
        mac.update(field);
    }
    mac
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::copy_of(&[byte; 32])
    }

    /// Computed independently with Python's `hmac` from the layout in the module's text.
    #[test]
    fn golden_tags() {
        let job = sign(&key(1), Domain::Job, &[b"manual", b"{}"]);
        assert_eq!(job.to_string(), "ce83be02b173f38edbcc7e5d04065b1de94ed318792c6993019227ba89540a36");
        let request = sign(&key(1), Domain::VaultRequest, &[b"{}"]);
        assert_eq!(request.to_string(), "070d1b7d275b42967ce6ab84fc61bcefb8dce9f592e134692b4221b13225ae10");
        let fields: [&[u8]; 3] = [b"final", b"ow.v1.result.final.h.s", b"{}"];
        assert_eq!(
            sign(&key(1), Domain::WorkerResult, &fields).to_string(),
            "f716a1c7c21c1794f9ed4e3d02d9bd4504363ba086899e56583e8c636ab72b76"
        );
        assert_eq!(
            sign(&key(1), Domain::AttemptResult, &fields).to_string(),
            "4dff804d48e82c5471dc4fe1a7b2045433270ab664bf0e014a4a4cb1631775aa"
        );
    }

    #[test]
    fn golden_result_key() {
        let result = ResultKey::derive(KeyId([0; 8]), &key(1), ScanId(Uuid::from_u128(5)), 2);
        assert_eq!(
            hex::encode(result.key.bytes()),
            "c847fed9253cc77ab0658b268b9002b228f3953c15cb4494fb42fbf1e2d428da"
        );
    }

    #[test]
    fn a_result_key_serves_one_attempt_at_one_scan() {
        let make = |scan: u128, attempt| {
            ResultKey::derive(KeyId([0; 8]), &key(1), ScanId(Uuid::from_u128(scan)), attempt)
        };
        let signed = make(1, 1).sign("final", "s", b"x");
        assert_eq!(make(1, 1).verify("final", "s", b"x", &signed), Ok(()));
        for other in [make(1, 2), make(2, 1)] {
            assert_eq!(other.verify("final", "s", b"x", &signed), Err(MacError::Mismatch));
        }
        for (part, subject, payload) in [("started", "s", "x"), ("final", "t", "x"), ("final", "s", "y")] {
            let verdict = make(1, 1).verify(part, subject, payload.as_bytes(), &signed);
            assert_eq!(verdict, Err(MacError::Mismatch));
        }
        let foreign = Signed { kid: KeyId([1; 8]), ..signed };
        assert_eq!(make(1, 1).verify("final", "s", b"x", &foreign), Err(MacError::UnknownKey));
    }

    #[test]
    fn headers_are_read_strictly() {
        let (kid, tag) = ("0011223344556677", "ab".repeat(32));
        let signed = Signed::from_headers(Some(kid), Some(&tag)).unwrap();
        assert_eq!((signed.kid.to_string(), signed.tag.to_string()), (kid.into(), tag.clone()));
        let cases = [
            (None, Some(tag.as_str()), MacError::Missing),
            (Some(kid), None, MacError::Missing),
            (Some("00"), Some(tag.as_str()), MacError::UnknownKey),
            (Some(kid), Some("ab"), MacError::Mismatch),
            (Some(kid), Some(""), MacError::Mismatch),
        ];
        for (kid, tag, expect) in cases {
            assert_eq!(Signed::from_headers(kid, tag), Err(expect));
        }
    }

    proptest! {
        /// Moving bytes from one field to the next, or one domain to another, never keeps the tag.
        #[test]
        fn fields_cannot_shift(bytes in proptest::collection::vec(any::<u8>(), 1..64), at: prop::sample::Index) {
            let at = at.index(bytes.len());
            let whole = sign(&key(1), Domain::Job, &[&bytes, b""]);
            let (head, tail) = bytes.split_at(at);
            prop_assert_ne!(sign(&key(1), Domain::Job, &[head, tail]), whole);
            prop_assert_ne!(sign(&key(1), Domain::VaultRequest, &[&bytes, b""]), whole);
        }
    }
}
