//! Who is asking, and what they may do.

use axum::http::{HeaderMap, header};
use openwatch_trust::token::is_well_formed;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What a token may do. Ordered: each role may do all that the one before it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Viewer,
    /// Looks after hosts, scans and alerts.
    Operator,
    /// Looks after credentials, host keys, channels and tokens too.
    Admin,
}

impl Role {
    /// All three, least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The wire and column value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// Reads a column value.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == text)
    }

    /// Whether the role has a permission.
    pub fn may(self, permission: Permission) -> bool {
        self >= permission.least()
    }
}

/// What an endpoint asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// See hosts and their rules.
    HostRead,
    /// Add hosts.
    HostWrite,
    /// Remove hosts.
    HostDelete,
    /// Put a host key on record: whoever may do this may vouch for a machine.
    HostKeyAccept,
    /// See which credentials exist, never what they hold.
    CredentialRead,
    /// Add and remove credentials.
    CredentialWrite,
    /// See scans, transactions, drift and the state of the fleet.
    ScanRead,
    /// Ask for scans.
    ScanExecute,
    /// See alerts.
    AlertRead,
    /// Move alerts through their life.
    AlertWrite,
    /// See where alerts go.
    ChannelRead,
    /// Say where alerts go.
    ChannelWrite,
    /// See who has a token.
    TokenRead,
    /// Make and revoke tokens.
    TokenWrite,
    /// Read the audit log.
    AuditRead,
    /// See the policy in force and what the scheduler did.
    PolicyRead,
    /// Tell the schedulers to read their policy files again.
    PolicyReload,
    /// Look after the installation: numbers, dead letters.
    AdminRead,
    /// Replay and drop dead letters.
    AdminWrite,
}

impl Permission {
    /// The name in audit rows and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HostRead => "host:read",
            Self::HostWrite => "host:write",
            Self::HostDelete => "host:delete",
            Self::HostKeyAccept => "host:accept_key",
            Self::CredentialRead => "credential:read",
            Self::CredentialWrite => "credential:write",
            Self::ScanRead => "scan:read",
            Self::ScanExecute => "scan:execute",
            Self::AlertRead => "alert:read",
            Self::AlertWrite => "alert:write",
            Self::ChannelRead => "channel:read",
            Self::ChannelWrite => "channel:write",
            Self::TokenRead => "token:read",
            Self::TokenWrite => "token:write",
            Self::AuditRead => "audit:read",
            Self::PolicyRead => "policy:read",
            Self::PolicyReload => "policy:reload",
            Self::AdminRead => "admin:read",
            Self::AdminWrite => "admin:write",
        }
    }

    /// The least role that has it.
    pub fn least(self) -> Role {
        match self {
            Self::HostRead | Self::ScanRead | Self::AlertRead | Self::PolicyRead => Role::Viewer,
            Self::HostWrite | Self::HostDelete | Self::ScanExecute | Self::AlertWrite => Role::Operator,
            Self::CredentialRead | Self::ChannelRead | Self::AuditRead | Self::AdminRead => Role::Operator,
            Self::HostKeyAccept | Self::CredentialWrite | Self::ChannelWrite => Role::Admin,
            Self::TokenRead | Self::TokenWrite | Self::PolicyReload | Self::AdminWrite => Role::Admin,
        }
    }
}

/// The holder of a token.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The token.
    pub token: Uuid,
    /// Its name: the actor of audit rows.
    pub name: String,
    /// Its role.
    pub role: Role,
}

/// The bearer token of a request; `None` for anything that is not exactly one well-formed token.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim_start_matches(' ');
    (scheme.eq_ignore_ascii_case("bearer") && is_well_formed(token)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_one_well_formed_token_counts() {
        let token = format!("owk_{}", "A".repeat(43));
        assert_eq!(bearer(&asking(&format!("Bearer {token}"))), Some(token.as_str()));
        assert_eq!(bearer(&asking(&format!("bearer  {token}"))), Some(token.as_str()));
        for wrong in [
            token.clone(),
            format!("Basic {token}"),
            format!("Bearer {token}x"),
            format!("Bearer owk_{}", "!".repeat(43)),
            format!("Bearer x{token}"),
            "Bearer".into(),
            "Bearer ".into(),
        ] {
            assert_eq!(bearer(&asking(&wrong)), None, "{wrong}");
        }
        let mut twice = asking(&format!("Bearer {token}"));
        twice.append(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
        assert_eq!(bearer(&twice), None);
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn roles_are_a_ladder() {
        assert!(Role::Viewer.may(Permission::ScanRead) && !Role::Viewer.may(Permission::ScanExecute));
        assert!(
            Role::Operator.may(Permission::ScanExecute) && !Role::Operator.may(Permission::CredentialWrite)
        );
        assert!(Role::Admin.may(Permission::TokenWrite));
        for role in Role::ALL {
            assert_eq!(Role::parse(role.as_str()), Some(role));
        }
    }
}
