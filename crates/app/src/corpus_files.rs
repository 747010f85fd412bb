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
    if dir.is_file() {
        return one(dir).map(|file| vec![file]);
    }
    let files = read_dir(dir).map_err(|error| Failure::usage(format!("cannot {error}")))?;
    if files.is_empty() {
        return Err(Failure::usage(format!(
            "{} holds no rule file (they end in .yml or .yaml)",
            dir.display()
        )));
    }
    Ok(files)
}

/// One file, in the directory that it is in: the name of that is the rule's category.
fn one(path: &Path) -> Result<CorpusFile, Failure> {
    let cannot = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", path.display()));
    let text = String::from_utf8_lossy(&std::fs::read(path).map_err(cannot)?).into_owned();
    let whole = path.canonicalize().map_err(cannot)?;
    let parts: Vec<_> = whole.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
    Ok(CorpusFile { path: parts.into_iter().rev().collect::<Vec<_>>().join("/"), text })
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
