//! Signatures over exact bytes, in the manner of DSSE.
//!
//! What is signed with Ed25519 is the pre-authentication encoding
//!
//! ```text
//! "DSSEv1" SP len(type) SP type SP len(body) SP body
//! ```
//!
//! with lengths in decimal, so that a signature over one type of document is none over another, and nothing is ever
//! encoded again before it is verified (POL-10). A detached signature is JSON beside the document:
//! `{"payloadType": "...", "signatures": [{"keyid": "<fingerprint>", "sig": "<base64>"}]}`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::revocation::Revocations;
use crate::signer::{Fingerprint, PolicyKey, TrustedKeys};

/// Largest detached signature document.
pub const SIGNATURE_LIMIT: usize = 64 * 1024;
/// Most signatures that are looked at.
const MOST_SIGNATURES: usize = 16;

/// Why no signature of a document counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefused {
    /// Not a signature document at all.
    #[error("read the signature: it is no signature document of at most 64 KiB with 1 to 16 signatures")]
    Malformed,
    /// A signature over another type of document.
    #[error("accept the signature: it is over another type of document than `{expected}`")]
    WrongType {
        /// What was asked for.
        expected: &'static str,
    },
    /// No signature by a key on the trusted list.
    #[error(
        "accept the signature: no trusted key made it; add the signer's public key to the trusted keys file"
    )]
    UnknownSigner,
    /// The only trusted signers are revoked.
    #[error("accept the signature: key {0} is revoked; sign with another trusted key")]
    Revoked(Fingerprint),
    /// The bytes are not those that were signed.
    #[error("accept the signature: the document is not what key {0} signed; sign it again")]
    Invalid(Fingerprint),
}

/// A detached signature document.
#[derive(Serialize, Deserialize)]
pub(crate) struct Signatures {
    #[serde(rename = "payloadType")]
    pub(crate) payload_type: String,
    pub(crate) signatures: Vec<SignatureEntry>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct SignatureEntry {
    pub(crate) keyid: String,
    pub(crate) sig: String,
}

/// The bytes that are really signed.
pub fn pre_authentication_encoding(payload_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), body.len());
    [head.as_bytes(), body].concat()
}

/// Makes a detached signature document.
pub(crate) fn sign(payload_type: &str, body: &[u8], key: &PolicyKey) -> Vec<u8> {
    let mut text = to_json(&sign_entry(payload_type, body, key), true);
    text.push(b'\n');
    text
}

pub(crate) fn sign_entry(payload_type: &str, body: &[u8], key: &PolicyKey) -> Signatures {
    let sig = STANDARD.encode(key.sign(&pre_authentication_encoding(payload_type, body)));
    let entry = SignatureEntry { keyid: key.fingerprint().to_string(), sig };
    Signatures { payload_type: payload_type.to_owned(), signatures: vec![entry] }
}

pub(crate) fn to_json(value: &impl Serialize, pretty: bool) -> Vec<u8> {
    let bytes = if pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
    bytes.expect("texts and lists always have a JSON form")
}

/// Verifies a detached signature document; the key that counted.
pub(crate) fn verify(
    payload_type: &'static str,
    body: &[u8],
    signature: &[u8],
    trusted: &TrustedKeys,
    revoked: &Revocations,
) -> Result<Fingerprint, SignatureRefused> {
    if signature.len() > SIGNATURE_LIMIT {
        return Err(SignatureRefused::Malformed);
    }
    let signatures: Signatures =
        serde_json::from_slice(signature).map_err(|_| SignatureRefused::Malformed)?;
    verify_entries(payload_type, body, &signatures, trusted, revoked)
}

/// One good signature by a trusted key that is not revoked is enough. The key id only selects a key; what counts, and is
/// returned, is the fingerprint of the key that verified (POL-11). Revocation is looked at before the mathematics.
pub(crate) fn verify_entries(
    payload_type: &'static str,
    body: &[u8],
    signatures: &Signatures,
    trusted: &TrustedKeys,
    revoked: &Revocations,
) -> Result<Fingerprint, SignatureRefused> {
    if signatures.payload_type != payload_type {
        return Err(SignatureRefused::WrongType { expected: payload_type });
    }
    if signatures.signatures.is_empty() || signatures.signatures.len() > MOST_SIGNATURES {
        return Err(SignatureRefused::Malformed);
    }
    let message = pre_authentication_encoding(payload_type, body);
    let mut refusal = SignatureRefused::UnknownSigner;
    for entry in &signatures.signatures {
        let Some(key) = entry.keyid.parse().ok().and_then(|id| trusted.get(&id)) else { continue };
        let fingerprint = key.fingerprint();
        if revoked.has(&fingerprint) {
            refusal = SignatureRefused::Revoked(fingerprint);
            continue;
        }
        let sig = STANDARD.decode(&entry.sig).ok().and_then(|sig| <[u8; 64]>::try_from(sig).ok());
        match sig {
            Some(sig) if key.verify(&message, &sig) => return Ok(fingerprint),
            _ => refusal = SignatureRefused::Invalid(fingerprint),
        }
    }
    Err(refusal)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the DSSE protocol description.
    #[test]
    fn the_encoding_is_that_of_dsse() {
        let encoded = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoded, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn one_good_signature_of_several_is_enough() {
        let [old, next, stranger] = ["old", "next", "stranger"].map(PolicyKey::generate);
        let trusted = TrustedKeys::new(vec![old.trusted(), next.trusted()]).unwrap();
        let mut both = sign_entry("t", b"body", &stranger);
        both.signatures.extend(sign_entry("t", b"body", &next).signatures);
        let check = |signatures: &Signatures, body: &[u8]| {
            verify_entries("t", body, signatures, &trusted, &Revocations::none())
        };
        assert_eq!(check(&both, b"body"), Ok(next.fingerprint()));
        assert_eq!(check(&both, b"Body"), Err(SignatureRefused::Invalid(next.fingerprint())));
        // A key id that points at another trusted key selects that key, whose signature it is not.
        both.signatures[1].keyid = old.fingerprint().to_string();
        assert_eq!(check(&both, b"body"), Err(SignatureRefused::Invalid(old.fingerprint())));
        both.payload_type = "u".into();
        assert_eq!(check(&both, b"body"), Err(SignatureRefused::WrongType { expected: "t" }));
    }
}
