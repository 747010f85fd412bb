//! What a judge sees of the observations, and the record of what it asked for.

use std::borrow::Cow;

use openwatch_model::plan::{Lost, Observation};

use super::{Step, View, module, package_query, sshd};

/// The answers to one check's steps.
pub(crate) struct Answers<'a> {
    steps: &'a [Step],
    observations: Vec<&'a Observation>,
    /// Steps that were asked for, with what they said, in order.
    pub(crate) asked: Vec<(usize, Answer<'a>)>,
}

/// What a step said, in bytes.
#[derive(Clone, Debug)]
pub(crate) enum Answer<'a> {
    Said { exit: i32, stdout: Cow<'a, [u8]>, stderr: Cow<'a, [u8]> },
    Lost(Lost),
}

/// A step that has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LostStep {
    pub(crate) step: usize,
    pub(crate) why: Lost,
}

/// An answer as a judge reads it.
#[derive(Clone, Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) exit: i32,
    /// Without its last line break.
    pub(crate) stdout: Cow<'a, str>,
}

impl Seen<'_> {
    pub(crate) fn trimmed(&self) -> &str {
        self.stdout.trim()
    }
}

impl<'a> Answers<'a> {
    pub(crate) fn new(steps: &'a [Step], observations: Vec<&'a Observation>) -> Self {
        Self { steps, observations, asked: Vec::new() }
    }

    /// The answer to a step; it is evidence from now on.
    pub(crate) fn ask(&mut self, step: usize) -> Result<Seen<'a>, LostStep> {
        let answer = match self.observations[step] {
            Observation::Lost(why) => Answer::Lost(*why),
            Observation::Done(done) => match &self.steps[step].view {
                View::Whole => Answer::Said {
                    exit: done.exit,
                    stdout: Cow::Borrowed(&done.stdout),
                    stderr: Cow::Borrowed(&done.stderr),
                },
                View::SshdKey(key) => said(sshd::lines_of(&done.stdout, key)),
                View::LsmodWord(word) => silent(i32::from(!module::has_word(&done.stdout, word))),
                View::Package { name, wanted } => match package_query::installed(&done.stdout, name) {
                    Some(installed) => silent(i32::from(installed != *wanted)),
                    None => Answer::Lost(Lost::Protocol),
                },
                View::Walk(walk) => match walk.answer(&done.stdout) {
                    Ok((exit, stdout)) => Answer::Said {
                        exit,
                        stdout: Cow::Borrowed(stdout),
                        stderr: Cow::Borrowed(&done.stderr),
                    },
                    Err(lost) => Answer::Lost(lost),
                },
            },
        };
        self.asked.push((step, answer.clone()));
        match answer {
            Answer::Lost(why) => Err(LostStep { step, why }),
            Answer::Said { exit, stdout, .. } => Ok(Seen { exit, stdout: text(stdout) }),
        }
    }
}

/// What a filter said: its lines, and exit 1 when there are none.
fn said<'a>(lines: Vec<u8>) -> Answer<'a> {
    Answer::Said { exit: i32::from(lines.is_empty()), stdout: Cow::Owned(lines), stderr: Cow::Borrowed(&[]) }
}

/// What a command said that only has an exit status.
fn silent<'a>(exit: i32) -> Answer<'a> {
    Answer::Said { exit, stdout: Cow::Borrowed(&[]), stderr: Cow::Borrowed(&[]) }
}

/// Bytes as text, without one last line break.
pub(crate) fn text(bytes: Cow<'_, [u8]>) -> Cow<'_, str> {
    match bytes {
        Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(bytes)),
        Cow::Owned(mut bytes) => {
            if bytes.last() == Some(&b'\n') {
                bytes.pop();
            }
            Cow::Owned(
                String::from_utf8(bytes)
                    .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()),
            )
        }
    }
}
