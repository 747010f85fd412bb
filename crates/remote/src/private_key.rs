//! Private keys: reading them, and refusing the weak ones before any network is touched (CRD-10).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openwatch_model::credential::KeyFacts;
use openwatch_model::host::KnownKey;
use russh::keys::{Algorithm, EcdsaCurve, PrivateKey};

use crate::error::RemoteError;
use crate::host_key::fingerprint;

/// Smallest RSA key that may log in.
const RSA_BITS: u32 = 2048;
/// Longest comment that is kept.
const COMMENT: usize = 128;

/// What may be told of a private key. Deriving a key from a passphrase takes a moment: not for an async thread.
///
/// # Errors
/// The key cannot be read, or is too weak to be used. Nothing of it is ever in an error.
pub fn inspect_key(text: &str, passphrase: Option<&str>) -> Result<KeyFacts, RemoteError> {
    let key = parse_key(text, passphrase)?;
    let public = key.public_key();
    let blob = public
        .to_bytes()
        .map_err(|_| RemoteError::PrivateKeyUnreadable { detail: "it is of an unknown format" })?;
    let known = KnownKey { algorithm: public.algorithm().as_str().to_owned(), key: STANDARD.encode(blob) };
    let comment = String::from_utf8_lossy(public.comment().as_bytes());
    Ok(KeyFacts {
        fingerprint: fingerprint(&known).unwrap_or_default(),
        bits: bits(&key).unwrap_or_default(),
        comment: comment.chars().filter(|c| !c.is_control()).take(COMMENT).collect(),
        algorithm: known.algorithm,
    })
}

/// Reads a private key from text and refuses the weak ones. Nothing of the key is ever in an error.
pub(crate) fn parse_key(text: &str, passphrase: Option<&str>) -> Result<PrivateKey, RemoteError> {
    if text.contains("-----BEGIN DSA PRIVATE KEY-----") {
        return Err(RemoteError::PrivateKeyWeak { detail: "it is a DSA key".into() });
    }
    let unreadable = |detail| RemoteError::PrivateKeyUnreadable { detail };
    let key =
        russh::keys::decode_secret_key(text, passphrase).map_err(|error| match (error, passphrase) {
            (russh::keys::Error::KeyIsEncrypted, _) => RemoteError::PrivateKeyEncrypted,
            (_, Some(_)) => unreadable("it is damaged, of an unknown format, or the passphrase is wrong"),
            (_, None) if is_public(text) => unreadable("it is the public half; the private one is needed"),
            (_, None) => unreadable("it is damaged or of an unknown format"),
        })?;
    if key.is_encrypted() {
        return Err(RemoteError::PrivateKeyEncrypted);
    }
    match (key.algorithm(), bits(&key)) {
        (Algorithm::Dsa, _) => Err(RemoteError::PrivateKeyWeak { detail: "it is a DSA key".into() }),
        (Algorithm::Rsa { .. }, Some(bits)) if bits < RSA_BITS => Err(RemoteError::PrivateKeyWeak {
            detail: format!("it is an RSA key of {bits} bits, {RSA_BITS} are required"),
        }),
        (_, Some(_)) => Ok(key),
        (_, None) => {
            Err(RemoteError::PrivateKeyUnreadable { detail: "it is of a kind that is not supported" })
        }
    }
}

/// The likeliest mistake: the file with `.pub` at its end.
fn is_public(text: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| text.trim_start().starts_with(start))
}

/// Size of a key of a supported kind.
fn bits(key: &PrivateKey) -> Option<u32> {
    match key.algorithm() {
        Algorithm::Rsa { .. } => key.public_key().key_data().rsa().map(|rsa| rsa.key_size()),
        Algorithm::Ed25519 => Some(256),
        Algorithm::Ecdsa { curve } => Some(match curve {
            EcdsaCurve::NistP256 => 256,
            EcdsaCurve::NistP384 => 384,
            EcdsaCurve::NistP521 => 521,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_refused_without_being_quoted() {
        let error = parse_key("hunter2 is not a key", None).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let error = parse_key("ssh-ed25519 AAAA hunter2", None).unwrap_err();
        assert!(error.to_string().contains("public half") && !error.to_string().contains("hunter2"));
    }

    #[test]
    fn dsa_is_weak_whatever_is_in_it() {
        let error = parse_key("-----BEGIN DSA PRIVATE KEY-----\nAAAA\n", None).unwrap_err();
        assert!(matches!(error, RemoteError::PrivateKeyWeak { .. }), "{error}");
    }
}
