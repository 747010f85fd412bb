//! What is kept from the log: secrets that slipped into a detail, and more than a little of strangers' words.

use serde_json::Value;

/// Longest text in a detail: some of it comes from the hosts under test (AUD-11).
const TEXT_CAP: usize = 256;
/// Stands where a secret stood.
const REDACTED: &str = "<REDACTED>";
/// Fields that hold secrets, alone or as the last part of a name. No code declares one: this is the second door.
const SECRET: [&str; 10] = [
    "password",
    "ssh_key",
    "api_key",
    "token",
    "secret",
    "license_jwt",
    "private_key",
    "passphrase",
    "authorization",
    "hmac",
];

/// Blanks secrets, clips texts, replaces control characters. Returns the paths of what was blanked.
pub(super) fn clean(detail: &mut Value) -> Vec<String> {
    let mut redactions = Vec::new();
    walk(detail, &mut String::new(), &mut redactions);
    redactions
}

fn walk(value: &mut Value, path: &mut String, redactions: &mut Vec<String>) {
    match value {
        Value::String(text) if text.chars().any(char::is_control) || text.chars().count() > TEXT_CAP => {
            *text =
                text.chars().take(TEXT_CAP).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        }
        Value::Array(items) => {
            for (place, item) in items.iter_mut().enumerate() {
                below(path, &place.to_string(), |path| walk(item, path, redactions));
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                below(path, name, |path| {
                    if is_secret(name) && !field.is_null() {
                        *field = Value::String(REDACTED.to_owned());
                        redactions.push(path.clone());
                    } else {
                        walk(field, path, redactions);
                    }
                });
            }
        }
        _ => {}
    }
}

fn below(path: &mut String, step: &str, then: impl FnOnce(&mut String)) {
    let length = path.len();
    path.push('/');
    path.push_str(step);
    then(path);
    path.truncate(length);
}

fn is_secret(name: &str) -> bool {
    let same = |(a, b): (u8, u8)| a.to_ascii_lowercase() == b || (a, b) == (b'-', b'_');
    SECRET.iter().any(|word| {
        let Some((rest, last)) =
            name.len().checked_sub(word.len()).and_then(|n| name.as_bytes().split_at_checked(n))
        else {
            return false;
        };
        last.iter().copied().zip(word.bytes()).all(same) && matches!(rest.last(), None | Some(b'_' | b'-'))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn strangers_words_are_clipped_and_tamed() {
        let mut value = json!({"a": ["x\u{0}\n", "y".repeat(300)], "n": 1});
        assert_eq!(clean(&mut value), Vec::<String>::new());
        assert_eq!(value["a"][0], "x\u{fffd}\u{fffd}");
        assert_eq!(value["a"][1].as_str().map(str::len), Some(256));
    }

    #[test]
    fn secrets_are_blanked_wherever_they_are() {
        let mut value = json!({
            "Password": "a", "sudo_password": "b", "nested": [{"API-Key": ["c", {"d": 1}]}], "token": null,
            "token_name": "ops", "passwords_tried": 3, "reason": "wrong password",
        });
        assert_eq!(clean(&mut value), ["/Password", "/nested/0/API-Key", "/sudo_password"]);
        assert_eq!(
            value,
            json!({
                "Password": "<REDACTED>", "sudo_password": "<REDACTED>", "nested": [{"API-Key": "<REDACTED>"}],
                "token": null, "token_name": "ops", "passwords_tried": 3, "reason": "wrong password",
            })
        );
    }
}
