//! The identities that the server knows, and the file that introduces them to it.

use std::fmt::Write as _;

use zeroize::Zeroizing;

/// One NKEY user of `nats/permissions.conf`. The name is the stage's name, and part of the inbox prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named after the stages")]
pub enum User {
    Admin,
    Scheduler,
    Vault,
    Executor,
    Writer,
    Drift,
    Alerts,
    Liveness,
    Api,
    Caretaker,
    /// Outside consumers of events.
    Reader,
    /// May read the audit stream.
    Auditor,
}

impl User {
    /// Everyone.
    pub const ALL: [Self; 12] = [
        Self::Admin,
        Self::Scheduler,
        Self::Vault,
        Self::Executor,
        Self::Writer,
        Self::Drift,
        Self::Alerts,
        Self::Liveness,
        Self::Api,
        Self::Caretaker,
        Self::Reader,
        Self::Auditor,
    ];

    /// The name, as in seed file names and inbox prefixes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Scheduler => "scheduler",
            Self::Vault => "vault",
            Self::Executor => "executor",
            Self::Writer => "writer",
            Self::Drift => "drift",
            Self::Alerts => "alerts",
            Self::Liveness => "liveness",
            Self::Api => "api",
            Self::Caretaker => "caretaker",
            Self::Reader => "reader",
            Self::Auditor => "auditor",
        }
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|user| user.as_str() == text)
    }

    /// The variable that `permissions.conf` expects in `users.conf`.
    pub fn variable(self) -> String {
        format!("NKEY_{}", self.as_str().to_ascii_uppercase())
    }

    pub(crate) fn inbox(self) -> String {
        format!("_INBOX_{}", self.as_str())
    }
}

/// A new key pair: the seed goes into a file of mode 0600, the public key into `users.conf`.
pub struct NewKey {
    /// The secret.
    pub seed: Zeroizing<String>,
    /// `U...`.
    pub public: String,
}

/// Makes a key pair for a user.
///
/// # Errors
/// The key cannot be encoded; this has not been seen to happen.
pub fn new_key() -> Result<NewKey, InvalidSeed> {
    let pair = nkeys::KeyPair::new_user();
    let seed = pair.seed().map_err(|_| InvalidSeed)?;
    Ok(NewKey { seed: Zeroizing::new(seed), public: pair.public_key() })
}

/// The public key that belongs to a seed.
///
/// # Errors
/// The text is not the seed of a user.
pub fn public_key(seed: &str) -> Result<String, InvalidSeed> {
    let pair = nkeys::KeyPair::from_seed(seed.trim()).map_err(|_| InvalidSeed)?;
    let public = pair.public_key();
    if public.starts_with('U') { Ok(public) } else { Err(InvalidSeed) }
}

/// The text is no NKEY user seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("failed to read an NKEY seed: it should be one line that begins with SU")]
pub struct InvalidSeed;

/// The text of `users.conf`: one line for each user, `NKEY_WRITER: "U..."`.
pub fn users_conf<'a>(keys: impl IntoIterator<Item = (User, &'a str)>) -> String {
    let mut text =
        String::from("# Public keys of the users in permissions.conf. Written by `openwatch keys init`.\n");
    for (user, public) in keys {
        let _ = writeln!(text, "{}: \"{public}\"", user.variable());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_is_in_the_permissions_file_once() {
        for user in User::ALL {
            let needle = format!("nkey: ${}\n", user.variable());
            assert_eq!(crate::topology::PERMISSIONS_CONF.matches(&needle).count(), 1, "{user:?}");
            let inbox = format!("\"{}.>\"", user.inbox());
            assert_eq!(crate::topology::PERMISSIONS_CONF.matches(&inbox).count(), 1, "{user:?}");
            assert_eq!(User::parse(user.as_str()), Some(user));
        }
        let users = crate::topology::PERMISSIONS_CONF.matches("nkey: $").count();
        assert_eq!(users, User::ALL.len());
    }

    #[test]
    fn seeds_lead_to_their_public_key() {
        let key = new_key().unwrap();
        assert_eq!(public_key(&key.seed).unwrap(), key.public);
        assert_eq!(public_key("SUnonsense"), Err(InvalidSeed));
        let account = nkeys::KeyPair::new_account().seed().unwrap();
        assert_eq!(public_key(&account), Err(InvalidSeed));
        assert!(users_conf([(User::Writer, key.public.as_str())]).contains("NKEY_WRITER: \"U"));
    }
}
