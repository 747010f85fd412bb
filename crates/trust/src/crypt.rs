//! Credentials at rest.
//!
//! AES-256-GCM under a key derived from the data-encryption key. A stored value is
//!
//! ```text
//! version 0x01 || key id (8 bytes) || nonce (12 random bytes) || ciphertext || tag (16 bytes)
//! ```
//!
//! and its associated data is `version || key id || credential id (16 bytes) || column name`, so that a value copied to
//! another row or column, or relabelled with another key id, does not decrypt (CRD-03, CRD-04).

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use openwatch_model::CredentialId;
use openwatch_model::credential::Secret;
use zeroize::Zeroizing;

use crate::KeyId;
use crate::encoding::{decode_secret, encode_secret};
use crate::key::{Key, random};
use crate::keyring::{KeyNames, VaultKeys};

const VERSION: u8 = 1;
const HEADER: usize = 1 + 8;
const NONCE: usize = 12;
const TAG: usize = 16;

/// Why a stored secret cannot be read. Says which key is missing, never what was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecryptError {
    /// Too short, or a version from the future.
    #[error("decrypt the credential: the stored value has a layout that this version does not know")]
    Layout,
    /// Encrypted with a data-encryption key that is not loaded.
    #[error("decrypt the credential: it needs data-encryption key {0}, which is not loaded")]
    UnknownKey(KeyId),
    /// Altered, or moved here from another row or column.
    #[error("decrypt the credential: the stored value is damaged or belongs to another credential")]
    Damaged,
}

/// The name that binds a value to its column. It is in every stored value: never rename it.
const COLUMN: &str = "ciphertext";

impl VaultKeys {
    /// Encrypts a secret for its credential's row.
    pub fn encrypt_secret(&self, secret: &Secret, credential: CredentialId) -> Vec<u8> {
        self.encrypt_column(&encode_secret(secret, &[]), credential, COLUMN)
    }

    /// Decrypts it.
    ///
    /// # Errors
    /// When it was encrypted for another row or with a key that is not loaded, or was altered.
    pub fn decrypt_secret(&self, stored: &[u8], credential: CredentialId) -> Result<Secret, DecryptError> {
        let bytes = self.decrypt_column(stored, credential, COLUMN)?;
        decode_secret(&bytes).ok_or(DecryptError::Damaged)
    }

    /// Encrypts the same secret again with the current key (CRD-14). Nothing when it already is, and calling it twice is
    /// harmless.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn reencrypt_secret(
        &self,
        stored: &[u8],
        credential: CredentialId,
    ) -> Result<Option<Vec<u8>>, DecryptError> {
        if key_id_of(stored) == Some(self.current()) {
            return Ok(None);
        }
        let secret = self.decrypt_secret(stored, credential)?;
        Ok(Some(self.encrypt_secret(&secret, credential)))
    }
}

/// The key that a stored value needs; `None` when it has no known layout.
pub fn key_id_of(stored: &[u8]) -> Option<KeyId> {
    let (version, rest) = stored.split_first()?;
    let (id, rest) = rest.split_first_chunk()?;
    (*version == VERSION && rest.len() >= NONCE + TAG).then_some(KeyId(*id))
}

pub(crate) fn encrypt(
    kid: KeyId,
    key: &Key,
    plaintext: &[u8],
    credential: CredentialId,
    column: &str,
) -> Vec<u8> {
    encrypt_with(&random(), kid, key, plaintext, credential, column)
}

fn encrypt_with(
    nonce: &[u8; NONCE],
    kid: KeyId,
    key: &Key,
    plaintext: &[u8],
    credential: CredentialId,
    column: &str,
) -> Vec<u8> {
    let mut stored = Vec::with_capacity(HEADER + NONCE + plaintext.len() + TAG);
    stored.push(VERSION);
    stored.extend_from_slice(&kid.0);
    stored.extend_from_slice(nonce);
    let body = stored.len();
    stored.extend_from_slice(plaintext);
    let tag = cipher(key)
        .encrypt_inout_detached(
            nonce.into(),
            &aad(kid, credential, column),
            InOutBuf::from(&mut stored[body..]),
        )
        .expect("a credential is far below the 64 GiB that one nonce can encrypt");
    stored.extend_from_slice(&tag);
    stored
}

pub(crate) fn decrypt<'k>(
    key_of: impl FnOnce(KeyId) -> Option<&'k Key>,
    stored: &[u8],
    credential: CredentialId,
    column: &str,
) -> Result<Zeroizing<Vec<u8>>, DecryptError> {
    let kid = key_id_of(stored).ok_or(DecryptError::Layout)?;
    let key = key_of(kid).ok_or(DecryptError::UnknownKey(kid))?;
    let (nonce, rest) = stored[HEADER..].split_first_chunk::<NONCE>().ok_or(DecryptError::Layout)?;
    let (body, tag) = rest.split_last_chunk::<TAG>().ok_or(DecryptError::Layout)?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    cipher(key)
        .decrypt_inout_detached(
            nonce.into(),
            &aad(kid, credential, column),
            InOutBuf::from(plaintext.as_mut_slice()),
            tag.into(),
        )
        .map_err(|_| DecryptError::Damaged)?;
    Ok(plaintext)
}

fn cipher(key: &Key) -> Aes256Gcm {
    Aes256Gcm::new(key.bytes().into())
}

fn aad(kid: KeyId, credential: CredentialId, column: &str) -> Vec<u8> {
    [&[VERSION], kid.0.as_slice(), credential.0.as_bytes(), column.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{Dek, Deks};

    const ONE: CredentialId = CredentialId(Uuid::from_u128(1));
    const TWO: CredentialId = CredentialId(Uuid::from_u128(2));

    /// Computed independently with Python's `cryptography` from the layout in the module's text.
    #[test]
    fn golden_value() {
        let stored =
            encrypt_with(&[3; 12], KeyId([2; 8]), &Key::copy_of(&[1; 32]), b"hunter2", ONE, "password");
        assert_eq!(
            hex::encode(stored),
            "01020202020202020203030303030303030303030390147aee9af60580d14dc0286f6cf91776939e2060bd0e"
        );
    }

    #[test]
    fn a_value_belongs_to_its_row_and_column() {
        let vault = VaultKeys::new(&Deks::single(Dek::generate()));
        let stored = vault.encrypt_column(b"hunter2", ONE, "password");
        assert_eq!(**vault.decrypt_column(&stored, ONE, "password").unwrap(), *b"hunter2");
        let moved = vault.decrypt_column(&stored, TWO, "password").err();
        assert_eq!(moved, Some(DecryptError::Damaged));
        let swapped = vault.decrypt_column(&stored, ONE, "passphrase").err();
        assert_eq!(swapped, Some(DecryptError::Damaged));
        assert_ne!(stored, vault.encrypt_column(b"hunter2", ONE, "password"), "fresh nonce");
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let vault = VaultKeys::new(&Deks::single(Dek::generate()));
        let stored = vault.encrypt_column(b"hunter2", ONE, "password");
        for at in 0..stored.len() {
            let mut bad = stored.clone();
            bad[at] ^= 1;
            assert!(vault.decrypt_column(&bad, ONE, "password").is_err(), "byte {at}");
            assert!(vault.decrypt_column(&stored[..at], ONE, "password").is_err(), "cut at {at}");
        }
        let other = VaultKeys::new(&Deks::single(Dek::generate()));
        let error = other.decrypt_column(&stored, ONE, "password").err();
        assert_eq!(error, Some(DecryptError::UnknownKey(vault.current())));
    }

    #[test]
    fn rotation_moves_a_secret_to_the_current_key_once() {
        let directory = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| directory.path().join(name));
        Dek::generate().save(&old).unwrap();
        Dek::generate().save(&new).unwrap();
        let none: [&std::path::Path; 0] = [];
        let before = VaultKeys::new(&Deks::load(&old, &none).unwrap());
        let both = VaultKeys::new(&Deks::load(&new, &[&old]).unwrap());
        let after = VaultKeys::new(&Deks::load(&new, &none).unwrap());
        let mut secret = Secret::default();
        secret.password = Some("p".into());
        secret.private_key = Some("k".into());
        let stored = before.encrypt_secret(&secret, ONE);
        let moved = both.reencrypt_secret(&stored, ONE).unwrap().expect("it was encrypted with the old key");
        assert!(both.reencrypt_secret(&moved, ONE).unwrap().is_none(), "already current");
        let read = after.decrypt_secret(&moved, ONE).unwrap();
        assert_eq!(
            (&read.password, &read.private_key, &read.passphrase),
            (&secret.password, &secret.private_key, &None)
        );
        assert!(after.decrypt_secret(&stored, ONE).is_err());
    }
}
