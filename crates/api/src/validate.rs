//! What names, addresses and texts may look like. The database checks again; here the answer names the field.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use axum::http::Uri;
use openwatch_model::alert::{AlertSeverity, AlertType, TAGS};
use openwatch_model::reach::is_inside;
use uuid::Uuid;

use crate::error::{Code, Failure};

/// Longest reason of a person.
const REASON_MAX: usize = 256;
/// Longest part of a credential.
const SECRET_MAX: usize = 32 * 1024;

/// A name that people type: letters, digits, `.`, `_`, `-`; never a UUID, for paths take either.
pub(crate) fn name(pointer: &str, text: &str, max: usize) -> Result<(), Failure> {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > max || !text.chars().all(letters) {
        let detail = format!("must be 1 to {max} letters, digits, `.`, `_` or `-`");
        return Err(Failure::field(Code::FieldFormat, pointer, detail));
    }
    if text.parse::<Uuid>().is_ok() {
        return Err(Failure::field(Code::FieldFormat, pointer, "must not look like an id"));
    }
    Ok(())
}

/// Something to dial: a host name, an IPv4 or an IPv6 address (without brackets; a zone is allowed).
pub(crate) fn address(pointer: &str, text: &str) -> Result<(), Failure> {
    let label = |part: &str| {
        let letters = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&part.len())
            && part.chars().all(letters)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    // What is all digits and dots is meant as an IPv4 address; `10.0.0.256` is not a name.
    let numeric = text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let named = !numeric && text.len() <= 253 && text.trim_end_matches('.').split('.').all(label);
    let plain = text.split_once('%').filter(|(_, zone)| label(zone)).map_or(text, |(plain, _)| plain);
    let numbered = plain.parse::<Ipv6Addr>().is_ok() || text.parse::<IpAddr>().is_ok();
    let wrong =
        || Failure::field(Code::FieldFormat, pointer, "must be a host name, an IPv4 or an IPv6 address");
    if named || numbered { Ok(()) } else { Err(wrong()) }
}

/// A login user as it stands in an SSH request.
pub(crate) fn user(pointer: &str, text: &str) -> Result<(), Failure> {
    let bad = |c: char| c.is_control() || c.is_whitespace();
    let wrong = || Failure::field(Code::FieldFormat, pointer, "must be 1 to 128 characters without spaces");
    if text.is_empty() || text.len() > 128 || text.contains(bad) { Err(wrong()) } else { Ok(()) }
}

/// A port that can be dialled.
pub(crate) fn port(pointer: &str, port: u16) -> Result<(), Failure> {
    if port == 0 { Err(Failure::field(Code::FieldRange, pointer, "must be 1 to 65535")) } else { Ok(()) }
}

/// Tags that a channel listens to: only such as an alert may have, or it would never hear of one.
pub(crate) fn tags(pointer: &str, tags: &BTreeMap<String, String>) -> Result<(), Failure> {
    labels(pointer, tags)?;
    let wrong = |detail: String| Err(Failure::field(Code::FieldFormat, pointer, detail));
    for (key, value) in tags {
        let words = match key.as_str() {
            "severity" => AlertSeverity::ALL.map(AlertSeverity::as_str).to_vec(),
            "alert_type" => AlertType::ALL.map(AlertType::as_str).to_vec(),
            key if TAGS.contains(&key) || key.starts_with("label.") => continue,
            _ => {
                let known = TAGS.join(", ");
                return wrong(format!(
                    "`{key}` is none of {known}, and no label of the host, `label.` and its key"
                ));
            }
        };
        if !words.contains(&value.as_str()) {
            return wrong(format!("`{value}` is none of {}", words.join(", ")));
        }
    }
    Ok(())
}

/// Labels of a host.
pub(crate) fn labels(pointer: &str, labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (key, value) in labels {
        let bad = |c: char| c.is_control() || c.is_whitespace() || c == '=';
        if key.is_empty() || key.len() > 63 || key.contains(bad) {
            let detail = "keys must be 1 to 63 characters without spaces or `=`";
            return Err(Failure::field(Code::FieldFormat, pointer, detail));
        }
        if value.len() > 253 || value.contains(char::is_control) {
            let detail = "values must be at most 253 characters without control characters";
            return Err(Failure::field(Code::FieldFormat, pointer, detail));
        }
    }
    Ok(())
}

/// A public key: an algorithm that hosts may be trusted with, and base64 of a key of that algorithm.
pub(crate) fn host_key(pointer: &str, algorithm: &str, key: &[u8]) -> Result<(), Failure> {
    let known =
        ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
    if !known.contains(&algorithm) {
        let detail = format!("algorithm must be one of {}", known.join(", "));
        return Err(Failure::field(Code::FieldFormat, pointer, detail));
    }
    // An SSH key begins with the length and name of its algorithm.
    let opening = [&(algorithm.len() as u32).to_be_bytes(), algorithm.as_bytes()].concat();
    let wrong = || Failure::field(Code::FieldFormat, pointer, "key must be base64 of a key of its algorithm");
    if key.starts_with(&opening) && key.len() > opening.len() + 4 { Ok(()) } else { Err(wrong()) }
}

/// Why a person did something.
pub(crate) fn reason(text: Option<&str>) -> Result<(), Failure> {
    let too_long = text.is_some_and(|text| text.chars().count() > REASON_MAX);
    let detail = format!("must be at most {REASON_MAX} characters");
    if too_long { Err(Failure::field(Code::FieldRange, "reason", detail)) } else { Ok(()) }
}

/// A part of a credential; never repeated in the answer.
pub(crate) fn secret(pointer: &str, text: Option<&str>) -> Result<(), Failure> {
    let wrong = |detail: &str| Err(Failure::field(Code::FieldFormat, pointer, detail));
    match text {
        Some("") => wrong("must not be empty; leave it out instead"),
        Some(text) if text.len() > SECRET_MAX => wrong("must be at most 32768 bytes"),
        Some(text) if text.contains('\0') => wrong("must not hold a zero byte"),
        _ => Ok(()),
    }
}

/// Where a webhook goes. Beyond the machine only `https`, and never to an address inside the network: whoever may
/// name a webhook must not thereby reach what the server reaches.
pub(crate) fn webhook(pointer: &str, text: &str, private_allowed: bool) -> Result<(), Failure> {
    let wrong = |detail: &str| Err(Failure::field(Code::FieldFormat, pointer, detail));
    let Ok(uri) = text.parse::<Uri>() else { return wrong("must be an https address") };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else { return wrong("must name a host") };
    if text.len() > 2048 || uri.authority().is_some_and(|it| it.as_str().contains('@')) {
        return wrong("must be at most 2048 characters and carry no user");
    }
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") if private_allowed => {}
        _ => {
            return wrong(
                "must begin with https://, or http:// where `allow_private` (--allow-private) says so",
            );
        }
    }
    outside(pointer, host.trim_matches(['[', ']']), private_allowed)
}

/// A server that is named by its address must not lie inside the network, unless that was allowed.
pub(crate) fn outside(pointer: &str, text: &str, private_allowed: bool) -> Result<(), Failure> {
    let inside = text.parse().is_ok_and(is_inside) || text.eq_ignore_ascii_case("localhost");
    if inside && !private_allowed {
        let detail =
            "must not name an address inside the network, unless `allow_private` (--allow-private) says so";
        return Err(Failure::field(Code::FieldFormat, pointer, detail));
    }
    Ok(())
}

/// A mail address, alone or behind a name in front of `<` and `>`. What is sent judges it again.
pub(crate) fn mail(pointer: &str, text: &str) -> Result<(), Failure> {
    let plain = match text.strip_suffix('>') {
        Some(rest) => rest.rsplit_once('<').map_or("", |(_, plain)| plain),
        None => text,
    };
    let looks = plain.split_once('@').is_some_and(|(user, domain)| !user.is_empty() && !domain.is_empty());
    if !looks || text.len() > 320 || text.contains(char::is_control) || plain.contains(char::is_whitespace) {
        let detail = "must be `name@example.org` or `Name <name@example.org>`";
        return Err(Failure::field(Code::FieldFormat, pointer, detail));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_never_ids() {
        assert!(name("name", "web-1.example_x", 253).is_ok());
        for wrong in ["", "a b", "a/b", "ä", "a:b", "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"] {
            assert!(name("name", wrong, 253).is_err(), "{wrong}");
        }
        assert!(name("name", "abc", 2).is_err());
    }

    #[test]
    fn addresses_are_names_or_numbers() {
        for right in
            ["web-1", "a.example.org", "10.0.0.1", "::1", "fe80::1%eth0", "2001:db8::5", "a.example.org."]
        {
            assert!(address("address", right).is_ok(), "{right}");
        }
        for wrong in ["", "a b", "10.0.0.256", "-x", "[::1]", "a..b", "x:22", "1.2.3", "fe80::1%"] {
            assert!(address("address", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn webhooks_stay_outside() {
        for right in ["https://hooks.example.org/x", "https://8.8.8.8/", "https://[2606:4700::1]/x"] {
            assert!(webhook("url", right, false).is_ok(), "{right}");
        }
        for wrong in [
            "http://hooks.example.org/x",
            "https://10.1.2.3/",
            "https://127.0.0.1/",
            "https://localhost/",
            "https://169.254.169.254/latest",
            "https://100.64.0.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[fd00::1]/",
            "https://u:p@example.org/",
            "ftp://example.org/",
            "/path",
            "",
        ] {
            assert!(webhook("url", wrong, false).is_err(), "{wrong}");
        }
        assert!(webhook("url", "http://127.0.0.1:9000/x", true).is_ok());
    }

    #[test]
    fn a_host_key_is_of_the_algorithm_it_names() {
        let key = [&11u32.to_be_bytes(), b"ssh-ed25519".as_slice(), &32u32.to_be_bytes(), &[7; 32]].concat();
        assert!(host_key("key", "ssh-ed25519", &key).is_ok());
        assert!(host_key("key", "ssh-rsa", &key).is_err());
        assert!(host_key("key", "ssh-dss", &key).is_err());
        assert!(host_key("key", "ssh-ed25519", b"").is_err());
    }
}
