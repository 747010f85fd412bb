//! A TCP connection that does not wait: no Nagle, no delayed acknowledgements.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::error::RemoteError;

/// Room for what a host sends in one go.
const READ_AT_ONCE: usize = 4096;

/// Dials every address of the name in turn until one answers.
pub(crate) async fn dial(address: &str, port: u16, limit: Duration) -> Result<Prompt, RemoteError> {
    let peer = peer_name(address, port);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((address, port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(source)) => return Err(RemoteError::NameUnresolved { address: address.to_owned(), source }),
        Err(_) => return Err(unreachable(peer, format!("no answer from the resolver within {limit:?}"))),
    };
    let mut last = unreachable(peer.clone(), "the name has no address".into());
    for address in addresses {
        let since = Instant::now();
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                return prepare(stream, since.elapsed()).map_err(|e| unreachable(peer, e.to_string()));
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                last = RemoteError::ConnectRefused { peer: peer.clone() };
            }
            Ok(Err(e)) => last = unreachable(peer.clone(), e.to_string()),
            Err(_) => last = unreachable(peer.clone(), format!("no answer within {limit:?}")),
        }
    }
    Err(last)
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn peer_name(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn unreachable(peer: String, detail: String) -> RemoteError {
    RemoteError::Unreachable { peer, detail }
}

fn prepare(stream: TcpStream, round_trip: Duration) -> io::Result<Prompt> {
    stream.set_nodelay(true)?;
    let prompt = Prompt { stream, unread: Bytes::new(), relaxed: Arc::default(), round_trip };
    prompt.acknowledge_at_once();
    Ok(prompt)
}

/// A stream that re-arms quick acknowledgement after every read: the kernel forgets the setting, and until its first
/// execution the host holds each small packet back until we have acknowledged the one before, for up to 40 ms more.
///
/// It also reads more than it is asked for: the library asks for each packet in two halves, and packets are small. Nothing
/// is kept for that while nothing comes, since most connections are idle most of the time.
pub(crate) struct Prompt {
    stream: TcpStream,
    unread: Bytes,
    /// Set when that is over, and acknowledgements only cost time.
    pub(crate) relaxed: Arc<AtomicBool>,
    /// What the connect took: one round trip.
    pub(crate) round_trip: Duration,
}

impl Prompt {
    #[cfg(target_os = "linux")]
    fn acknowledge_at_once(&self) {
        // Only a matter of speed; a kernel that refuses is as good as one that forgets.
        if !self.relaxed.load(Ordering::Relaxed) {
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn acknowledge_at_once(&self) {}
}

impl AsyncRead for Prompt {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            let mut room = [0; READ_AT_ONCE];
            let mut came = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut came))?;
            self.acknowledge_at_once();
            self.unread = Bytes::copy_from_slice(came.filled());
        }
        let taken = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prompt {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
