//! The commands that speak REST, and the one that follows events.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::{NatsArgs, when};

const API: &str = "How to reach the API";

/// How a client finds the API.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// API address, such as http://127.0.0.1:8080
    #[arg(long, help_heading = API, env = "OPENWATCH_URL")]
    pub url: Option<String>,
    /// File that holds the API token
    #[arg(long, help_heading = API, env = "OPENWATCH_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// CA certificates (PEM) that the API is checked against; those of the operating system when absent
    #[arg(long, help_heading = API, env = "OPENWATCH_CA")]
    pub ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the API, with --client-key
    #[arg(long, help_heading = API, env = "OPENWATCH_CLIENT_CERTIFICATE")]
    pub client_certificate: Option<PathBuf>,
    /// Private key (PEM, mode 0600) of that certificate
    #[arg(long, help_heading = API, env = "OPENWATCH_CLIENT_KEY")]
    pub client_key: Option<PathBuf>,
    /// Send the token over plain HTTP beyond this machine
    #[arg(long, help_heading = API)]
    pub plain: bool,
    /// Data directory of `openwatch up`, which knows both
    #[arg(long, help_heading = API, env = "OPENWATCH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A look at one moment.
#[derive(Debug, Clone, Args)]
pub struct LookArgs {
    #[command(flatten)]
    pub client: ClientArgs,
    /// As it was then: RFC 3339, a date (00:00 UTC), or how long ago, such as 3d
    #[arg(long, value_parser = when::as_of)]
    pub as_of: Option<OffsetDateTime>,
}

/// A list.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Only this host
    #[arg(long)]
    pub host: Option<String>,
    /// Most rows; more than a page holds are fetched page by page
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// As it was then: RFC 3339, a date (00:00 UTC), or how long ago, such as 3d
    #[arg(long, value_parser = when::as_of)]
    pub as_of: Option<OffsetDateTime>,
}

/// What changed.
#[derive(Debug, Clone, Args)]
pub struct TransactionsArgs {
    #[command(flatten)]
    pub list: ListArgs,
    /// Only this rule
    #[arg(long)]
    pub rule: Option<String>,
    /// Not before this moment: RFC 3339, a date (00:00 UTC), or how long ago, such as 2h
    #[arg(long, value_parser = when::past)]
    pub since: Option<OffsetDateTime>,
}

/// Scans.
#[derive(Debug, Clone, Args)]
pub struct ScansArgs {
    /// Show this scan: what fails, and the slowest rules
    pub scan: Option<uuid::Uuid>,
    #[command(flatten)]
    pub list: ListArgs,
}

/// The audit log.
#[derive(Debug, Clone, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Only this code, such as scan.queued, or this category, such as scan
    #[arg(long)]
    pub code: Option<String>,
    /// Only this severity: info, warning, error, critical
    #[arg(long)]
    pub severity: Option<String>,
    /// Only by this actor: a stage, a worker, a token
    #[arg(long)]
    pub actor: Option<String>,
    /// Only about this host
    #[arg(long)]
    pub host: Option<String>,
    /// Only from this cause: the id of a scan or message
    #[arg(long)]
    pub cause: Option<String>,
    /// Not before this moment: RFC 3339, a date (00:00 UTC), or how long ago, such as 2h
    #[arg(long, value_parser = when::past)]
    pub since: Option<OffsetDateTime>,
    /// Before this moment: RFC 3339, a date (00:00 UTC), or how long ago
    #[arg(long, value_parser = when::past)]
    pub until: Option<OffsetDateTime>,
    /// Most rows (50 when absent, 10000 with --csv); more than a page holds are fetched page by page
    #[arg(long)]
    pub limit: Option<u32>,
    /// Write CSV to stdout; formulas are made harmless
    #[arg(long, conflicts_with = "json")]
    pub csv: bool,
}

/// What a person does with an alert, and looking at one.
#[derive(Debug, Clone, Subcommand)]
pub enum AlertCommand {
    /// One alert: its life, who was told, and every try to
    Show {
        /// Alert id
        id: uuid::Uuid,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Say that somebody has it
    Ack(AlertActionArgs),
    /// Keep it quiet, for a while or until woken
    Silence(SilenceArgs),
    /// Wake a silenced alert
    Unsilence(AlertActionArgs),
    /// Say that it is over
    Resolve(AlertActionArgs),
    /// Put it away
    Dismiss(AlertActionArgs),
}

/// One alert.
#[derive(Debug, Clone, Args)]
pub struct AlertActionArgs {
    /// Alert id
    pub id: uuid::Uuid,
    /// Why, at most 256 characters
    #[arg(long)]
    pub reason: Option<String>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// One alert, for a while.
#[derive(Debug, Clone, Args)]
pub struct SilenceArgs {
    #[command(flatten)]
    pub action: AlertActionArgs,
    /// Until then: RFC 3339, a date (00:00 UTC), or in how long, such as 2h; absent means until woken
    #[arg(long, value_parser = when::to_come)]
    pub until: Option<OffsetDateTime>,
}

/// Hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Register a host; it is scanned as soon as the scheduler sees it
    Add(HostAddArgs),
    /// Register many hosts from a CSV or JSON file
    Import {
        /// CSV with a header line (name,address,port,user,credential,jump,sudo,labels) or a JSON array; `-` is stdin
        file: PathBuf,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List hosts
    List {
        /// Most rows; more than a page holds are fetched page by page
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Only hosts in this compliance state: unknown, critical, non_compliant, partial, compliant
        #[arg(long)]
        state: Option<String>,
        /// Only hosts with this label, written key=value
        #[arg(long)]
        label: Option<String>,
        #[command(flatten)]
        look: LookArgs,
    },
    /// One host and its rules
    Show {
        /// Host name or id
        host: String,
        /// Only this rule, with its evidence
        #[arg(long)]
        rule: Option<String>,
        /// With the evidence of every rule that fails or has no verdict
        #[arg(long)]
        evidence: bool,
        #[command(flatten)]
        look: LookArgs,
    },
    /// Remove a host; its history stays
    Rm {
        /// Host name or id
        host: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Keep the scheduler and the probes away from a host for a while; scans by hand still run
    Maintenance {
        /// Host name or id
        host: String,
        /// Until then: RFC 3339, a date (00:00 UTC), or in how long, such as 2h; absent means until `--off`
        #[arg(long, conflicts_with = "off", value_parser = when::to_come)]
        until: Option<OffsetDateTime>,
        /// End it
        #[arg(long)]
        off: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Change how a host is reached and logged in to
    Set(HostSetArgs),
    /// Keys of a host: on record, revoked, and shown to a scan that did not believe them
    Keys {
        /// Host name or id
        host: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Put a host key on record, or replace the one that is there; without a fingerprint or key, show both
    AcceptKey {
        /// Host name or id
        host: String,
        /// Fingerprint `SHA256:...` of a key that a scan was shown; compare it on the host's console
        #[arg(long, conflicts_with = "key")]
        fingerprint: Option<String>,
        /// Whole key as in a known_hosts or .pub line: `ssh-ed25519 AAAA...`
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// A new host.
#[derive(Debug, Args)]
pub struct HostAddArgs {
    /// Name, unique in the fleet
    pub name: String,
    /// Address to dial; the name when absent
    #[arg(long)]
    pub address: Option<String>,
    /// SSH port
    #[arg(long, short = 'p', default_value_t = 22)]
    pub port: u16,
    /// Login user, when it differs from the credential's
    #[arg(long)]
    pub user: Option<String>,
    /// Credential name; the default credential when absent
    #[arg(long)]
    pub credential: Option<String>,
    /// Host to go through (its name or id); it has a credential and host key of its own
    #[arg(long, visible_alias = "via")]
    pub jump: Option<String>,
    /// Host key known beforehand, as in a .pub line: `ssh-ed25519 AAAA...`; repeatable
    #[arg(long = "host-key")]
    pub host_keys: Vec<String>,
    /// Become root with sudo
    #[arg(long)]
    pub sudo: bool,
    /// Label `key=value`; repeatable
    #[arg(long = "label")]
    pub labels: Vec<String>,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What changes of a host.
#[derive(Debug, Args)]
pub struct HostSetArgs {
    /// Host name or id
    pub host: String,
    /// Credential name; `default` for the default one
    #[arg(long)]
    pub credential: Option<String>,
    /// Host to go through; `none` to dial directly
    #[arg(long, visible_alias = "via")]
    pub jump: Option<String>,
    /// Login user
    #[arg(long)]
    pub user: Option<String>,
    /// Become root: `sudo` or `none`
    #[arg(long, value_parser = ["sudo", "none"])]
    pub sudo: Option<String>,
    /// Label `key=value`; repeatable. All labels it had are replaced
    #[arg(long = "label")]
    pub labels: Vec<String>,
    /// Take all its labels
    #[arg(long, conflicts_with = "labels")]
    pub no_labels: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Credentials.
#[derive(Debug, Subcommand)]
pub enum CredentialCommand {
    /// Store a credential; secrets come from files or the terminal, never from arguments
    Add(CredentialAddArgs),
    /// List credentials (never their secrets)
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show a credential: metadata of its key, who uses it, never a secret
    Show {
        /// Name or id
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Change a credential; new secrets take the place of all old ones
    Update(CredentialUpdateArgs),
    /// Encrypt all credentials again under a new data-encryption key, while scans go on
    RotateKey {
        /// Keep the old key for so many seconds after the switch; a day when absent. Shorter fails jobs in flight
        #[arg(long)]
        retire_after: Option<u32>,
        /// Do not wait for the switch
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Remove a credential
    Rm {
        /// Name or id
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

/// A new credential.
#[derive(Debug, Args)]
pub struct CredentialAddArgs {
    /// Name, unique
    pub name: String,
    /// Login user
    #[arg(long, short = 'u')]
    pub user: String,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Use it for every host without one of its own
    #[arg(long)]
    pub default: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Where secrets come from: files, standard input or the terminal, never arguments.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// File with the private key; `-` reads standard input
    #[arg(long, short = 'i')]
    pub key_file: Option<PathBuf>,
    /// File with the key's passphrase; `-` asks at the terminal
    #[arg(long, requires = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the login password; `-` asks at the terminal, or reads one line of standard input
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// File with the sudo password; `-` asks at the terminal
    #[arg(long)]
    pub sudo_password_file: Option<PathBuf>,
}

/// What changes of a credential.
#[derive(Debug, Args)]
pub struct CredentialUpdateArgs {
    /// Name or id
    pub name: String,
    /// Login user
    #[arg(long, short = 'u')]
    pub user: Option<String>,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Use it for every host without one of its own
    #[arg(long)]
    pub default: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Scan now.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Host names or ids
    #[arg(required = true)]
    pub hosts: Vec<String>,
    /// Only rules of this framework, such as cis_rhel9
    #[arg(long)]
    pub framework: Option<String>,
    /// Only this rule; repeatable
    #[arg(long = "rule")]
    pub rules: Vec<String>,
    /// Wait for the end and show it
    #[arg(long)]
    pub wait: bool,
    /// Give up waiting after so many seconds (the scan goes on)
    #[arg(long, default_value_t = 900)]
    pub wait_sec: u64,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Events.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Print events as they come, one line each
    Tail {
        /// Begin at this sequence number of the public stream; new events only when absent
        #[arg(long)]
        since: Option<u64>,
        /// Stop after so many events
        #[arg(long)]
        limit: Option<u64>,
        /// Stop when the stream has nothing more
        #[arg(long)]
        no_follow: bool,
        /// NKEY seed file of a read-only user
        #[arg(long)]
        seed_file: Option<PathBuf>,
        #[command(flatten)]
        nats: NatsArgs,
        /// Data directory of `openwatch up`, which knows both
        #[arg(long, env = "OPENWATCH_DATA_DIR")]
        data_dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}
