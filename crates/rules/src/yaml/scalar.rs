//! What an unquoted scalar means. The rule format follows one YAML library in being neither 1.1 nor 1.2: `yes` is
//! text, `0644` is octal, `08` is a decimal fraction's number, `2024-01-02` is a date.

/// A typed scalar.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Timestamp,
    Text(String),
}

/// Types an unquoted scalar.
pub(crate) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Scalar::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Scalar::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Scalar::Float(f64::NEG_INFINITY),
        _ => {}
    }
    match text.as_bytes()[0] {
        b'.' => float(text).map_or_else(|| Scalar::Text(text.to_owned()), Scalar::Float),
        b'0'..=b'9' | b'+' | b'-' => number(text),
        _ => Scalar::Text(text.to_owned()),
    }
}

fn number(text: &str) -> Scalar {
    if is_timestamp(text) {
        return Scalar::Timestamp;
    }
    let plain = text.replace('_', "");
    if let Some(value) = integer(&plain) {
        return Scalar::Int(value);
    }
    float(&plain).map_or_else(|| Scalar::Text(text.to_owned()), Scalar::Float)
}

fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn float(text: &str) -> Option<f64> {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_ok = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    // A number too large to be one is text.
    (mantissa_ok && exponent_ok)
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number: &f64| number.is_finite())
}

/// `2024-1-2`, alone or followed by a time of day and perhaps a zone.
fn is_timestamp(text: &str) -> bool {
    let year = text.bytes().take_while(u8::is_ascii_digit).count();
    if year != 4 || text.as_bytes().get(4) != Some(&b'-') {
        return false;
    }
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], Some((text.as_bytes()[at], &text[at + 1..]))),
        None => (text, None),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let [y, m, d] = parts[..] else { return false };
    let (Some(y), Some(m), Some(d)) = (field(y, 4), field(m, 2), field(d, 2)) else { return false };
    let leap = y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let days = match m {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return false,
    };
    (1..=days).contains(&d) && time.is_none_or(|(separator, time)| is_time(separator, time))
}

fn is_time(separator: u8, time: &str) -> bool {
    let (clock, zone) = match time.find(['Z', '+', '-']) {
        Some(at) => (&time[..at], Some(&time[at..])),
        None => (time, None),
    };
    let zone_ok = match zone {
        None => separator == b' ',
        Some(_) if separator == b' ' => false,
        Some("Z") => true,
        Some(zone) => zone[1..].split_once(':').is_some_and(|(h, m)| {
            h.len() == 2 && m.len() == 2 && field(h, 2).is_some() && field(m, 2).is_some()
        }),
    };
    let parts: Vec<&str> = clock.split(':').collect();
    let [h, m, s] = parts[..] else { return false };
    let (s, fraction) = s.split_once('.').unwrap_or((s, ""));
    zone_ok
        && field(h, 2).is_some_and(|h| h < 24)
        && field(m, 2).is_some_and(|m| m < 60)
        && field(s, 2).is_some_and(|s| s < 60)
        && fraction.bytes().all(|b| b.is_ascii_digit())
}

fn field(text: &str, width: usize) -> Option<u32> {
    let ok = !text.is_empty() && text.len() <= width && text.bytes().all(|b| b.is_ascii_digit());
    ok.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unquoted_scalars() {
        let text = |t: &str| Scalar::Text(t.to_owned());
        let cases = [
            ("true", Scalar::Bool(true)),
            ("FALSE", Scalar::Bool(false)),
            ("yes", text("yes")),
            ("no", text("no")),
            ("on", text("on")),
            ("off", text("off")),
            ("y", text("y")),
            ("0644", Scalar::Int(420)),
            ("0o644", Scalar::Int(420)),
            ("027", Scalar::Int(23)),
            ("08", Scalar::Float(8.0)),
            ("0640 x", text("0640 x")),
            ("1_000", Scalar::Int(1000)),
            ("0x1F", Scalar::Int(31)),
            ("0b101", Scalar::Int(5)),
            ("+1", Scalar::Int(1)),
            ("-1", Scalar::Int(-1)),
            ("0", Scalar::Int(0)),
            ("1.5", Scalar::Float(1.5)),
            ("1e3", Scalar::Float(1000.0)),
            ("1e999", text("1e999")),
            (".5e1", Scalar::Float(5.0)),
            ("1.", Scalar::Float(1.0)),
            ("+.5", Scalar::Float(0.5)),
            (".", text(".")),
            ("_1", text("_1")),
            ("0x", text("0x")),
            ("-0o17", Scalar::Int(-15)),
            ("0X1f", Scalar::Int(31)),
            ("9223372036854775807", Scalar::Int(i64::MAX)),
            ("0o8", text("0o8")),
            ("12:30:45", text("12:30:45")),
            ("1,000", text("1,000")),
            ("+.inf", Scalar::Float(f64::INFINITY)),
            ("-.INF", Scalar::Float(f64::NEG_INFINITY)),
            (".infinity", text(".infinity")),
            ("inf", text("inf")),
            ("nan", text("nan")),
            ("Yes", text("Yes")),
            ("ON", text("ON")),
            ("tRUE", text("tRUE")),
            ("2024-01-02T03:04:05", text("2024-01-02T03:04:05")),
            ("2024-01-02T03:04:05+01:00", Scalar::Timestamp),
            ("2024-01-02t03:04:05.5Z", Scalar::Timestamp),
            ("2024-01-02 24:00:00", text("2024-01-02 24:00:00")),
            ("2024-13-01", text("2024-13-01")),
            ("2024-01", text("2024-01")),
            (".5", Scalar::Float(0.5)),
            ("-", text("-")),
            ("5.1.2", text("5.1.2")),
            ("--1", text("--1")),
            ("~", Scalar::Null),
            ("Null", Scalar::Null),
            ("", Scalar::Null),
            ("nULL", text("nULL")),
            ("2024-01-02", Scalar::Timestamp),
            ("2024-1-2T3:4:5Z", Scalar::Timestamp),
            ("2024-02-30", text("2024-02-30")),
            ("2024-01-02 03:04:05", Scalar::Timestamp),
            ("22.04", Scalar::Float(22.04)),
            ("keep_logs", text("keep_logs")),
        ];
        for (written, meant) in cases {
            assert_eq!(resolve(written), meant, "{written:?}");
        }
    }
}
