//! What the first bytes of a connection say about who is talking.

/// Most bytes that are looked at (LIV-01).
pub const BANNER_LIMIT: usize = 256;

/// What the bytes so far amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Banner {
    /// A line that begins with `SSH-`.
    Ssh,
    /// Certainly something else, or [`BANNER_LIMIT`] bytes without an SSH line.
    Other,
    /// Could still become either; read on.
    Incomplete,
}

const SSH: &[u8] = b"SSH-";
const HTTP: &[u8] = b"HTTP/";

/// Judges the bytes read so far.
///
/// RFC 4253 lets a server say other lines before its version, so a first line that is not SSH is no verdict; a first
/// line of HTTP is, as nothing that speaks HTTP goes on to speak SSH.
pub fn judge(seen: &[u8]) -> Banner {
    if seen.starts_with(HTTP) {
        return Banner::Other;
    }
    let mut lines = seen.split(|byte| *byte == b'\n');
    if lines.any(|line| line.starts_with(SSH)) {
        return Banner::Ssh;
    }
    if seen.len() >= BANNER_LIMIT { Banner::Other } else { Banner::Incomplete }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_decide() {
        let cases: [(&[u8], Banner); 10] = [
            (b"", Banner::Incomplete),
            (b"SS", Banner::Incomplete),
            (b"SSH-", Banner::Ssh),
            (b"SSH-2.0-OpenSSH_9.9\r\n", Banner::Ssh),
            (b"go away\r\n", Banner::Incomplete),
            (b"go away\r\nSSH-2.0-x\r\n", Banner::Ssh),
            (b"not SSH-2.0", Banner::Incomplete),
            (b"HTTP/1.1 400 Bad Request\r\n", Banner::Other),
            (&[b'x'; BANNER_LIMIT], Banner::Other),
            (b"ssh-2.0", Banner::Incomplete),
        ];
        for (seen, expect) in cases {
            assert_eq!(judge(seen), expect, "{}", String::from_utf8_lossy(seen));
        }
    }
}
