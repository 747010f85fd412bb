//! Joining the two streams of a lane: a command is committed when both have ended it. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use openwatch_model::plan::Done;

use crate::frame::{Garbled, Hello, Mark, Reader, Stream};
use crate::script::Nonce;

/// A committed command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) index: usize,
    pub(crate) done: Done,
    /// Time between its frames by the target's clock, where it has one.
    pub(crate) on_target: Option<Duration>,
}

/// What a piece of input led to, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Both streams said hello.
    Hello(Hello),
    /// A command started to run.
    Begin(usize),
    /// A command ended on standard output; its answer is whole once the other stream agrees.
    Ended(usize),
    /// A command is complete.
    Committed(Committed),
    /// The lane has run everything it was given.
    Finished,
}

struct Half {
    index: usize,
    exit: i32,
    body: Vec<u8>,
    on_target: Option<Duration>,
}

/// Both readers of one lane.
pub(crate) struct Pairing {
    out: Reader,
    err: Reader,
    hello: Option<Hello>,
    began: Option<Option<u64>>,
    out_ended: VecDeque<Half>,
    err_ended: VecDeque<(usize, Vec<u8>)>,
    /// Sent and not yet committed, in order.
    outstanding: VecDeque<usize>,
    sent: usize,
    last: Option<usize>,
    /// Bytes of answers that one stream has ended and the other has not.
    halves: usize,
}

impl Pairing {
    pub(crate) fn new(nonce: &Nonce) -> Self {
        Self {
            out: Reader::new(Stream::Out, nonce),
            err: Reader::new(Stream::Err, nonce),
            hello: None,
            began: None,
            out_ended: VecDeque::new(),
            err_ended: VecDeque::new(),
            outstanding: VecDeque::new(),
            sent: 0,
            last: None,
            halves: 0,
        }
    }

    /// Announces commands that have been sent, in order.
    pub(crate) fn expect(&mut self, index: usize) {
        self.out.expect(index);
        self.err.expect(index);
        self.outstanding.push_back(index);
        self.sent += 1;
    }

    /// Takes bytes of one stream.
    pub(crate) fn push(
        &mut self,
        stream: Stream,
        bytes: &[u8],
        events: &mut Vec<Event>,
    ) -> Result<(), Garbled> {
        let mut marks = Vec::new();
        let result = match stream {
            Stream::Out => self.out.push(bytes, &mut marks),
            Stream::Err => self.err.push(bytes, &mut marks),
        };
        for mark in marks {
            self.take(stream, mark, events)?;
        }
        result
    }

    fn take(&mut self, stream: Stream, mark: Mark, events: &mut Vec<Event>) -> Result<(), Garbled> {
        match mark {
            Mark::Hello(hello) => {
                if stream == Stream::Out {
                    self.hello = Some(hello);
                }
                if let (true, Some(hello)) = (self.err.greeted(), self.hello.as_ref()) {
                    events.push(Event::Hello(hello.clone()));
                }
            }
            Mark::Begin { index, uptime } => {
                self.began = Some(uptime);
                events.push(Event::Begin(index));
            }
            Mark::End { index, body, .. } if stream == Stream::Err => {
                self.halves += body.len();
                self.err_ended.push_back((index, body));
            }
            Mark::End { index, exit, uptime, body } => {
                let began = self.began.take().ok_or(Garbled)?;
                let on_target = began.zip(uptime).and_then(|(from, to)| to.checked_sub(from));
                let on_target =
                    on_target.map(|hundredths| Duration::from_millis(hundredths.saturating_mul(10)));
                self.halves += body.len();
                self.out_ended.push_back(Half { index, exit, body, on_target });
                events.push(Event::Ended(index));
            }
            Mark::Last { count } if count == self.sent => self.last = Some(count),
            Mark::Last { .. } => return Err(Garbled),
        }
        self.commit(events)
    }

    fn commit(&mut self, events: &mut Vec<Event>) -> Result<(), Garbled> {
        while let (Some(half), Some((err_index, _))) = (self.out_ended.front(), self.err_ended.front()) {
            if half.index != *err_index || self.outstanding.front() != Some(err_index) {
                return Err(Garbled);
            }
            let (Some(half), Some((index, stderr))) =
                (self.out_ended.pop_front(), self.err_ended.pop_front())
            else {
                return Err(Garbled);
            };
            self.outstanding.pop_front();
            self.halves -= half.body.len() + stderr.len();
            let done = Done { exit: half.exit, stdout: half.body, stderr, duration: Duration::ZERO, lane: 0 };
            events.push(Event::Committed(Committed { index, done, on_target: half.on_target }));
        }
        if self.last.is_some() && self.err.greeted() && self.outstanding.is_empty() {
            self.last = None;
            events.push(Event::Finished);
        }
        Ok(())
    }

    /// Commands sent and not committed, in order.
    pub(crate) fn outstanding(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.outstanding.iter().copied()
    }

    /// How many commands were sent on this lane.
    pub(crate) fn sent(&self) -> usize {
        self.sent
    }

    /// The command that holds more than this many bytes, if one does. One stream may run ahead of the other by no more
    /// than a whole answer: a host that ends hundreds on one and none on the other would fill our memory with halves.
    pub(crate) fn over(&self, cap: usize) -> Option<usize> {
        if self.halves > cap {
            return self.outstanding.front().copied();
        }
        let (out, err) = (self.out.held(), self.err.held());
        if out > cap {
            return self.out.current();
        }
        if err > cap {
            return self.err.current();
        }
        // The same command on both streams: together.
        match (self.out.current(), self.err.current()) {
            (Some(a), Some(b)) if a == b && out + err > cap => Some(a),
            _ => None,
        }
    }

    /// What came before the hello on either stream, standard error first.
    pub(crate) fn noise(&self) -> String {
        let mut text = String::from_utf8_lossy(self.err.noise()).into_owned();
        text.push('\n');
        text.push_str(&String::from_utf8_lossy(self.out.noise()));
        text
    }
}

#[cfg(test)]
mod tests;
