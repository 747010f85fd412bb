//! The checks: what a hardening catalogue asks of a host, in about the same proportions.

use std::fmt::Write as _;
use std::path::Path;

use openwatch_model::plan::{Command, Plan};

const FILES: usize = 40;
const KEYS: usize = 60;

/// Writes the files that the checks look at, and makes the checks.
pub(crate) fn prepare(dir: &Path, count: usize) -> std::io::Result<Plan> {
    for file in 0..FILES {
        let mut text = String::new();
        for key in 0..KEYS {
            let _ = writeln!(text, "# What key {key} is for\nKey{key} = value{}", (file * key) % 7);
        }
        std::fs::write(path(dir, file), text)?;
    }
    Ok(Plan { commands: (0..count).map(|i| Command::new(script(dir, i))).collect() })
}

fn path(dir: &Path, file: usize) -> std::path::PathBuf {
    dir.join(format!("settings-{file}.conf"))
}

/// Of twenty checks eight read a setting, two look for a line, four ask for permissions, three whether a file is there,
/// two whether a program is, and one is a pipeline.
fn script(dir: &Path, number: usize) -> String {
    let file = path(dir, number % FILES);
    let file = file.display();
    let key = number % KEYS;
    match number % 20 {
        0..8 => format!(r"grep -E '^\s*Key{key}\s*[=:]\s*' '{file}' 2>/dev/null"),
        8..10 => format!("grep -qE '^Key{key} = value{}$' '{file}'", number % 7),
        10..14 => format!("stat -c '%a %U %G' '{file}'"),
        14..17 => format!("[ -e '{file}' ]"),
        17..19 => format!("command -v tool-{number}"),
        _ => format!("awk -F' = ' '/^Key{key} / {{print $2}}' '{file}' | head -n 1"),
    }
}
