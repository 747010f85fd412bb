//! Ed25519 keys that sign policies, revocation lists and corpora, and the list of those that are trusted.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::dsse;
use crate::files::{KeyFileError, create_secret, read_public, read_secret, replace_public};
use crate::key::Key;

/// SHA-256 of the 32 bytes of a public key; 64 lower-case hex digits as text (POL-12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the fingerprint: it must be 64 hex digits")]
pub struct BadFingerprint;

impl FromStr for Fingerprint {
    type Err = BadFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| BadFingerprint)?;
        Ok(Self(bytes))
    }
}

/// A private signing key. It belongs to people who write policies, not to any running process.
pub struct PolicyKey {
    name: String,
    seed: Key,
}

/// As written; texts are borrowed from bytes that are wiped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyKeyText<'a> {
    name: String,
    openwatch_policy_key: &'a str,
}

impl PolicyKey {
    /// A fresh key; the name is for people and ends up in the list of trusted keys.
    pub fn generate(name: &str) -> Self {
        Self { name: name.to_owned(), seed: Key::generate() }
    }

    /// Reads one from its file.
    ///
    /// # Errors
    /// When it is missing, open to group or others, or not a signing key.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_secret(path)?;
        let text: PolicyKeyText<'_> = serde_json::from_slice(&bytes).map_err(|error| {
            KeyFileError::json(path, "a key that `openwatch policy keygen` writes", &error)
        })?;
        let seed = Key::from_hex(text.openwatch_policy_key);
        let seed = seed.ok_or_else(|| KeyFileError::malformed(path, "the key in it is not 64 hex digits"))?;
        Ok(Self { name: text.name, seed })
    }

    /// Writes it to a new file of mode 0600.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let name = serde_json::Value::from(self.name.as_str()).to_string();
        let mut digits = Zeroizing::new([0; 64]);
        hex::encode_to_slice(self.seed.bytes(), &mut *digits).expect("64 digits are what 32 bytes take");
        let mut text = Zeroizing::new(Vec::with_capacity(name.len() + 128));
        text.extend_from_slice(b"{\"name\": ");
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b", \"openwatch_policy_key\": \"");
        text.extend_from_slice(&*digits);
        text.extend_from_slice(b"\"}\n");
        create_secret(path, &text)
    }

    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its public half, for the list of trusted keys.
    pub fn trusted(&self) -> TrustedKey {
        TrustedKey { name: self.name.clone(), key: self.signing_key().verifying_key() }
    }

    /// The fingerprint of its public half.
    pub fn fingerprint(&self) -> Fingerprint {
        self.trusted().fingerprint()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing_key().sign(message).to_bytes()
    }

    /// Made for each use: the library's type wipes itself, but can be cloned and moved.
    fn signing_key(&self) -> SigningKey {
        SigningKey::from_bytes(self.seed.bytes())
    }

    #[cfg(test)]
    pub(crate) fn from_seed(name: &str, seed: [u8; 32]) -> Self {
        Self { name: name.to_owned(), seed: Key::copy_of(&seed) }
    }
}

/// A public key whose signatures count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKey {
    name: String,
    key: VerifyingKey,
}

impl TrustedKey {
    /// The name it goes by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.key.as_bytes()).into())
    }

    /// Its 32 bytes in base64, as in the file.
    pub fn public_key(&self) -> String {
        STANDARD.encode(self.key.as_bytes())
    }

    /// Strict: refuses the malleable and the low-order variants that plain verification lets through.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.key.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TrustedKeyText {
    name: String,
    public_key: String,
}

/// Why a list of keys cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustedKeysError {
    /// Not JSON of this form.
    #[error("read the trusted keys: not a JSON list of {{name, public_key}} (line {line}, column {column})")]
    Format {
        /// Where, from 1.
        line: usize,
        /// Where, from 1.
        column: usize,
    },
    /// One of them is no Ed25519 key, or one that anybody can sign for.
    #[error("read the trusted keys: `{0}` is not the base64 of a usable Ed25519 public key")]
    BadKey(String),
    /// The same key twice.
    #[error("read the trusted keys: `{0}` is listed twice")]
    Twice(String),
    /// Nothing could ever be accepted.
    #[error("read the trusted keys: the list is empty")]
    Empty,
}

/// The keys whose signatures count: usually the present one and the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedKeys(Vec<TrustedKey>);

impl TrustedKeys {
    /// From keys in memory.
    ///
    /// # Errors
    /// When there is none, one is weak, or one is there twice.
    pub fn new(keys: Vec<TrustedKey>) -> Result<Self, TrustedKeysError> {
        if keys.is_empty() {
            return Err(TrustedKeysError::Empty);
        }
        for (index, key) in keys.iter().enumerate() {
            if key.key.is_weak() {
                return Err(TrustedKeysError::BadKey(key.name.clone()));
            }
            if keys[..index].iter().any(|earlier| earlier.key == key.key) {
                return Err(TrustedKeysError::Twice(key.name.clone()));
            }
        }
        Ok(Self(keys))
    }

    /// From the text of the file: a JSON list of `{"name": "...", "public_key": "<base64>"}`.
    ///
    /// # Errors
    /// As [`TrustedKeys::new`], and when the text is something else.
    pub fn parse(text: &[u8]) -> Result<Self, TrustedKeysError> {
        let entries: Vec<TrustedKeyText> = serde_json::from_slice(text)
            .map_err(|error| TrustedKeysError::Format { line: error.line(), column: error.column() })?;
        let read = |entry: TrustedKeyText| {
            let bytes = STANDARD.decode(&entry.public_key).ok();
            let key = bytes.and_then(|bytes| VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok());
            match key {
                Some(key) => Ok(TrustedKey { name: entry.name, key }),
                None => Err(TrustedKeysError::BadKey(entry.name)),
            }
        };
        Self::new(entries.into_iter().map(read).collect::<Result<_, _>>()?)
    }

    /// Reads the file, which only its owner may be able to change.
    ///
    /// # Errors
    /// When it is missing, writable by others, or not such a list.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let text = read_public(path)?;
        Self::parse(&text).map_err(|error| KeyFileError::malformed(path, error.to_string()))
    }

    /// Writes the file (mode 0644) in the place of an earlier one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let entry =
            |key: &TrustedKey| TrustedKeyText { name: key.name.clone(), public_key: key.public_key() };
        let mut text = dsse::to_json(&self.0.iter().map(entry).collect::<Vec<_>>(), true);
        text.push(b'\n');
        replace_public(path, &text)
    }

    /// All of them, in the order of the file.
    pub fn keys(&self) -> &[TrustedKey] {
        &self.0
    }

    /// The one with this fingerprint.
    pub fn get(&self, fingerprint: &Fingerprint) -> Option<&TrustedKey> {
        self.0.iter().find(|key| key.fingerprint() == *fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signing_key_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("policy.key");
        let made = PolicyKey::generate("ops \"2026\"");
        made.save(&path).unwrap();
        let read = PolicyKey::load(&path).unwrap();
        assert_eq!((read.name(), read.fingerprint()), (made.name(), made.fingerprint()));
        assert_eq!(read.sign(b"x"), made.sign(b"x"));
        assert!(made.save(&path).is_err());
    }

    #[test]
    fn trusted_keys_survive_their_file_and_bad_lists_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("trusted.json");
        let keys = ["a", "b"].map(PolicyKey::generate);
        let list = TrustedKeys::new(keys.iter().map(PolicyKey::trusted).collect()).unwrap();
        list.save(&path).unwrap();
        assert_eq!(TrustedKeys::load(&path).unwrap(), list);
        assert_eq!(list.get(&keys[1].fingerprint()).map(TrustedKey::name), Some("b"));

        // The neutral element: any message has a signature under it.
        let mut weak = [0; 32];
        weak[0] = 1;
        let weak = format!(r#"[{{"name":"w","public_key":"{}"}}]"#, STANDARD.encode(weak));
        assert_eq!(TrustedKeys::parse(weak.as_bytes()), Err(TrustedKeysError::BadKey("w".into())));
        let public = keys[0].trusted().public_key();
        let twice =
            format!(r#"[{{"name":"x","public_key":"{public}"}},{{"name":"y","public_key":"{public}"}}]"#);
        assert_eq!(TrustedKeys::parse(twice.as_bytes()), Err(TrustedKeysError::Twice("y".into())));
        assert_eq!(TrustedKeys::parse(b"[]"), Err(TrustedKeysError::Empty));
        assert!(matches!(TrustedKeys::parse(b"{}"), Err(TrustedKeysError::Format { .. })));
        let short = TrustedKeys::parse(br#"[{"name":"s","public_key":"AAAA"}]"#);
        assert_eq!(short, Err(TrustedKeysError::BadKey("s".into())));
    }

    /// RFC 8032, section 7.1, test 2.
    #[test]
    fn signatures_and_fingerprints_are_the_standard_ones() {
        let seed = "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb";
        let key = PolicyKey { name: "rfc".into(), seed: Key::from_hex(seed).unwrap() };
        let public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        assert_eq!(hex::encode(key.trusted().key.as_bytes()), public);
        assert_eq!(
            hex::encode(key.sign(&[0x72])),
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
        );
        assert_eq!(
            key.fingerprint().to_string(),
            "39f713d0a644253f04529421b9f51b9b08979d08295959c4f3990ee617f5139f"
        );
        assert_eq!(key.fingerprint().to_string().parse(), Ok(key.fingerprint()));
    }
}
