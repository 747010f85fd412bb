//! Rule files: of a directory, or of the corpus that is in the binary.

use std::path::Path;

use openwatch_rules::{CorpusFile, read_dir};
use rust_embed::RustEmbed;

use crate::exit::Failure;

#[derive(RustEmbed)]
#[folder = "../../rules"]
struct Shipped;

/// The files of a directory; without one, the corpus that ships with the program.
///
/// # Errors
/// 64 when the directory cannot be read or holds no rule.
pub fn load(dir: Option<&Path>) -> Result<Vec<CorpusFile>, Failure> {
    let Some(dir) = dir else { return Ok(shipped()) };
    let files = read_dir(dir).map_err(Failure::usage)?;
    if files.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds no rule file (they end in .yml or .yaml)",
            dir.display()
        )));
    }
    Ok(files)
}

fn shipped() -> Vec<CorpusFile> {
    let mut files: Vec<_> = Shipped::iter()
        .filter(|path| path.ends_with(".yml") || path.ends_with(".yaml"))
        .filter_map(|path| {
            let data = Shipped::get(&path)?.data;
            let text = String::from_utf8(data.into_owned()).ok()?;
            Some(CorpusFile { path: path.into_owned(), text })
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}
