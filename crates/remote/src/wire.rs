//! The TCP stream under a session. Eager while a round trip costs time: no Nagle, no delayed acknowledgements. Steady
//! while lanes run: then what has come is taken in sips, not packet by packet.

use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Room for what a host sends in one go.
const READ_AT_ONCE: usize = 4096;
/// Between two sips. A command ends every millisecond or so and sends three small packets; waking up for each of them
/// would cost more than everything else we do for a host.
pub(crate) const SIP: Duration = Duration::from_millis(10);

/// A stream for SSH, whose library asks for each packet in two halves: it reads more than it is asked for. Nothing is kept
/// for that while nothing comes, since most connections are idle most of the time.
pub(crate) struct Wire {
    socket: Socket,
    unread: Bytes,
    /// Until when an unwatched socket is left alone.
    rest: Option<Pin<Box<Sleep>>>,
    /// Set while lanes run.
    pub(crate) steady: Arc<AtomicBool>,
    /// What the connect took: one round trip.
    pub(crate) round_trip: Duration,
}

enum Socket {
    /// The runtime says when there is something to read.
    Watched(TcpStream),
    /// Nobody does, or each packet would wake us only to be left where it is.
    Unwatched(std::net::TcpStream),
    /// On its way from one to the other, or lost there.
    Gone,
}

impl Socket {
    fn watched(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        if let Self::Unwatched(_) = self
            && let Self::Unwatched(stream) = std::mem::replace(self, Self::Gone)
        {
            *self = Self::Watched(TcpStream::from_std(stream)?);
        }
        match self {
            Self::Watched(stream) => Ok(Pin::new(stream)),
            Self::Unwatched(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn unwatch(&mut self) -> io::Result<()> {
        match std::mem::replace(self, Self::Gone) {
            Self::Watched(stream) => *self = Self::Unwatched(stream.into_std()?),
            other => *self = other,
        }
        Ok(())
    }
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, round_trip: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        acknowledge_at_once(&stream);
        let socket = Socket::Watched(stream);
        Ok(Self { socket, unread: Bytes::new(), rest: None, steady: Arc::default(), round_trip })
    }

    /// Waits for bytes and takes them.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut room = [0; READ_AT_ONCE];
        if let Socket::Unwatched(stream) = &mut self.socket {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
            }
            match stream.read(&mut room) {
                Ok(size) => {
                    self.unread = Bytes::copy_from_slice(&room[..size]);
                    return Poll::Ready(self.sip(size));
                }
                // Nothing for a while: then the next packet is worth waking up for.
                Err(error) if is_not_yet(&error) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let mut came = ReadBuf::new(&mut room);
        let stream = self.socket.watched()?;
        ready!(stream.poll_read(cx, &mut came))?;
        self.unread = Bytes::copy_from_slice(came.filled());
        Poll::Ready(self.sip(came.filled().len()))
    }

    /// After a read of that size.
    fn sip(&mut self, size: usize) -> io::Result<()> {
        if !self.steady.load(Ordering::Relaxed) {
            acknowledge_at_once(&*self.socket.watched()?);
            return Ok(());
        }
        // What fills all the room is a flood, and those are met at full speed.
        let until = Instant::now() + if size < READ_AT_ONCE { SIP } else { Duration::ZERO };
        match &mut self.rest {
            Some(rest) => rest.as_mut().reset(until),
            None => self.rest = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        self.socket.unwatch()
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// The kernel forgets this setting after every read, and until its first execution the host holds each small packet back
/// until we have acknowledged the one before, for up to 40 ms more.
#[cfg(target_os = "linux")]
fn acknowledge_at_once(stream: &TcpStream) {
    // Only a matter of speed; a kernel that refuses is as good as one that forgets.
    let _ = rustix::net::sockopt::set_tcp_quickack(stream, true);
}

#[cfg(not(target_os = "linux"))]
fn acknowledge_at_once(_: &TcpStream) {}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            ready!(self.poll_fill(cx))?;
        }
        let taken = buf.remaining().min(self.unread.len());
        buf.put_slice(&self.unread.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Socket::Unwatched(stream) = &mut self.socket {
            match stream.write(buf) {
                Err(error) if is_not_yet(&error) => {}
                result => return Poll::Ready(result),
            }
        }
        self.socket.watched()?.poll_write(cx, buf)
    }

    // TCP has nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.watched()?.poll_shutdown(cx)
    }
}
