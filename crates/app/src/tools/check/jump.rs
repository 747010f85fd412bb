//! `check -J`: the host to go through first.

use openwatch_model::credential::Secret;
use openwatch_remote::{HostKeyPolicy, Target, Trust};

use super::super::known_hosts;
use super::ask::user_and_rest;
use crate::cli::CheckArgs;
use crate::client::credentials::{read_key, secret};
use crate::exit::Failure;

/// The host in between, and how to trust and enter it.
pub(super) struct JumpHost {
    pub(super) target: Target,
    pub(super) policy: HostKeyPolicy,
    pub(super) secret: Secret,
}

/// What `-J` asks for, if anything. Without a credential of its own the jump host is offered the host's key.
pub(super) fn jump(args: &CheckArgs, of_host: &Secret) -> Result<Option<JumpHost>, Failure> {
    let Some(text) = &args.jump else { return Ok(None) };
    let target = jump_target(text)
        .ok_or_else(|| Failure::usage(format!("name the jump host as USER@HOST[:PORT], not `{text}`")))?;
    let policy = known_hosts::policy(&args.host_key, &target)?;
    if matches!(policy.trust, Trust::Pinned(_)) {
        let text =
            "a pinned fingerprint is that of the host; with -J put both keys into known_hosts, or use tofu";
        return Err(Failure::usage(text));
    }
    let mut it = Secret::default();
    // A key proves itself without being given away; a password would be, so the host's own is never tried on another.
    if args.jump_key.is_some() || args.jump_password_file.is_some() {
        it.private_key = args.jump_key.as_deref().map(read_key).transpose()?;
        it.passphrase = secret(args.jump_passphrase_file.as_deref(), "passphrase for the jump host")?;
        it.password = secret(args.jump_password_file.as_deref(), "password for the jump host")?;
    } else {
        it.private_key.clone_from(&of_host.private_key);
        it.passphrase.clone_from(&of_host.passphrase);
    }
    if it.auth_method().is_none() {
        let text =
            "give a key for the jump host with -i or --jump-key, or a password with --jump-password-file";
        return Err(Failure::usage(text));
    }
    Ok(Some(JumpHost { target, policy, secret: it }))
}

/// `USER@HOST`, `USER@HOST:PORT`, `USER@[IPV6]:PORT`; an IPv6 address without brackets has no port.
fn jump_target(text: &str) -> Option<Target> {
    let (user, rest) = user_and_rest(text)?;
    let (address, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None if rest.matches(':').count() == 1 => {
            rest.split_once(':').map(|(address, port)| (address, Some(port)))?
        }
        None => (rest, None),
    };
    let port = port.map_or(Some(22), |port| port.parse().ok().filter(|port| *port != 0))?;
    let address = address.to_owned();
    (!address.is_empty()).then_some(Target { address, port, user: user.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_hosts_are_written_as_people_write_them() {
        let read = |text| jump_target(text).map(|it| (it.user, it.address, it.port));
        let is = |user: &str, address: &str, port| Some((user.to_owned(), address.to_owned(), port));
        assert_eq!(read("ops@bastion"), is("ops", "bastion", 22));
        assert_eq!(read("ops@bastion:2222"), is("ops", "bastion", 2222));
        assert_eq!(read("ops@[2001:db8::1]:2222"), is("ops", "2001:db8::1", 2222));
        assert_eq!(read("ops@[2001:db8::1]"), is("ops", "2001:db8::1", 22));
        assert_eq!(read("ops@2001:db8::1"), is("ops", "2001:db8::1", 22));
        for wrong in
            ["bastion", "@bastion", "ops@", "ops@bastion:", "ops@bastion:0", "ops@bastion:x", "ops@[::1]2"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
