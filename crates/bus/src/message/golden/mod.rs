//! Golden examples: every message version ever sent, as a file. All must decode, and today's encoding must equal the
//! newest of them to the byte (white space outside strings aside). `OPENWATCH_BLESS=1` writes files that are missing.

mod samples;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use openwatch_model::scan::Verdict;
use proptest::prelude::*;

use self::samples::{completed, failed, records, rejected, sample_event, sample_job, samples, trace};
use super::event::{Event, Kind};
use super::result::{Final, Rejected, Started};
use super::{audit, event, job, result, vault};
use crate::{DecodeError, Outgoing};

fn folder() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "..", "specs", "messages"].iter().collect()
}

fn write_down(message: &Outgoing) -> String {
    let text = |text: &str| serde_json::to_string(text).unwrap();
    let headers: Vec<_> =
        message.headers.iter().map(|(name, value)| format!("{}:{}", text(name), text(value))).collect();
    let payload = std::str::from_utf8(&message.payload).unwrap();
    let (subject, id) = (text(&message.subject), text(&message.message_id));
    format!(
        r#"{{"subject":{subject},"message_id":{id},"headers":{{{}}},"payload":{payload}}}"#,
        headers.join(",")
    )
}

/// Without white space outside strings; order and numbers stay as they are.
fn minify(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    let keep = |c: &char| {
        let kept = in_string || !c.is_whitespace();
        match c {
            '"' if !escaped => in_string = !in_string,
            _ => {}
        }
        escaped = in_string && *c == '\\' && !escaped;
        kept
    };
    text.chars().filter(keep).collect()
}

/// Reads a message of the name's kind and writes it again, whatever its version was.
fn round_trip(name: &str, headers: &[(String, String)], payload: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let kind = name.split('.').take(2).collect::<Vec<_>>().join(".");
    Ok(match kind.as_str() {
        "result.started" => Started::decode(payload)?.encode().to_vec(),
        "result.rejected" => Rejected::decode(payload)?.encode().to_vec(),
        "result.final" if name.contains("stored") => match result::decode_final(&payload.to_vec().into())? {
            Final::Stored(blob) => result::encode_stored(&blob).to_vec(),
            Final::Whole(_) => panic!("{name} should name a blob"),
        },
        "result.final" => {
            let packed = zstd::encode_all(payload, 1).unwrap().into();
            let Final::Whole(whole) = result::decode_final(&packed)? else {
                panic!("{name} should be whole")
            };
            zstd::decode_all(&result::encode_final(&whole.read()?)[..]).unwrap()
        }
        "vault.holding" => vault::Holding::decode(payload)?.encode().to_vec(),
        "vault.request" => vault::Request::decode(payload)?.encode().to_vec(),
        "vault.reply" => vault::Reply::decode(payload)?.encode().to_vec(),
        _ if name.starts_with("job.") => job::encode(&job::decode(payload)?).to_vec(),
        _ if name.starts_with("audit.") => {
            audit::Records::decode(&payload.to_vec().into())?.encode(None).payload.to_vec()
        }
        _ if name.starts_with("event.") => Event::decode(headers, payload)?.encode(None).payload.to_vec(),
        _ => panic!("{name}: a golden message of no known kind"),
    })
}

// @spec event-stream
// @ac AC-03
#[test]
fn todays_encoding_equals_the_golden_messages() {
    println!("@spec event-stream\n@ac AC-03");
    for (name, message) in samples() {
        let path = folder().join(format!("{name}.json"));
        if std::env::var_os("OPENWATCH_BLESS").is_some() && !path.exists() {
            std::fs::write(&path, write_down(&message)).unwrap();
        }
        let golden =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            minify(&golden),
            write_down(&message),
            "{name}: what is promised in specs/messages has changed"
        );
    }
}

// @spec event-stream
// @ac AC-03
#[test]
fn every_golden_message_ever_written_decodes() {
    println!("@spec event-stream\n@ac AC-03");
    #[derive(serde::Deserialize)]
    struct Golden {
        headers: BTreeMap<String, String>,
        payload: serde_json::Value,
    }
    let mut seen = 0;
    for file in std::fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let golden: Golden = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let headers: Vec<_> = golden.headers.into_iter().collect();
        let payload = serde_json::to_vec(&golden.payload).unwrap();
        let again = round_trip(&name, &headers, &payload).unwrap_or_else(|error| panic!("{name}: {error}"));
        let again: serde_json::Value = serde_json::from_slice(&again).unwrap();
        assert_eq!(again, golden.payload, "{name}");
        seen += 1;
    }
    assert!(seen >= samples().len());
}

#[test]
fn events_and_results_read_back_as_they_were() {
    for kind in Kind::ALL.iter().copied() {
        let event = sample_event(kind);
        let message = event.encode(Some(trace()));
        assert_eq!(Event::decode(&message.headers, &message.payload).unwrap(), event);
    }
    for result in [completed(), failed()] {
        let Final::Whole(read) = result::decode_final(&result::encode_final(&result)).unwrap() else {
            panic!("it is whole")
        };
        assert_eq!(read.read().unwrap(), result);
        // In one frame, as another writer may send it; evidence may stay text.
        let packed =
            zstd::encode_all(&zstd::decode_all(&result::encode_final(&result)[..]).unwrap()[..], 1).unwrap();
        let Final::Whole(read) = result::decode_final(&packed.into()).unwrap() else { panic!("it is whole") };
        let texts: Vec<_> =
            read.outcomes().unwrap().into_iter().map(|o| o.evidence.get().to_owned()).collect();
        let result = read.read().unwrap();
        let Verdict::Completed(measured) = &result.verdict else { continue };
        assert_eq!(texts, [serde_json::to_string(&measured.outcomes[0].evidence).unwrap()]);
    }
    assert_eq!(Rejected::decode(&rejected().encode()).unwrap(), rejected());
    assert_eq!(audit::Records::decode(&records().encode(None).payload).unwrap(), records());
}

#[test]
fn later_versions_are_told_apart_from_nonsense() {
    let later = br#"{"version":3}"#;
    assert!(matches!(job::decode(later), Err(DecodeError::UnknownVersion { version: 3, .. })));
    assert!(matches!(vault::Request::decode(later), Err(DecodeError::UnknownVersion { .. })));
    assert!(matches!(vault::Reply::decode(later), Err(DecodeError::UnknownVersion { .. })));
    assert!(matches!(Started::decode(later), Err(DecodeError::UnknownVersion { .. })));
    for nonsense in [&b""[..], b"\xff\xfe", b"{\"version\":\"1\"}", b"{\"version\":1}", b"null"] {
        assert!(matches!(job::decode(nonsense), Err(DecodeError::Malformed { .. })));
        assert!(matches!(vault::Reply::decode(nonsense), Err(DecodeError::Malformed { .. })));
        assert!(matches!(Rejected::decode(nonsense), Err(DecodeError::Malformed { .. })));
    }
}

#[test]
fn events_carry_no_evidence_and_no_addresses() {
    for kind in Kind::ALL.iter().copied() {
        let text = write_down(&sample_event(kind).encode(None));
        for word in ["stdout", "command", "address", "evidence", "secret", "password", "detail"] {
            assert!(!text.contains(word), "{kind:?} carries {word}");
        }
        assert!(event::Kind::parse(kind.as_str()).is_some());
    }
}

proptest! {
    #[test]
    fn any_job_reads_back(actor in ".*", address in ".*", number in any::<i64>(), ns in any::<i64>(), port in any::<u16>(),
        rules in prop::collection::vec(".*", 0..4), variables in prop::collection::btree_map(".*", ".*", 0..4), ms in any::<u64>()) {
        let mut it = sample_job();
        it.actor = actor;
        it.address = address;
        it.host_number = number;
        it.enqueued_at_ns = ns;
        it.port = port;
        it.selection.rules = rules;
        it.variables = variables;
        it.timeout = Duration::from_millis(ms);
        prop_assert_eq!(job::decode(&job::encode(&it)).unwrap(), it);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = job::decode(&bytes);
        let packed = bytes::Bytes::from(bytes.clone());
        if let Ok(Final::Whole(unread)) = result::decode_final(&packed) {
            let _ = unread.read();
        }
        let _ = result::decode_whole(&packed);
        let _ = Rejected::decode(&bytes);
        let _ = vault::Request::decode(&bytes);
        let _ = vault::Reply::decode(&bytes);
        for kind in Kind::ALL.iter().copied() {
            let _ = Event::decode(&[("ce-type".into(), kind.ce_type())], &bytes);
        }
    }
}
