//! `credential`: secrets come from files, standard input or the terminal, never from arguments.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use openwatch_api::dto::{Credential, CredentialChange, KeysView, NewCredential, Page, RotateKey};
use zeroize::Zeroizing;

use super::{Client, table};
use crate::cli::{CredentialAddArgs, CredentialCommand, CredentialUpdateArgs, SecretArgs};
use crate::config::read_secret;
use crate::exit::{Failure, TRY_AGAIN};
use crate::place::url_encode;

/// Largest secret that is read from standard input.
const STDIN_MOST: u64 = 64 * 1024;
/// How long a rotation is followed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a `credential` command.
///
/// # Errors
/// As the API's answer, or a file that cannot be read.
pub async fn credential(command: CredentialCommand) -> Result<(), Failure> {
    match command {
        CredentialCommand::Add(args) => add(args).await,
        CredentialCommand::Update(args) => update(args).await,
        CredentialCommand::List { client } => list(&Client::new(&client)?).await,
        CredentialCommand::Show { name, client } => {
            let client = Client::new(&client)?;
            let it: Credential = client.get(&format!("/credentials/{}", url_encode(&name)), &[]).await?;
            show(&it, &client)
        }
        CredentialCommand::RotateKey { retire_after, no_wait, client } => {
            rotate(retire_after, !no_wait, &Client::new(&client)?).await
        }
        CredentialCommand::Rm { name, client } => {
            Client::new(&client)?.delete(&format!("/credentials/{}", url_encode(&name))).await?;
            table::line(&format!("credential {name} removed"));
            Ok(())
        }
    }
}

/// Asks for a rotation, and follows it until every credential is under the new key.
async fn rotate(retire_after_sec: Option<u32>, wait: bool, client: &Client) -> Result<(), Failure> {
    let mut state: KeysView = client.post("/keys:rotate", &RotateKey { retire_after_sec }).await?;
    let begun = Instant::now();
    let done = |state: &KeysView| {
        let rotation = state.rotation.as_ref();
        rotation.is_some_and(|it| it.phase == "done" || (it.phase == "switched" && it.credentials_left == 0))
    };
    while wait && !done(&state) {
        if begun.elapsed() > PATIENCE {
            let who = state.rotation.map(|it| it.waiting_for.join(", ")).unwrap_or_default();
            let text = format!(
                "the rotation goes on, but not everybody holds the next key yet ({who}); `openwatch doctor` says who. \
                 Where processes have key directories of their own, issue to them with `openwatch keys`"
            );
            return Err(Failure::new(TRY_AGAIN, anyhow::anyhow!(text)));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        state = client.get("/keys", &[]).await?;
    }
    if client.json {
        return table::json(&state);
    }
    let Some(it) = &state.rotation else { return Ok(()) };
    let name = |id: &Option<String>| id.clone().unwrap_or_else(|| "being made".to_owned());
    table::line(&format!("data-encryption key {} ({})", name(&it.next_key_id), it.phase));
    if let Some(at) = it.retire_at {
        table::line(&format!("the old one, {}, goes after {}", name(&it.old_key_id), table::moment(at)));
    }
    Ok(())
}

async fn list(client: &Client) -> Result<(), Failure> {
    let page: Page<Credential> = client.get("/credentials", &[]).await?;
    if client.json {
        return table::json(&page.items);
    }
    let mut rows = table::new(&["credential", "user", "method", "key", "default", "in the vault"]);
    for it in &page.items {
        rows.add_row([
            it.name.as_str(),
            it.username.as_str(),
            it.auth_method.as_str(),
            it.key.as_ref().map_or("-", |key| key.fingerprint.as_str()),
            yes(it.default),
            yes(it.stored),
        ]);
    }
    table::print(
        &rows,
        "no credentials yet; `openwatch credential add NAME --user U --key-file F` stores one",
    );
    Ok(())
}

fn show(it: &Credential, client: &Client) -> Result<(), Failure> {
    if client.json {
        return table::json(it);
    }
    let mut rows = table::new(&["", ""]);
    let mut row = |name: &str, value: String| {
        rows.add_row([name.to_owned(), value]);
    };
    row("credential", format!("{} ({})", it.name, it.id));
    row("user", it.username.clone());
    row("method", it.auth_method.as_str().to_owned());
    if let Some(key) = &it.key {
        row("key", format!("{} {} bits", key.algorithm, key.bits));
        row("fingerprint", key.fingerprint.clone());
        row("comment", key.comment.clone());
    }
    row("default", yes(it.default).to_owned());
    row("hosts that name it", it.hosts.to_string());
    row("encrypted with", it.key_id.clone().unwrap_or_else(|| "waits for the vault".to_owned()));
    table::print(&rows, "");
    Ok(())
}

fn yes(it: bool) -> &'static str {
    if it { "yes" } else { "no" }
}

async fn add(args: CredentialAddArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let mut body = NewCredential {
        name: args.name.clone(),
        username: args.user.clone(),
        default: args.default,
        password: None,
        private_key: None,
        passphrase: None,
        sudo_password: None,
    };
    let SecretArgs { key_file, passphrase_file, password_file, sudo_password_file } = args.secrets;
    body.private_key = key_file.as_deref().map(read_key).transpose()?;
    body.passphrase = secret(passphrase_file.as_deref(), "passphrase")?;
    body.password = secret(password_file.as_deref(), "login password")?;
    body.sudo_password = secret(sudo_password_file.as_deref(), "sudo password")?;
    let stored: Credential = client.post("/credentials", &body).await?;
    if client.json {
        return table::json(&stored);
    }
    table::line(&format!("credential {} added as {} ({})", stored.name, stored.id, what(&stored)));
    Ok(())
}

async fn update(args: CredentialUpdateArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let mut body = CredentialChange::default();
    body.username = args.user;
    body.default = args.default;
    let SecretArgs { key_file, passphrase_file, password_file, sudo_password_file } = args.secrets;
    body.private_key = key_file.as_deref().map(read_key).transpose()?;
    body.passphrase = secret(passphrase_file.as_deref(), "passphrase")?;
    body.password = secret(password_file.as_deref(), "login password")?;
    body.sudo_password = secret(sudo_password_file.as_deref(), "sudo password")?;
    let path = format!("/credentials/{}", url_encode(&args.name));
    let stored: Credential = client.patch(&path, &body).await?;
    if client.json {
        return table::json(&stored);
    }
    table::line(&format!("credential {} changed ({})", stored.name, what(&stored)));
    Ok(())
}

fn what(it: &Credential) -> String {
    match &it.key {
        Some(key) => format!("{}, {} {}", it.auth_method.as_str(), key.algorithm, key.fingerprint),
        None => it.auth_method.as_str().to_owned(),
    }
}

/// A secret from a file; for `-` from the terminal, or the first line of standard input where that is none.
///
/// # Errors
/// As the file, or nothing to read.
pub fn secret(file: Option<&Path>, what: &str) -> Result<Option<String>, Failure> {
    match file {
        None => Ok(None),
        Some(path) if path == Path::new("-") && !std::io::stdin().is_terminal() => {
            let text = stdin()?;
            let line = text.lines().next().unwrap_or_default();
            if line.is_empty() {
                return Err(Failure::usage(format!("no {what} came on standard input")));
            }
            Ok(Some(line.to_owned()))
        }
        Some(path) if path == Path::new("-") => rpassword::prompt_password(format!("{what}: "))
            .map(Some)
            .map_err(|e| Failure::usage(format!("cannot ask for the {what} at the terminal: {e}"))),
        Some(path) => read_secret(path).map(|text| Some(text.to_string())).map_err(Failure::usage),
    }
}

/// A private key, whole: from a file, or from standard input for `-`.
///
/// # Errors
/// Exit 64 when it cannot be read.
pub fn read_key(path: &Path) -> Result<String, Failure> {
    if path == Path::new("-") {
        return stdin().map(|text| text.to_string());
    }
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    text.map(|text| text.to_string())
        .map_err(|e| Failure::usage(format!("cannot read key {}: {e}", path.display())))
}

fn stdin() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(STDIN_MOST as usize));
    std::io::stdin()
        .take(STDIN_MOST)
        .read_to_string(&mut text)
        .map_err(|e| Failure::usage(format!("cannot read standard input: {e}")))?;
    Ok(text)
}
