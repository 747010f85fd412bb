//! Sending to an execution while listening to it.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;

use bytes::{Buf as _, Bytes};
use russh::ChannelWriteHalf;
use russh::client::Msg;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

/// Most that one lane sends before the others have their turn: on a long way only so much travels at once.
const PIECE: usize = 2048;

/// Input on its way to a channel, as fast as the target takes it.
pub(crate) struct Feeder {
    writer: Pin<Box<dyn AsyncWrite + Send>>,
    queue: VecDeque<Bytes>,
}

impl Feeder {
    pub(crate) fn new(write: &ChannelWriteHalf<Msg>) -> Self {
        Self { writer: Box::pin(write.make_writer()), queue: VecDeque::new() }
    }

    pub(crate) fn push(&mut self, bytes: impl Into<Bytes>) {
        let mut bytes = bytes.into();
        while !bytes.is_empty() {
            self.queue.push_back(bytes.split_to(PIECE.min(bytes.len())));
        }
    }

    /// Sends what is queued and then waits for ever; ends only when the channel does. May be dropped at any await and
    /// called again: what has been taken is known from the return of each write, and a half-done write is resumed.
    pub(crate) async fn pump(&mut self) -> io::Error {
        while let Some(front) = self.queue.front_mut() {
            match self.writer.write(front).await {
                Ok(taken) => front.advance(taken),
                Err(error) => return error,
            }
            if front.is_empty() {
                self.queue.pop_front();
                tokio::task::yield_now().await;
            }
        }
        std::future::pending().await
    }
}
