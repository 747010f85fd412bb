//! The signed policy: what it takes for `schedules.yaml` to be followed.
//!
//! Checks run in this order, and the first one that fails names the class (POL-06): the document is there, its size, the
//! signature document, a trusted key, not revoked, the signature over the exact bytes; only then is anything read from it:
//! version, schema, bounds. Nothing here remembers anything: the caller brings the highest accepted version and, after an
//! acceptance, stores the document before it follows it.

mod yaml;

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use openwatch_model::policy::{Policy, parse_version};
use openwatch_model::schedule::Clamp;

use crate::dsse::{self, SignatureRefused};
use crate::revocation::{Revocations, RevocationsRefused};
use crate::signer::{Fingerprint, PolicyKey, TrustedKeys};

/// Payload type of a policy.
pub const POLICY_TYPE: &str = "application/vnd.openwatch.schedules+yaml";
/// Largest policy (POL-18).
pub const POLICY_LIMIT: usize = 256 * 1024;

/// Why a policy is refused, as one of a closed set (POL-04).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalClass {
    /// There is no document.
    PolicyMissing,
    /// Unsigned, signed by an unknown key, or not what was signed.
    SignatureInvalid,
    /// Signed with a key that no longer counts.
    RevokedKey,
    /// Signed, but not a policy that can be followed.
    ParseError,
    /// Not newer than the one in force.
    VersionRegression,
}

impl RefusalClass {
    /// The audit and event value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PolicyMissing => "policy_missing",
            Self::SignatureInvalid => "signature_invalid",
            Self::RevokedKey => "revoked_key",
            Self::ParseError => "parse_error",
            Self::VersionRegression => "version_regression",
        }
    }
}

/// A policy that is not followed. The one in force stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRefused {
    /// Which kind of reason.
    pub class: RefusalClass,
    /// What exactly, and what to do.
    pub detail: String,
    /// The revoked key that signed it, where that is the reason.
    pub fingerprint: Option<Fingerprint>,
    /// The version it claims; `None` before its signature was verified.
    pub attempted_version: Option<String>,
}

impl fmt::Display for PolicyRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "accept the policy")?;
        if let Some(version) = &self.attempted_version {
            write!(f, " {version}")?;
        }
        write!(f, ": {}: {}", self.class.as_str(), self.detail)
    }
}

impl std::error::Error for PolicyRefused {}

/// A policy that passed every check.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifiedPolicy {
    /// What it says.
    pub policy: Policy,
    /// Intervals that were out of bounds and are used clamped; worth telling, no reason to refuse.
    pub clamps: Vec<Clamp>,
    /// Its version.
    pub version: String,
    /// The key that verified it.
    pub key_fingerprint: Fingerprint,
    /// Its exact bytes, for `policy_history`.
    pub document: Vec<u8>,
    /// It is, byte for byte, the one already accepted: no event, no history (POL-07).
    pub unchanged: bool,
}

/// The newest policy ever accepted, from `policy_history` (POL-08).
#[derive(Clone, Copy, Debug)]
pub struct Accepted<'a> {
    /// Its version.
    pub version: &'a str,
    /// Its exact bytes.
    pub document: &'a [u8],
}

/// The bytes of a policy and its detached signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedDocument {
    /// The document.
    pub document: Vec<u8>,
    /// The signature document.
    pub signature: Vec<u8>,
}

/// Where the signature of a document lies: beside it, with `.sig` appended.
pub fn signature_path(document: &Path) -> PathBuf {
    let mut name = document.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Reads a document and the signature beside it, neither further than its limit.
///
/// # Errors
/// `policy_missing` without the document, `signature_invalid` without the signature, each when unreadable too.
pub fn read(path: &Path) -> Result<SignedDocument, PolicyRefused> {
    let document =
        read_limited(path, POLICY_LIMIT).map_err(|why| refuse(RefusalClass::PolicyMissing, why))?;
    let signature = read_limited(&signature_path(path), dsse::SIGNATURE_LIMIT);
    let signature = signature.map_err(|why| {
        refuse(RefusalClass::SignatureInvalid, format!("{why}; sign it with `openwatch policy sign`"))
    })?;
    Ok(SignedDocument { document, signature })
}

/// One byte over the limit is read, so that the check for size still sees that it is too large.
fn read_limited(path: &Path, limit: usize) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map(|_| bytes)
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("there is no file `{}`", path.display()),
            _ => format!("`{}` cannot be read: {error}", path.display()),
        })
}

/// Decides whether a policy is to be followed; the order of the checks is at the top of this module.
///
/// # Errors
/// The first check that fails.
pub fn verify(
    document: &[u8],
    signature: &[u8],
    trusted: &TrustedKeys,
    revoked: &Revocations,
    accepted: Option<Accepted<'_>>,
) -> Result<VerifiedPolicy, PolicyRefused> {
    if document.is_empty() {
        return Err(refuse(RefusalClass::PolicyMissing, "the document is empty"));
    }
    check_size(document)?;
    let key_fingerprint = dsse::verify(POLICY_TYPE, document, signature, trusted, revoked)
        .map_err(|error| told_of(document, &error))?;
    let version = yaml::version(document).map_err(|why| refuse(RefusalClass::ParseError, why))?;
    let unchanged = accepted.is_some_and(|in_force| in_force.document == document);
    let told = |mut refusal: PolicyRefused| {
        refusal.attempted_version = Some(version.clone());
        refusal
    };
    if let Some(in_force) = accepted.filter(|_| !unchanged) {
        check_version(&version, in_force.version).map_err(told)?;
    }
    let (policy, clamps) = check_document(document).map_err(told)?;
    let document = document.to_vec();
    Ok(VerifiedPolicy { policy, clamps, version, key_fingerprint, document, unchanged })
}

/// Reads a document as [`verify`] does after the signature: what `policy verify` and [`sign`] tell an author.
///
/// # Errors
/// `parse_error` with every problem found.
pub fn check_document(document: &[u8]) -> Result<(Policy, Vec<Clamp>), PolicyRefused> {
    check_size(document)?;
    yaml::document(document).map_err(|why| refuse(RefusalClass::ParseError, why))
}

/// Signs a policy: the content of the file beside it.
///
/// # Errors
/// When no process would follow it anyway.
pub fn sign(document: &[u8], key: &PolicyKey) -> Result<Vec<u8>, PolicyRefused> {
    check_document(document)?;
    Ok(dsse::sign(POLICY_TYPE, document, key))
}

/// The policy that a fresh single machine starts with: valid, commented, not signed.
pub fn default_policy_yaml() -> &'static str {
    include_str!("policy/default.yaml")
}

fn check_size(document: &[u8]) -> Result<(), PolicyRefused> {
    if document.len() > POLICY_LIMIT {
        return Err(refuse(RefusalClass::ParseError, "the document has more than 256 KiB"));
    }
    Ok(())
}

fn check_version(attempted: &str, in_force: &str) -> Result<(), PolicyRefused> {
    // A stored version that cannot be read any more must not let everything through.
    if parse_version(in_force).is_some_and(|in_force| parse_version(attempted) > Some(in_force)) {
        return Ok(());
    }
    let detail = if attempted == in_force {
        format!(
            "another document with version {in_force} was accepted before; raise the version and sign again"
        )
    } else {
        format!("version {in_force} was accepted before; raise the version above it and sign again")
    };
    Err(refuse(RefusalClass::VersionRegression, detail))
}

/// A revoked signer is told with its key and with the version that the document claims: somebody has, or had, that key.
fn told_of(document: &[u8], error: &SignatureRefused) -> PolicyRefused {
    let refusal = refuse(class_of(error), error.to_string());
    match error {
        SignatureRefused::Revoked(key) => PolicyRefused {
            fingerprint: Some(*key),
            attempted_version: yaml::version(document).ok(),
            ..refusal
        },
        _ => refusal,
    }
}

fn class_of(refused: &SignatureRefused) -> RefusalClass {
    match refused {
        SignatureRefused::Revoked(_) => RefusalClass::RevokedKey,
        SignatureRefused::Malformed
        | SignatureRefused::WrongType { .. }
        | SignatureRefused::UnknownSigner
        | SignatureRefused::Invalid(_) => RefusalClass::SignatureInvalid,
    }
}

impl From<&RevocationsRefused> for PolicyRefused {
    /// A list of revoked keys that cannot be taken over stands in the way of every policy.
    fn from(error: &RevocationsRefused) -> Self {
        let class = match error {
            RevocationsRefused::Unreadable { .. } | RevocationsRefused::SelfSigned(_) => {
                RefusalClass::SignatureInvalid
            }
            RevocationsRefused::Signature(signature) => class_of(signature),
            RevocationsRefused::TooLarge
            | RevocationsRefused::Format { .. }
            | RevocationsRefused::BadFingerprint(_) => RefusalClass::ParseError,
            RevocationsRefused::Regression { .. } | RevocationsRefused::Shrunk(_) => {
                RefusalClass::VersionRegression
            }
        };
        refuse(class, error.to_string())
    }
}

fn refuse(class: RefusalClass, detail: impl Into<String>) -> PolicyRefused {
    PolicyRefused { class, detail: detail.into(), fingerprint: None, attempted_version: None }
}

#[cfg(test)]
mod tests;
