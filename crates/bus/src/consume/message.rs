//! A message as a handler sees it, and where its decision is sent.

use async_nats::Subject;
use bytes::Bytes;
use openwatch_model::Timestamp;

use crate::request::header_list;
use crate::trace::Traceparent;

/// A message in hand. It can be read, not acknowledged: that follows from the handler's answer.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it was published.
    pub subject: String,
    /// Its headers; the last value of each name.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub payload: Bytes,
    /// The stream that holds it.
    pub stream: String,
    /// The consumer that delivered it.
    pub consumer: String,
    /// Its place in the stream: with the stream's name, its identity.
    pub sequence: u64,
    /// 1 on first delivery.
    pub deliveries: u64,
    /// When it was stored, by the server's clock.
    pub published: Timestamp,
    /// Our step of the trace that it belongs to; put its child into what is sent on.
    pub trace: Traceparent,
    pub(super) reply: Subject,
}

impl Message {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// `Nats-Msg-Id`, the sender's name for it.
    pub fn message_id(&self) -> Option<&str> {
        self.header("Nats-Msg-Id")
    }

    /// From the wire; `None` when it is no delivery of a stream.
    pub(crate) fn read(raw: async_nats::Message) -> Option<Self> {
        let reply = raw.reply?;
        let origin = Origin::parse(&reply)?;
        let headers = raw.headers.as_ref().map(header_list).unwrap_or_default();
        let parent = headers.iter().find(|(name, _)| name == Traceparent::HEADER);
        let parent = parent.and_then(|(_, value)| value.parse::<Traceparent>().ok());
        let trace = parent.map_or_else(Traceparent::new_root, Traceparent::child);
        Some(Self {
            subject: raw.subject.to_string(),
            headers,
            payload: raw.payload,
            stream: origin.stream,
            consumer: origin.consumer,
            sequence: origin.sequence,
            deliveries: origin.deliveries,
            published: origin.published,
            trace,
            reply,
        })
    }
}

/// What the ack subject says about a delivery.
#[derive(Debug, PartialEq)]
struct Origin {
    stream: String,
    consumer: String,
    sequence: u64,
    deliveries: u64,
    published: Timestamp,
}

impl Origin {
    /// `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<ns>.<pending>`, or the longer form with
    /// domain and account hash before the stream.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let at = match tokens.len() {
            7 => 0,
            9.. => 2,
            _ => return None,
        };
        let ns: i128 = tokens.get(at + 5)?.parse().ok()?;
        Some(Self {
            stream: (*tokens.get(at)?).to_owned(),
            consumer: (*tokens.get(at + 1)?).to_owned(),
            deliveries: tokens.get(at + 2)?.parse().ok()?,
            sequence: tokens.get(at + 3)?.parse().ok()?,
            published: Timestamp::from_unix_timestamp_nanos(ns).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_ack_subject_are_read() {
        let short = Origin::parse("$JS.ACK.OW_JOBS.executor-manual.2.17.20.1700000000000000000.3").unwrap();
        assert_eq!((short.stream.as_str(), short.consumer.as_str()), ("OW_JOBS", "executor-manual"));
        assert_eq!((short.deliveries, short.sequence), (2, 17));
        let long = "$JS.ACK._.hash.OW_JOBS.executor-manual.2.17.20.1700000000000000000.3";
        assert_eq!(Origin::parse(long), Some(short));
        let longer = Origin::parse(&format!("{long}.token"));
        assert_eq!(longer.map(|o| o.sequence), Some(17));
        for bad in ["", "$JS.ACK.a.b.c", "_INBOX.x", "$JS.ACK.a.b.x.17.20.1.3"] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
    }
}
