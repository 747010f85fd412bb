//! Signatures over webhooks, as [Standard Webhooks](https://www.standardwebhooks.com/) has them: HMAC-SHA256 over
//! `id.timestamp.body`, so that a receiver can tell our messages from others and old ones from new ones.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::key::random;

const PREFIX: &str = "whsec_";
/// Bytes that a secret may have.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// The text is no signing secret. Says nothing about what it is instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a signing secret is `whsec_` and base64 of 24 to 64 bytes")]
pub struct InvalidWebhookSecret;

/// What signs webhooks for one receiver. Wiped on drop; no `Clone`, no `Debug`.
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl WebhookSecret {
    /// A fresh one.
    pub fn generate() -> Self {
        Self(Zeroizing::new(random::<32>().to_vec()))
    }

    /// Reads `whsec_` and base64; the prefix may be missing.
    ///
    /// # Errors
    /// When it is anything else, or too short to be worth it.
    pub fn parse(text: &str) -> Result<Self, InvalidWebhookSecret> {
        let text = text.trim();
        let bytes = STANDARD.decode(text.strip_prefix(PREFIX).unwrap_or(text)).map(Zeroizing::new);
        match bytes {
            Ok(bytes) if SIZES.contains(&bytes.len()) => Ok(Self(bytes)),
            _ => Err(InvalidWebhookSecret),
        }
    }

    /// As the receiver needs it.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", *Zeroizing::new(STANDARD.encode(&*self.0))))
    }

    /// The value of `webhook-signature` for these values of `webhook-id` and `webhook-timestamp` and this body.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed independently, with Python's `hmac`. The key is one of the standard's own examples, and shorter than it asks for.
    #[test]
    fn the_signature_is_that_of_the_standard() {
        let secret = WebhookSecret(Zeroizing::new(STANDARD.decode("plJ3nmyCDGBKInavdOK15jsl").unwrap()));
        let body = br#"{"event_type":"ping","data":{"success":true}}"#;
        let signature = secret.sign("msg_loFOjxBNrRLzqYUf", 1_731_705_121, body);
        assert_eq!(signature, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
    }

    #[test]
    fn secrets_come_back_and_anything_else_is_refused() {
        let made = WebhookSecret::generate();
        let read = WebhookSecret::parse(&format!("{}\n", *made.expose())).unwrap();
        assert_eq!(made.sign("a", 1, b"x"), read.sign("a", 1, b"x"));
        assert_ne!(made.sign("a", 1, b"x"), WebhookSecret::generate().sign("a", 1, b"x"));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        for text in ["", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64", long.as_str()] {
            assert!(WebhookSecret::parse(text).is_err(), "{text}");
        }
    }
}
