//! How to get in: keys and passwords, checked before anything is dialled.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use openwatch_model::credential::Secret;
use openwatch_remote::{RemoteError, inspect_key};

use crate::cli::CheckArgs;
use crate::client::credentials::{read_key, secret};
use crate::exit::Failure;

/// Keys looked for when none is named, best first.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

pub(super) fn secret_of(args: &CheckArgs) -> Result<Secret, Failure> {
    let path = match (&args.key, &args.password_file) {
        (Some(path), _) => Some(path.clone()),
        (None, Some(_)) => None,
        (None, None) => Some(usual_key().ok_or_else(nothing_to_offer)?),
    };
    let mut it = Secret::default();
    it.passphrase = secret(args.passphrase_file.as_deref(), "passphrase")?;
    if let Some(path) = path {
        let text = read_key(&path)?;
        it.passphrase = opened(&path, &text, it.passphrase.take())?;
        it.private_key = Some(text);
    }
    it.password = secret(args.password_file.as_deref(), "login password")?;
    it.sudo_password = secret(args.sudo_password_file.as_deref(), "sudo password")?;
    Ok(it)
}

fn usual_key() -> Option<PathBuf> {
    let dir = PathBuf::from(std::env::var_os("HOME")?).join(".ssh");
    USUAL_KEYS.iter().map(|name| dir.join(name)).find(|path| path.is_file())
}

fn nothing_to_offer() -> Failure {
    let agent = match std::env::var_os("SSH_AUTH_SOCK") {
        Some(_) => " (keys that only an agent holds are not used)",
        None => "",
    };
    Failure::usage(format!(
        "nothing to log in with: give a private key with -i FILE, or a password with --password-file FILE; \
         ~/.ssh holds none of {}{agent}",
        USUAL_KEYS.join(", ")
    ))
}

/// The passphrase that opens the key, asked for at the terminal where there is one and it is needed.
fn opened(path: &Path, text: &str, passphrase: Option<String>) -> Result<Option<String>, Failure> {
    let name = path.display();
    let told = |error: &RemoteError| match error {
        RemoteError::PrivateKeyEncrypted => Failure::usage(format!(
            "the key {name} is encrypted; give its passphrase with --passphrase-file FILE, or `-` to be asked"
        )),
        RemoteError::PrivateKeyUnreadable { detail } => {
            Failure::usage(format!("cannot use the key {name}: {detail}"))
        }
        RemoteError::PrivateKeyWeak { detail } => {
            Failure::usage(format!("cannot use the key {name}: {detail}; use an ed25519 key"))
        }
        other => Failure::usage(format!("cannot use the key {name}: {other}")),
    };
    match inspect_key(text, passphrase.as_deref()) {
        Ok(_) => Ok(passphrase),
        Err(RemoteError::PrivateKeyEncrypted) if std::io::stdin().is_terminal() => {
            let asked = secret(Some(Path::new("-")), &format!("passphrase of {name}"))?;
            inspect_key(text, asked.as_deref()).map_err(|error| told(&error))?;
            Ok(asked)
        }
        Err(error) => Err(told(&error)),
    }
}
