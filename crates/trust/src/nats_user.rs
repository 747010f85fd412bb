//! NATS identities: one key pair per kind of process. The server is told the public keys, each process holds one seed.

use std::path::Path;

use nkeys::{KeyPair, KeyPairType};
use zeroize::Zeroizing;

use crate::files::{KeyFileError, create_secret, read_secret};
use crate::key::random;

/// Every user of the bus: the stages and caretakers, the administrator who applies the topology, an outside reader of
/// events, and an auditor.
pub const USERS: [&str; 12] = [
    "admin",
    "scheduler",
    "vault",
    "executor",
    "writer",
    "drift",
    "alerts",
    "liveness",
    "api",
    "caretaker",
    "reader",
    "auditor",
];

/// An NKEY user: a seed (secret, starts with `SU`) and a public key (starts with `U`). No `Clone`, no `Debug`.
pub struct NatsUser {
    seed: Zeroizing<String>,
    public: String,
}

impl NatsUser {
    /// A fresh one.
    pub fn generate() -> Self {
        let pair =
            KeyPair::new_from_raw(KeyPairType::User, *random::<32>()).expect("any 32 bytes are a seed");
        Self::of(&pair)
    }

    /// Reads a seed file.
    ///
    /// # Errors
    /// When it is missing, open to group or others, or not the seed of a user.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_secret(path)?;
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_end();
        let not_a_seed = || KeyFileError::malformed(path, "it is not the seed of a NATS user (`SU...`)");
        // The prefix is checked first: the library names an odd first character in its error and reads past short ones.
        if !text.starts_with("SU") {
            return Err(not_a_seed());
        }
        KeyPair::from_seed(text).map(|pair| Self::of(&pair)).map_err(|_| not_a_seed())
    }

    /// Writes the seed to a new file of mode 0600.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        create_secret(path, self.seed.as_bytes())
    }

    /// The public key, for the server configuration.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The seed, for the client library; do not copy.
    pub fn seed(&self) -> &str {
        &self.seed
    }

    fn of(pair: &KeyPair) -> Self {
        let seed = pair.seed().expect("a pair made from a seed has it");
        Self { seed: Zeroizing::new(seed), public: pair.public_key() }
    }
}

/// The text of `users.conf`, which the server configuration includes: one variable `NKEY_<USER>: "U..."` per line.
pub fn users_conf<'a>(users: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let line = |(name, public): (&str, &str)| {
        format!("NKEY_{}: \"{public}\"\n", name.to_ascii_uppercase().replace('-', "_"))
    };
    users.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_user_survives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("writer.nk");
        let made = NatsUser::generate();
        assert!(made.public().starts_with('U') && made.seed().starts_with("SU"));
        assert_eq!((made.public().len(), made.seed().len()), (56, 58));
        made.save(&path).unwrap();
        let read = NatsUser::load(&path).unwrap();
        assert_eq!((read.public(), read.seed()), (made.public(), made.seed()));
        assert_ne!(NatsUser::generate().public(), made.public());
    }

    #[test]
    fn other_files_are_refused_without_quoting_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seed");
        let good = NatsUser::generate();
        let account = KeyPair::new_account().seed().unwrap();
        let cut = &good.seed()[..57];
        for text in
            ["", "S", "SU", "SUÄ", cut, good.public(), account.as_str(), &good.seed().replace("SU", "SUA")]
        {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = NatsUser::load(&path).err().unwrap();
            assert!(!format!("{error} {error:?}").contains(&good.seed()[2..10]));
        }
        std::fs::write(&path, format!("{}\n", good.seed())).unwrap();
        assert!(NatsUser::load(&path).is_ok());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(NatsUser::load(&path), Err(KeyFileError::TooOpen { .. })));
    }

    #[test]
    fn the_server_is_told_public_keys_only() {
        let users: Vec<_> = USERS.map(|name| (name, NatsUser::generate())).into();
        let text = users_conf(users.iter().map(|(name, user)| (*name, user.public())));
        assert_eq!(text.lines().count(), USERS.len());
        for (name, user) in &users {
            let line = format!("NKEY_{}: \"{}\"", name.to_uppercase(), user.public());
            assert!(text.lines().any(|found| found == line));
            assert!(!text.contains(user.seed()));
        }
    }
}
