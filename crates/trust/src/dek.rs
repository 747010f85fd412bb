//! The data-encryption key: the one secret that everything else comes from.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::files::{KeyFileError, create_secret, read_secret};
use crate::key::Key;

/// Names a data-encryption key and everything derived from it, without telling anything about it: the first 8 bytes of
/// `SHA-256("openwatch-dek-id" || dek)`, written as 16 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub(crate) [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Not 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the key id: it must be 16 hex digits")]
pub struct BadKeyId;

impl FromStr for KeyId {
    type Err = BadKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0; 8];
        hex::decode_to_slice(text, &mut id).map_err(|_| BadKeyId)?;
        Ok(Self(id))
    }
}

/// A data-encryption key: 32 bytes in a file of mode 0600, held by the vault and nobody else.
pub struct Dek {
    id: KeyId,
    pub(crate) key: Key,
}

impl Dek {
    /// A new random key.
    pub fn generate() -> Self {
        Self::new(Key::generate())
    }

    /// Reads one from its file (CRD-02).
    ///
    /// # Errors
    /// When the file is missing, open to group or others, not exactly 32 bytes, or all zeros.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_secret(path)?;
        let exact: &[u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| KeyFileError::WrongSize { path: path.into(), size: bytes.len() })?;
        if *exact == [0; 32] {
            return Err(KeyFileError::malformed(path, "it is blank; create it with `openwatch keys init`"));
        }
        Ok(Self::new(Key::copy_of(exact)))
    }

    /// Writes it to a new file of mode 0600.
    ///
    /// # Errors
    /// When the file exists, always: losing a key loses every credential encrypted with it.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        create_secret(path, self.key.bytes())
    }

    /// Its name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn new(key: Key) -> Self {
        let digest = Sha256::new().chain_update(b"openwatch-dek-id").chain_update(key.bytes()).finalize();
        let mut id = [0; 8];
        id.copy_from_slice(&digest[..8]);
        Self { id: KeyId(id), key }
    }

    pub(crate) fn derive(&self, info: &str) -> Key {
        self.key.derive(&[info.as_bytes()])
    }
}

/// The data-encryption keys in use: one that new things are made with, and those that old things still need.
///
/// A rotation adds the next key last and gives it to everyone; when all hold it, it comes first; the old one is dropped a
/// day later, when no job signed with it can be fresh any more (JOB-13). Its files are in [`crate::dek_files`].
pub struct Deks(pub(crate) Vec<Dek>);

impl Deks {
    /// With one key.
    pub fn single(dek: Dek) -> Self {
        Self(vec![dek])
    }

    /// `current`, then the others that must still be understood.
    pub fn new(current: Dek, others: Vec<Dek>) -> Self {
        Self(std::iter::once(current).chain(others).collect())
    }

    /// Reads the file of the current key and those of the others.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn load(current: &Path, others: &[impl AsRef<Path>]) -> Result<Self, KeyFileError> {
        let others = others.iter().map(|path| Dek::load(path.as_ref())).collect::<Result<_, _>>()?;
        Ok(Self::new(Dek::load(current)?, others))
    }

    /// The name of the key that new things are made with.
    pub fn current(&self) -> KeyId {
        self.0[0].id
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn dek(byte: u8) -> Dek {
        Dek::new(Key::copy_of(&[byte; 32]))
    }

    #[test]
    fn a_key_survives_its_file_and_keeps_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dek");
        let made = Dek::generate();
        made.save(&path).unwrap();
        let read = Dek::load(&path).unwrap();
        assert_eq!(read.id(), made.id());
        assert_eq!(read.derive("x").bytes(), made.derive("x").bytes());
        assert_eq!(made.id().to_string().parse(), Ok(made.id()));
        assert!(made.save(&path).is_err(), "never overwritten");
    }

    #[test]
    fn sizes_blanks_and_modes_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dek");
        for content in [vec![], vec![1; 31], vec![1; 33], vec![0; 32]] {
            std::fs::write(&path, &content).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            assert!(Dek::load(&path).is_err(), "{} bytes", content.len());
        }
        std::fs::write(&path, [1; 32]).unwrap();
        assert!(Dek::load(&path).is_ok());
        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Dek::load(&path), Err(KeyFileError::TooOpen { mode: 0o640, .. })));
    }

    #[test]
    fn derivation_is_deterministic_and_distinct() {
        let infos = ["openwatch-queue-v1", "openwatch-executor-v1", "openwatch-result-root-v1"];
        let all: std::collections::BTreeSet<_> =
            [1, 2].into_iter().flat_map(|byte| infos.map(|info| *dek(byte).derive(info).bytes())).collect();
        assert_eq!(all.len(), 6, "two keys times three uses");
        assert_eq!(dek(1).derive(infos[0]).bytes(), dek(1).derive(infos[0]).bytes());
        assert_ne!(dek(1).id(), dek(2).id());
    }

    #[test]
    fn golden_names_and_keys() {
        assert_eq!(dek(1).id().to_string(), "9ece6b51b92ba7af");
        assert_eq!(
            hex::encode(dek(1).derive("openwatch-queue-v1").bytes()),
            "9c51c8fcacc083deb5c620ac7072b2bea170b5ae64566d35174433d4fad65e14"
        );
    }
}
