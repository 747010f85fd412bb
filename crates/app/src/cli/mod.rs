//! The command line: what can be asked, and nothing of how it is done.

mod channel;
mod client;
mod run;
mod tools;
mod when;

use clap::{Parser, Subcommand};

pub use channel::*;
pub use client::*;
pub use run::*;
pub use tools::*;

const LOGS: &str = "Logs";

/// Agentless compliance for Linux fleets: log in over SSH, measure, record what changed, alert once.
///
/// Exit codes: 0 ok; 1 some rule failed and 2 some rule in error (`check`, `scan --wait`), or lint found errors (1); 64 usage or configuration;
/// 69 a dependency is unavailable; 70 internal; 75 try again; 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "openwatch", version, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log level filter, such as `info` or `openwatch=debug`.
    #[arg(long, help_heading = LOGS, global = true, env = "OPENWATCH_LOG", default_value = "info", hide_env_values = true)]
    pub log: String,
    /// Write logs as JSON lines.
    #[arg(long, help_heading = LOGS, global = true)]
    pub log_json: bool,
}

/// Every command, in the order the manual tells them.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
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
    Liveness(LivenessArgs),
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

    /// Where alerts go
    #[command(subcommand)]
    Channel(ChannelCommand),

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
    Transactions(TransactionsArgs),
    /// Who did what, newest first
    Audit(AuditArgs),

    /// The public event stream
    #[command(subcommand)]
    Events(EventsCommand),
    /// Messages that could not be processed
    #[command(subcommand)]
    DeadLetters(DeadLetterCommand),
}
