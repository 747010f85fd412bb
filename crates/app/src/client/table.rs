//! Tables for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
use openwatch_model::harmless;
use time::OffsetDateTime;
use time::macros::format_description;

use crate::exit::Failure;

/// A table with headers, ready for rows.
pub fn new(headers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(headers.iter().copied());
    table
}

/// Prints a table, or a sentence when it has no rows.
pub fn print(table: &Table, empty: &str) {
    if table.row_count() == 0 {
        line(empty);
    } else {
        line(&table.to_string());
    }
}

/// Prints lines of text, of which a part may be a host's own words: none of it reaches the terminal as a command. A closed
/// pipe (`| head`) is no error.
pub fn line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{}", harmless::lines(text));
}

/// Says something beside the output, on standard error; a host's own words may be in it.
pub fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{}", harmless::lines(text));
}

/// `1 lane`, `2 lanes`.
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first so many characters on one line, with a mark where there were more.
pub fn short(text: &str, most: usize) -> String {
    let text = text.replace('\n', " ");
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Prints JSON, indented.
///
/// # Errors
/// Only for values that cannot be JSON.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    line(&escaped(&serde_json::to_string_pretty(value)?));
    Ok(())
}

/// JSON says everything, so what a terminal would obey is escaped and not replaced. It can only stand inside of strings.
fn escaped(json: &str) -> String {
    let harmful = |c: char| c != '\n' && harmless::is_harmful(c);
    let escape = |c: char| {
        if harmful(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() }
    };
    if json.contains(harmful) { json.chars().map(escape).collect() } else { json.to_owned() }
}

/// A moment, in UTC, to the second.
pub fn moment(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
    at.format(&format).unwrap_or_else(|_| at.unix_timestamp().to_string())
}

/// A moment that may be missing.
pub fn moment_or(at: Option<OffsetDateTime>, missing: &str) -> String {
    at.map_or_else(|| missing.to_owned(), moment)
}

/// A score that may be undefined.
pub fn score(percent: Option<f64>) -> String {
    percent.map_or_else(|| "-".to_owned(), |p| format!("{p:.2} %"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_means_the_same_when_escaped() {
        let value = serde_json::json!({"a": "x\u{9b}31m\u{202e}\u{7f}\n\u{1b}[0m \u{e4}"});
        let text = escaped(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!text.contains(|c: char| c != '\n' && harmless::is_harmful(c)), "{text:?}");
        assert!(text.contains('\u{e4}'));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    #[test]
    fn few_words_say_how_many() {
        assert_eq!(short("äöü\nx", 3), "äöü…");
        assert_eq!(short("äöü", 3), "äöü");
        assert_eq!((count(1, "lane"), count(0, "lane")), ("1 lane".into(), "0 lanes".into()));
    }
}
