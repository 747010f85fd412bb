//! Configuration of a running process: a TOML file, with flags on top.
//!
//! Two steps: what was written ([`File`]), then what is usable ([`Settings`]). All problems are told together, unknown
//! keys are errors, and nothing is opened before everything is valid.

use std::path::{Path, PathBuf};
use std::time::Duration;

use openwatch_model::retention::{
    CORPUS_HOURS, CORPUS_LEAST_HOURS, DELIVERY_HOURS, INBOX_HOURS, INBOX_LEAST_HOURS,
};
use openwatch_pipeline::caretakers::retention::Patience;
use openwatch_store::retention::Keep;

use serde::{Deserialize, Serialize};

use crate::cli::{ApiArgs, DatabaseArgs, ExecutorArgs, KeyArgs, LivenessArgs, NatsArgs, StageArgs, UpArgs};
use crate::links::{self, LinkTls};

/// The file as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// Directory of `openwatch up`.
    pub data_dir: Option<PathBuf>,
    /// Key directory.
    pub keys: Option<PathBuf>,
    /// Signed policy.
    pub policy: Option<PathBuf>,
    /// PostgreSQL.
    pub database: DatabaseSection,
    /// NATS.
    pub nats: NatsSection,
    /// REST.
    pub api: ApiSection,
    /// Health and metrics of a stage process.
    pub health: ListenSection,
    /// Workers.
    pub executor: ExecutorSection,
    /// Whether hosts answer.
    pub liveness: LivenessSection,
    /// How long things are kept; of the process that runs the scheduler.
    pub retention: RetentionSection,
}

/// How long things are kept, in days. The whole list is docs/RETENTION.md.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSection {
    /// Ids of messages heard, at least 31.
    pub inbox_days: Option<u32>,
    /// Deliveries that ended, at least 1.
    pub deliveries_days: Option<u32>,
    /// Corpora that nothing names, at least 2.
    pub corpora_days: Option<u32>,
}

/// PostgreSQL.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseSection {
    /// File (mode 0600) that holds the URL.
    pub url_file: Option<PathBuf>,
    /// URL without a password.
    pub url: Option<String>,
    /// Reach it beyond this machine without proof that it is the right one.
    pub plain_beyond_loopback: bool,
}

/// NATS.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsSection {
    /// Servers, as `nats://` or `tls://` addresses.
    pub servers: Vec<String>,
    /// CA certificates in PEM.
    pub ca: Option<PathBuf>,
    /// Our certificate in PEM, where the servers ask for one; with `key`.
    pub certificate: Option<PathBuf>,
    /// Its private key in PEM, mode 0600; with `certificate`.
    pub key: Option<PathBuf>,
    /// Reach it beyond this machine without encryption.
    pub plain_beyond_loopback: bool,
}

/// REST.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSection {
    /// Address and port.
    pub listen: Option<String>,
    /// TLS certificate and its chain in PEM; with `key`.
    pub certificate: Option<PathBuf>,
    /// TLS private key in PEM; with `certificate`.
    pub key: Option<PathBuf>,
    /// CA certificates in PEM: only clients with a certificate of theirs are let in.
    pub client_ca: Option<PathBuf>,
    /// Serve plain HTTP beyond this machine too, because something in front speaks TLS.
    pub plain_beyond_loopback: bool,
}

/// Somewhere to listen.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ListenSection {
    /// Address and port.
    pub listen: Option<String>,
}

/// Workers.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExecutorSection {
    /// Scans at a time, 1 to 1000.
    pub slots: Option<u16>,
    /// Lanes per scan, 1 to 4.
    pub lanes: Option<u8>,
    /// Name in results.
    pub name: Option<String>,
}

/// Whether hosts answer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LivenessSection {
    /// Probes at a time, 1 to 200.
    pub probes: Option<u16>,
}

/// Settings that passed every check.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Settings {
    /// Directory of `openwatch up`.
    pub data_dir: Option<PathBuf>,
    /// Key directory.
    pub keys: Option<PathBuf>,
    /// Signed policy.
    pub policy: Option<PathBuf>,
    /// Where the database URL comes from.
    #[serde(skip)]
    pub database_url: Option<zeroize::Zeroizing<String>>,
    /// NATS servers.
    pub nats_servers: Vec<String>,
    /// TLS towards NATS.
    pub nats_tls: LinkTls,
    /// REST address.
    pub api_listen: Option<String>,
    /// TLS certificate and key of REST.
    pub api_tls: Option<(PathBuf, PathBuf)>,
    /// Whose certificates REST clients must have.
    pub api_client_ca: Option<PathBuf>,
    /// Plain HTTP beyond this machine.
    pub api_plain_beyond_loopback: bool,
    /// Health address.
    pub health_listen: Option<String>,
    /// Scans at a time.
    pub slots: u16,
    /// Lanes per scan.
    pub lanes: u8,
    /// Probes at a time.
    pub probes: u16,
    /// Name of the worker.
    pub worker: String,
    /// How long things are kept.
    pub retention: Days,
}

/// How long things are kept, in days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Days {
    /// Ids of messages heard.
    pub inbox: u32,
    /// Deliveries that ended.
    pub deliveries: u32,
    /// Corpora that nothing names.
    pub corpora: u32,
}

impl Default for Days {
    /// As the registry says.
    fn default() -> Self {
        Self { inbox: INBOX_HOURS / 24, deliveries: DELIVERY_HOURS / 24, corpora: CORPUS_HOURS / 24 }
    }
}

impl Settings {
    /// The same for the caretakers.
    pub fn patience(&self) -> Patience {
        let days = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
        let Days { inbox, deliveries, corpora } = self.retention;
        let rows = Keep { inbox: days(inbox), deliveries: days(deliveries) };
        Patience { rows, corpora: days(corpora) }
    }
}

fn days(section: &RetentionSection, problems: &mut Vec<String>) -> Days {
    let usual = Days::default();
    let mut pick = |name: &str, given: Option<u32>, usual: u32, least: u32| match given {
        Some(days) if !(least..=36_500).contains(&days) => {
            problems.push(format!("retention.{name} must be from {least} to 36500 days, not {days}"));
            usual
        }
        given => given.unwrap_or(usual),
    };
    Days {
        inbox: pick("inbox_days", section.inbox_days, usual.inbox, INBOX_LEAST_HOURS / 24),
        deliveries: pick("deliveries_days", section.deliveries_days, usual.deliveries, 1),
        corpora: pick("corpora_days", section.corpora_days, usual.corpora, CORPUS_LEAST_HOURS / 24),
    }
}

/// A configuration that cannot be used: every problem, one per line.
#[derive(Debug, thiserror::Error)]
#[error("the configuration has {} problem(s):\n  {}", .0.len(), .0.join("\n  "))]
pub struct ConfigProblems(pub Vec<String>);

/// What the flags say, whatever command they came with.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// Configuration file.
    pub config: Option<PathBuf>,
    /// Data directory.
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL.
    pub database_url: Option<String>,
    /// PostgreSQL, in a file.
    pub database_url_file: Option<PathBuf>,
    /// PostgreSQL without proof beyond this machine.
    pub plain_database: bool,
    /// NATS.
    pub nats_url: Vec<String>,
    /// NATS CA.
    pub nats_ca: Option<PathBuf>,
    /// Certificate for NATS.
    pub nats_certificate: Option<PathBuf>,
    /// Its key.
    pub nats_key: Option<PathBuf>,
    /// NATS without encryption beyond this machine.
    pub plain_nats: bool,
    /// Keys.
    pub keys: Option<PathBuf>,
    /// Policy.
    pub policy: Option<PathBuf>,
    /// REST address.
    pub listen: Option<String>,
    /// Health address.
    pub health_listen: Option<String>,
    /// Scans at a time.
    pub slots: Option<u16>,
    /// Lanes.
    pub lanes: Option<u8>,
    /// Probes at a time.
    pub probes: Option<u16>,
    /// Worker name.
    pub name: Option<String>,
}

impl Flags {
    fn database(mut self, args: DatabaseArgs) -> Self {
        self.database_url = args.database_url;
        self.database_url_file = args.database_url_file;
        self.plain_database = args.plain_database;
        self
    }

    fn nats(mut self, args: NatsArgs) -> Self {
        self.nats_url = args.nats_url;
        self.nats_ca = args.nats_ca;
        self.nats_certificate = args.nats_certificate;
        self.nats_key = args.nats_key;
        self.plain_nats = args.plain_nats;
        self
    }

    fn keys(mut self, args: KeyArgs) -> Self {
        self.keys = args.keys;
        self.policy = args.policy;
        self
    }

    /// Of the tools that need a database only.
    pub fn of_database(args: DatabaseArgs) -> Self {
        Self::default().database(args)
    }

    /// Of the tools that need a bus and keys.
    pub fn of_bus(nats: NatsArgs, keys: KeyArgs) -> Self {
        Self::default().nats(nats).keys(keys)
    }

    /// Of `rules publish`.
    pub fn of_publish(database: DatabaseArgs, nats: NatsArgs, keys: KeyArgs) -> Self {
        Self::default().database(database).nats(nats).keys(keys)
    }
}

impl From<StageArgs> for Flags {
    fn from(args: StageArgs) -> Self {
        let flags = Self { config: args.config, health_listen: args.health_listen, ..Self::default() };
        flags.database(args.database).nats(args.nats).keys(args.keys)
    }
}

impl From<ApiArgs> for Flags {
    fn from(args: ApiArgs) -> Self {
        Self { listen: args.listen, ..args.stage.into() }
    }
}

impl From<LivenessArgs> for Flags {
    fn from(args: LivenessArgs) -> Self {
        Self { probes: args.probes, ..args.stage.into() }
    }
}

impl From<ExecutorArgs> for Flags {
    fn from(args: ExecutorArgs) -> Self {
        let flags = Self {
            config: args.config,
            health_listen: args.health_listen,
            slots: args.slots,
            lanes: args.lanes,
            name: args.name,
            ..Self::default()
        };
        flags.nats(args.nats).keys(args.keys)
    }
}

impl From<UpArgs> for Flags {
    fn from(args: UpArgs) -> Self {
        let flags = Self {
            config: args.config,
            data_dir: args.data_dir,
            listen: args.listen,
            slots: args.slots,
            lanes: args.lanes,
            probes: args.probes,
            ..Self::default()
        };
        flags.database(args.database).nats(args.nats).keys(args.keys)
    }
}

/// Reads the file (when there is one), puts the flags on top, and checks everything.
///
/// # Errors
/// Every problem found; nothing was opened but the files named.
pub fn load(flags: Flags) -> Result<Settings, ConfigProblems> {
    let mut problems = Vec::new();
    let file = match &flags.config {
        Some(path) => read_file(path).unwrap_or_else(|problem| {
            problems.push(problem);
            File::default()
        }),
        None => File::default(),
    };
    let url_file = flags.database_url_file.or(file.database.url_file);
    let given = flags.database_url.as_deref().is_some_and(links::holds_password);
    let url = flags.database_url.or(file.database.url);
    if url.is_some() && url_file.is_some() {
        problems.push("give the database as a URL or as a file that holds it, not both".into());
    }
    if given {
        // Others see both, and no help of ours makes it unseen: it is told, and used.
        eprintln!(
            "openwatch: the database URL holds a password, which others may see in the process list or the environment; \
             --database-url-file keeps it in a file"
        );
    }
    let database_url = match url_file {
        Some(path) => read_secret(&path).map_err(|problem| problems.push(problem)).ok(),
        None => url.map(zeroize::Zeroizing::new),
    };
    if let Some(url) = &database_url {
        problems.extend(links::database(url, flags.plain_database || file.database.plain_beyond_loopback));
    }
    let nats_servers = if flags.nats_url.is_empty() { file.nats.servers } else { flags.nats_url };
    let nats_tls = LinkTls::check(
        ["nats.ca", "nats.certificate", "nats.key"],
        [
            flags.nats_ca.or(file.nats.ca),
            flags.nats_certificate.or(file.nats.certificate),
            flags.nats_key.or(file.nats.key),
        ],
        &mut problems,
    );
    let plain = flags.plain_nats || file.nats.plain_beyond_loopback;
    problems.extend(links::nats(&nats_servers, &nats_tls, plain));
    let slots = flags.slots.or(file.executor.slots).unwrap_or(4);
    let lanes = flags.lanes.or(file.executor.lanes).unwrap_or(2);
    if !(1..=1000).contains(&slots) {
        problems.push(format!("executor.slots must be from 1 to 1000, not {slots}"));
    }
    if !(1..=4).contains(&lanes) {
        problems.push(format!("executor.lanes must be from 1 to 4, not {lanes}"));
    }
    let probes = flags.probes.or(file.liveness.probes).unwrap_or(50);
    if !(1..=200).contains(&probes) {
        problems.push(format!("liveness.probes must be from 1 to 200, not {probes}"));
    }
    let keys = flags.keys.or(file.keys);
    if let Some(dir) = keys.as_ref().filter(|dir| !dir.is_dir()) {
        problems
            .push(format!("key directory {} does not exist; `openwatch keys init` makes one", dir.display()));
    }
    let api = LinkTls::check(
        ["api.client_ca", "api.certificate", "api.key"],
        [file.api.client_ca, file.api.certificate, file.api.key],
        &mut problems,
    );
    if api.ca.is_some() && api.identity.is_none() {
        problems.push(
            "api.client_ca asks clients for certificates, which needs api.certificate and api.key".into(),
        );
    }
    let api_listen = listen("api.listen", flags.listen.or(file.api.listen), &mut problems);
    let (encrypted, plain) = (api.identity.is_some(), file.api.plain_beyond_loopback);
    problems.extend(api_listen.as_deref().and_then(|address| links::listening(address, encrypted, plain)));
    let settings = Settings {
        data_dir: flags.data_dir.or(file.data_dir),
        keys,
        policy: flags.policy.or(file.policy),
        database_url,
        nats_servers,
        nats_tls,
        api_listen,
        api_tls: api.identity,
        api_client_ca: api.ca,
        api_plain_beyond_loopback: file.api.plain_beyond_loopback,
        health_listen: listen("health.listen", flags.health_listen.or(file.health.listen), &mut problems),
        slots,
        lanes,
        probes,
        retention: days(&file.retention, &mut problems),
        worker: flags.name.or(file.executor.name).unwrap_or_else(host_name),
    };
    if problems.is_empty() { Ok(settings) } else { Err(ConfigProblems(problems)) }
}

fn read_file(path: &Path) -> Result<File, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    toml::from_str(&text)
        .map_err(|e| format!("{}: {}", path.display(), e.to_string().trim_end().replace('\n', "\n    ")))
}

/// Reads a file that holds one secret line.
///
/// # Errors
/// A sentence when it is unreadable, empty, or open to other users.
pub fn read_secret(path: &Path) -> Result<zeroize::Zeroizing<String>, String> {
    use std::os::unix::fs::PermissionsExt;
    let cannot = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mode = std::fs::metadata(path).map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(format!(
            "{} holds a secret but others may read it; run `chmod 600` on it",
            path.display()
        ));
    }
    let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(cannot)?);
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(format!("{} is empty", path.display()));
    }
    Ok(zeroize::Zeroizing::new(line.to_owned()))
}

fn listen(name: &str, address: Option<String>, problems: &mut Vec<String>) -> Option<String> {
    if let Some(text) = &address
        && text.parse::<std::net::SocketAddr>().is_err()
    {
        problems.push(format!("{name} must be an address and a port such as 127.0.0.1:8080, not `{text}`"));
    }
    address
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("openwatch.toml");
        std::fs::write(
            &path,
            "[nats]\nservers = [\"http://x\"]\n[executor]\nslots = 0\n[liveness]\nprobes = 201\n[api]\nlisten = \"here\"\n",
        )
        .unwrap();
        let flags = Flags { config: Some(path), database_url: Some("mysql://".into()), ..Flags::default() };
        let problems = load(flags).unwrap_err().0;
        assert_eq!(problems.len(), 5, "{problems:#?}");
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("openwatch.toml");
        std::fs::write(&path, "[executor]\nslot = 3\n").unwrap();
        let problems = load(Flags { config: Some(path), ..Flags::default() }).unwrap_err().0;
        assert!(problems[0].contains("line 2") && problems[0].contains("slot"), "{}", problems[0]);
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("openwatch.toml");
        std::fs::write(&path, "[executor]\nslots = 3\nlanes = 1\n[liveness]\nprobes = 7\n").unwrap();
        let it = load(Flags { config: Some(path), slots: Some(9), ..Flags::default() }).unwrap();
        assert_eq!((it.slots, it.lanes, it.probes), (9, 1, 7));
    }
}
