//! Credentials: what it takes to log in. Secrets go in and never come out.

use openwatch_model::credential::{AuthMethod, KeyFacts};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// A credential to be stored. Wiped on drop; prints nothing of itself.
#[derive(Serialize, Deserialize, ToSchema, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct NewCredential {
    /// Unique, 1 to 64 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// Login user.
    pub username: String,
    /// Used by hosts that name no credential.
    #[serde(default)]
    pub default: bool,
    /// Login password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub password: Option<String>,
    /// Private key, OpenSSH or PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub private_key: Option<String>,
    /// Passphrase of the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub passphrase: Option<String>,
    /// Password for sudo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub sudo_password: Option<String>,
}

impl std::fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCredential").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What changes of a credential. New secrets take the place of all old ones; wiped on drop; prints nothing of itself.
#[derive(Default, Serialize, Deserialize, ToSchema, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct CredentialChange {
    /// Login user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// `true`: used by hosts that name no credential, instead of the one that was.
    #[serde(default)]
    pub default: bool,
    /// Login password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub password: Option<String>,
    /// Private key, OpenSSH or PEM text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub private_key: Option<String>,
    /// Passphrase of the private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub passphrase: Option<String>,
    /// Password for sudo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(write_only)]
    pub sudo_password: Option<String>,
}

impl std::fmt::Debug for CredentialChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialChange").finish_non_exhaustive()
    }
}

/// What may be told of a private key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// SSH algorithm name, such as `ssh-ed25519`.
    pub algorithm: String,
    /// Size.
    pub bits: u32,
    /// As `ssh-keygen -l` prints it: `SHA256:` and unpadded base64.
    pub fingerprint: String,
    /// The comment in the key file; often empty.
    pub comment: String,
}

impl From<KeyFacts> for KeyView {
    fn from(KeyFacts { algorithm, bits, fingerprint, comment }: KeyFacts) -> Self {
        Self { algorithm, bits, fingerprint, comment }
    }
}

/// A credential, without its secrets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Credential {
    /// Its id.
    pub id: Uuid,
    /// Its name.
    pub name: String,
    /// Login user.
    pub username: String,
    /// `ssh_key`, `password` or `both`.
    #[schema(value_type = String, example = "ssh_key")]
    pub auth_method: AuthMethod,
    /// Of its key, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyView>,
    /// Used by hosts that name no credential.
    pub default: bool,
    /// Whether the vault has taken the secrets in; until then they wait sealed to it.
    pub stored: bool,
    /// The data-encryption key that it is encrypted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Hosts that name it.
    pub hosts: u64,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}
