//! The commands that run stages, and where everything is.

use std::path::PathBuf;

use clap::Args;

use time::OffsetDateTime;

use super::{AlertCommand, ListArgs, when};

// Help tells what a command is for first, and how to reach things after it.
const SERVERS: &str = "Servers";
const TRUST: &str = "Keys and policy";
const PROCESS: &str = "Process";

/// Where PostgreSQL is.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL URL. Leave the password out: it would be seen in the process list; use --database-url-file or a
    /// password file (PGPASSFILE)
    #[arg(long, help_heading = SERVERS, env = "OPENWATCH_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// File (mode 0600) that holds the PostgreSQL URL
    #[arg(long, help_heading = SERVERS, env = "OPENWATCH_DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
    /// Reach PostgreSQL beyond this machine without proof that it is the right one
    #[arg(long, help_heading = SERVERS)]
    pub plain_database: bool,
}

/// Where NATS is.
#[derive(Debug, Clone, Args)]
pub struct NatsArgs {
    /// NATS servers, comma separated
    #[arg(long, help_heading = SERVERS, env = "OPENWATCH_NATS_URL", value_delimiter = ',')]
    pub nats_url: Vec<String>,
    /// CA certificates (PEM) that the NATS servers are checked against
    #[arg(long, help_heading = SERVERS, env = "OPENWATCH_NATS_CA")]
    pub nats_ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the NATS servers, with --nats-key
    #[arg(long, help_heading = SERVERS, env = "OPENWATCH_NATS_CERTIFICATE")]
    pub nats_certificate: Option<PathBuf>,
    /// Private key (PEM, mode 0600) of that certificate
    #[arg(long, help_heading = SERVERS, env = "OPENWATCH_NATS_KEY")]
    pub nats_key: Option<PathBuf>,
    /// Reach NATS beyond this machine without encryption
    #[arg(long, help_heading = SERVERS)]
    pub plain_nats: bool,
}

/// Where keys and policy are.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// Key directory, as `keys init` made it; each stage reads only its own files
    #[arg(long, help_heading = TRUST)]
    pub keys: Option<PathBuf>,
    /// Signed policy; its signature is beside it with `.sig` appended
    #[arg(long, help_heading = TRUST, env = "OPENWATCH_POLICY")]
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
    #[arg(long, help_heading = PROCESS)]
    pub health_listen: Option<String>,
    /// File that fills in whatever the flags leave out
    #[arg(long, help_heading = PROCESS)]
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
    #[arg(long, help_heading = PROCESS)]
    pub health_listen: Option<String>,
    /// File that fills in whatever the flags leave out
    #[arg(long, help_heading = PROCESS)]
    pub config: Option<PathBuf>,
}

/// Whether hosts answer.
#[derive(Debug, Clone, Args)]
pub struct LivenessArgs {
    #[command(flatten)]
    pub stage: StageArgs,
    /// Probes at a time (50 when absent)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub probes: Option<u16>,
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
    /// Probes at a time (50 when absent)
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub probes: Option<u16>,
    /// File that fills in whatever the flags leave out
    #[arg(long, help_heading = PROCESS)]
    pub config: Option<PathBuf>,
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
    /// Only alerts that are not over: active, acknowledged or silenced
    #[arg(long, conflicts_with = "state")]
    pub open: bool,
    /// Only alerts in this state: active, acknowledged, silenced, resolved, dismissed
    #[arg(long)]
    pub state: Option<String>,
    /// Only of this severity: info, low, medium, high, critical
    #[arg(long)]
    pub severity: Option<String>,
    /// Begun at this moment or later: RFC 3339, a date (00:00 UTC), or how long ago, such as 2h
    #[arg(long, value_parser = when::past)]
    pub since: Option<OffsetDateTime>,
    /// Begun before this moment: RFC 3339, a date (00:00 UTC), or how long ago
    #[arg(long, value_parser = when::past)]
    pub until: Option<OffsetDateTime>,
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
