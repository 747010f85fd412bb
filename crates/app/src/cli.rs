//! The command line: what can be asked, and nothing of how it is done.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Agentless compliance for Linux fleets: log in over SSH, measure, record what changed, alert once.
///
/// Exit codes: 0 ok; 1 some rule failed and 2 some rule in error (`check`, `scan --wait`); 64 usage or configuration;
/// 69 a dependency is unavailable; 70 internal; 75 try again; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "openwatch", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log level filter, such as `info` or `openwatch=debug`.
    #[arg(long, global = true, env = "OPENWATCH_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
    /// Write logs as JSON lines.
    #[arg(long, global = true)]
    pub log_json: bool,
}

/// Every command, in the order the manual tells them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run every stage in this process, with private servers unless others are named
    Up(UpArgs),
    /// Run one stage: dispatch due hosts and sign their jobs
    Scheduler(StageArgs),
    /// Run one stage: hold the credentials and release each to one attempt
    Vault(StageArgs),
    /// Run one stage: take jobs and measure hosts (needs NATS and SSH, no database)
    Executor(ExecutorArgs),
    /// Run one stage: apply results
    Writer(StageArgs),
    /// Run one stage: find drift (with --keys or --config), or list drift, newest first
    Drift(DriftArgs),
    /// Run one stage: open, resolve and deliver alerts (with --keys or --config), or list and handle alerts
    Alerts(AlertsArgs),
    /// Run one stage: probe whether hosts answer
    Liveness(StageArgs),
    /// Run one stage: serve REST, metrics and health
    Api(ApiArgs),

    /// Bring the database schema up to date
    Migrate(DatabaseArgs),
    /// Streams and consumers on NATS
    #[command(subcommand)]
    Topology(TopologyCommand),
    /// Keys of this installation
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Check a configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask every dependency whether it is well
    Doctor(DoctorArgs),

    /// Machines to scan
    #[command(subcommand)]
    Host(HostCommand),
    /// Ways to log in
    #[command(subcommand)]
    Credential(CredentialCommand),

    /// Scan hosts now
    Scan(ScanArgs),
    /// Measure a host now, without bus or database
    Check(CheckArgs),

    /// Rules and corpora
    #[command(subcommand)]
    Rules(RulesCommand),
    /// The signed policy
    #[command(subcommand)]
    Policy(PolicyCommand),

    /// How the fleet stands
    Status(LookArgs),
    /// Scans, newest first; with an id, that scan
    Scans(ScansArgs),
    /// What changed, newest first
    Transactions(ListArgs),

    /// The public event stream
    #[command(subcommand)]
    Events(EventsCommand),
    /// Messages that could not be processed
    #[command(subcommand)]
    DeadLetters(DeadLetterCommand),
}

/// Where PostgreSQL is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL URL. Leave the password out: it would be seen in the process list; use --database-url-file or a
    /// password file (PGPASSFILE)
    #[arg(long, env = "OPENWATCH_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// File (mode 0600) that holds the PostgreSQL URL
    #[arg(long, env = "OPENWATCH_DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
}

/// Where NATS is.
#[derive(Debug, Clone, Args)]
pub struct NatsArgs {
    /// NATS servers, comma separated
    #[arg(long, env = "OPENWATCH_NATS_URL", value_delimiter = ',')]
    pub nats_url: Vec<String>,
    /// CA certificates (PEM) that the NATS servers are checked against
    #[arg(long, env = "OPENWATCH_NATS_CA")]
    pub nats_ca: Option<PathBuf>,
}

/// Where keys and policy are.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// Key directory, as `keys init` made it; each stage reads only its own files
    #[arg(long)]
    pub keys: Option<PathBuf>,
    /// Signed policy; its signature is beside it with `.sig` appended
    #[arg(long, env = "OPENWATCH_POLICY")]
    pub policy: Option<PathBuf>,
}

/// What every stage needs.
#[derive(Debug, Clone, Args)]
pub struct StageArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub nats: NatsArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Serve health and metrics of this process here, such as 127.0.0.1:9090
    #[arg(long)]
    pub health_listen: Option<String>,
    /// File that fills in whatever the flags leave out
    #[arg(long)]
    pub config: Option<PathBuf>,
}

/// A worker.
#[derive(Debug, Clone, Args)]
pub struct ExecutorArgs {
    #[command(flatten)]
    pub nats: NatsArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Scans at a time (4 when absent); with two or more, one is kept for manual scans
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub slots: Option<u16>,
    /// Lanes per scan: shells that run checks side by side on the target (2 when absent)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub lanes: Option<u8>,
    /// Name in results and audit; the host name when absent
    #[arg(long)]
    pub name: Option<String>,
    /// Serve health and metrics of this process here
    #[arg(long)]
    pub health_listen: Option<String>,
    /// File that fills in whatever the flags leave out
    #[arg(long)]
    pub config: Option<PathBuf>,
}

/// The REST server.
#[derive(Debug, Clone, Args)]
pub struct ApiArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    /// Address to serve on (127.0.0.1:8080 when absent)
    #[arg(long)]
    pub listen: Option<String>,
}

/// Everything in one process.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub database: DatabaseArgs,
    #[command(flatten)]
    pub nats: NatsArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Directory for data, keys and private servers
    #[arg(long, env = "OPENWATCH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to serve REST on (127.0.0.1:8080 when absent); port 0 takes a free one
    #[arg(long)]
    pub listen: Option<String>,
    /// Publish this corpus at start instead of the one in the binary
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// Scans at a time (4 when absent)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub slots: Option<u16>,
    /// Lanes per scan (2 when absent)
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub lanes: Option<u8>,
    /// File that fills in whatever the flags leave out
    #[arg(long)]
    pub config: Option<PathBuf>,
}

/// How a client finds the API.
#[derive(Debug, Clone, Args)]
pub struct ClientArgs {
    /// API address, such as http://127.0.0.1:8080
    #[arg(long, env = "OPENWATCH_URL")]
    pub url: Option<String>,
    /// File that holds the API token
    #[arg(long, env = "OPENWATCH_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Data directory of `openwatch up`, which knows both
    #[arg(long, env = "OPENWATCH_DATA_DIR")]
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
    /// As it was then (RFC 3339, or a date)
    #[arg(long)]
    pub as_of: Option<String>,
}

/// A list.
#[derive(Debug, Clone, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub client: ClientArgs,
    /// Only this host
    #[arg(long)]
    pub host: Option<String>,
    /// Most rows
    #[arg(long, default_value_t = 50)]
    pub limit: u32,
    /// As it was then (RFC 3339, or a date)
    #[arg(long)]
    pub as_of: Option<String>,
}

/// Scans.
#[derive(Debug, Clone, Args)]
pub struct ScansArgs {
    /// Show this scan: what fails, and the slowest rules
    pub scan: Option<uuid::Uuid>,
    #[command(flatten)]
    pub list: ListArgs,
}

/// A stage that shares its word with a list: with `--keys` or `--config` the stage runs, without them it lists.
#[derive(Debug, Clone, Args)]
pub struct DriftArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    #[command(flatten)]
    pub list: ListArgs,
}

/// The same for alerts, and what a person does with one.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AlertsArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    #[command(flatten)]
    pub list: ListArgs,
    /// Only alerts in this state: active, acknowledged, silenced, resolved, dismissed
    #[arg(long)]
    pub state: Option<String>,
    /// What to do with an alert.
    #[command(subcommand)]
    pub command: Option<AlertCommand>,
}

impl StageArgs {
    /// Whether the command line asks for the stage rather than for a list.
    pub fn is_asked_for(&self) -> bool {
        self.keys.keys.is_some() || self.config.is_some()
    }
}

/// What a person does with an alert.
#[derive(Debug, Clone, Subcommand)]
pub enum AlertCommand {
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
    /// Until then (RFC 3339); absent means until woken
    #[arg(long)]
    pub until: Option<String>,
}

/// Streams and consumers.
#[derive(Debug, Subcommand)]
pub enum TopologyCommand {
    /// Create what is missing; refuse what is incompatible
    Apply(TopologyArgs),
    /// Compare and report
    Check(TopologyArgs),
}

/// Which NATS, and how large.
#[derive(Debug, Clone, Args)]
pub struct TopologyArgs {
    #[command(flatten)]
    pub nats: NatsArgs,
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Replicas of each stream: 1 on one machine, 3 in production
    #[arg(long, default_value_t = 1)]
    pub replicas: u8,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make all keys of a new installation in an empty directory
    Init {
        /// Directory to make
        #[arg(long)]
        dir: PathBuf,
    },
    /// Derive the keys that one kind of process may hold
    Issue(IssueArgs),
}

/// What to issue.
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// For whom
    #[arg(value_enum)]
    pub what: IssueFor,
    /// Key directory that holds the data-encryption key
    #[arg(long)]
    pub dir: PathBuf,
    /// Directory to write to: the key directory of that process; for a token, the file
    #[arg(long)]
    pub out: PathBuf,
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Name of the token
    #[arg(long, default_value = "admin")]
    pub name: String,
}

/// Who can be given keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum IssueFor {
    /// Workers: verify jobs, sign what is not a verdict, ask the vault
    Executor,
    /// The scheduler: sign jobs
    Scheduler,
    /// The writer: verify results
    Writer,
    /// The vault: everything the data-encryption key gives
    Vault,
    /// The API: seal new credentials
    Api,
    /// Stages that need a NATS seed only: drift, alerts, liveness, caretaker
    Stages,
    /// A first API token, written to the database
    Token,
}

/// Configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read a configuration file and report every problem
    Check {
        /// The file
        #[arg(long)]
        config: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Health of everything.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Hosts.
#[derive(Debug, Subcommand)]
pub enum HostCommand {
    /// Register a host; it is scanned as soon as the scheduler sees it
    Add(HostAddArgs),
    /// Register many hosts from a CSV or JSON file
    Import {
        /// CSV with a header line (name,address,port,user,credential,sudo,labels) or a JSON array; `-` is stdin
        file: PathBuf,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List hosts
    List(ListArgs),
    /// One host and its rules
    Show {
        /// Host name or id
        host: String,
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
    /// Put a host key on record, or replace the one that is there
    AcceptKey {
        /// Host name or id
        host: String,
        /// Key as in a known_hosts or .pub line: `ssh-ed25519 AAAA...`
        #[arg(long)]
        key: String,
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
    /// Become root with sudo
    #[arg(long)]
    pub sudo: bool,
    /// Label `key=value`; repeatable
    #[arg(long = "label")]
    pub labels: Vec<String>,
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
    /// File with the private key
    #[arg(long, short = 'i')]
    pub key_file: Option<PathBuf>,
    /// File with the key's passphrase
    #[arg(long, requires = "key_file")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the login password; `-` asks at the terminal
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// File with the sudo password; `-` asks at the terminal
    #[arg(long)]
    pub sudo_password_file: Option<PathBuf>,
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

/// Measure a host from here.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// USER@HOST
    pub target: String,
    /// SSH port
    #[arg(long, short = 'p', default_value_t = 22)]
    pub port: u16,
    /// Private key file
    #[arg(long, short = 'i')]
    pub key: Option<PathBuf>,
    /// File with the key's passphrase
    #[arg(long, requires = "key")]
    pub passphrase_file: Option<PathBuf>,
    /// File with the login password; `-` asks at the terminal
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// Rule directory; the corpus in the binary when absent
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// Only rules of this framework
    #[arg(long)]
    pub framework: Option<String>,
    /// Only rules of this severity; repeatable
    #[arg(long = "severity")]
    pub severities: Vec<String>,
    /// Only this rule; repeatable
    #[arg(long = "rule")]
    pub rule_ids: Vec<String>,
    /// Become root with sudo, without a password
    #[arg(long)]
    pub sudo: bool,
    /// Become root with sudo and the password in this file; `-` asks at the terminal
    #[arg(long)]
    pub sudo_password_file: Option<PathBuf>,
    /// Host key: `tofu`, `require-known` (your known_hosts file), or a fingerprint `SHA256:...`
    #[arg(long, default_value = "require-known")]
    pub host_key: String,
    /// Variable KEY=VALUE; repeatable
    #[arg(long = "var")]
    pub variables: Vec<String>,
    /// Capability NAME=BOOL that replaces what the probe found; repeatable
    #[arg(long = "capability")]
    pub capabilities: Vec<String>,
    /// Shells that run checks side by side
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub lanes: u8,
    /// Limit for the whole scan in seconds
    #[arg(long, default_value_t = 600)]
    pub timeout: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Rules.
#[derive(Debug, Subcommand)]
pub enum RulesCommand {
    /// Check every rule file of a directory
    Lint {
        /// Rule directory; the corpus in the binary when absent
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List rules
    List {
        /// Rule directory; the corpus in the binary when absent
        #[arg(long)]
        rules: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show one rule
    Show {
        /// Rule id
        id: String,
        /// Rule directory; the corpus in the binary when absent
        #[arg(long)]
        rules: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what would run on a platform, and which rules share it
    Plan {
        /// Platform, such as `debian 12` or `rhel 9.4`
        #[arg(long)]
        platform: String,
        /// Capability taken as present; repeatable
        #[arg(long = "capability")]
        capabilities: Vec<String>,
        /// Rule directory; the corpus in the binary when absent
        #[arg(long)]
        rules: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Sign a corpus and put it where workers fetch it
    Publish {
        /// Rule directory; the corpus in the binary when absent
        dir: Option<PathBuf>,
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        nats: NatsArgs,
        #[command(flatten)]
        keys: KeyArgs,
    },
}

/// Policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Make a signing key
    Keygen {
        /// File for the private key (mode 0600); the public key is beside it with `.pub` appended
        #[arg(long)]
        out: PathBuf,
        /// Name of the key
        #[arg(long, default_value = "policy")]
        name: String,
    },
    /// Sign a policy
    Sign {
        /// The policy
        file: PathBuf,
        /// Private key file
        #[arg(long)]
        key: PathBuf,
    },
    /// Verify a policy as a stage would
    Verify {
        /// The policy
        file: PathBuf,
        /// Key directory with the trusted keys and revocations
        #[arg(long)]
        keys: PathBuf,
    },
    /// Print a policy to begin with
    Show,
    /// Verify a policy and put it in force; every stage follows it
    Reload {
        /// The policy
        file: PathBuf,
        /// Key directory with the trusted keys and revocations
        #[arg(long)]
        keys: PathBuf,
        #[command(flatten)]
        database: DatabaseArgs,
    },
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

/// Dead letters.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        nats: NatsArgs,
        #[command(flatten)]
        keys: KeyArgs,
        /// Most rows
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send a dead letter to its stream again
    Replay {
        /// Its sequence number
        sequence: u64,
        #[command(flatten)]
        nats: NatsArgs,
        #[command(flatten)]
        keys: KeyArgs,
    },
}
