//! Which host-key algorithms are offered to a host.

use std::borrow::Cow;

use openwatch_model::host::KnownKey;
use russh::Preferred;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};

/// Every host-key algorithm we accept, best first. RSA only with SHA-2.
const ACCEPTED: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// What to offer: everything on first contact, else only the kinds of key that are on record, so that a host with
/// several keys shows the one we can recognise and a man in the middle cannot change the subject.
///
/// Empty when keys are on record and none of them is of an accepted kind.
pub(crate) fn offered(known: &[KnownKey]) -> Vec<Algorithm> {
    ACCEPTED
        .into_iter()
        .filter(|a| known.is_empty() || known.iter().any(|k| same_kind(&k.algorithm, a)))
        .collect()
}

/// The full set of preferences. The key-exchange list stays the library's own: replacing it would silently drop strict
/// key exchange.
pub(crate) fn preferred(host_keys: Vec<Algorithm>) -> Preferred {
    Preferred { key: Cow::Owned(host_keys), ..Preferred::DEFAULT }
}

fn same_kind(recorded: &str, offered: &Algorithm) -> bool {
    match offered {
        Algorithm::Rsa { .. } => matches!(recorded, "ssh-rsa" | "rsa-sha2-256" | "rsa-sha2-512"),
        other => other.as_str() == recorded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(algorithm: &str) -> KnownKey {
        KnownKey { algorithm: algorithm.into(), key: String::new() }
    }

    #[test]
    fn everything_on_first_contact_and_never_sha1() {
        let all = offered(&[]);
        assert_eq!(all.len(), ACCEPTED.len());
        assert!(!all.contains(&Algorithm::Rsa { hash: None }));
        assert!(!all.contains(&Algorithm::Dsa));
    }

    #[test]
    fn only_kinds_on_record() {
        assert_eq!(offered(&[known("ssh-ed25519")]), [Algorithm::Ed25519]);
        assert_eq!(
            offered(&[known("ssh-rsa")]),
            [Algorithm::Rsa { hash: Some(HashAlg::Sha512) }, Algorithm::Rsa { hash: Some(HashAlg::Sha256) }]
        );
        assert_eq!(offered(&[known("ecdsa-sha2-nistp384"), known("ssh-ed25519")]).len(), 2);
        assert!(offered(&[known("ssh-dss")]).is_empty());
    }

    #[test]
    fn strict_key_exchange_stays_on() {
        let names: Vec<_> = preferred(offered(&[])).kex.iter().map(|n| n.as_ref().to_owned()).collect();
        assert!(names.iter().any(|n| n == "kex-strict-c-v00@openssh.com"), "{names:?}");
    }
}
