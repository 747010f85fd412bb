//! What is said on the bus. Each kind of message has a file; each version its own struct, never changed once shipped.
//! A new optional field is allowed within a version; anything else is a new one, and both are read for a release.
//!
//! Golden examples of every version lie in `specs/messages/`.

pub mod audit;
pub mod event;
pub mod job;
pub mod result;
pub mod vault;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::DecodeError;

/// Key id of the signature.
pub const KEY_ID: &str = "Ow-Kid";
/// The signature: HMAC-SHA256, hex.
pub const MAC: &str = "Ow-Mac";
/// Which kind of key signed: `queue`, `executor` or `attempt`.
pub const KEY_KIND: &str = "Ow-Key";
/// Id of the message or request that led to this one.
pub const CAUSE: &str = "Ow-Cause";

/// The version of a payload, before anything else of it is read.
fn version(what: &'static str, payload: &[u8]) -> Result<u64, DecodeError> {
    #[derive(Deserialize)]
    struct Peek {
        version: u64,
    }
    parse::<Peek>(what, payload).map(|peek| peek.version)
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, payload: &'a [u8]) -> Result<T, DecodeError> {
    // serde_json's errors name fields and places, and quote at most one wrong word of ours.
    serde_json::from_slice(payload).map_err(|error| DecodeError::Malformed {
        what,
        reason: format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column()),
    })
}

fn write<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("plain structs with string keys always serialise").into()
}

/// Instants as RFC 3339 in UTC with microseconds: what tables keep, so that a round trip loses nothing.
mod instant {
    use openwatch_model::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de};
    use time::format_description::well_known::Rfc3339;
    use time::macros::format_description;

    pub(super) fn format(at: Timestamp) -> String {
        let layout =
            format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");
        let at = at.to_offset(time::UtcOffset::UTC);
        at.format(layout).expect("every field of the layout is there")
    }

    pub(super) fn parse(text: &str) -> Option<Timestamp> {
        Timestamp::parse(text, &Rfc3339).ok()
    }

    pub(super) fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format(*at))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 instant"))
    }

    pub(super) mod optional {
        use super::{Deserialize, Deserializer, Serializer, Timestamp, de, format, parse};

        pub(in crate::message) fn serialize<S: Serializer>(
            at: &Option<Timestamp>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match at {
                Some(at) => serializer.serialize_some(&format(*at)),
                None => serializer.serialize_none(),
            }
        }

        pub(in crate::message) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Timestamp>, D::Error> {
            let text = Option::<String>::deserialize(deserializer)?;
            text.map(|text| parse(&text).ok_or_else(|| de::Error::custom("not an RFC 3339 instant")))
                .transpose()
        }
    }
}

/// Bytes as base64 text.
mod base64_text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map_err(|_| de::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod golden;
