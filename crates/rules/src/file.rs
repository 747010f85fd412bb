//! Rule files as they come from a directory or a bundle, and the digest that names them.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// One file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CorpusFile {
    /// Path below the corpus directory, parts joined with `/`.
    pub path: String,
    /// The whole text, before variables are filled in.
    pub text: String,
}

/// Something wrong with a file; the rest of the corpus goes on without it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which file.
    pub path: String,
    /// Line in the file as written, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

/// A corpus directory that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The directory cannot be listed.
    #[error("list rule directory {}: {source}; check that it exists and is readable", path.display())]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be read. Leaving it out would silently make another corpus, so it stops the load.
    #[error("read rule file {}: {source}; check its permissions", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Reads every `.yml` and `.yaml` below a directory, sorted by path. Hidden entries are left out and linked
/// directories are not followed. Bytes that are not UTF-8 become U+FFFD, which the loader reports.
pub fn read_dir(dir: &Path) -> Result<Vec<CorpusFile>, ReadError> {
    let mut files = Vec::new();
    walk(dir, "", &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(dir: &Path, prefix: &str, files: &mut Vec<CorpusFile>) -> Result<(), ReadError> {
    let failed = |source| ReadError::Directory { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.file_type().map_err(failed)?.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else if name.ends_with(".yml") || name.ends_with(".yaml") {
            let bytes =
                fs::read(entry.path()).map_err(|source| ReadError::File { path: entry.path(), source })?;
            files.push(CorpusFile { path, text: String::from_utf8_lossy(&bytes).into_owned() });
        }
    }
    Ok(())
}

/// SHA-256, in hex, over the files sorted by path, each part preceded by its length so that no two corpora read alike.
pub(crate) fn digest(files: &[CorpusFile]) -> String {
    let mut sorted: Vec<&CorpusFile> = files.iter().collect();
    sorted.sort();
    let mut hash = Sha256::new();
    for part in sorted.iter().flat_map(|file| [&file.path, &file.text]) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hex::encode(hash.finalize())
}

/// Line and column (both from 1, columns in characters) of a byte offset.
pub(crate) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> CorpusFile {
        CorpusFile { path: path.into(), text: text.into() }
    }

    #[test]
    fn the_digest_ignores_order_and_separates_parts() {
        let (a, b) = (file("a.yml", "x"), file("b.yml", "y"));
        assert_eq!(digest(&[a.clone(), b.clone()]), digest(&[b, a.clone()]));
        assert_ne!(digest(&[a]), digest(&[file("a.ym", "lx")]));
    }

    #[test]
    fn a_directory_is_read_recursively_sorted_and_without_hidden_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b/z.yml", "a.yaml", "b/.hidden.yml", ".git/c.yml", "note.md"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, [b'i', 0xff]).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("circle")).unwrap();
        let files = read_dir(dir.path()).unwrap();
        assert_eq!(files, [file("a.yaml", "i\u{fffd}"), file("b/z.yml", "i\u{fffd}")]);
        assert!(read_dir(&dir.path().join("missing")).unwrap_err().to_string().contains("missing"));
    }

    #[test]
    fn positions_count_from_one() {
        assert_eq!(position("ab\ncé d", 0), (1, 1));
        assert_eq!(position("ab\ncé d", 6), (2, 3));
        assert_eq!(position("ab", 99), (1, 3));
    }
}
