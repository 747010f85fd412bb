//! Thirty-two secret bytes, and how others are derived from them.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

/// A key. On the heap, so that moving it copies a pointer and dropping it wipes the only copy; no `Clone`, no `Debug`.
pub(crate) struct Key(Box<Zeroizing<[u8; 32]>>);

impl Key {
    /// Fresh random bytes.
    pub(crate) fn generate() -> Self {
        Self::fill(|bytes| fill_random(bytes))
    }

    /// A copy of these bytes.
    pub(crate) fn copy_of(bytes: &[u8; 32]) -> Self {
        Self::fill(|key| key.copy_from_slice(bytes))
    }

    /// HKDF-SHA256 with an empty salt; `info` is the concatenation of the parts.
    pub(crate) fn derive(&self, info: &[&[u8]]) -> Self {
        Self::fill(|bytes| {
            Hkdf::<Sha256>::new(None, &self.bytes()[..])
                .expand_multi_info(info, bytes)
                .expect("32 bytes are far below the 8160 that HKDF-SHA256 can give");
        })
    }

    /// Reads 64 hex digits; `None` when they are not that.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let mut key = Self::fill(|_| ());
        hex::decode_to_slice(text, key.0.as_mut_slice()).ok()?;
        Some(key)
    }

    /// For signing, sealing and writing down; do not copy.
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn fill(write: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Box::new(Zeroizing::new([0; 32]));
        write(&mut key);
        Self(key)
    }
}

/// Random bytes, wiped on drop.
pub(crate) fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    fill_random(&mut *bytes);
    bytes
}

fn fill_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the kernel gives random bytes once it has booted");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5869, test case 3: no salt, no info. The first 32 of its 42 bytes.
    #[test]
    fn derivation_is_hkdf_sha256() {
        let mut okm = [0; 32];
        Hkdf::<Sha256>::new(None, &[0x0b; 22]).expand_multi_info(&[], &mut okm).unwrap();
        assert_eq!(hex::encode(okm), "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d");
        let key = Key::copy_of(&[7; 32]);
        assert_eq!(key.derive(&[b"ab", b"c"]).bytes(), key.derive(&[b"abc"]).bytes());
    }
}
