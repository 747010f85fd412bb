//! Links that leave this machine are encrypted, and the other end proves who it is; or somebody said that it need not.
//!
//! Everything here is found out before anything is opened, each problem with its setting and what to do.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use openwatch_store::reach;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Serialize;

/// PEM files of one link, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LinkTls {
    /// Authorities that vouch for the other end; those of the operating system when absent.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl LinkTls {
    /// Checks the files of a link; `names` are the settings they came from: authorities, certificate, key.
    pub fn check(
        names: [&str; 3],
        [ca, certificate, key]: [Option<PathBuf>; 3],
        problems: &mut Vec<String>,
    ) -> Self {
        if let Some(path) = &ca {
            problems.extend(certificates(names[0], path).err());
        }
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => {
                problems.extend(pair(&names, &certificate, &key).err());
                Some((certificate, key))
            }
            (Some(_), None) => {
                problems.push(format!("{} needs {} beside it", names[1], names[2]));
                None
            }
            (None, Some(_)) => {
                problems.push(format!("{} needs {} beside it", names[2], names[1]));
                None
            }
        };
        Self { ca, identity }
    }

    /// Whether anything of it was given.
    pub fn is_given(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }
}

/// Whether a name or address is this machine. A name is only believed when it is `localhost`.
pub fn is_here(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.starts_with('/') || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What is wrong with the way to NATS. With any TLS file given, every connection is encrypted.
pub fn nats(servers: &[String], tls: &LinkTls, plain: bool) -> Vec<String> {
    let mut problems = Vec::new();
    for server in servers {
        let Some((scheme, rest)) = server.split_once("://").filter(|(s, _)| ["nats", "tls"].contains(s))
        else {
            problems
                .push(format!("NATS server `{}` must begin with nats:// or tls://", without_user(server)));
            continue;
        };
        if user_of(rest).is_some() {
            // Not repeated: it may be a password.
            problems.push(format!(
                "the address of NATS server `{}` holds a user or a password: leave out what stands before the @; processes \
                 show the NKEYs of their key directory",
                host_of(rest)
            ));
        } else if scheme == "nats" && !tls.is_given() && !plain && !is_here(host_of(rest)) {
            problems.push(format!(
                "NATS server `{server}` is beyond this machine and the way there is not encrypted: write tls://, or \
                 name its authorities with nats.ca (--nats-ca); nats.plain_beyond_loopback (--plain-nats) allows it"
            ));
        }
    }
    problems
}

/// What is wrong with the way to PostgreSQL. Nothing of the address but the host is repeated.
pub fn database(url: &str, plain: bool) -> Vec<String> {
    if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
        return vec!["the database URL must begin with postgres://".into()];
    }
    let Ok(reach) = reach(url) else {
        return vec!["the database URL cannot be read; write postgres://USER@HOST:PORT/DATABASE".into()];
    };
    let mut problems = Vec::new();
    let names =
        ["sslrootcert of the database URL", "sslcert of the database URL", "sslkey of the database URL"];
    LinkTls::check(names, [reach.ca, reach.certificate, reach.key], &mut problems);
    if !reach.verified && !plain && !is_here(&reach.host) {
        problems.push(format!(
            "the database at {} is beyond this machine and nothing proves that it is the right one: end its URL with \
             ?sslmode=verify-full&sslrootcert=FILE; database.plain_beyond_loopback (--plain-database) allows it",
            reach.host
        ));
    }
    problems
}

/// What is wrong with the way to the API: whoever reads it has the token.
pub fn api(url: &str, plain: bool) -> Option<String> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(s, _)| ["http", "https"].contains(s)) else {
        return Some(format!("the API address `{}` must begin with https:// or http://", without_user(url)));
    };
    if user_of(rest).is_some() {
        return Some(
            "the API address holds a user or a password: leave out what stands before the @".to_owned(),
        );
    }
    (scheme == "http" && !plain && !is_here(host_of(rest))).then(|| {
        format!(
            "{url} is beyond this machine and the token would go there for everybody to read: write https://, with --ca \
             for a private authority; --plain allows it"
        )
    })
}

/// What is wrong with where the API listens: plain HTTP is for this machine.
pub fn listening(address: &str, encrypted: bool, plain: bool) -> Option<String> {
    let beyond = address.parse::<SocketAddr>().is_ok_and(|it| !it.ip().is_loopback());
    (beyond && !encrypted && !plain).then(|| {
        format!(
            "api.listen: {address} can be reached from beyond this machine, and the tokens would come there for everybody to \
             read: name api.certificate and api.key; api.plain_beyond_loopback allows it"
        )
    })
}

/// Whether a database address holds a password.
pub fn holds_password(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    user_of(rest).is_some_and(|user| user.contains(':')) || rest.contains("password=")
}

/// An address without what stands before the `@`, which may be a password.
fn without_user(address: &str) -> String {
    address.rsplit_once('@').map_or_else(|| address.to_owned(), |(_, host)| format!("...@{host}"))
}

/// `user` of `user@host:port/path`.
fn user_of(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    authority.rsplit_once('@').map(|(user, _)| user)
}

/// `host` of `user@host:port/path`.
fn host_of(rest: &str) -> &str {
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    match address.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    }
}

/// Certificates of a PEM file, at least one.
fn certificates(name: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = std::fs::read(path).map_err(|e| format!("{name}: cannot read {}: {e}", path.display()))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!("{name}: {} holds no certificate in PEM", path.display())),
    }
}

fn pair(names: &[&str; 3], certificate: &Path, key: &Path) -> Result<(), String> {
    let chain = certificates(names[1], certificate)?;
    let cannot = |e: std::io::Error| format!("{}: cannot read {}: {e}", names[2], key.display());
    let mode = std::fs::metadata(key).map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        let text = "holds a secret but others may read it; run `chmod 600` on it";
        return Err(format!("{}: {} {text}", names[2], key.display()));
    }
    let text = zeroize::Zeroizing::new(std::fs::read(key).map_err(cannot)?);
    let parsed = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| format!("{}: {} holds no private key in PEM", names[2], key.display()))?;
    CertifiedKey::from_der(chain, parsed, &rustls::crypto::ring::default_provider())
        .map(drop)
        .map_err(|_| format!("{}: {} is not the key of {}", names[2], key.display(), certificate.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_be_reached_in_the_clear() {
        for (host, here) in [
            ("localhost", true),
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("/run/postgresql", true),
            ("localhost.example.com", false),
            ("10.0.0.1", false),
            ("db", false),
        ] {
            assert_eq!(is_here(host), here, "{host}");
        }
        let plain = LinkTls::default();
        let with_ca = LinkTls { ca: Some("/x".into()), identity: None };
        let (near, far) = (["nats://[::1]:4222".to_owned()], ["nats://n1:4222".to_owned()]);
        assert!(nats(&near, &plain, false).is_empty() && nats(&far, &plain, true).is_empty());
        assert!(
            nats(&far, &with_ca, false).is_empty()
                && nats(&["tls://n1".to_owned()], &plain, false).is_empty()
        );
        assert!(nats(&far, &plain, false)[0].contains("--nats-ca"));
        for server in
            ["nats://u:hunter2@127.0.0.1:4222", "tls://hunter2@n1", "u:hunter2@n1", "ws://u:hunter2@n1"]
        {
            let problems = nats(&[server.to_owned()], &plain, true);
            assert!(problems.len() == 1 && !problems[0].contains("hunter2"), "{problems:?}");
        }
        assert!(!api("https://u:hunter2@ow", false).unwrap().contains("hunter2"));
        assert!(
            listening("0.0.0.0:80", false, false).is_some() && listening("[::]:80", false, false).is_some()
        );
        assert!(
            listening("0.0.0.0:80", true, false).is_none()
                && listening("127.0.0.1:80", false, false).is_none()
        );
        assert!(holds_password("postgres://u:p@db/x") && holds_password("postgres://db/x?password=p"));
        assert!(!holds_password("postgres://u@db:5432/x"));
        let url = "postgres://u:hunter2@db:5/x?sslmode=require";
        let problems = database(url, false);
        assert!(problems[0].contains("verify-full") && !problems[0].contains("hunter2"), "{problems:?}");
        assert!(database(url, true).is_empty() && database("postgres://u:p@127.0.0.1:5/x", false).is_empty());
        assert!(api("http://ow:8080", false).is_some_and(|text| text.contains("--plain")));
        assert!(
            api("http://ow:8080", true)
                .or(api("https://ow", false))
                .or(api("http://[::1]:1", false))
                .is_none()
        );
    }

    #[test]
    fn halves_are_told_apart_from_wholes() {
        let names = ["nats.ca", "nats.certificate", "nats.key"];
        let mut problems = Vec::new();
        LinkTls::check(names, [None, Some("/c".into()), None], &mut problems);
        LinkTls::check(names, [Some("/nonexistent".into()), None, Some("/k".into())], &mut problems);
        assert_eq!(problems[0], "nats.certificate needs nats.key beside it");
        assert!(problems[1].starts_with("nats.ca: cannot read /nonexistent"), "{problems:?}");
        assert_eq!(problems[2], "nats.key needs nats.certificate beside it");
    }
}
