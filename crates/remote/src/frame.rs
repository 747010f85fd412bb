//! Reading one stream of a lane: everything is noise until our nonce says otherwise. Pure, and linear in the input.
//!
//! A frame is a newline, the nonce, a space, words, a newline. The leading newline belongs to the frame, so a body is
//! byte for byte what the command wrote.

use std::collections::VecDeque;

use memchr::memmem::Finder;

use crate::script::Nonce;

/// Longest frame line after the nonce.
const LINE: usize = 96;
/// Noise kept for diagnosis.
const NOISE: usize = 2048;

/// Which of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// A well-formed frame in its right place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Hello(Hello),
    Begin { index: usize, uptime: Option<u64> },
    End { index: usize, exit: i32, uptime: Option<u64>, body: Vec<u8> },
    Last { count: usize },
}

/// The first frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// Process group that is safe to kill.
    pub(crate) group: Option<u32>,
    /// Whether the target has `timeout`.
    pub(crate) timeout: bool,
}

/// The target broke the framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before the hello.
    Noise,
    /// Between commands (standard output only: the other stream has no begin frames).
    Between,
    /// In the output of the command at the front of the queue.
    Body,
    /// After the last frame.
    Over,
}

/// State machine of one stream.
pub(crate) struct Reader {
    stream: Stream,
    needle: Finder<'static>,
    state: State,
    /// Commands whose frames are still to come, in order.
    expected: VecDeque<usize>,
    buffer: Vec<u8>,
    /// Bytes of it that have become frames.
    taken: usize,
    /// No needle starts before this offset.
    searched: usize,
    noise: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(stream: Stream, nonce: &Nonce) -> Self {
        let needle = Finder::new(&format!("\n{} ", nonce.as_str())).into_owned();
        Self {
            stream,
            needle,
            state: State::Noise,
            expected: VecDeque::new(),
            buffer: Vec::new(),
            taken: 0,
            searched: 0,
            noise: Vec::new(),
        }
    }

    /// Announces a command that has been sent.
    pub(crate) fn expect(&mut self, index: usize) {
        self.expected.push_back(index);
    }

    /// Takes bytes as they arrived and adds the frames they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], marks: &mut Vec<Mark>) -> Result<(), Garbled> {
        if self.state == State::Over {
            return Ok(());
        }
        if self.state == State::Noise && self.noise.len() < NOISE {
            let room = NOISE - self.noise.len();
            self.noise.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        self.buffer.extend_from_slice(bytes);
        while self.state != State::Over {
            let Some(at) = self.find_needle() else { break };
            let line = at + self.needle.needle().len();
            let rest = &self.buffer[line..];
            let Some(end) = memchr::memchr(b'\n', &rest[..rest.len().min(LINE)]) else {
                if rest.len() >= LINE {
                    return Err(Garbled);
                }
                self.searched = at;
                break;
            };
            let words = std::str::from_utf8(&rest[..end]).map_err(|_| Garbled)?.to_owned();
            let mark = self.read(&words, at)?;
            self.taken = line + end + 1;
            self.searched = self.taken;
            marks.push(mark);
        }
        self.forget();
        Ok(())
    }

    fn find_needle(&mut self) -> Option<usize> {
        let found = self.needle.find(&self.buffer[self.searched..]).map(|at| at + self.searched);
        if found.is_none() {
            let most = self.needle.needle().len() - 1;
            self.searched = self.buffer.len().saturating_sub(most).max(self.searched);
        }
        found
    }

    /// Between bodies nothing is kept but what might be the start of a frame.
    fn forget(&mut self) {
        let until = match self.state {
            State::Noise | State::Between => self.searched,
            // Nobody is left to own it: a background child's last words.
            State::Body if self.expected.is_empty() => self.searched,
            State::Body => self.taken,
            State::Over => {
                self.buffer = Vec::new();
                return;
            }
        };
        // Once for all frames of these bytes: what is left moves to the front.
        self.buffer.drain(..until);
        self.searched -= until;
        self.taken = 0;
    }

    fn read(&mut self, words: &str, body_end: usize) -> Result<Mark, Garbled> {
        let mut words = words.split(' ');
        let kind = words.next().ok_or(Garbled)?;
        let words: Vec<&str> = words.collect();
        match (kind, self.state, words.as_slice()) {
            ("H", State::Noise, fields) => self.hello(fields),
            ("B", State::Between, [index, uptime]) => {
                self.expect_front(index)?;
                self.state = State::Body;
                Ok(Mark::Begin { index: number(index)?, uptime: parse_uptime(uptime)? })
            }
            ("E", State::Body, fields) => self.end(fields, body_end),
            ("Z", State::Between, [count]) if self.expected.is_empty() => {
                self.state = State::Over;
                Ok(Mark::Last { count: number(count)? })
            }
            _ => Err(Garbled),
        }
    }

    fn hello(&mut self, fields: &[&str]) -> Result<Mark, Garbled> {
        let hello = match (self.stream, fields) {
            (Stream::Out, ["1", group, timeout]) => {
                let group = match *group {
                    "-" => None,
                    // Groups 0 and 1 are never ours to kill.
                    text => Some(number::<u32>(text)?).filter(|group| (2..=i32::MAX as u32).contains(group)),
                };
                Hello { group, timeout: *timeout == "t" }
            }
            (Stream::Err, []) => Hello::default(),
            _ => return Err(Garbled),
        };
        self.state = if self.stream == Stream::Out { State::Between } else { State::Body };
        self.noise = Vec::new();
        Ok(Mark::Hello(hello))
    }

    fn end(&mut self, fields: &[&str], body_end: usize) -> Result<Mark, Garbled> {
        let (index, exit, uptime) = match (self.stream, fields) {
            (Stream::Out, [index, exit, uptime]) => (*index, number(exit)?, parse_uptime(uptime)?),
            (Stream::Err, [index]) => (*index, 0, None),
            _ => return Err(Garbled),
        };
        self.expect_front(index)?;
        self.expected.pop_front();
        if self.stream == Stream::Out {
            self.state = State::Between;
        }
        Ok(Mark::End {
            index: number(index)?,
            exit,
            uptime,
            body: self.buffer[self.taken..body_end].to_vec(),
        })
    }

    fn expect_front(&self, index: &str) -> Result<(), Garbled> {
        if self.expected.front() == Some(&number(index)?) { Ok(()) } else { Err(Garbled) }
    }

    /// Bytes held for the command that is writing now.
    pub(crate) fn held(&self) -> usize {
        if self.state == State::Body { self.buffer.len() } else { 0 }
    }

    /// The command whose output is being read.
    pub(crate) fn current(&self) -> Option<usize> {
        if self.state == State::Body { self.expected.front().copied() } else { None }
    }

    /// What came before the hello, for diagnosis.
    pub(crate) fn noise(&self) -> &[u8] {
        &self.noise
    }

    /// Whether the hello has come.
    pub(crate) fn greeted(&self) -> bool {
        self.state != State::Noise
    }
}

/// For fuzzing: reads a stream in pieces of this many bytes, with the nonce `n` and so many commands announced, and
/// tells what came of it.
#[doc(hidden)]
pub fn read_frames(out: bool, commands: usize, piece: usize, bytes: &[u8]) -> Vec<String> {
    let stream = if out { Stream::Out } else { Stream::Err };
    let mut reader = Reader::new(stream, &Nonce::of("n"));
    (0..commands).for_each(|index| reader.expect(index));
    let mut marks = Vec::new();
    let garbled = bytes.chunks(piece).any(|piece| reader.push(piece, &mut marks).is_err());
    let told = marks.iter().map(|mark| format!("{mark:?}"));
    told.chain(garbled.then(|| "garbled".to_owned())).collect()
}

/// Decimal digits only: no sign but a leading minus where the type has one, no spaces.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, Garbled> {
    if text.starts_with('+') {
        return Err(Garbled);
    }
    text.parse().map_err(|_| Garbled)
}

/// `12345.67` in hundredths of a second; `-` where the target cannot tell.
fn parse_uptime(text: &str) -> Result<Option<u64>, Garbled> {
    if text == "-" {
        return Ok(None);
    }
    let (seconds, rest) = text.split_once('.').unwrap_or((text, "00"));
    let hundredths: u64 = number(format!("{rest:0<2}").get(..2).ok_or(Garbled)?)?;
    let seconds: u64 = number(seconds)?;
    Ok(seconds.checked_mul(100).and_then(|s| s.checked_add(hundredths)))
}
