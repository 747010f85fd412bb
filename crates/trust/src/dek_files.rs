//! The data-encryption keys of a key directory, and a rotation's way through its files.
//!
//! | file | is |
//! |---|---|
//! | `dek` | the current key: new things are made with it |
//! | `dek.next` | the one that comes; understood already |
//! | `dek.old` | the one that was; understood still |
//!
//! Every step is one atomic act on one file, or can be repeated: whenever the power goes, [`DekFiles::load`] finds a
//! current key and everything that is still needed.

use std::path::{Path, PathBuf};

use crate::files::{KeyFileError, remove_secret, remove_unfinished, replace_secret};
use crate::{Dek, Deks, KeyId};

/// Names of the files, the current key first.
pub const DEK_FILES: [&str; 3] = ["dek", "dek.next", "dek.old"];

/// A key directory, as far as data-encryption keys go.
#[derive(Clone, Debug)]
pub struct DekFiles(PathBuf);

impl DekFiles {
    /// In this directory; nothing is read yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self(dir.into())
    }

    /// The keys in use, the current one first.
    ///
    /// # Errors
    /// A file is open to others or damaged, or there is no current key.
    pub fn load(&self) -> Result<Deks, KeyFileError> {
        let current = Dek::load(&self.file("dek"))?;
        let mut others = Vec::new();
        for name in ["dek.next", "dek.old"] {
            // Between the two halves of a switch a key stands in two files.
            others.extend(self.optional(name)?.filter(|dek| dek.id() != current.id()));
        }
        Ok(Deks::new(current, others))
    }

    /// Makes the next key unless there is one already; its id. The current key stays what it is.
    ///
    /// # Errors
    /// It cannot be written; nothing has changed then.
    pub fn begin(&self) -> Result<KeyId, KeyFileError> {
        if let Some(next) = self.optional("dek.next")? {
            return Ok(next.id());
        }
        let next = Dek::generate();
        next.replace(&self.file("dek.next"))?;
        Ok(next.id())
    }

    /// Makes the next key the current one, and the current one the old one. Does nothing without a next key.
    ///
    /// # Errors
    /// It cannot be written; calling it again goes on where it stopped.
    pub fn switch(&self) -> Result<(), KeyFileError> {
        let Some(next) = self.optional("dek.next")? else { return Ok(()) };
        let current = Dek::load(&self.file("dek"))?;
        if current.id() != next.id() {
            // The old one is safe before the current one is overwritten.
            current.replace(&self.file("dek.old"))?;
            next.replace(&self.file("dek"))?;
        }
        remove_secret(&self.file("dek.next"))
    }

    /// Takes the old key away, for good: nothing that needs it can be read from then on.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn retire(&self) -> Result<(), KeyFileError> {
        // First: whoever dies here comes again for the old key.
        self.clear_unfinished()?;
        remove_secret(&self.file("dek.old"))
    }

    /// Whoever dies while a key is written leaves what was to take its place, and in it a key.
    fn clear_unfinished(&self) -> Result<(), KeyFileError> {
        DEK_FILES.iter().try_for_each(|name| remove_unfinished(&self.file(name)))
    }

    /// Makes another directory hold the same keys.
    ///
    /// # Errors
    /// A file cannot be read here or written there.
    pub fn copy_to(&self, other: &Self) -> Result<(), KeyFileError> {
        // What is still needed comes first, what is current last.
        for name in DEK_FILES.iter().rev() {
            match self.optional(name)? {
                Some(dek) => dek.replace(&other.file(name))?,
                None => remove_secret(&other.file(name))?,
            }
        }
        other.clear_unfinished()
    }

    fn optional(&self, name: &str) -> Result<Option<Dek>, KeyFileError> {
        match Dek::load(&self.file(name)) {
            Ok(dek) => Ok(Some(dek)),
            Err(KeyFileError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Dek {
    /// Puts it in the place of whatever is there, in one step.
    pub(crate) fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
        replace_secret(path, self.key.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(files: &DekFiles) -> Vec<KeyId> {
        files.load().unwrap().0.iter().map(Dek::id).collect()
    }

    #[test]
    fn a_rotation_goes_through_and_every_step_may_be_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let files = DekFiles::new(dir.path());
        let first = Dek::generate();
        first.save(&dir.path().join("dek")).unwrap();
        assert_eq!(ids(&files), [first.id()]);
        let next = files.begin().unwrap();
        assert_eq!(files.begin().unwrap(), next, "a second asking makes no second key");
        assert_eq!(ids(&files), [first.id(), next]);
        files.switch().unwrap();
        files.switch().unwrap();
        assert_eq!(ids(&files), [next, first.id()]);
        let unfinished = dir.path().join("dek.old.0123456789abcdef.new");
        std::fs::write(&unfinished, "a crash").unwrap();
        let other = dir.path().join("dek.new");
        std::fs::write(&other, "not ours").unwrap();
        files.retire().unwrap();
        files.retire().unwrap();
        assert!(!unfinished.exists() && other.exists());
        std::fs::remove_file(other).unwrap();
        assert_eq!(ids(&files), [next]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn a_switch_cut_short_anywhere_loses_no_key_and_goes_on() {
        for cut in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let (at, files) = (|name: &str| dir.path().join(name), DekFiles::new(dir.path()));
            let first = Dek::generate();
            first.save(&at("dek")).unwrap();
            let next = files.begin().unwrap();
            // What a crash after so many of its acts leaves.
            if cut > 0 {
                std::fs::copy(at("dek"), at("dek.old")).unwrap();
            }
            if cut > 1 {
                std::fs::copy(at("dek.next"), at("dek")).unwrap();
            }
            let mut all = ids(&files);
            all.sort();
            let mut both = vec![first.id(), next];
            both.sort();
            assert_eq!(all, both, "cut after {cut}");
            files.switch().unwrap();
            assert_eq!(ids(&files), [next, first.id()], "cut after {cut}");
        }
    }

    #[test]
    fn another_directory_follows() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (files, other) = (DekFiles::new(here.path()), DekFiles::new(there.path()));
        Dek::generate().save(&here.path().join("dek")).unwrap();
        for _ in 0..2 {
            files.copy_to(&other).unwrap();
            assert_eq!(ids(&other), ids(&files));
            files.begin().unwrap();
            files.copy_to(&other).unwrap();
            files.switch().unwrap();
            files.copy_to(&other).unwrap();
            assert_eq!(ids(&other), ids(&files));
            files.retire().unwrap();
        }
        files.copy_to(&other).unwrap();
        assert_eq!(ids(&other).len(), 1);
    }
}
