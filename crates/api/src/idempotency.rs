//! Asking twice is asking once: what a repeated request is compared by.

use sha2::{Digest, Sha256};

use crate::error::{Code, Failure};
use crate::extract::Raw;

/// The key of a request that must have one.
pub(crate) fn key(raw: &Raw) -> Result<&str, Failure> {
    let required = || {
        let detail =
            "send a fresh Idempotency-Key for each scan that is wanted, and the same one when asking again";
        Failure::field(Code::IdempotencyKeyRequired, "idempotency-key", detail)
    };
    let key = raw.key.as_deref().map(str::trim).filter(|key| !key.is_empty()).ok_or_else(required)?;
    // The draft standard quotes the key; both forms are the same key.
    let plain = key.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(key);
    if plain.is_empty() || plain.len() > 255 || !plain.bytes().all(|c| (0x21..0x7f).contains(&c)) {
        let detail = "must be 1 to 255 visible ASCII characters";
        return Err(Failure::field(Code::FieldFormat, "idempotency-key", detail));
    }
    Ok(plain)
}

/// What two requests under one key must agree in: method, path, query and body, each framed by its length.
pub(crate) fn fingerprint(method: &str, raw: &Raw) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [method.as_bytes(), raw.target.as_bytes(), raw.body.as_slice()] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(target: &str, body: &str, key: Option<&str>) -> Raw {
        Raw { body: body.as_bytes().to_vec().into(), target: target.into(), key: key.map(str::to_owned) }
    }

    #[test]
    fn a_key_is_required_and_may_be_quoted() {
        assert_eq!(key(&raw("/", "", Some("a-1"))).unwrap(), "a-1");
        assert_eq!(key(&raw("/", "", Some("\"a-1\""))).unwrap(), "a-1");
        for none in [None, Some(""), Some("  ")] {
            assert_eq!(key(&raw("/", "", none)).unwrap_err().code, Code::IdempotencyKeyRequired);
        }
        for wrong in ["a b", "\"\"", &"x".repeat(256)] {
            assert_eq!(key(&raw("/", "", Some(wrong))).unwrap_err().code, Code::FieldFormat);
        }
    }

    #[test]
    fn every_part_counts_and_none_can_pass_for_another() {
        let of = |method, target, body| fingerprint(method, &raw(target, body, None));
        assert_eq!(of("POST", "/a", "x"), of("POST", "/a", "x"));
        let all = [of("POST", "/a", "x"), of("POST", "/ax", ""), of("POST", "/a", ""), of("PUT", "/a", "x")];
        assert!((1..all.len()).all(|i| !all[i..].contains(&all[i - 1])));
    }
}
