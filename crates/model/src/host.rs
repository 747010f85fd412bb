//! Hosts and the keys they prove themselves with.

use serde::{Deserialize, Serialize};

/// What to do on first contact with a host key (seed: from the signed policy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostKeyMode {
    /// Trust the first key seen, then hold the host to it.
    Tofu,
    /// An unknown host is refused before any authentication.
    #[default]
    RequireKnown,
}

/// One public key that a host has proved itself with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KnownKey {
    /// SSH algorithm name, such as `ssh-ed25519`.
    pub algorithm: String,
    /// Base64 of the SSH public key blob (the middle column of an `authorized_keys` line).
    pub key: String,
}

/// The operating system of a host, from `/etc/os-release`. Empty strings: unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `ID`, lower-cased: `debian`, `ubuntu`, `rhel`.
    pub family: String,
    /// `VERSION_ID`: `12`, `22.04`.
    pub version: String,
    /// `PRETTY_NAME`, for people.
    pub name: String,
}
