//! Host keys for `openwatch check`: what the user's and the machine's `known_hosts` files say, and what is added to the
//! user's on first contact.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use openwatch_model::host::{HostKeyMode, KnownKey};
use openwatch_remote::known_hosts::{KnownHosts, Lookup, render};
use openwatch_remote::{HostKeyPolicy, Target, Trust, fingerprint};

use crate::client::table;
use crate::exit::Failure;

/// Keys that an administrator has recorded, or revoked, for everybody on this machine.
const OF_THE_MACHINE: &str = "/etc/ssh/ssh_known_hosts";

/// What to think of the target's host key, by the word given on the command line.
///
/// # Errors
/// An unknown word, a file that cannot be read, or a host that only a certificate could vouch for.
pub(super) fn policy(word: &str, target: &Target) -> Result<HostKeyPolicy, Failure> {
    let trust = match word {
        "tofu" => Trust::Mode(HostKeyMode::Tofu),
        "require-known" => Trust::Mode(HostKeyMode::RequireKnown),
        pin if is_fingerprint(pin) => Trust::Pinned(pin.to_owned()),
        other => {
            let text = format!(
                "--host-key is tofu, require-known or a fingerprint as `ssh-keygen -l` prints it (SHA256: and 43 \
                 characters), not `{other}`"
            );
            return Err(Failure::usage(text));
        }
    };
    let mut found = Lookup::default();
    for path in own_file().into_iter().chain([PathBuf::from(OF_THE_MACHINE)]) {
        let hosts = KnownHosts::parse(&read(&path)?);
        for bad in hosts.unreadable() {
            table::tell(&format!("openwatch: {}, {bad}: skipped", path.display()));
        }
        let lookup = hosts.lookup(&target.address, target.port);
        found.known.extend(lookup.known);
        found.revoked.extend(lookup.revoked);
        found.has_authority |= lookup.has_authority;
    }
    // Taking any key on trust where somebody has said who vouches for this host would be a step down.
    if found.has_authority && found.known.is_empty() && !matches!(trust, Trust::Pinned(_)) {
        return Err(Failure::unavailable(format!(
            "cannot trust {}: known_hosts leaves it to a certificate authority, and host certificates are not \
             supported; record its plain key, or pin it with --host-key SHA256:...",
            target.address
        )));
    }
    Ok(HostKeyPolicy { trust, known: found.known, revoked: found.revoked })
}

/// Adds a key seen on first contact to the user's file. Of two first contacts at the same time the first to write wins:
/// the other has to have seen the same key.
///
/// # Errors
/// The file cannot be written, or meanwhile holds the host to another key.
pub(super) fn remember(target: &Target, key: &KnownKey) -> Result<(), Failure> {
    let Some(path) = own_file() else { return Ok(()) };
    if let Some(dir) = path.parent() {
        crate::keydir::make_private_dir(dir)?;
    }
    let cannot = |error: std::io::Error| Failure::usage(format!("cannot write {}: {error}", path.display()));
    let open = File::options().read(true).append(true).create(true).mode(0o600).open(&path);
    let mut file = open.map_err(cannot)?;
    file.lock().map_err(cannot)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(cannot)?;
    let text = String::from_utf8_lossy(&bytes);
    let now = KnownHosts::parse(&text).lookup(&target.address, target.port);
    if now.known.contains(key) {
        return Ok(());
    }
    let shown = fingerprint(key).unwrap_or_default();
    if !now.known.is_empty() || now.revoked.contains(key) || now.has_authority {
        return Err(Failure::unavailable(format!(
            "cannot trust {}: it showed {shown}, but {} has meanwhile been told otherwise",
            target.address,
            path.display()
        )));
    }
    let line = render(&target.address, target.port, key);
    // Somebody's editor may have left the last line open.
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    file.write_all(format!("{gap}{}\n", line.trim_end()).as_bytes()).map_err(cannot)?;
    table::tell(&format!(
        "openwatch: {} is now held to the key it showed, {shown} ({})",
        target.address,
        path.display()
    ));
    Ok(())
}

/// 256 bits in base64, with or without the padding.
fn is_fingerprint(text: &str) -> bool {
    let digits = text.strip_prefix("SHA256:").map(|rest| rest.trim_end_matches('='));
    digits.is_some_and(|d| {
        d.len() == 43 && d.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    })
}

pub(super) fn own_file() -> Option<PathBuf> {
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".ssh/known_hosts"))
}

/// A file's text; nothing when there is none. One that is there and cannot be read may hold a revoked key.
fn read(path: &Path) -> Result<String, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::usage(format!("cannot read {}: {error}", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints() {
        let good = "SHA256:h7W1ENkWsZJ6GFyQyQ0gahQEIWMfUi0RaZpPgHODxls";
        assert!(is_fingerprint(good) && is_fingerprint(&format!("{good}=")));
        for bad in ["SHA256:", "SHA256:AAAA", "MD5:aa:bb", &good.to_lowercase()] {
            assert!(!is_fingerprint(bad), "{bad}");
        }
    }
}
