//! The frame of a vault's answer: `kid tag` in text, a line end, then the reply. The answer carries its own signature
//! because a reply has no headers, and an unsigned refusal could end a scan.

use bytes::Bytes;
use openwatch_trust::Signed;

/// Puts a signature before a reply.
pub(crate) fn frame(signed: &Signed, reply: &[u8]) -> Bytes {
    let mut bytes = format!("{} {}\n", signed.kid, signed.tag).into_bytes();
    bytes.extend_from_slice(reply);
    bytes.into()
}

/// Takes them apart; nothing when it is no such frame.
pub(crate) fn unframe(bytes: &[u8]) -> Option<(Signed, &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    let (line, reply) = (std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]);
    let (kid, tag) = line.split_once(' ')?;
    Some((Signed::from_headers(Some(kid), Some(tag)).ok()?, reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_apart_as_it_was_put_together() {
        let signed = Signed::from_headers(Some("0102030405060708"), Some(&"ab".repeat(32))).unwrap();
        let bytes = frame(&signed, b"{\n}");
        let (read, reply) = unframe(&bytes).unwrap();
        assert_eq!((read.kid, read.tag == signed.tag, reply), (signed.kid, true, &b"{\n}"[..]));
        for bad in [&b""[..], b"\n", b"x y\n", b"0102030405060708\n{}"] {
            assert!(unframe(bad).is_none());
        }
    }
}
