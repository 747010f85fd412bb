//! Reading and writing key files, strictly.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Largest file that is read here at all.
pub(crate) const LARGEST: usize = 1 << 20;

/// What is wrong with a key file. Never holds any of its content.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("find key file `{}`; create it with `openwatch keys` or `openwatch policy keygen`", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("read key file `{}`: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A secret file whose group or other permission bits are set.
    #[error("trust key file `{}`: mode {mode:04o} is open to others; run `chmod 600` on it", path.display())]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file of trusted public keys that others may change.
    #[error("trust key file `{}`: mode {mode:04o} lets others change it; run `chmod go-w` on it", path.display())]
    Writable {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A directory, a device, or larger than any key file is.
    #[error("read key file `{}`: it is not a file of at most 1 MiB", path.display())]
    NotAKeyFile {
        /// Which file.
        path: PathBuf,
    },
    /// A data-encryption key that is not 32 bytes.
    #[error("read key file `{}`: it has {size} bytes, a data-encryption key has exactly 32", path.display())]
    WrongSize {
        /// Which file.
        path: PathBuf,
        /// Its size.
        size: usize,
    },
    /// A key file of another kind, or damaged.
    #[error("read key file `{}`: {problem}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong; never a quotation.
        problem: String,
    },
    /// Refusing to overwrite.
    #[error("create key file `{}`: it already exists; move it away first", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("write key file `{}`: {source}", path.display())]
    Unwritable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl KeyFileError {
    pub(crate) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.into(), problem: problem.into() }
    }

    /// A JSON error by its place only: the library's own text quotes what it found.
    pub(crate) fn json(path: &Path, expected: &str, error: &serde_json::Error) -> Self {
        Self::malformed(path, format!("not {expected} (line {}, column {})", error.line(), error.column()))
    }
}

/// Reads a file that must be closed to group and others.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    read(path, |mode| match mode & 0o077 {
        0 => Ok(()),
        _ => Err(KeyFileError::TooOpen { path: path.into(), mode }),
    })
}

/// Reads a file that anyone may read but only its owner may change.
pub(crate) fn read_public(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    read(path, |mode| match mode & 0o022 {
        0 => Ok(()),
        _ => Err(KeyFileError::Writable { path: path.into(), mode }),
    })
}

/// Checks the mode of the open file, not of the name, which could point elsewhere a moment later.
fn read(
    path: &Path,
    check: impl Fn(u32) -> Result<(), KeyFileError>,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let unreadable = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => KeyFileError::Missing { path: path.into() },
        _ => KeyFileError::Unreadable { path: path.into(), source },
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let size = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if !metadata.is_file() || size > LARGEST {
        return Err(KeyFileError::NotAKeyFile { path: path.into() });
    }
    check(metadata.permissions().mode() & 0o7777)?;
    // Sized up front: growing would leave unwiped copies behind. A file that grew meanwhile is cut and then refused.
    let mut bytes = Zeroizing::new(vec![0; size]);
    file.read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Creates a secret file of mode 0600; never overwrites.
pub(crate) fn create_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    write_new(path, bytes, 0o600)?;
    sync_directory(path)
}

/// Puts a secret file of mode 0600 in the place of another in one step: a reader sees the old or the new, never half.
pub(crate) fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    replace(path, bytes, 0o600)
}

/// Removes a secret file; one that is not there is as good as removed.
pub(crate) fn remove_secret(path: &Path) -> Result<(), KeyFileError> {
    match std::fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(source) => Err(KeyFileError::Unwritable { path: path.into(), source }),
    }
}

/// Removes what deaths in the middle of [`replace_secret`] have left beside this file. Nobody must be replacing it.
pub(crate) fn remove_unfinished(path: &Path) -> Result<(), KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable { path: path.into(), source };
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Ok(());
    };
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let found = entry.file_name();
        let middle = found
            .to_str()
            .and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".new"));
        if middle.is_some_and(|middle| middle.len() == 16 && middle.bytes().all(|b| b.is_ascii_hexdigit())) {
            remove_secret(&entry.path())?;
        }
    }
    Ok(())
}

/// The same for a public file of mode 0644.
pub(crate) fn replace_public(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    replace(path, bytes, 0o644)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.new", hex::encode(*crate::key::random::<8>())));
    let fresh = PathBuf::from(name);
    write_new(&fresh, bytes, mode)?;
    std::fs::rename(&fresh, path).map_err(|source| {
        // Already failing: what cannot be removed either stays behind, closed to others.
        let _ = std::fs::remove_file(&fresh);
        KeyFileError::Unwritable { path: path.into(), source }
    })?;
    sync_directory(path)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let unwritable = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.into() },
        _ => KeyFileError::Unwritable { path: path.into(), source },
    };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(unwritable)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(unwritable)
}

/// A key that a power cut takes away takes every credential with it, so the name must be on disk too.
fn sync_directory(path: &Path) -> Result<(), KeyFileError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let sync = File::open(parent).and_then(|directory| directory.sync_all());
    sync.map_err(|source| KeyFileError::Unwritable { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;

    use super::*;

    #[test]
    fn modes_decide_who_may_be_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_secret(&path, b"bytes").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        for (mode, secret, public) in [
            (0o600, true, true),
            (0o400, true, true),
            (0o640, false, true),
            (0o644, false, true),
            (0o620, false, false),
            (0o602, false, false),
            (0o601, false, true),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(read_secret(&path).is_ok(), secret, "{mode:o}");
            assert_eq!(read_public(&path).is_ok(), public, "{mode:o}");
        }
    }

    #[test]
    fn nothing_is_overwritten_unless_it_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create_secret(&path, b"old").unwrap();
        assert!(matches!(create_secret(&path, b"new"), Err(KeyFileError::Exists { .. })));
        replace_secret(&path, b"new").unwrap();
        assert_eq!(**read_secret(&path).unwrap(), *b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read_secret(directory.path()), Err(KeyFileError::NotAKeyFile { .. })));
        let missing = directory.path().join("none");
        assert!(matches!(read_secret(&missing), Err(KeyFileError::Missing { .. })));
    }
}
