//! Signing keys that no longer count.
//!
//! The list is a signed JSON document, `{"sequence": 3, "revoked": ["<fingerprint>", ...]}`, beside its detached
//! signature. It only ever grows: a list with a lower sequence, or one that forgets a key, is refused (POL-13).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::dsse::{self, SignatureRefused};
use crate::policy::signature_path;
use crate::signer::{Fingerprint, PolicyKey, TrustedKeys};

/// Payload type of a revocation list.
pub const REVOCATIONS_TYPE: &str = "application/vnd.openwatch.revocations+json";
/// Largest revocation list.
pub const REVOCATIONS_LIMIT: usize = 256 * 1024;

/// Why a revocation list is not taken over. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum RevocationsRefused {
    /// The file or its signature cannot be read. One that was configured and is gone must not give keys back.
    #[error("read the revocation list `{}`: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Larger than [`REVOCATIONS_LIMIT`].
    #[error("read the revocation list: it has more than 256 KiB")]
    TooLarge,
    /// Unsigned, or signed by no key that counts.
    #[error("accept the revocation list: {0}")]
    Signature(#[from] SignatureRefused),
    /// Not of the form at the top of this module.
    #[error("read the revocation list: not {{sequence, revoked}} (line {line}, column {column})")]
    Format {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// An entry that is no fingerprint.
    #[error("read the revocation list: entry {0} is not a fingerprint of 64 hex digits")]
    BadFingerprint(usize),
    /// Signed by a key that it revokes itself, so whoever stole that key could have made it.
    #[error(
        "accept the revocation list: it is signed by key {0}, which it revokes; sign it with another trusted key"
    )]
    SelfSigned(Fingerprint),
    /// Older than the one in force, or another one with the same sequence.
    #[error("accept the revocation list: sequence {found} does not follow {in_force}")]
    Regression {
        /// Its sequence.
        found: u64,
        /// The sequence in force.
        in_force: u64,
    },
    /// It forgets a key.
    #[error("accept the revocation list: it no longer revokes key {0}; lists only grow")]
    Shrunk(Fingerprint),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListText {
    sequence: u64,
    revoked: Vec<String>,
}

/// The revoked keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    sequence: u64,
    revoked: BTreeSet<Fingerprint>,
}

impl Revocations {
    /// The list of an installation that has none (POL-02).
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a list and the signature beside it, and verifies them as [`Revocations::verify`] does.
    ///
    /// # Errors
    /// See [`RevocationsRefused`]; a missing file is one.
    pub fn load(path: &Path, trusted: &TrustedKeys, in_force: &Self) -> Result<Self, RevocationsRefused> {
        let read = |path: PathBuf| {
            std::fs::read(&path).map_err(|source| RevocationsRefused::Unreadable { path, source })
        };
        let (document, signature) = (read(path.into())?, read(signature_path(path))?);
        Self::verify(&document, &signature, trusted, in_force)
    }

    /// Verifies a list and checks that it follows the one in force. The same list again is accepted.
    ///
    /// # Errors
    /// See [`RevocationsRefused`]; keep using the list in force then.
    pub fn verify(
        document: &[u8],
        signature: &[u8],
        trusted: &TrustedKeys,
        in_force: &Self,
    ) -> Result<Self, RevocationsRefused> {
        if document.len() > REVOCATIONS_LIMIT {
            return Err(RevocationsRefused::TooLarge);
        }
        let signer = dsse::verify(REVOCATIONS_TYPE, document, signature, trusted, in_force)?;
        let list = Self::stored(document)?;
        if list.has(&signer) {
            return Err(RevocationsRefused::SelfSigned(signer));
        }
        if let Some(forgotten) = in_force.revoked.difference(&list.revoked).next() {
            return Err(RevocationsRefused::Shrunk(*forgotten));
        }
        if list.sequence < in_force.sequence || (list.sequence == in_force.sequence && list != *in_force) {
            let (found, in_force) = (list.sequence, in_force.sequence);
            return Err(RevocationsRefused::Regression { found, in_force });
        }
        Ok(list)
    }

    /// A list that was accepted before and kept: read, not verified again, for its signer may have gone since. It can only
    /// take keys away.
    ///
    /// # Errors
    /// When it is not of the form at the top of this module.
    pub fn stored(document: &[u8]) -> Result<Self, RevocationsRefused> {
        if document.len() > REVOCATIONS_LIMIT {
            return Err(RevocationsRefused::TooLarge);
        }
        let text: ListText = serde_json::from_slice(document)
            .map_err(|error| RevocationsRefused::Format { line: error.line(), column: error.column() })?;
        let mut revoked = BTreeSet::new();
        for (index, entry) in text.revoked.iter().enumerate().filter(|(_, entry)| !entry.is_empty()) {
            revoked.insert(entry.parse().map_err(|_| RevocationsRefused::BadFingerprint(index))?);
        }
        Ok(Self { sequence: text.sequence, revoked })
    }

    /// Both: what either of them revokes.
    pub fn merged(&self, other: &Self) -> Self {
        let revoked = self.revoked.union(&other.revoked).copied().collect();
        Self { sequence: self.sequence.max(other.sequence), revoked }
    }

    /// All of them, in order.
    pub fn fingerprints(&self) -> impl Iterator<Item = &Fingerprint> {
        self.revoked.iter()
    }

    /// This list with one more key, ready to be signed: the document and its signature.
    pub fn revoke(&self, key: Fingerprint, signer: &PolicyKey) -> (Vec<u8>, Vec<u8>) {
        let mut revoked = self.revoked.clone();
        revoked.insert(key);
        let revoked = revoked.iter().map(ToString::to_string).collect();
        let mut document = dsse::to_json(&ListText { sequence: self.sequence + 1, revoked }, true);
        document.push(b'\n');
        let signature = dsse::sign(REVOCATIONS_TYPE, &document, signer);
        (document, signature)
    }

    /// Whether a key is revoked.
    pub fn has(&self, key: &Fingerprint) -> bool {
        self.revoked.contains(key)
    }

    /// How many keys are revoked.
    pub fn len(&self) -> usize {
        self.revoked.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty()
    }

    /// The number of the list; 0 when there is none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> ([PolicyKey; 3], TrustedKeys) {
        let keys = ["a", "b", "c"].map(PolicyKey::generate);
        let trusted = TrustedKeys::new(keys.iter().map(PolicyKey::trusted).collect()).unwrap();
        (keys, trusted)
    }

    #[test]
    fn no_list_revokes_nothing() {
        let (keys, _) = world();
        let none = Revocations::none();
        assert_eq!(none.len(), 0);
        assert!(none.is_empty() && !none.has(&keys[0].fingerprint()));
    }

    #[test]
    fn a_list_grows_and_never_shrinks() {
        let ([a, b, c], trusted) = world();
        let none = Revocations::none();
        let (document, signature) = none.revoke(a.fingerprint(), &b);
        let one = Revocations::verify(&document, &signature, &trusted, &none).unwrap();
        assert!(one.has(&a.fingerprint()) && one.len() == 1);
        assert_eq!(Revocations::verify(&document, &signature, &trusted, &one).unwrap(), one, "again");

        let (document, signature) = one.revoke(b.fingerprint(), &c);
        let two = Revocations::verify(&document, &signature, &trusted, &one).unwrap();
        assert_eq!((two.len(), two.sequence()), (2, 2));

        // Signed by a key that still counts, but it forgets `b`.
        let (document, signature) = none.revoke(a.fingerprint(), &c);
        let shrunk = Revocations::verify(&document, &signature, &trusted, &two);
        assert!(matches!(shrunk, Err(RevocationsRefused::Shrunk(key)) if key == b.fingerprint()));
    }

    #[test]
    fn lists_by_revoked_keys_and_older_lists_are_refused() {
        let ([a, b, _], trusted) = world();
        let none = Revocations::none();
        let (document, signature) = none.revoke(a.fingerprint(), &a);
        let verdict = Revocations::verify(&document, &signature, &trusted, &none);
        assert!(matches!(verdict, Err(RevocationsRefused::SelfSigned(key)) if key == a.fingerprint()));

        let (document, signature) = none.revoke(a.fingerprint(), &b);
        let one = Revocations::verify(&document, &signature, &trusted, &none).unwrap();
        let (document, signature) = one.revoke(b.fingerprint(), &a);
        let verdict = Revocations::verify(&document, &signature, &trusted, &one);
        let revoked = SignatureRefused::Revoked(a.fingerprint());
        assert!(matches!(verdict, Err(RevocationsRefused::Signature(why)) if why == revoked));

        let text = dsse::to_json(&ListText { sequence: 0, revoked: vec![a.fingerprint().to_string()] }, true);
        let verdict = Revocations::verify(&text, &dsse::sign(REVOCATIONS_TYPE, &text, &b), &trusted, &one);
        assert!(matches!(verdict, Err(RevocationsRefused::Regression { found: 0, in_force: 1 })));
    }

    #[test]
    fn empty_entries_are_ignored_and_bad_ones_refused() {
        let ([a, ..], trusted) = world();
        let check = |text: &str| {
            let signature = dsse::sign(REVOCATIONS_TYPE, text.as_bytes(), &a);
            Revocations::verify(text.as_bytes(), &signature, &trusted, &Revocations::none())
        };
        assert!(check(r#"{"sequence": 1, "revoked": ["", ""]}"#).unwrap().is_empty());
        let bad = check(r#"{"sequence": 1, "revoked": ["", "zz"]}"#);
        assert!(matches!(bad, Err(RevocationsRefused::BadFingerprint(1))));
        assert!(matches!(check(r#"{"sequence": 1}"#), Err(RevocationsRefused::Format { .. })));
        assert!(matches!(check("{"), Err(RevocationsRefused::Format { .. })));
    }

    #[test]
    fn a_list_that_is_gone_is_refused() {
        let ([a, b, _], trusted) = world();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("revoked.json");
        let none = Revocations::none();
        let gone = Revocations::load(&path, &trusted, &none);
        assert!(matches!(gone, Err(RevocationsRefused::Unreadable { .. })));
        let (document, signature) = none.revoke(a.fingerprint(), &b);
        std::fs::write(&path, document).unwrap();
        assert!(Revocations::load(&path, &trusted, &none).is_err(), "unsigned");
        std::fs::write(signature_path(&path), signature).unwrap();
        assert!(Revocations::load(&path, &trusted, &none).unwrap().has(&a.fingerprint()));
    }
}
