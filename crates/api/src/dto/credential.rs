//! Credentials: what it takes to log in. Secrets go in and never come out.

use openwatch_model::credential::AuthMethod;
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
    /// Used by hosts that name no credential.
    pub default: bool,
    /// Whether the vault has taken the secrets in; until then they wait sealed to it.
    pub stored: bool,
    /// When it was made.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
}
