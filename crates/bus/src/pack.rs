//! Messages on their way to the bus, as one row of the outbox holds them: together, and without what every one of them
//! says. What arrives on the bus is byte for byte what was packed.
//!
//! Form 1: the byte 1, then one zstd frame of the messages after one another, made with the words of `pack.words` as dictionary. Each is
//! a line of subject, message id and length of the payload, a line for each header, an empty line, and the payload.

use std::io::Read;
use std::sync::LazyLock;

use bytes::Bytes;
use zstd::dict::EncoderDictionary;

use crate::Outgoing;

/// Events and records as they commonly read. Belongs to form 1: other words are another form.
const WORDS: &[u8] = include_bytes!("pack.words");
/// The words as the compressor wants them: that costs more than most frames do.
static QUICK: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(WORDS, 1));
/// For what nearly every scan tells: a fourteenth smaller, for ten microseconds.
static CLOSE: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(WORDS, 5));
/// Longer than what a scan tells that found nothing new.
const LONG: usize = 4 << 10;
const FORM: u8 = 1;
/// No stream takes a message of a tenth of this, and nobody packs more than a few kilobytes of several.
const MOST: u64 = 64 << 20;

/// What was to be unpacked is nothing that [`pack`] made.
#[derive(Debug, thiserror::Error)]
pub enum Unpackable {
    /// Of a later build.
    #[error("packed in form {0}, which this build does not know")]
    Form(u8),
    /// Damaged.
    #[error("packed messages cannot be read: {0}")]
    Damaged(String),
}

/// Packs messages. Called by every stage for what it tells.
pub fn pack(messages: &[Outgoing]) -> Vec<u8> {
    let mut plain = Vec::new();
    for message in messages {
        let head = format!("{} {} {}\n", message.subject, message.message_id, message.payload.len());
        plain.extend_from_slice(head.as_bytes());
        for (name, value) in &message.headers {
            // As the bus would: a line end cannot be in a header.
            plain.extend_from_slice(format!("{name}: {}\n", crate::request::clean(value)).as_bytes());
        }
        plain.push(b'\n');
        plain.extend_from_slice(&message.payload);
    }
    let words = if plain.len() < LONG { &CLOSE } else { &QUICK };
    let frame =
        zstd::bulk::Compressor::with_prepared_dictionary(words).and_then(|mut it| it.compress(&plain));
    let mut packed = vec![FORM];
    packed.extend(frame.expect("bytes in memory can be compressed"));
    packed
}

/// The messages that were packed. Called by the relay.
///
/// # Errors
/// [`Unpackable`].
pub fn unpack(packed: &[u8]) -> Result<Vec<Outgoing>, Unpackable> {
    let frame = match packed.split_first() {
        Some((&FORM, frame)) => frame,
        Some((&form, _)) => return Err(Unpackable::Form(form)),
        None => return Err(damaged("nothing there")),
    };
    let mut plain = Vec::new();
    zstd::Decoder::with_dictionary(frame, WORDS)
        .and_then(|it| it.take(MOST).read_to_end(&mut plain))
        .map_err(|error| damaged(&error.to_string()))?;
    let mut plain = Bytes::from(plain);
    let mut messages = Vec::new();
    while !plain.is_empty() {
        messages.push(one(&mut plain)?);
    }
    Ok(messages)
}

fn one(plain: &mut Bytes) -> Result<Outgoing, Unpackable> {
    let head = line(plain)?;
    let mut words = head.split(' ');
    let (Some(subject), Some(message_id), Some(Ok(length)), None) =
        (words.next(), words.next(), words.next().map(str::parse::<usize>), words.next())
    else {
        return Err(damaged("a message without subject, id and length"));
    };
    let mut headers = Vec::new();
    loop {
        let header = line(plain)?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(": ").ok_or_else(|| damaged("a header without a name"))?;
        headers.push((name.to_owned(), value.to_owned()));
    }
    if length > plain.len() {
        return Err(damaged("a payload is cut off"));
    }
    let payload = plain.split_to(length);
    Ok(Outgoing { subject: subject.to_owned(), message_id: message_id.to_owned(), headers, payload })
}

fn line(plain: &mut Bytes) -> Result<String, Unpackable> {
    let end = plain.iter().position(|&byte| byte == b'\n').ok_or_else(|| damaged("a line without an end"))?;
    let line = plain.split_to(end + 1);
    String::from_utf8(line[..end].to_vec()).map_err(|_| damaged("a line that is no text"))
}

fn damaged(why: &str) -> Unpackable {
    Unpackable::Damaged(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(n: usize, payload: &'static [u8]) -> Outgoing {
        let headers = vec![("ce-id".to_owned(), n.to_string()), ("empty".to_owned(), String::new())];
        Outgoing {
            subject: format!("ow.v1.evt.x.{n}"),
            message_id: n.to_string(),
            headers,
            payload: payload.into(),
        }
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let all = [message(1, b"{\"a\": 1}\n\n"), message(2, b""), message(3, &[0, 255, 10, 10])];
        assert_eq!(unpack(&pack(&all)).unwrap(), all);
        assert_eq!(unpack(&pack(&[])).unwrap(), []);
    }

    #[test]
    fn what_was_not_packed_is_told_apart() {
        assert!(matches!(unpack(b""), Err(Unpackable::Damaged(_))));
        assert!(matches!(unpack(b"{}"), Err(Unpackable::Form(b'{'))));
        assert!(matches!(unpack(&[FORM, 1, 2, 3]), Err(Unpackable::Damaged(_))));
        let packed = pack(&[message(1, b"0123456789")]);
        assert!(matches!(unpack(&packed[..packed.len() - 4]), Err(Unpackable::Damaged(_))));
    }

    /// Rows that an older build packed wait for a newer one.
    #[test]
    fn the_words_of_form_1_are_what_they_were() {
        use sha2::Digest as _;
        assert_eq!(
            hex::encode(sha2::Sha256::digest(WORDS)),
            "fec429f299a76d88c8c839df00a263433be10ac25e3da18009a59b1bc0f1180e"
        );
    }
}
