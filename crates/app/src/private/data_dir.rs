//! The data directory: whose it is, which format it has, and who uses it now.

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::child::User;
use super::error::PrivateError;

const FORMAT_FILE: &str = "openwatch-data";
const FORMAT: &str = "openwatch data directory, format 1";
const LOCK_FILE: &str = "lock";

/// A data directory that this process alone may use, as long as this value lives.
///
/// The kernel drops the lock when the process ends, however it ends. Servers started from here do not inherit it.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory, or takes over an empty one or one of ours.
    ///
    /// # Errors
    /// [`PrivateError::InUse`], [`PrivateError::NotOurs`], [`PrivateError::WrongFormat`], or a refused file operation.
    pub fn open(path: &Path) -> Result<Self, PrivateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(PrivateError::io("create", path))?;
        let path = path.canonicalize().map_err(PrivateError::io("resolve", path))?;
        if !path.join(FORMAT_FILE).exists() && !is_empty(&path)? {
            return Err(PrivateError::NotOurs { dir: path });
        }
        let lock = lock(&path)?;
        check_format(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// What [`DataDir::open`] would say if somebody uses this directory. Nothing is made, and none taken over.
    #[must_use]
    pub fn in_use(path: &Path) -> Option<PrivateError> {
        let refused = path.join(FORMAT_FILE).exists().then(|| lock(path))?.err()?;
        matches!(refused, PrivateError::InUse { .. }).then_some(refused)
    }

    /// Its absolute path, without symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside, created for `user` alone when absent.
    pub(super) fn private_dir(&self, name: &str, user: Option<&User>) -> Result<PathBuf, PrivateError> {
        let dir = self.path.join(name);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(PrivateError::io("create", &dir))?;
        if let Some(user) = user {
            chown(&dir, Some(user.uid), Some(user.gid))
                .map_err(PrivateError::io("change the owner of", &dir))?;
        }
        Ok(dir)
    }

    /// Replaces a file inside as a whole: a crash leaves the old one or the new one.
    pub(super) fn write(&self, name: &str, mode: u32, text: &str) -> Result<PathBuf, PrivateError> {
        let path = self.path.join(name);
        let new = self.path.join(format!("{name}.new"));
        let written = (|| {
            let _ = fs::remove_file(&new);
            let mut file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)
        })();
        written.map_err(PrivateError::io("write", &path))?;
        Ok(path)
    }

    /// A file inside, or nothing when there is none.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>, PrivateError> {
        let path = self.path.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateError::io("read", &path)(error)),
        }
    }

    /// Lets `user` reach the directories inside, and makes sure that nothing above stands in the way.
    pub(super) fn let_through(&self, user: &User) -> Result<(), PrivateError> {
        let meta = fs::metadata(&self.path).map_err(PrivateError::io("inspect", &self.path))?;
        let mode = meta.permissions().mode();
        if mode & 0o001 == 0 && meta.uid() == rustix::process::geteuid().as_raw() {
            // Search only: names inside stay unlisted and files inside keep their own modes.
            fs::set_permissions(&self.path, Permissions::from_mode(mode | 0o011))
                .map_err(PrivateError::io("open for search", &self.path))?;
        }
        check_reachable(&self.path, user)
    }
}

/// Fails with the first directory at or above `path` that `user` cannot enter.
pub(super) fn check_reachable(path: &Path, user: &User) -> Result<(), PrivateError> {
    let path = path.canonicalize().map_err(PrivateError::io("resolve", path))?;
    let ancestors: Vec<_> = path.ancestors().collect();
    for dir in ancestors.into_iter().rev() {
        let meta = fs::metadata(dir).map_err(PrivateError::io("inspect", dir))?;
        let bit = if meta.uid() == user.uid {
            0o100
        } else if meta.gid() == user.gid {
            0o010
        } else {
            0o001
        };
        if meta.permissions().mode() & bit == 0 {
            return Err(PrivateError::NotTraversable { dir: dir.to_owned(), user: user.name.clone() });
        }
    }
    Ok(())
}

fn is_empty(dir: &Path) -> Result<bool, PrivateError> {
    let mut entries = fs::read_dir(dir).map_err(PrivateError::io("list", dir))?.flatten();
    // A lock without a format file is a first start that was interrupted; a mount point has its lost+found.
    Ok(entries.all(|entry| [LOCK_FILE, "lost+found"].iter().any(|known| entry.file_name() == *known)))
}

fn lock(dir: &Path) -> Result<File, PrivateError> {
    let path = dir.join(LOCK_FILE);
    let opened = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = opened.map_err(PrivateError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(PrivateError::InUse { dir: dir.to_owned(), pid: holder.trim().parse().ok() });
        }
        Err(TryLockError::Error(error)) => return Err(PrivateError::io("lock", &path)(error)),
    }
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(PrivateError::io("write", &path))?;
    Ok(file)
}

fn check_format(dir: &Path) -> Result<(), PrivateError> {
    let path = dir.join(FORMAT_FILE);
    let write = || fs::write(&path, format!("{FORMAT}\n")).map_err(PrivateError::io("write", &path));
    match fs::read_to_string(&path) {
        Ok(text) if text.trim() == FORMAT => Ok(()),
        // Interrupted while it was first written.
        Ok(text) if text.is_empty() => write(),
        Ok(text) => Err(PrivateError::WrongFormat {
            dir: dir.to_owned(),
            found: text.trim().chars().take(80).collect(),
            expected: FORMAT.to_owned(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => write(),
        Err(error) => Err(PrivateError::io("read", &path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_told_who_holds_the_directory() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("deep/data");
        let held = DataDir::open(&dir).unwrap();
        let refused = DataDir::open(&dir).expect_err("held").to_string();
        assert!(refused.contains(&format!("already in use by pid {}", std::process::id())), "{refused}");
        drop(held);
        DataDir::open(&dir).expect("free again");
    }

    #[test]
    fn foreign_and_future_directories_are_refused_untouched() {
        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join("thesis.tex"), "x").unwrap();
        assert!(matches!(DataDir::open(temp.path()), Err(PrivateError::NotOurs { .. })));
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1, "nothing was added");

        let temp = tempfile::tempdir().unwrap();
        fs::write(temp.path().join(FORMAT_FILE), "openwatch data directory, format 2\n").unwrap();
        let refused = DataDir::open(temp.path()).expect_err("newer").to_string();
        assert!(refused.contains("format 2") && refused.contains("format 1"), "{refused}");
    }

    #[test]
    fn files_inside_are_replaced_whole_with_their_mode() {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::open(temp.path()).unwrap();
        assert_eq!(dir.read("secret").unwrap(), None);
        dir.write("secret", 0o600, "one").unwrap();
        let path = dir.write("secret", 0o600, "two").unwrap();
        assert_eq!(dir.read("secret").unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
