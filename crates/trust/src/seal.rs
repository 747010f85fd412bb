//! Secrets on the way to one recipient.
//!
//! HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM. Who sent it is proved elsewhere: a
//! release answers a request that carries a tag, and the API is known to the vault by the bus and the database.
//!
//! | what | bytes | info | associated data |
//! |---|---|---|---|
//! | release, to the fresh key of one attempt | `0x01`, encapsulated key (32), ciphertext | `openwatch-release-v1` | scan id (16), attempt (4, big-endian) |
//! | secret of a jump host, to the fresh key of one attempt | `0x01`, encapsulated key (32), ciphertext | `openwatch-release-jump-v1` | scan id (16), attempt (4, big-endian), host id of the jump host (16) |
//! | credential, to the vault | `0x01`, key id (8), encapsulated key (32), ciphertext | `openwatch-credential-seal-v1` | key id (8), credential id (16) |
//! | target of a channel, to the alerts stage | `0x01`, key id (8), encapsulated key (32), ciphertext | `openwatch-channel-seal-v1` | key id (8), channel id (16) |
//!
//! The plaintext of a release is key id (8), result key (32), then the secret; that of a channel is JSON that only it reads; that
//! of the others is the secret alone: who
//! has only come as far as the jump host has nothing to sign outcomes with.
//! A secret is its four parts in the order password, private key, passphrase, sudo password: `0x00` when absent, else
//! `0x01`, length (4, big-endian), UTF-8 bytes.

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal};
use openwatch_model::credential::Secret;
use openwatch_model::{ChannelId, CredentialId, HostId, ScanId};
use zeroize::Zeroizing;

use crate::KeyId;
use crate::encoding::{decode_secret, encode_secret};
use crate::key::Key;
use crate::mac::ResultKey;

const VERSION: u8 = 1;
const RELEASE: &[u8] = b"openwatch-release-v1";
const JUMP: &[u8] = b"openwatch-release-jump-v1";
const CREDENTIAL: &[u8] = b"openwatch-credential-seal-v1";
const CHANNEL: &[u8] = b"openwatch-channel-seal-v1";

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Why something sealed cannot be made or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The recipient's public key is none.
    #[error("seal the secret: the recipient's public key is not an X25519 key")]
    BadRecipient,
    /// Too short, or a version from the future.
    #[error("open the sealed secret: it has a layout that this version does not know")]
    Layout,
    /// Sealed to a vault key that is not loaded.
    #[error("open the sealed secret: it needs data-encryption key {0}, which is not loaded")]
    UnknownKey(KeyId),
    /// Altered, sealed to somebody else, or meant for another attempt or credential.
    #[error("open the sealed secret: it is damaged or meant for another recipient or purpose")]
    Refused,
}

/// A key pair for one attempt: made after the host key was checked, gone when the attempt ends.
pub struct EphemeralKey(Key);

impl EphemeralKey {
    /// A fresh one.
    pub fn generate() -> Self {
        Self(Key::generate())
    }

    /// What goes into the question to the vault.
    pub fn public(&self) -> [u8; 32] {
        public_of(&self.0)
    }

    /// Opens the vault's answer for this attempt: the secret, and the key that signs the outcomes.
    ///
    /// # Errors
    /// When it was sealed to another key or for another attempt, or was altered.
    pub fn open_release(
        &self,
        sealed: &[u8],
        scan: ScanId,
        attempt: u32,
    ) -> Result<(Secret, ResultKey), SealError> {
        let (version, body) = sealed.split_first().ok_or(SealError::Layout)?;
        if *version != VERSION {
            return Err(SealError::Layout);
        }
        let plain = open(&self.0, body, RELEASE, &release_aad(scan, attempt))?;
        let (kid, rest) = plain.split_first_chunk().ok_or(SealError::Layout)?;
        let (key, rest) = rest.split_first_chunk().ok_or(SealError::Layout)?;
        let secret = decode_secret(rest).ok_or(SealError::Layout)?;
        Ok((secret, ResultKey { kid: KeyId(*kid), key: Key::copy_of(key) }))
    }

    /// Opens the vault's answer for the jump host of this attempt: the secret alone.
    ///
    /// # Errors
    /// When it was sealed to another key, for another attempt or another host, or was altered.
    pub fn open_jump(
        &self,
        sealed: &[u8],
        scan: ScanId,
        attempt: u32,
        jump: HostId,
    ) -> Result<Secret, SealError> {
        let (version, body) = sealed.split_first().ok_or(SealError::Layout)?;
        if *version != VERSION {
            return Err(SealError::Layout);
        }
        let plain = open(&self.0, body, JUMP, &jump_aad(scan, attempt, jump))?;
        decode_secret(&plain).ok_or(SealError::Layout)
    }
}

/// Seals a secret and the result key of one attempt to the public key that the worker sent.
///
/// # Errors
/// `BadRecipient` when that is not a usable key.
pub fn seal_release(
    recipient: &[u8; 32],
    secret: &Secret,
    result: &ResultKey,
    scan: ScanId,
    attempt: u32,
) -> Result<Vec<u8>, SealError> {
    let mut prefix = Zeroizing::new([0; 40]);
    prefix[..8].copy_from_slice(&result.kid.0);
    prefix[8..].copy_from_slice(result.key.bytes());
    let plain = encode_secret(secret, &*prefix);
    seal(&[VERSION], recipient, &plain, RELEASE, &release_aad(scan, attempt))
}

/// Seals the secret of a jump host to the public key that the worker sent.
///
/// # Errors
/// `BadRecipient` when that is not a usable key.
pub fn seal_jump(
    recipient: &[u8; 32],
    secret: &Secret,
    scan: ScanId,
    attempt: u32,
    jump: HostId,
) -> Result<Vec<u8>, SealError> {
    seal(&[VERSION], recipient, &encode_secret(secret, b""), JUMP, &jump_aad(scan, attempt, jump))
}

pub(crate) fn seal_credential(
    kid: KeyId,
    vault: &[u8; 32],
    secret: &Secret,
    credential: CredentialId,
) -> Result<Vec<u8>, SealError> {
    let aad = standing_aad(kid, credential.0.as_bytes());
    seal(&standing_header(kid), vault, &encode_secret(secret, b""), CREDENTIAL, &aad)
}

pub(crate) fn open_credential<'k>(
    key_of: impl FnOnce(KeyId) -> Option<&'k Key>,
    sealed: &[u8],
    credential: CredentialId,
) -> Result<Secret, SealError> {
    let plain = open_standing(key_of, sealed, CREDENTIAL, credential.0.as_bytes())?;
    decode_secret(&plain).ok_or(SealError::Layout)
}

pub(crate) fn seal_channel(
    kid: KeyId,
    alerts: &[u8; 32],
    target: &[u8],
    channel: ChannelId,
) -> Result<Vec<u8>, SealError> {
    seal(&standing_header(kid), alerts, target, CHANNEL, &standing_aad(kid, channel.0.as_bytes()))
}

pub(crate) fn open_channel<'k>(
    key_of: impl FnOnce(KeyId) -> Option<&'k Key>,
    sealed: &[u8],
    channel: ChannelId,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    open_standing(key_of, sealed, CHANNEL, channel.0.as_bytes())
}

/// Opens what was sealed to a standing key, of which there may be several.
fn open_standing<'k>(
    key_of: impl FnOnce(KeyId) -> Option<&'k Key>,
    sealed: &[u8],
    info: &[u8],
    id: &[u8; 16],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (version, rest) = sealed.split_first().ok_or(SealError::Layout)?;
    let (kid, body) = rest.split_first_chunk().ok_or(SealError::Layout)?;
    if *version != VERSION {
        return Err(SealError::Layout);
    }
    let kid = KeyId(*kid);
    let key = key_of(kid).ok_or(SealError::UnknownKey(kid))?;
    open(key, body, info, &standing_aad(kid, id))
}

/// The public half of a private key.
pub(crate) fn public_of(key: &Key) -> [u8; 32] {
    X25519HkdfSha256::sk_to_pk(&private(key)).to_bytes().into()
}

fn private(key: &Key) -> PrivateKey {
    PrivateKey::from_bytes(key.bytes()).expect("any 32 bytes are an X25519 private key")
}

fn seal(
    header: &[u8],
    recipient: &[u8; 32],
    plain: &[u8],
    info: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, SealError> {
    let recipient = PublicKey::from_bytes(recipient).map_err(|_| SealError::BadRecipient)?;
    let (encapped, ciphertext) = single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &recipient,
        info,
        plain,
        aad,
    )
    .map_err(|_| SealError::BadRecipient)?;
    Ok([header, &encapped.to_bytes(), &ciphertext].concat())
}

fn open(key: &Key, body: &[u8], info: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (encapped, ciphertext) = body.split_first_chunk::<32>().ok_or(SealError::Layout)?;
    let encapped = EncappedKey::from_bytes(encapped).map_err(|_| SealError::Layout)?;
    single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private(key),
        &encapped,
        info,
        ciphertext,
        aad,
    )
    .map(Zeroizing::new)
    .map_err(|_| SealError::Refused)
}

fn release_aad(scan: ScanId, attempt: u32) -> Vec<u8> {
    [scan.0.as_bytes().as_slice(), &attempt.to_be_bytes()].concat()
}

fn jump_aad(scan: ScanId, attempt: u32, jump: HostId) -> Vec<u8> {
    [release_aad(scan, attempt).as_slice(), jump.0.as_bytes()].concat()
}

fn standing_header(kid: KeyId) -> Vec<u8> {
    [&[VERSION], kid.0.as_slice()].concat()
}

fn standing_aad(kid: KeyId, id: &[u8; 16]) -> Vec<u8> {
    [kid.0.as_slice(), id].concat()
}

#[cfg(test)]
mod tests;
