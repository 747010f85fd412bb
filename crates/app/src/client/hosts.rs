//! `host` and `credential`.

use std::collections::BTreeMap;
use std::path::Path;

use openwatch_api::dto::{
    AcceptKey, AcceptedKey, Credential, Host, HostKey, HostRule, NewCredential, NewHost, Page,
};
use openwatch_model::credential::SudoMode;
use zeroize::Zeroizing;

use super::{Client, table};
use crate::cli::{CredentialAddArgs, CredentialCommand, HostAddArgs, HostCommand, LookArgs};
use crate::config::read_secret;
use crate::exit::Failure;
use crate::place::url_encode;

/// Runs a `host` command.
///
/// # Errors
/// As the API's answer.
pub async fn host(command: HostCommand) -> Result<(), Failure> {
    match command {
        HostCommand::Add(args) => add(args).await,
        HostCommand::Import { file, client } => import(&file, &Client::new(&client)?).await,
        HostCommand::List { limit, client } => {
            let client = Client::new(&client)?;
            let page: Page<Host> = client.get("/hosts", &[("limit", limit.to_string())]).await?;
            if client.json { table::json(&page.items) } else { list(&page.items) }
        }
        HostCommand::Show { host, look } => show(&host, look).await,
        HostCommand::Rm { host, client } => {
            Client::new(&client)?.delete(&format!("/hosts/{}", url_encode(&host))).await?;
            table::line(&format!("host {host} removed; its history stays"));
            Ok(())
        }
        HostCommand::AcceptKey { host, key, client } => {
            let client = Client::new(&client)?;
            let body = AcceptKey { key: parse_key(&key)? };
            let path = format!("/hosts/{}/accept-key", url_encode(&host));
            let accepted: AcceptedKey = client.post(&path, &body).await?;
            if client.json {
                return table::json(&accepted);
            }
            table::line(&format!("{host} is now held to {} {}", accepted.algorithm, accepted.fingerprint));
            Ok(())
        }
    }
}

async fn add(args: HostAddArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let body = NewHost {
        address: args.address.unwrap_or_else(|| args.name.clone()),
        name: args.name,
        port: Some(args.port),
        user: args.user,
        sudo: args.sudo.then_some(SudoMode::Sudo),
        credential: args.credential,
        labels: labels(&args.labels)?,
        known_keys: Vec::new(),
    };
    let host: Host = client.post("/hosts", &body).await?;
    if client.json {
        return table::json(&host);
    }
    table::line(&format!("host {} added as {} ({}:{})", host.name, host.id, host.address, host.port));
    Ok(())
}

fn labels(pairs: &[String]) -> Result<BTreeMap<String, String>, Failure> {
    let split = |pair: &String| {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::usage(format!("a label is written key=value, not `{pair}`")))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    pairs.iter().map(split).collect()
}

fn parse_key(text: &str) -> Result<HostKey, Failure> {
    let mut words =
        text.split_whitespace().skip_while(|word| !word.starts_with("ssh-") && !word.starts_with("ecdsa-"));
    match (words.next(), words.next()) {
        (Some(algorithm), Some(key)) => Ok(HostKey { algorithm: algorithm.into(), key: key.into() }),
        _ => Err(Failure::usage("a host key is written as in a .pub file: `ssh-ed25519 AAAA...`")),
    }
}

async fn import(file: &Path, client: &Client) -> Result<(), Failure> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())?
    } else {
        std::fs::read_to_string(file)
            .map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?
    };
    let hosts = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?
    } else {
        from_csv(&text)?
    };
    let added: Vec<Host> = client.post("/hosts:import", &hosts).await?;
    if client.json {
        return table::json(&added);
    }
    table::line(&format!("{} hosts added", added.len()));
    Ok(())
}

/// Reads the columns of [`HostCommand::Import`]; all problems are told together, nothing is sent unless there is none.
fn from_csv(text: &str) -> Result<Vec<NewHost>, Failure> {
    const COLUMNS: &str = "name,address,port,user,credential,sudo,labels";
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header: Vec<&str> =
        lines.next().map(|(_, line)| line.split(',').map(str::trim).collect()).unwrap_or_default();
    if let Some(unknown) = header.iter().find(|name| !COLUMNS.split(',').any(|known| known == **name)) {
        return Err(Failure::usage(format!("line 1: unknown column `{unknown}`; the columns are {COLUMNS}")));
    }
    if !header.contains(&"name") {
        return Err(Failure::usage(format!("line 1: the first line names the columns: {COLUMNS}")));
    }
    let mut problems = Vec::new();
    let mut hosts = Vec::new();
    for (number, line) in lines {
        let cells: BTreeMap<&str, &str> =
            header.iter().copied().zip(line.split(',').map(str::trim)).collect();
        match row(&cells, line.split(',').count() > header.len()) {
            Ok(host) => hosts.push(host),
            Err(problem) => problems.push(format!("line {}: {problem}", number + 1)),
        }
    }
    if problems.is_empty() { Ok(hosts) } else { Err(Failure::usage(problems.join("\n  "))) }
}

fn row(cells: &BTreeMap<&str, &str>, too_many: bool) -> Result<NewHost, String> {
    let cell = |name: &str| cells.get(name).copied().filter(|text| !text.is_empty());
    if too_many {
        return Err("more cells than columns (labels are separated by `;`)".into());
    }
    let name = cell("name").ok_or("name is empty")?.to_owned();
    let port = cell("port")
        .map(|text| text.parse().map_err(|_| format!("port `{text}` is not a port")))
        .transpose()?;
    let sudo = match cell("sudo") {
        None | Some("none" | "no" | "false") => None,
        Some("sudo" | "yes" | "true") => Some(SudoMode::Sudo),
        Some(other) => return Err(format!("sudo is `sudo` or `none`, not `{other}`")),
    };
    let labels = cell("labels").into_iter().flat_map(|all| all.split(';')).map(|pair| {
        pair.trim()
            .split_once('=')
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .ok_or(format!("label `{pair}` is not key=value"))
    });
    Ok(NewHost {
        address: cell("address").unwrap_or(&name).to_owned(),
        port,
        user: cell("user").map(str::to_owned),
        sudo,
        credential: cell("credential").map(str::to_owned),
        labels: labels.collect::<Result<_, _>>()?,
        known_keys: Vec::new(),
        name,
    })
}

fn list(hosts: &[Host]) -> Result<(), Failure> {
    let mut table =
        table::new(&["host", "address", "state", "score", "answers", "last verified", "next scan"]);
    for host in hosts {
        let answers =
            host.liveness.as_ref().map_or("not probed".to_owned(), |l| l.reachability.as_str().to_owned());
        table.add_row([
            host.name.clone(),
            format!("{}:{}", host.address, host.port),
            host.compliance.state.as_str().to_owned(),
            table::score(host.compliance.score),
            answers,
            table::moment_or(host.compliance.last_scanned_at, "never"),
            table::moment_or(host.compliance.next_scan_at, "-"),
        ]);
    }
    table::print(&table, "no hosts yet; `openwatch host add NAME --address A` registers one");
    Ok(())
}

async fn show(name: &str, look: LookArgs) -> Result<(), Failure> {
    let client = Client::new(&look.client)?;
    let as_of: Vec<_> = look.as_of.iter().map(|at| ("as_of", at.clone())).collect();
    let path = format!("/hosts/{}", url_encode(name));
    let host: Host = client.get(&path, &as_of).await?;
    let rules: Page<HostRule> = client.get(&format!("{path}/rules"), &as_of).await?;
    if client.json {
        return table::json(&serde_json::json!({ "host": host, "rules": rules.items }));
    }
    list(std::slice::from_ref(&host))?;
    let mut table = table::new(&["rule", "status", "severity", "since", "checked"]);
    for rule in &rules.items {
        table.add_row([
            rule.rule_id.clone(),
            rule.status.as_str().to_owned(),
            rule.severity.map_or("-", |s| s.as_str()).to_owned(),
            table::moment_or(rule.last_changed_at, "-"),
            table::moment_or(rule.last_checked_at, "-"),
        ]);
    }
    table::print(&table, "no rule has been measured on it yet");
    Ok(())
}

/// Runs a `credential` command.
///
/// # Errors
/// As the API's answer, or a file that cannot be read.
pub async fn credential(command: CredentialCommand) -> Result<(), Failure> {
    match command {
        CredentialCommand::Add(args) => add_credential(args).await,
        CredentialCommand::List { client } => {
            let client = Client::new(&client)?;
            let page: Page<Credential> = client.get("/credentials", &[]).await?;
            if client.json {
                return table::json(&page.items);
            }
            let mut table = table::new(&["credential", "user", "method", "default", "in the vault"]);
            for it in &page.items {
                let yes = |b: bool| if b { "yes" } else { "no" };
                table.add_row([
                    &it.name,
                    &it.username,
                    it.auth_method.as_str(),
                    yes(it.default),
                    yes(it.stored),
                ]);
            }
            table::print(
                &table,
                "no credentials yet; `openwatch credential add NAME --user U --key-file F` stores one",
            );
            Ok(())
        }
        CredentialCommand::Rm { name, client } => {
            Client::new(&client)?.delete(&format!("/credentials/{}", url_encode(&name))).await?;
            table::line(&format!("credential {name} removed"));
            Ok(())
        }
    }
}

async fn add_credential(args: CredentialAddArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let body = NewCredential {
        name: args.name.clone(),
        username: args.user.clone(),
        default: args.default,
        password: secret(args.password_file.as_deref(), "login password")?,
        private_key: args.key_file.as_deref().map(read_key).transpose()?,
        passphrase: secret(args.passphrase_file.as_deref(), "passphrase")?,
        sudo_password: secret(args.sudo_password_file.as_deref(), "sudo password")?,
    };
    let stored: Credential = client.post("/credentials", &body).await?;
    if client.json {
        return table::json(&stored);
    }
    table::line(&format!(
        "credential {} added as {} ({})",
        stored.name,
        stored.id,
        stored.auth_method.as_str()
    ));
    Ok(())
}

/// A secret from a file, or from the terminal for `-`.
///
/// # Errors
/// As the file, or no terminal.
pub fn secret(file: Option<&Path>, what: &str) -> Result<Option<String>, Failure> {
    match file {
        None => Ok(None),
        Some(path) if path == Path::new("-") => rpassword::prompt_password(format!("{what}: "))
            .map(Some)
            .map_err(|e| Failure::usage(format!("cannot ask for the {what} at the terminal: {e}"))),
        Some(path) => read_secret(path).map(|text| Some(text.to_string())).map_err(Failure::usage),
    }
}

/// A private key file, whole.
///
/// # Errors
/// Exit 64 when it cannot be read.
pub fn read_key(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    text.map(|text| text.to_string())
        .map_err(|e| Failure::usage(format!("cannot read key {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_rows_become_hosts() {
        let hosts = from_csv(
            "name,address,port,sudo,labels\nweb-1,10.0.0.1,2222,yes,env=prod;tier=web\n\nweb-2,,,,\n",
        )
        .ok()
        .unwrap();
        assert_eq!(hosts.len(), 2);
        assert_eq!((hosts[0].port, hosts[0].sudo), (Some(2222), Some(SudoMode::Sudo)));
        assert_eq!(hosts[0].labels["tier"], "web");
        assert_eq!(hosts[1].address, "web-2");
    }

    #[test]
    fn every_bad_line_is_named_and_nothing_is_sent() {
        let failure = from_csv("name,port\nweb-1,99999\n,22\n").err().unwrap();
        let text = failure.error.to_string();
        assert!(text.contains("line 2: port `99999`") && text.contains("line 3: name is empty"), "{text}");
        assert!(from_csv("name,prot\n").err().unwrap().error.to_string().contains("unknown column `prot`"));
    }

    #[test]
    fn host_keys_are_read_from_any_usual_line() {
        for line in ["ssh-ed25519 AAAA", "web-1 ssh-ed25519 AAAA comment", "[web]:22 ssh-ed25519 AAAA"] {
            assert_eq!(parse_key(line).ok().unwrap().key, "AAAA");
        }
        assert!(parse_key("AAAA").is_err());
    }
}
