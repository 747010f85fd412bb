//! API tokens: `owk_` and 43 characters of base64url, of which only a hash is stored.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::key::random;

/// What every token begins with, so that scanners for leaked secrets can find one.
pub const PREFIX: &str = "owk_";

/// A token, shown once to whoever asked for it. No `Clone`, no `Debug`.
pub struct ApiToken(Zeroizing<String>);

impl ApiToken {
    /// A fresh one: 32 random bytes.
    pub fn generate() -> Self {
        let mut text = Zeroizing::new(String::with_capacity(64));
        text.push_str(PREFIX);
        URL_SAFE_NO_PAD.encode_string(random::<32>().as_slice(), &mut text);
        Self(text)
    }

    /// The text to show; do not copy.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is stored of it.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

/// SHA-256 of a token's text. Enough for 256 random bits: there is nothing to guess that a slow hash would protect.
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Whether a text could be a token at all; spares the database a look-up.
pub fn is_well_formed(token: &str) -> bool {
    token.strip_prefix(PREFIX).is_some_and(|rest| {
        let mut bytes = Zeroizing::new([0; 33]);
        rest.len() == 43 && URL_SAFE_NO_PAD.decode_slice(rest, &mut *bytes).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_fresh_and_well_formed() {
        let [one, two] = [ApiToken::generate(), ApiToken::generate()];
        assert!(is_well_formed(one.expose()) && is_well_formed(two.expose()));
        assert_ne!(one.hash(), two.hash());
        assert_eq!(one.hash(), hash(one.expose()));
        for bad in ["", "owk_", "owk_short", &one.expose()[4..], &format!("{}A", one.expose()), "owk_\u{e9}"]
        {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }

    /// FIPS 180-2, the message `abc`.
    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            hex::encode(hash("abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
