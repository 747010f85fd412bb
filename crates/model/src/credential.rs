//! What it takes to log in to a host.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The secret part of a credential. Wiped on drop; has no `Clone`, and its `Debug` prints nothing of it.
///
/// Serde is derived for the sealed transport and encryption in `trust` only; nothing else may serialise it.
#[derive(Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Login password, also offered to keyboard-interactive prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Private key, OpenSSH or PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// Passphrase of the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<String>,
    /// Password for sudo, when it differs from none. Goes over stdin, never argv.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_password: Option<String>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What may be told of a private key (CRD-11).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// SSH algorithm name, such as `ssh-ed25519`.
    pub algorithm: String,
    /// Size.
    pub bits: u32,
    /// `SHA256:...` of its public half, as `ssh-keygen -l` prints it.
    pub fingerprint: String,
    /// The comment in the key file; often empty.
    pub comment: String,
}

/// Which secrets a credential carries (CRD-06).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A private key only.
    SshKey,
    /// A password only.
    Password,
    /// A key first, then a password.
    Both,
}

impl AuthMethod {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SshKey => "ssh_key",
            Self::Password => "password",
            Self::Both => "both",
        }
    }
}

impl Secret {
    /// The method its present parts amount to; `None` when it has neither key nor password.
    pub fn auth_method(&self) -> Option<AuthMethod> {
        match (&self.private_key, &self.password) {
            (Some(_), Some(_)) => Some(AuthMethod::Both),
            (Some(_), None) => Some(AuthMethod::SshKey),
            (None, Some(_)) => Some(AuthMethod::Password),
            (None, None) => None,
        }
    }
}

/// How commands become root on the target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SudoMode {
    /// Run as the login user.
    #[default]
    None,
    /// `sudo -n` first; the sudo password only if sudo asks and one is stored.
    Sudo,
}

impl SudoMode {
    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Sudo => "sudo",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // @spec kensa-executor
    // @ac AC-07
    #[test]
    fn a_secret_wipes_itself_and_prints_nothing() {
        println!("@spec kensa-executor\n@ac AC-07");
        fn wiped_on_drop(_: &impl ZeroizeOnDrop) {}
        let canary = || Some("canary".to_owned());
        let mut secret = Secret {
            password: canary(),
            private_key: canary(),
            passphrase: canary(),
            sudo_password: canary(),
        };
        wiped_on_drop(&secret);
        assert!(!format!("{secret:?}").contains("canary"));
        secret.zeroize();
        assert_eq!(secret.auth_method(), None);
        assert!(secret.passphrase.is_none() && secret.sudo_password.is_none());
    }
}
