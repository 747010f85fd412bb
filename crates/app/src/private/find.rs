//! Which PostgreSQL and NATS server to run: where we look, and what is new enough.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::PrivateError;

/// The two servers that a single machine runs privately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// The NATS server.
    Nats,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::Nats => "nats-server",
        })
    }
}

impl Kind {
    pub(super) fn executable(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Nats => "nats-server",
        }
    }

    pub(super) fn minimum(self) -> Version {
        match self {
            Self::Postgres => Version { major: 14, minor: 0 },
            Self::Nats => Version { major: 2, minor: 12 },
        }
    }

    pub(super) fn how_to_get(self) -> &'static str {
        match self {
            Self::Postgres => {
                "install it (`apt-get install postgresql` or `dnf install postgresql-server`), or run scripts/provide-postgres \
                 in a checkout, or set OPENWATCH_POSTGRES_BIN to the directory of `postgres` and `initdb`, or name a server \
                 with --database-url"
            }
            Self::Nats => {
                "run scripts/provide-nats in a checkout (distributions ship older ones), or set OPENWATCH_NATS_SERVER to the \
                 program, or name a server with --nats-url"
            }
        }
    }
}

/// Major and minor version of a server; PostgreSQL's minor does not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A usable program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) version: Version,
}

/// Where to look for servers. [`Places::from_environment`] is what a user gets.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// OPENWATCH_POSTGRES_BIN: the only place for PostgreSQL when given.
    pub postgres_bin: Option<PathBuf>,
    /// OPENWATCH_NATS_SERVER: the only NATS server when given.
    pub nats_server: Option<PathBuf>,
    /// Searched in order.
    pub directories: Vec<PathBuf>,
}

impl Places {
    /// The environment's choices, then what the provide scripts fetched (next to the program's checkout, or in the
    /// home directory), then PATH, then where distributions hide PostgreSQL.
    #[must_use]
    pub fn from_environment() -> Self {
        let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut directories = Vec::new();
        if let Ok(program) = std::env::current_exe() {
            // <checkout>/target/<profile>/openwatch, or .../deps/<test>.
            directories.extend(program.ancestors().skip(1).take(4).map(|dir| dir.join(".local/servers/bin")));
        }
        directories.extend(path("HOME").map(|home| home.join(".local/share/openwatch/servers/bin")));
        directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        directories.extend(distribution_directories());
        Self {
            postgres_bin: path("OPENWATCH_POSTGRES_BIN"),
            nats_server: path("OPENWATCH_NATS_SERVER"),
            directories,
        }
    }

    /// The first new enough server; with `major`, the first of exactly that major version.
    pub(super) fn find(&self, kind: Kind, major: Option<u32>) -> Result<Found, PrivateError> {
        let all = self.installed(kind);
        let fits = |found: &&Found| {
            found.version >= kind.minimum() && major.is_none_or(|m| m == found.version.major)
        };
        all.iter().find(fits).cloned().ok_or_else(|| PrivateError::ServerMissing { kind, found: list(&all) })
    }

    /// Every version seen, as a list for messages.
    pub(super) fn describe(&self, kind: Kind) -> String {
        list(&self.installed(kind))
    }

    fn installed(&self, kind: Kind) -> Vec<Found> {
        let named = match kind {
            Kind::Postgres => self.postgres_bin.as_deref().map(postgres_in),
            Kind::Nats => self.nats_server.clone(),
        };
        let candidates = match named {
            Some(path) => vec![path],
            None => self.directories.iter().map(|dir| dir.join(kind.executable())).collect(),
        };
        candidates.into_iter().filter_map(|path| inspect(kind, &path)).collect()
    }
}

fn postgres_in(named: &Path) -> PathBuf {
    // Tolerate the program itself where its directory was asked for.
    if named.is_file() { named.to_owned() } else { named.join("postgres") }
}

fn list(all: &[Found]) -> String {
    if all.is_empty() {
        return "none found".to_owned();
    }
    let each: Vec<_> =
        all.iter().map(|found| format!("{} in {}", found.version, found.path.display())).collect();
    format!("found {}", each.join(", "))
}

fn distribution_directories() -> Vec<PathBuf> {
    let versioned = |parent: &str, prefix: &str, rest: &str| {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        let named = |name: OsString| name.into_string().ok();
        let mut versions: Vec<u32> = entries
            .filter_map(|entry| named(entry.file_name())?.strip_prefix(prefix)?.parse().ok())
            .collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        versions
            .into_iter()
            .map(|v| PathBuf::from(format!("{parent}/{prefix}{v}/{rest}")))
            .collect::<Vec<_>>()
    };
    let mut directories = versioned("/usr/lib/postgresql", "", "bin");
    directories.extend(versioned("/usr", "pgsql-", "bin"));
    directories.extend(["/usr/local/bin", "/usr/bin", "/usr/sbin"].map(PathBuf::from));
    directories
}

/// The program's version, when it runs and is complete: PostgreSQL without `initdb` beside it is a client package.
fn inspect(kind: Kind, path: &Path) -> Option<Found> {
    if !path.is_file() || (kind == Kind::Postgres && !path.with_file_name("initdb").is_file()) {
        return None;
    }
    let output =
        Command::new(path).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
    Some(Found { path: path.to_owned(), version })
}

/// Reads `postgres (PostgreSQL) 15.18 (Debian ..)`, `postgres (PostgreSQL) 19beta1` and `nats-server: v2.15.1`.
fn parse_version(text: &str) -> Option<Version> {
    let word = text
        .split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    let number = |part: Option<&str>| {
        let digits: String = part?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let mut parts = word.split('.');
    Some(Version { major: number(parts.next())?, minor: number(parts.next()).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_print() {
        let rows = [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some((15, 18))),
            ("postgres (PostgreSQL) 19beta1", Some((19, 0))),
            ("nats-server: v2.15.1", Some((2, 15))),
            ("nats-server: v2.12.0-RC.1", Some((2, 12))),
            ("", None),
            ("command not found", None),
        ];
        for (text, expected) in rows {
            assert_eq!(parse_version(text).map(|v| (v.major, v.minor)), expected, "{text}");
        }
    }

    #[test]
    fn a_missing_server_is_named_with_its_remedy() {
        let nowhere = Places { directories: vec![PathBuf::from("/nonexistent")], ..Places::default() };
        for kind in [Kind::Postgres, Kind::Nats] {
            let message = nowhere.find(kind, None).expect_err("nothing there").to_string();
            assert!(message.contains("none found") && message.contains("scripts/provide-"), "{message}");
            assert!(message.starts_with(&format!("find {kind} {}", kind.minimum())), "{message}");
        }
    }
}
