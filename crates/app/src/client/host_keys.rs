//! `host keys` and `host accept-key`: a person compares fingerprints.

use openwatch_api::dto::{AcceptKey, AcceptedKey, HostKey, HostKeyView, Page};

use super::{Client, table};
use crate::exit::Failure;
use crate::place::url_encode;

/// Lists the keys of a host.
///
/// # Errors
/// As the API's answer.
pub async fn keys(host: &str, client: &Client) -> Result<(), Failure> {
    let page = known(host, client).await?;
    if client.json {
        return table::json(&page.items);
    }
    let mut rows = table::new(&["state", "algorithm", "fingerprint", "since", "accepted by"]);
    for it in &page.items {
        rows.add_row([
            it.state.clone(),
            it.algorithm.clone(),
            it.fingerprint.clone(),
            table::moment_or(Some(it.at), "-"),
            it.accepted_by.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table::print(&rows, "no key on record yet, and none was shown");
    Ok(())
}

/// Puts a key on record; asked without one, shows the old and the new and how to accept it.
///
/// # Errors
/// 64 without a fingerprint or key; else as the API's answer.
pub async fn accept_key(
    host: &str,
    fingerprint: Option<String>,
    key: Option<&str>,
    client: &Client,
) -> Result<(), Failure> {
    if fingerprint.is_none() && key.is_none() {
        let page = known(host, client).await?;
        return Err(Failure::usage(question(host, &page.items)));
    }
    let body = AcceptKey { key: key.map(parse_key).transpose()?, fingerprint };
    let accepted: AcceptedKey =
        client.post(&format!("/hosts/{}/accept-key", url_encode(host)), &body).await?;
    if client.json {
        return table::json(&accepted);
    }
    if let Some(old) = &accepted.replaced {
        table::line(&format!("old: {} {old}", accepted.algorithm));
    }
    table::line(&format!("new: {} {}", accepted.algorithm, accepted.fingerprint));
    table::line(&format!("{host} is held to the new one from now on"));
    Ok(())
}

async fn known(host: &str, client: &Client) -> Result<Page<HostKeyView>, Failure> {
    client.get(&format!("/hosts/{}/keys", url_encode(host)), &[]).await
}

/// What a person must know to answer.
fn question(host: &str, keys: &[HostKeyView]) -> String {
    let line = |what: &str, it: &HostKeyView| format!("{what}: {} {}", it.algorithm, it.fingerprint);
    let mut lines = Vec::new();
    for shown in keys.iter().filter(|it| it.state == "shown") {
        let old = keys.iter().find(|it| it.state == "on_record" && it.algorithm == shown.algorithm);
        lines.extend(old.map(|it| line("old", it)));
        lines.push(line("new", shown));
        lines.push(format!(
            "compare the new one on the console of the host (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), then run\n  \
             openwatch host accept-key {host} --fingerprint {}",
            shown.fingerprint
        ));
    }
    if lines.is_empty() {
        return format!("no scan of {host} was shown an unexpected key; accept one beforehand with --key");
    }
    format!("a key is accepted by its fingerprint\n  {}", lines.join("\n  "))
}

/// Reads a public key out of any usual line.
///
/// # Errors
/// 64 when there is none in it.
pub fn parse_key(text: &str) -> Result<HostKey, Failure> {
    let mut words =
        text.split_whitespace().skip_while(|word| !word.starts_with("ssh-") && !word.starts_with("ecdsa-"));
    match (words.next(), words.next()) {
        (Some(algorithm), Some(key)) => Ok(HostKey { algorithm: algorithm.into(), key: key.into() }),
        _ => Err(Failure::usage("a host key is written as in a .pub file: `ssh-ed25519 AAAA...`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_are_read_from_any_usual_line() {
        for line in ["ssh-ed25519 AAAA", "web-1 ssh-ed25519 AAAA comment", "[web]:22 ssh-ed25519 AAAA"] {
            assert_eq!(parse_key(line).ok().unwrap().key, "AAAA");
        }
        assert!(parse_key("AAAA").is_err());
    }
}
