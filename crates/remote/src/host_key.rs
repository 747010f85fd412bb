//! Whether a host key is good enough: the decision, apart from any connection.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openwatch_model::host::{HostKeyMode, KnownKey};
use sha2::{Digest as _, Sha256};

/// How a host with no key on record is treated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// As the policy says.
    Mode(HostKeyMode),
    /// Only a key with this fingerprint, written `SHA256:...`.
    Pinned(String),
}

/// What we know of a host's keys, and what to do with the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostKeyPolicy {
    /// Rule for a host with no key on record.
    pub trust: Trust,
    /// Keys on record for this address and port. With any of them, another key is a changed key, whatever `trust` says.
    pub known: Vec<KnownKey>,
    /// Keys never to be accepted, in any mode.
    pub revoked: Vec<KnownKey>,
}

impl HostKeyPolicy {
    /// A policy without revoked keys.
    pub fn new(mode: HostKeyMode, known: Vec<KnownKey>) -> Self {
        Self { trust: Trust::Mode(mode), known, revoked: Vec::new() }
    }

    /// Judges a key that the host has just proved to hold.
    pub(crate) fn judge(&self, presented: &KnownKey) -> HostKeyVerdict {
        if self.revoked.iter().any(|k| k.key == presented.key) {
            return HostKeyVerdict::Revoked;
        }
        if let Trust::Pinned(pin) = &self.trust {
            let same = fingerprint(presented).is_some_and(|f| f == pin.trim_end_matches('='));
            return if same { HostKeyVerdict::Known } else { HostKeyVerdict::Changed };
        }
        if self.known.iter().any(|k| k.key == presented.key) {
            return HostKeyVerdict::Known;
        }
        match (self.known.is_empty(), &self.trust) {
            (true, Trust::Mode(HostKeyMode::Tofu)) => HostKeyVerdict::FirstContact,
            (true, _) => HostKeyVerdict::Unknown,
            (false, _) => HostKeyVerdict::Changed,
        }
    }
}

/// What a presented key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HostKeyVerdict {
    Known,
    FirstContact,
    Unknown,
    Changed,
    Revoked,
}

/// The `SHA256:...` fingerprint of a key, as `ssh-keygen -l` prints it. `None` when its base64 is broken.
pub fn fingerprint(key: &KnownKey) -> Option<String> {
    let blob = STANDARD.decode(&key.key).ok()?;
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&blob))))
}

/// Algorithm and fingerprint, for messages.
pub(crate) fn describe(key: &KnownKey) -> String {
    format!("{} {}", key.algorithm, fingerprint(key).as_deref().unwrap_or("(unreadable)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(blob: &[u8]) -> KnownKey {
        KnownKey { algorithm: "ssh-ed25519".into(), key: STANDARD.encode(blob) }
    }

    fn policy(mode: HostKeyMode, known: &[KnownKey]) -> HostKeyPolicy {
        HostKeyPolicy::new(mode, known.to_vec())
    }

    #[test]
    fn the_table() {
        let (a, b) = (key(b"a"), key(b"b"));
        use HostKeyMode::{RequireKnown, Tofu};
        for (mode, known, want) in [
            (RequireKnown, vec![], HostKeyVerdict::Unknown),
            (Tofu, vec![], HostKeyVerdict::FirstContact),
            (RequireKnown, vec![a.clone()], HostKeyVerdict::Known),
            (Tofu, vec![b.clone(), a.clone()], HostKeyVerdict::Known),
            (RequireKnown, vec![b.clone()], HostKeyVerdict::Changed),
            (Tofu, vec![b.clone()], HostKeyVerdict::Changed),
        ] {
            assert_eq!(policy(mode, &known).judge(&a), want, "{mode:?} {known:?}");
        }
    }

    #[test]
    fn revoked_comes_first_in_every_mode() {
        let a = key(b"a");
        for trust in [
            Trust::Mode(HostKeyMode::Tofu),
            Trust::Mode(HostKeyMode::RequireKnown),
            Trust::Pinned(fingerprint(&a).unwrap()),
        ] {
            let policy = HostKeyPolicy { trust, known: vec![a.clone()], revoked: vec![a.clone()] };
            assert_eq!(policy.judge(&a), HostKeyVerdict::Revoked);
        }
    }

    #[test]
    fn a_pin_overrules_everything_else() {
        let (a, b) = (key(b"a"), key(b"b"));
        let policy = HostKeyPolicy {
            trust: Trust::Pinned(fingerprint(&a).unwrap()),
            known: vec![b.clone()],
            revoked: vec![],
        };
        assert_eq!(policy.judge(&a), HostKeyVerdict::Known);
        assert_eq!(policy.judge(&b), HostKeyVerdict::Changed);
    }
}
