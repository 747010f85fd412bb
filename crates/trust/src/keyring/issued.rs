//! The keys of one role under several key ids, and the file they travel in.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::files::{KeyFileError, create_secret, read_secret, replace_secret};
use crate::key::Key;
use crate::{Dek, Deks, KeyId, seal};

/// What a derived key is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// Signs jobs.
    Queue,
    /// Signs what a worker says in its own name.
    Executor,
    /// Root of the keys that sign outcomes.
    ResultRoot,
    /// Opens what the API sealed.
    VaultPrivate,
    /// Its public half, which is derived from it and not secret.
    VaultPublic,
    /// Encrypts credentials at rest.
    Column,
    /// Opens what the API sealed for the alerts stage.
    ChannelPrivate,
    /// Its public half.
    ChannelPublic,
}

impl Use {
    /// The HKDF info.
    pub(crate) fn info(self) -> &'static str {
        match self {
            Self::Queue => "openwatch-queue-v1",
            Self::Executor => "openwatch-executor-v1",
            Self::ResultRoot => "openwatch-result-root-v1",
            Self::VaultPrivate | Self::VaultPublic => "openwatch-vault-x25519-v1",
            Self::Column => "openwatch-credential-v1",
            Self::ChannelPrivate | Self::ChannelPublic => "openwatch-channel-x25519-v1",
        }
    }

    fn derive(self, dek: &Dek) -> Key {
        let key = dek.derive(self.info());
        match self {
            Self::VaultPublic | Self::ChannelPublic => Key::copy_of(&seal::public_of(&key)),
            _ => key,
        }
    }
}

/// Who a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Scheduler,
    Executor,
    Writer,
    Api,
    Alerts,
    Vault,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler",
            Self::Executor => "executor",
            Self::Writer => "writer",
            Self::Api => "api",
            Self::Alerts => "alerts",
            Self::Vault => "vault",
        }
    }

    fn uses(self) -> &'static [Use] {
        match self {
            Self::Scheduler => &[Use::Queue],
            Self::Executor => &[Use::Queue, Use::Executor],
            Self::Writer => &[Use::Executor, Use::ResultRoot],
            Self::Api => &[Use::VaultPublic, Use::ChannelPublic],
            Self::Alerts => &[Use::ChannelPrivate, Use::ChannelPublic],
            Self::Vault => {
                &[Use::Executor, Use::ResultRoot, Use::VaultPrivate, Use::VaultPublic, Use::Column]
            }
        }
    }
}

/// The keys of one role. No `Clone`, no `Debug`.
pub(crate) struct Issued {
    role: Role,
    current: KeyId,
    keys: BTreeMap<(KeyId, Use), Key>,
}

/// As written. Texts are borrowed from the file's bytes, which are wiped: nothing secret is copied on the way.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText<'a> {
    openwatch_keys: &'a str,
    current: &'a str,
    #[serde(borrow)]
    keys: Vec<EntryText<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryText<'a> {
    id: &'a str,
    queue: Option<&'a str>,
    executor: Option<&'a str>,
    result_root: Option<&'a str>,
    vault_public: Option<&'a str>,
    channel_private: Option<&'a str>,
    channel_public: Option<&'a str>,
}

impl EntryText<'_> {
    /// The field for a use; the vault's own keys are never in a file.
    fn field(&self, of: Use) -> Option<&str> {
        match of {
            Use::Queue => self.queue,
            Use::Executor => self.executor,
            Use::ResultRoot => self.result_root,
            Use::VaultPublic => self.vault_public,
            Use::ChannelPrivate => self.channel_private,
            Use::ChannelPublic => self.channel_public,
            Use::VaultPrivate | Use::Column => None,
        }
    }
}

fn field_name(of: Use) -> &'static str {
    match of {
        Use::Queue => "queue",
        Use::Executor => "executor",
        Use::ResultRoot => "result_root",
        Use::VaultPublic => "vault_public",
        Use::VaultPrivate => "vault_private",
        Use::Column => "column",
        Use::ChannelPrivate => "channel_private",
        Use::ChannelPublic => "channel_public",
    }
}

impl Issued {
    pub(crate) fn derive(role: Role, deks: &Deks) -> Self {
        let pairs = deks.0.iter().flat_map(|dek| role.uses().iter().map(move |of| (dek, *of)));
        let keys = pairs.map(|(dek, of)| ((dek.id(), of), of.derive(dek))).collect();
        Self { role, current: deks.current(), keys }
    }

    pub(crate) fn load(role: Role, path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_secret(path)?;
        let text: FileText<'_> = serde_json::from_slice(&bytes)
            .map_err(|error| KeyFileError::json(path, "a file that `openwatch keys issue` writes", &error))?;
        if text.openwatch_keys != role.as_str() {
            let problem =
                format!("it was not issued for `{}`; run `openwatch keys issue {0}`", role.as_str());
            return Err(KeyFileError::malformed(path, problem));
        }
        let bad = |what: &str| KeyFileError::malformed(path, format!("`{what}` is missing or not hex"));
        let current = text.current.parse().map_err(|_| bad("current"))?;
        let mut keys = BTreeMap::new();
        for entry in &text.keys {
            let id: KeyId = entry.id.parse().map_err(|_| bad("id"))?;
            for of in role.uses() {
                let key = entry.field(*of).and_then(Key::from_hex).ok_or_else(|| bad(field_name(*of)))?;
                if keys.insert((id, *of), key).is_some() {
                    return Err(KeyFileError::malformed(path, "one key id appears twice"));
                }
            }
        }
        if !keys.keys().any(|(id, _)| *id == current) {
            return Err(KeyFileError::malformed(path, "`current` names no key in it"));
        }
        Ok(Self { role, current, keys })
    }

    pub(crate) fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        create_secret(path, self.to_json().as_bytes())
    }

    pub(crate) fn replace(&self, path: &Path) -> Result<(), KeyFileError> {
        replace_secret(path, self.to_json().as_bytes())
    }

    pub(crate) fn current(&self) -> KeyId {
        self.current
    }

    pub(crate) fn ids(&self) -> Vec<KeyId> {
        let mut ids: Vec<_> = self.keys.keys().map(|(id, _)| *id).collect();
        ids.dedup();
        ids
    }

    pub(crate) fn get(&self, id: KeyId, of: Use) -> Option<&Key> {
        self.keys.get(&(id, of))
    }

    /// The current key for a use that the role has.
    pub(crate) fn signing(&self, of: Use) -> &Key {
        self.get(self.current, of).expect("load and derive leave no role without its current keys")
    }

    /// Written by hand into a buffer that is large enough: a serialiser's growing buffers would stay behind unwiped.
    fn to_json(&self) -> Zeroizing<String> {
        let mut json = Zeroizing::new(String::with_capacity(256 + 512 * self.keys.len()));
        json.push_str("{\n  \"openwatch_keys\": \"");
        json.push_str(self.role.as_str());
        json.push_str("\",\n  \"current\": \"");
        json.push_str(&self.current.to_string());
        json.push_str("\",\n  \"keys\": [");
        for (index, id) in self.ids().into_iter().enumerate() {
            json.push_str(if index == 0 { "\n    {\"id\": \"" } else { ",\n    {\"id\": \"" });
            json.push_str(&id.to_string());
            json.push('"');
            for of in self.role.uses() {
                let Some(key) = self.get(id, *of) else { continue };
                let mut digits = Zeroizing::new([0; 64]);
                hex::encode_to_slice(key.bytes(), &mut *digits).expect("64 digits are what 32 bytes take");
                json.push_str(", \"");
                json.push_str(field_name(*of));
                json.push_str("\": \"");
                json.extend(digits.iter().map(|digit| char::from(*digit)));
                json.push('"');
            }
            json.push('}');
        }
        json.push_str("\n  ]\n}\n");
        json
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn deks() -> Deks {
        let [first, second] = [1, 2].map(|byte| Dek::new(Key::copy_of(&[byte; 32])));
        Deks::new(first, vec![second])
    }

    fn write(path: &Path, text: &str) {
        use std::io::Write;
        let _ = std::fs::remove_file(path);
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn every_issued_file_reads_back_the_same() {
        let directory = tempfile::tempdir().unwrap();
        for role in [Role::Scheduler, Role::Executor, Role::Writer, Role::Api, Role::Alerts] {
            let path = directory.path().join(role.as_str());
            let made = Issued::derive(role, &deks());
            made.save(&path).unwrap();
            let read = Issued::load(role, &path).unwrap();
            assert_eq!((read.current(), read.ids()), (deks().current(), made.ids()));
            assert_eq!(read.to_json(), made.to_json());
            assert!(!made.to_json().contains("column") && !made.to_json().contains("vault_private"));
            assert!(role == Role::Alerts || !made.to_json().contains("private"));
            assert!(made.to_json().len() < 256 + 512 * made.keys.len(), "the buffer never grew");
        }
    }

    #[test]
    fn a_file_for_another_role_or_damaged_is_refused_without_quoting_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        let good = Issued::derive(Role::Executor, &deks()).to_json();
        let secret = hex::encode(deks().0[0].derive(Use::Queue.info()).bytes());
        let current = deks().current().to_string();
        let damaged = [
            good.replace("\"executor\",", "\"writer\","),
            good.replace("\"queue\"", "\"queux\""),
            good.replacen(&current, "ffffffffffffffff", 1),
            good.replace(&secret, &secret[..62]),
            good.replace(&format!("\"{secret}\""), &format!("{{\"{secret}\": 1}}")),
            good.replace(&deks().0[1].id().to_string(), &current),
            good[..good.len() / 2].to_owned(),
            String::new(),
        ];
        for text in damaged {
            assert_ne!(text, *good);
            write(&path, &text);
            let error = Issued::load(Role::Executor, &path).err().unwrap();
            assert!(matches!(error, KeyFileError::Malformed { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains(&secret[..16]), "{error}");
        }
        write(&path, &good);
        assert!(Issued::load(Role::Executor, &path).is_ok());
    }
}
