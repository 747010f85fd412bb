//! W3C trace context: one scan is one trace, from the scheduler to the webhook.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The `traceparent` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traceparent {
    trace: u128,
    span: u64,
    sampled: bool,
}

impl Traceparent {
    /// Header name.
    pub const HEADER: &'static str = "traceparent";

    /// A new trace that belongs to a scan: always the same one, so that attempts and replays stay together.
    pub fn of(id: Uuid) -> Self {
        Self { trace: id.as_u128().max(1), span: new_span(), sampled: true }
    }

    /// A new trace.
    pub fn new_root() -> Self {
        Self::of(Uuid::new_v4())
    }

    /// The next step of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: new_span(), ..self }
    }

    /// 32 hex digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// 16 hex digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }
}

fn new_span() -> u64 {
    // Eight bytes of a random UUID that hold no version bits.
    (Uuid::new_v4().as_u128() as u64 ^ Uuid::new_v4().as_u128().wrapping_shr(64) as u64).max(1)
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// The text is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read a traceparent")]
pub struct InvalidTraceparent;

impl FromStr for Traceparent {
    type Err = InvalidTraceparent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, ..] = parts[..] else { return Err(InvalidTraceparent) };
        let hex = |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
        if !(hex(version, 2) && version != "ff" && hex(trace, 32) && hex(span, 16) && hex(flags, 2)) {
            return Err(InvalidTraceparent);
        }
        let trace = u128::from_str_radix(trace, 16).map_err(|_| InvalidTraceparent)?;
        let span = u64::from_str_radix(span, 16).map_err(|_| InvalidTraceparent)?;
        let flags = u8::from_str_radix(flags, 16).map_err(|_| InvalidTraceparent)?;
        if trace == 0 || span == 0 {
            return Err(InvalidTraceparent);
        }
        Ok(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_keeps_the_trace() {
        let root = Traceparent::new_root();
        assert_eq!(root.to_string().parse(), Ok(root));
        let child = root.child();
        assert_eq!(child.trace_id(), root.trace_id());
        assert_ne!(child.span_id(), root.span_id());
    }

    #[test]
    fn refuses_what_is_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(good.parse::<Traceparent>().is_ok());
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert!(bad.parse::<Traceparent>().is_err(), "{bad}");
        }
    }
}
