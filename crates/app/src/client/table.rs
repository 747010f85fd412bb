//! Tables for people.

use comfy_table::presets::UTF8_BORDERS_ONLY;
use comfy_table::{ContentArrangement, Table};
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

/// Prints one line; a closed pipe (`| head`) is no error.
pub fn line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Prints JSON, indented.
///
/// # Errors
/// Only for values that cannot be JSON.
pub fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
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
