//! Identities. All are UUIDs made by the server; none is ever accepted from a client.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

id! {
    /// A machine that is scanned.
    HostId
}
id! {
    /// One measurement of one host; always a UUIDv4 (TLW-11).
    ScanId
}
id! {
    /// A stored way to log in.
    CredentialId
}
id! {
    /// One incident that someone should know about.
    AlertId
}
id! {
    /// Somewhere alerts are delivered to.
    ChannelId
}
