//! One execution on the target, from asking for a channel to its hello.

use std::time::Duration;

use bytes::Bytes;
use russh::client::{Handle, Msg};
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::classify::{NoHello, classify};
use crate::elevate::{Conversation, Request};
use crate::feeder::Feeder;
use crate::frame::{Hello, Stream};
use crate::guard::Guard;
use crate::pairing::{Event, Pairing};

/// Most bytes of talk before a hello; a target that says more is not a shell.
const TALK: usize = 1 << 20;

/// A shell that has said hello and may already be running commands.
pub(crate) struct Shell {
    pub(crate) read: ChannelReadHalf,
    pub(crate) write: ChannelWriteHalf<Msg>,
    pub(crate) pairing: Pairing,
    pub(crate) hello: Hello,
    /// What came together with the hello.
    pub(crate) events: Vec<Event>,
    /// Input on its way.
    pub(crate) feeder: Feeder,
}

/// Why there is no shell.
#[derive(Debug)]
pub(crate) enum NotOpen {
    /// The host has no free session for us.
    NoSlot,
    /// The connection is gone.
    Gone,
    /// It ended, or went on for as long as it was `waited` for without a hello; with what it said.
    NoHello { noise: String, waited: Option<Duration> },
    /// sudo asked a second time.
    WrongPassword,
    /// Everything is to stop, and it had not begun.
    Stopped,
}

/// Asks for an execution, holds sudo's conversation if there is one, sends the input, and waits for the hello. `begin` is
/// asked before each word that may make commands begin.
pub(crate) async fn open(
    handle: &Handle<Guard>,
    request: &Request,
    pairing: Pairing,
    input: Bytes,
    password: Option<&str>,
    limit: Duration,
    mut begin: impl FnMut() -> Result<(), NotOpen>,
) -> Result<Shell, NotOpen> {
    let opening = tokio::time::timeout(limit, handle.channel_open_session()).await;
    let channel = match opening {
        Ok(Ok(channel)) => channel,
        Ok(Err(russh::Error::ChannelOpenFailure(_))) => return Err(NotOpen::NoSlot),
        Ok(Err(_)) => return Err(NotOpen::Gone),
        Err(_) => return Err(NotOpen::NoHello { noise: String::new(), waited: Some(limit) }),
    };
    let (read, write) = channel.split();
    if request.conversation.is_none() {
        begin()?;
    }
    if write.exec(true, request.command.as_bytes()).await.is_err() {
        return Err(NotOpen::Gone);
    }
    let talk = request.conversation.as_ref().map(|c| Talk {
        words: c,
        err: Vec::new(),
        out: Vec::new(),
        asked: false,
    });
    let feeder = Feeder::new(&write);
    let mut opening = Opening { read, feeder, pairing, talk, events: Vec::new(), heard: 0, ended: false };
    match opening.wait_for_hello(input, password, limit, begin).await {
        Ok(hello) => {
            let Opening { read, feeder, pairing, events, .. } = opening;
            Ok(Shell { read, write, feeder, pairing, hello, events })
        }
        Err(why) => {
            let why = opening.after_password(why);
            // First the reading half, so that a full buffer cannot keep the library from sending the rest.
            drop(opening);
            // sudo is left to note the failed attempt in its log and to end by itself.
            abandon(&write, !matches!(why, NotOpen::WrongPassword)).await;
            Err(why)
        }
    }
}

/// Lets go of an execution; `signal` where nothing else can end it.
pub(crate) async fn abandon(write: &ChannelWriteHalf<Msg>, signal: bool) {
    // Errors mean that the connection is gone, and the execution's channel with it.
    if signal {
        let _ = write.signal(Sig::KILL).await;
    }
    let _ = write.eof().await;
    let _ = write.close().await;
}

struct Talk<'a> {
    words: &'a Conversation,
    err: Vec<u8>,
    out: Vec<u8>,
    asked: bool,
}

/// What sudo's talk calls for.
enum Say {
    Nothing,
    Password,
    Script,
    GiveUp,
}

impl Talk<'_> {
    fn hear(&mut self, stream: Stream, bytes: &[u8]) -> Say {
        match stream {
            Stream::Err => {
                self.err.extend_from_slice(bytes);
                // A prompt is the last thing said; the same word in the middle of a line is an echo of our command.
                if !self.err.ends_with(self.words.prompt.as_bytes()) {
                    return Say::Nothing;
                }
                self.err.clear();
                if std::mem::replace(&mut self.asked, true) { Say::GiveUp } else { Say::Password }
            }
            Stream::Out => {
                self.out.extend_from_slice(bytes);
                let word = format!("{}\n", self.words.entered);
                match memchr::memmem::find(&self.out, word.as_bytes()) {
                    Some(at) => {
                        self.out.drain(..at + word.len());
                        Say::Script
                    }
                    None => Say::Nothing,
                }
            }
        }
    }
}

struct Opening<'a> {
    read: ChannelReadHalf,
    feeder: Feeder,
    pairing: Pairing,
    talk: Option<Talk<'a>>,
    events: Vec<Event>,
    heard: usize,
    ended: bool,
}

impl Opening<'_> {
    async fn wait_for_hello(
        &mut self,
        input: Bytes,
        password: Option<&str>,
        limit: Duration,
        mut begin: impl FnMut() -> Result<(), NotOpen>,
    ) -> Result<Hello, NotOpen> {
        let mut until = Instant::now() + limit;
        let mut script = Some(input);
        loop {
            // With sudo in between the script waits until it has let us in.
            if self.talk.is_none()
                && let Some(script) = script.take().filter(|script| !script.is_empty())
            {
                begin()?;
                self.feeder.push(script);
            }
            let message = tokio::select! {
                biased;
                message = self.read.wait() => message,
                _ = self.feeder.pump() => return Err(NotOpen::Gone),
                () = tokio::time::sleep_until(until) => {
                    return Err(NotOpen::NoHello { noise: self.noise(), waited: Some(limit) });
                }
            };
            match self.hear(message)? {
                Say::Nothing => {}
                Say::GiveUp => return Err(NotOpen::WrongPassword),
                Say::Password => {
                    let Some(password) = password else { return Err(NotOpen::WrongPassword) };
                    begin()?;
                    let line = Zeroizing::new(format!("{password}\n").into_bytes());
                    self.feeder.push(Bytes::from_owner(line));
                    until = Instant::now() + limit;
                }
                Say::Script => until = Instant::now() + limit,
            }
            if let Some(hello) = self.take_hello() {
                return Ok(hello);
            }
        }
    }

    fn hear(&mut self, message: Option<ChannelMsg>) -> Result<Say, NotOpen> {
        match message {
            None if self.ended => Err(NotOpen::NoHello { noise: self.noise(), waited: None }),
            None => Err(NotOpen::Gone),
            Some(ChannelMsg::Failure) => {
                Err(NotOpen::NoHello { noise: "the host refuses to execute commands".into(), waited: None })
            }
            Some(ChannelMsg::Close) => Err(NotOpen::NoHello { noise: self.noise(), waited: None }),
            Some(ChannelMsg::ExitStatus { .. } | ChannelMsg::ExitSignal { .. } | ChannelMsg::Eof) => {
                self.ended = true;
                Ok(Say::Nothing)
            }
            Some(ChannelMsg::Data { data }) => self.bytes(Stream::Out, &data),
            Some(ChannelMsg::ExtendedData { data, ext: 1 }) => self.bytes(Stream::Err, &data),
            Some(_) => Ok(Say::Nothing),
        }
    }

    fn bytes(&mut self, stream: Stream, bytes: &[u8]) -> Result<Say, NotOpen> {
        self.heard += bytes.len();
        if self.heard > TALK {
            return Err(NotOpen::NoHello { noise: self.noise(), waited: None });
        }
        let mut said = Say::Nothing;
        let mut rest = Bytes::copy_from_slice(bytes);
        if let Some(talk) = &mut self.talk {
            said = talk.hear(stream, bytes);
            if !matches!(said, Say::Script) {
                return Ok(said);
            }
            rest = Bytes::from(std::mem::take(&mut talk.out));
            self.talk = None;
        }
        if self.pairing.push(stream, &rest, &mut self.events).is_err() {
            return Err(NotOpen::NoHello { noise: "its first frame is garbled".into(), waited: None });
        }
        Ok(said)
    }

    fn take_hello(&mut self) -> Option<Hello> {
        let at = self.events.iter().position(|e| matches!(e, Event::Hello(_)))?;
        match self.events.remove(at) {
            Event::Hello(hello) => Some(hello),
            _ => None,
        }
    }

    /// An end after the password was given, and before sudo let us in, is its answer to it, whatever else it says: another
    /// try would be another failed attempt.
    fn after_password(&self, why: NotOpen) -> NotOpen {
        let asked = self.talk.as_ref().is_some_and(|talk| talk.asked);
        match why {
            NotOpen::NoHello { noise, waited: None }
                if asked && !matches!(classify(&noise, true), NoHello::SudoRefused | NoHello::SudoTty) =>
            {
                NotOpen::WrongPassword
            }
            why => why,
        }
    }

    fn noise(&self) -> String {
        match &self.talk {
            Some(talk) => String::from_utf8_lossy(&talk.err).into_owned(),
            None => self.pairing.noise(),
        }
    }
}
