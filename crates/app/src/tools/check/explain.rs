//! What went wrong, and what to do about it, in the words of this command.

use openwatch_model::host::KnownKey;
use openwatch_model::scan::{Failure as ScanFailure, FailureReason};
use openwatch_remote::{HostKeyPolicy, RemoteError, Target, Trust, fingerprint};

use super::super::known_hosts::own_file;
use crate::cli::CheckArgs;
use crate::exit::Failure;

/// A host that could not be reached, trusted or entered.
pub(super) fn refusal(
    error: &RemoteError,
    args: &CheckArgs,
    target: &Target,
    policy: &HostKeyPolicy,
) -> Failure {
    let text = match error {
        RemoteError::HostKeyUnknown { peer, presented, key } => unknown_key(peer, presented, key),
        RemoteError::HostKeyChanged { peer, presented, .. } if matches!(policy.trust, Trust::Pinned(_)) => {
            format!(
                "cannot trust {peer}: it shows {presented}, not the key named with --host-key {}",
                args.host_key
            )
        }
        RemoteError::HostKeyChanged { .. } => format!(
            "cannot {error}\n  Either it was rebuilt, or someone stands between you and it. If it was rebuilt, take the old key out \
             with\n    ssh-keygen -R '{}'\n  and accept the new one with --host-key",
            recorded_as(target)
        ),
        RemoteError::AuthFailed { .. } if args.password_file.is_none() => format!(
            "cannot {error}\n  is the key's public half in ~/.ssh/authorized_keys of {} there?",
            target.user
        ),
        _ => format!("cannot {error}"),
    };
    Failure::unavailable(text)
}

/// No key is on record: the one that was shown, how to compare it, and how to accept it.
fn unknown_key(peer: &str, presented: &str, key: &KnownKey) -> String {
    let kind = match key.algorithm.as_str() {
        "ssh-ed25519" => "ed25519",
        rsa if rsa.contains("rsa") => "rsa",
        _ => "ecdsa",
    };
    let file = own_file();
    let file =
        file.map_or_else(|| "not remembered without HOME".to_owned(), |file| file.display().to_string());
    format!(
        "cannot trust {peer}: no host key on record; it shows\n    {presented}\n  \
         on the host, `ssh-keygen -lf /etc/ssh/ssh_host_{kind}_key.pub` prints the true one; if they are equal, run again with\n    \
         --host-key {}    to accept this key this time\n    \
         --host-key tofu    to accept it from now on ({file})",
        fingerprint(key).unwrap_or_default()
    )
}

/// A scan that began and brought nothing.
pub(super) fn failure(failure: &ScanFailure, args: &CheckArgs, target: &Target) -> Failure {
    let (peer, detail) = (peer(target), &failure.detail);
    Failure::unavailable(match failure.reason {
        FailureReason::Timeout => {
            format!(
                "{peer}: not finished within {} s; --timeout sets the limit, --rule asks for less",
                args.timeout
            )
        }
        FailureReason::EvidenceOversize | FailureReason::TransportLost if failure.rule.is_some() => {
            format!("{peer}: {detail}; leave the rule out, or have it print less")
        }
        FailureReason::TransportLost => format!("{peer}: the connection did not last: {detail}"),
        _ => format!("cannot {detail}"),
    })
}

fn peer(target: &Target) -> String {
    if target.address.contains(':') {
        format!("[{}]:{}", target.address, target.port)
    } else {
        format!("{}:{}", target.address, target.port)
    }
}

/// How known_hosts writes the host.
fn recorded_as(target: &Target) -> String {
    if target.port == 22 { target.address.clone() } else { format!("[{}]:{}", target.address, target.port) }
}
