//! Is a host's SSH service there? One TCP connection, one look at the banner.
//!
//! **Knows**: how to connect to an address and tell an SSH banner from anything else.
//!
//! **Must never know**: SSH (no handshake, no library), credentials, keys, the database or the bus. The manifest proves
//! it; a test reads the manifest.
//!
//! Start reading at [`probe`]; [`banner`] holds the part that needs no socket.

pub mod banner;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use openwatch_model::liveness::{ProbeError, ProbeOutcome};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use banner::{BANNER_LIMIT, Banner, judge};

/// How long a probe may take when the caller has no better idea (LIV-02).
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(5);

/// Connects, reads at most [`BANNER_LIMIT`] bytes, and says how long it took until an SSH banner was seen.
///
/// `address` is a host name, an IPv4 address, or an IPv6 address with or without brackets. `limit` bounds name lookup,
/// connection and banner together. Nothing is sent, and dropping the future closes the connection at once. The duration
/// keeps its full resolution: a host on the same machine answers in microseconds, which is not "no answer".
///
/// A port that accepts and then says nothing until the limit is `tcp_timeout`; one that closes without a byte is
/// `tcp_error`; one that says something else is `banner_mismatch`.
pub async fn probe(address: &str, port: u16, limit: Duration) -> ProbeOutcome {
    let started = Instant::now();
    // A limit too large to add to the clock is no limit worth having: fall back to the usual one.
    let deadline = started.checked_add(limit).unwrap_or(started + DEFAULT_LIMIT);
    let mut seen = Vec::with_capacity(BANNER_LIMIT);
    let answer = timeout_at(deadline, read_banner(address, port, &mut seen)).await;
    match answer {
        Ok(Ok(())) => Ok(started.elapsed()),
        Ok(Err(error)) => Err(error),
        // Whoever talked until now without an SSH line is not an SSH server.
        Err(_) if !seen.is_empty() => Err(ProbeError::BannerMismatch),
        Err(_) => Err(ProbeError::TcpTimeout),
    }
}

async fn read_banner(address: &str, port: u16, seen: &mut Vec<u8>) -> Result<(), ProbeError> {
    let mut stream = connect(address, port).await.map_err(|error| classify(error.kind()))?;
    let mut chunk = [0; BANNER_LIMIT];
    loop {
        match judge(seen) {
            Banner::Ssh => return Ok(()),
            Banner::Other => return Err(ProbeError::BannerMismatch),
            Banner::Incomplete => {}
        }
        let room = BANNER_LIMIT - seen.len();
        let read = stream.read(&mut chunk[..room]).await;
        match read.map_err(|error| classify(error.kind())) {
            Ok(0) if seen.is_empty() => return Err(ProbeError::TcpError),
            Ok(0) => return Err(ProbeError::BannerMismatch),
            Ok(n) => seen.extend_from_slice(&chunk[..n]),
            // Something was said before the line broke, and it was not SSH.
            Err(_) if !seen.is_empty() => return Err(ProbeError::BannerMismatch),
            // A reset after the connection stood is not a refusal of the connection.
            Err(ProbeError::ConnectionRefused) => return Err(ProbeError::TcpError),
            Err(error) => return Err(error),
        }
    }
}

async fn connect(address: &str, port: u16) -> std::io::Result<TcpStream> {
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    match bare.parse::<IpAddr>() {
        // Literals skip the resolver, which may be the very thing that is down.
        Ok(ip) => TcpStream::connect((ip, port)).await,
        Err(_) => TcpStream::connect((bare, port)).await,
    }
}

fn classify(kind: ErrorKind) -> ProbeError {
    match kind {
        ErrorKind::ConnectionRefused => ProbeError::ConnectionRefused,
        ErrorKind::TimedOut => ProbeError::TcpTimeout,
        _ => ProbeError::TcpError,
    }
}

#[cfg(test)]
mod tests;
