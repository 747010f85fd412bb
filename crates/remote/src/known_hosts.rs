//! Reading and writing the text of `known_hosts` files. Pure: who opens the file is not our concern.
//!
//! Stricter than most readers: a revoked key is reported apart from the good ones so that it can win over them, and a
//! line that cannot be read is reported instead of skipped in silence.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use openwatch_model::host::KnownKey;
use sha1::Sha1;

/// A whole file.
#[derive(Clone, Debug, Default)]
pub struct KnownHosts {
    entries: Vec<Entry>,
    unreadable: Vec<Unreadable>,
}

/// A line that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

/// What a file says about one host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lookup {
    /// Keys on record.
    pub known: Vec<KnownKey>,
    /// Keys marked as revoked; each of them is to be refused even if it is on record as well.
    pub revoked: Vec<KnownKey>,
    /// There is a certificate authority on record, which we do not support: its host may well be trusted by others.
    pub has_authority: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    mark: Mark,
    hosts: Hosts,
    key: KnownKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    None,
    Revoked,
    Authority,
}

#[derive(Clone, Debug)]
enum Hosts {
    /// Salt and HMAC-SHA1 of one name.
    Hashed { salt: Vec<u8>, hash: Vec<u8> },
    /// Patterns, lower-cased; negated ones start with `!`.
    Patterns(Vec<String>),
}

impl KnownHosts {
    /// Reads a file's text. Lines that cannot be read are kept for [`KnownHosts::unreadable`].
    pub fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Entry::parse(line) {
                Ok(entry) => hosts.entries.push(entry),
                Err(why) => hosts.unreadable.push(Unreadable { line: number + 1, why }),
            }
        }
        hosts
    }

    /// Lines that could not be read, for a warning.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// Everything on record for this host and port.
    pub fn lookup(&self, host: &str, port: u16) -> Lookup {
        let name = name(host, port);
        let mut found = Lookup::default();
        for entry in self.entries.iter().filter(|entry| entry.hosts.matches(&name)) {
            match entry.mark {
                Mark::None if !found.known.contains(&entry.key) => found.known.push(entry.key.clone()),
                Mark::Revoked => found.revoked.push(entry.key.clone()),
                Mark::Authority => found.has_authority = true,
                Mark::None => {}
            }
        }
        found
    }
}

/// A line, without its newline, that records a key for a host.
pub fn render(host: &str, port: u16, key: &KnownKey) -> String {
    format!("{} {} {}", name(host, port), key.algorithm, key.key)
}

/// How a host is written: as it is on port 22, else `[host]:port`; lower-cased.
fn name(host: &str, port: u16) -> String {
    let host = host.to_ascii_lowercase();
    if port == 22 { host } else { format!("[{host}]:{port}") }
}

impl Entry {
    fn parse(line: &str) -> Result<Self, &'static str> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next();
        let first = next().ok_or("empty")?;
        let (mark, hosts) = match first {
            "@revoked" => (Mark::Revoked, next().ok_or("no host name")?),
            "@cert-authority" => (Mark::Authority, next().ok_or("no host name")?),
            other if other.starts_with('@') => return Err("unknown marker"),
            other => (Mark::None, other),
        };
        let algorithm = next().ok_or("no key type")?.to_owned();
        let key = next().ok_or("no key")?;
        let blob = STANDARD.decode(key).map_err(|_| "the key is not base64")?;
        if !names_algorithm(&blob, &algorithm) {
            return Err("the key is not of the type it says");
        }
        let key = KnownKey { algorithm, key: STANDARD.encode(&blob) };
        Ok(Self { mark, hosts: Hosts::parse(hosts)?, key })
    }
}

/// Every key blob starts with the length and name of its algorithm.
fn names_algorithm(blob: &[u8], algorithm: &str) -> bool {
    let Some((length, rest)) = blob.split_first_chunk::<4>() else { return false };
    let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
    rest.get(..length) == Some(algorithm.as_bytes())
}

impl Hosts {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix("|1|") else {
            return Ok(Self::Patterns(text.split(',').map(str::to_ascii_lowercase).collect()));
        };
        let (salt, hash) = rest.split_once('|').ok_or("damaged hashed name")?;
        let salt = STANDARD.decode(salt).map_err(|_| "damaged hashed name")?;
        let hash = STANDARD.decode(hash).map_err(|_| "damaged hashed name")?;
        Ok(Self::Hashed { salt, hash })
    }

    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Hashed { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
                .is_ok_and(|mac| mac.chain_update(name.as_bytes()).verify_slice(hash).is_ok()),
            Self::Patterns(patterns) => {
                let hit = |pattern: &str| glob(pattern.as_bytes(), name.as_bytes());
                // One negated match rules the line out, whatever else is on it.
                if patterns.iter().filter_map(|p| p.strip_prefix('!')).any(hit) {
                    return false;
                }
                patterns.iter().filter(|p| !p.starts_with('!')).any(|p| hit(p))
            }
        }
    }
}

/// `*` for any run of bytes, `?` for any one. Linear in memory, no recursion: patterns come from files.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to go back to: the last star, and the text it has swallowed so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&c) if c == b'?' || c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, swallowed)) => {
                    star = Some((at, swallowed + 1));
                    p = at + 1;
                    t = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blob(algorithm: &str, body: &[u8]) -> String {
        let mut bytes = u32::try_from(algorithm.len()).unwrap().to_be_bytes().to_vec();
        bytes.extend(algorithm.as_bytes());
        bytes.extend(body);
        STANDARD.encode(bytes)
    }

    fn key(body: &str) -> KnownKey {
        KnownKey { algorithm: "ssh-ed25519".into(), key: blob("ssh-ed25519", body.as_bytes()) }
    }

    fn lookup(text: &str, host: &str, port: u16) -> Lookup {
        KnownHosts::parse(text).lookup(host, port)
    }

    fn line(hosts: &str, body: &str) -> String {
        format!("{hosts} ssh-ed25519 {}\n", key(body).key)
    }

    #[test]
    fn names_ports_and_patterns() {
        for (hosts, host, port, found) in [
            ("web", "web", 22, true),
            ("web", "WEB", 22, true),
            ("WEB", "web", 22, true),
            ("web", "web", 2222, false),
            ("[web]:2222", "web", 2222, true),
            ("[web]:2222", "web", 22, false),
            ("a,web,b", "web", 22, true),
            ("*.example.com", "x.example.com", 22, true),
            ("*.example.com", "example.com", 22, false),
            ("*.example.com,!bad.example.com", "bad.example.com", 22, false),
            ("!bad.example.com", "good.example.com", 22, false),
            ("10.0.0.?", "10.0.0.7", 22, true),
            ("10.0.0.?", "10.0.0.77", 22, false),
            ("[*]:2200", "anything", 2200, true),
            ("*", "anything", 22, true),
            ("fe80::1", "fe80::1", 22, true),
        ] {
            assert_eq!(
                !lookup(&line(hosts, "k"), host, port).known.is_empty(),
                found,
                "{hosts} {host}:{port}"
            );
        }
    }

    #[test]
    fn hashed_names() {
        // Salted with twenty zero bytes, as `ssh-keygen -H` writes them but for the salt.
        let mac = Hmac::<Sha1>::new_from_slice(&[0; 20])
            .unwrap()
            .chain_update(b"[web]:2222")
            .finalize()
            .into_bytes();
        let hosts = format!("|1|{}|{}", STANDARD.encode([0; 20]), STANDARD.encode(mac));
        assert_eq!(lookup(&line(&hosts, "k"), "Web", 2222).known, [key("k")]);
        assert!(lookup(&line(&hosts, "k"), "web", 22).known.is_empty());
    }

    #[test]
    fn revoked_keys_are_told_apart_wherever_they_stand() {
        let text = format!("{}@revoked {}", line("web", "k"), line("*", "k"));
        let found = lookup(&text, "web", 22);
        assert_eq!((found.known, found.revoked), (vec![key("k")], vec![key("k")]));
    }

    #[test]
    fn several_keys_tabs_and_comments() {
        let text = format!(
            "# mine\n\n  {}{}",
            line("web", "a").replace(' ', "\t"),
            line("web", "b").replace('\n', " me@here\n")
        );
        assert_eq!(lookup(&text, "web", 22).known, [key("a"), key("b")]);
    }

    #[test]
    fn authorities_are_no_keys() {
        let found = lookup(&format!("@cert-authority {}", line("web", "ca")), "web", 22);
        assert_eq!((found.known.len(), found.has_authority), (0, true));
    }

    #[test]
    fn bad_lines_are_reported_and_hurt_no_other() {
        let text = format!(
            "web\nweb ssh-ed25519\nweb ssh-ed25519 !!!\n@what web ssh-ed25519 AAAA\nweb ssh-rsa {}\n|1|x ssh-ed25519 {}\n{}",
            key("k").key,
            key("k").key,
            line("web", "good")
        );
        let hosts = KnownHosts::parse(&text);
        assert_eq!(hosts.unreadable().iter().map(|u| u.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(hosts.lookup("web", 22).known, [key("good")]);
    }

    #[test]
    fn what_is_written_is_found_again() {
        for (host, port) in [("web", 22), ("web", 2222), ("2001:db8::1", 22), ("2001:db8::1", 2222)] {
            assert_eq!(lookup(&render(host, port, &key("k")), host, port).known, [key("k")]);
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,200}", host in "\\PC{0,20}") {
            KnownHosts::parse(&text).lookup(&host, 22);
        }

        #[test]
        fn globs_match_themselves(text in "[a-z.]{0,12}", at in 0usize..12) {
            prop_assert!(glob(text.as_bytes(), text.as_bytes()));
            let at = at.min(text.len());
            let pattern = format!("{}*{}", &text[..at], &text[at..]);
            prop_assert!(glob(pattern.as_bytes(), text.as_bytes()), "{} {}", pattern, text);
        }
    }
}
