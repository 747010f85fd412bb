//! A secret as bytes, without the copies that a text format leaves behind.

use openwatch_model::credential::Secret;
use zeroize::Zeroizing;

/// Each part in the order password, private key, passphrase, sudo password: the byte 0 when it is absent, else the byte
/// 1, its length (4 bytes, big-endian) and its UTF-8 bytes.
pub(crate) fn encode_secret(secret: &Secret, prefix: &[u8]) -> Zeroizing<Vec<u8>> {
    let parts = [&secret.password, &secret.private_key, &secret.passphrase, &secret.sudo_password];
    let size: usize = parts.iter().map(|part| 1 + part.as_ref().map_or(0, |text| 4 + text.len())).sum();
    let mut bytes = Zeroizing::new(Vec::with_capacity(prefix.len() + size));
    bytes.extend_from_slice(prefix);
    for part in parts {
        match part {
            None => bytes.push(0),
            Some(text) => {
                let length = u32::try_from(text.len()).expect("a secret is far below 4 GiB");
                bytes.push(1);
                bytes.extend_from_slice(&length.to_be_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
    }
    bytes
}

/// The other way; `None` when the bytes are anything else, trailing bytes included.
pub(crate) fn decode_secret(mut bytes: &[u8]) -> Option<Secret> {
    let mut secret = Secret::default();
    let slots =
        [&mut secret.password, &mut secret.private_key, &mut secret.passphrase, &mut secret.sudo_password];
    for slot in slots {
        let (mark, rest) = bytes.split_first()?;
        bytes = rest;
        if *mark > 1 {
            return None;
        }
        if *mark == 1 {
            let (length, rest) = bytes.split_first_chunk::<4>()?;
            let (text, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            *slot = Some(std::str::from_utf8(text).ok()?.to_owned());
            bytes = rest;
        }
    }
    bytes.is_empty().then_some(secret)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(secret: &Secret) -> [Option<String>; 4] {
        [&secret.password, &secret.private_key, &secret.passphrase, &secret.sudo_password].map(Clone::clone)
    }

    proptest! {
        #[test]
        fn every_secret_comes_back(
            password: Option<String>, private_key: Option<String>,
            passphrase: Option<String>, sudo_password: Option<String>,
        ) {
            let secret = Secret { password, private_key, passphrase, sudo_password };
            let bytes = encode_secret(&secret, b"");
            prop_assert_eq!(parts(&decode_secret(&bytes).unwrap()), parts(&secret));
            prop_assert!(decode_secret(&bytes[..bytes.len() - 1]).is_none());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode_secret(&bytes);
        }
    }

    #[test]
    fn the_layout_is_frozen() {
        let mut secret = Secret::default();
        secret.private_key = Some("k".into());
        secret.sudo_password = Some("é".into());
        assert_eq!(
            hex::encode(&*encode_secret(&secret, b"\xff")),
            "ff0001000000".to_owned() + "016b000100000002c3a9"
        );
        assert!(decode_secret(&[0, 0, 0, 0, 0]).is_none(), "trailing byte");
        assert!(decode_secret(&[2, 0, 0, 0]).is_none(), "unknown mark");
    }
}
