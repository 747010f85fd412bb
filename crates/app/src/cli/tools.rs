//! The commands that prepare and author.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ClientArgs, DatabaseArgs, KeyArgs, NatsArgs};
use crate::place::default_data_dir;

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
    /// One step of a rotation of the data-encryption key by hand, where processes have key directories of their own:
    /// begin, issue to all; switch, issue to all; a day later retire, issue to all. `openwatch up` does it by itself
    Rotate {
        /// Which step
        #[arg(value_enum)]
        step: RotateStep,
        /// Key directory that holds the data-encryption key
        #[arg(long)]
        dir: PathBuf,
    },
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RotateStep {
    /// Make the next key; it is understood from the next issue on
    Begin,
    /// Make new things with it; not before `doctor` says that everybody holds it
    Switch,
    /// Take the old key away for good; not before no credential and no job needs it
    Retire,
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
    /// Name of the token; for a certificate, who shows it, such as the database login
    #[arg(long, default_value = "admin")]
    pub name: String,
    /// For a certificate: host name or address that it is valid for as a server; repeatable
    #[arg(long = "host")]
    pub hosts: Vec<String>,
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
    /// The API: seal new credentials and channels
    Api,
    /// The alerts stage: open what the API sealed for channels
    Alerts,
    /// Stages that need a NATS seed only: drift, liveness
    Stages,
    /// A first API token, written to the database
    Token,
    /// A TLS certificate of this installation's own authority: tls.crt, tls.key and ca.crt
    Certificate,
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

/// Measure a host from here.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// USER@HOST
    pub target: String,
    /// SSH port
    #[arg(long, short = 'p', default_value_t = 22)]
    pub port: u16,
    /// Private key file; without it and a password file, ~/.ssh/id_ed25519, id_ecdsa or id_rsa
    #[arg(long, short = 'i')]
    pub key: Option<PathBuf>,
    /// File with the key's passphrase; `-` asks at the terminal
    #[arg(long)]
    pub passphrase_file: Option<PathBuf>,
    /// File with the login password; `-` asks at the terminal
    #[arg(long)]
    pub password_file: Option<PathBuf>,
    /// Go through this host first; its key is checked like that of the host
    #[arg(long, short = 'J', value_name = "USER@HOST[:PORT]")]
    pub jump: Option<String>,
    /// Private key file for the jump host; the one of -i when absent
    #[arg(long, requires = "jump")]
    pub jump_key: Option<PathBuf>,
    /// File with the passphrase of that key
    #[arg(long, requires = "jump_key")]
    pub jump_passphrase_file: Option<PathBuf>,
    /// File with the password for the jump host; never the one of the host itself
    #[arg(long, requires = "jump")]
    pub jump_password_file: Option<PathBuf>,
    /// Rule directory; the corpus in the binary when absent
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// Only rules of this framework, such as `cis_debian12`, or of a family, such as `cis`
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
    /// Host key: `require-known` (on record in known_hosts), `tofu` (accept the first and remember it), or `SHA256:...`
    #[arg(long, default_value = "require-known")]
    pub host_key: String,
    /// Variable KEY=VALUE; repeatable
    #[arg(long = "var")]
    pub variables: Vec<String>,
    /// Configuration directory with the site's values for variables; the one of an installed Kensa when absent
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Group of the host whose values in that directory hold; repeatable, later ones over earlier ones
    #[arg(long = "group")]
    pub groups: Vec<String>,
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
    /// Check every rule file of a directory, or one file. Ends in 1 on errors, in 0 on advice alone
    Lint {
        /// Rule directory or file; the corpus in the binary when absent
        dir: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List rules
    List(RulesListArgs),
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
    Plan(RulesPlanArgs),
    /// Sign a corpus and put it where workers fetch it
    Publish {
        /// Rule directory; the corpus in the binary when absent
        dir: Option<PathBuf>,
        /// Private key file to sign with; that of the key directory when absent
        #[arg(long)]
        key: Option<PathBuf>,
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        nats: NatsArgs,
        #[command(flatten)]
        keys: KeyArgs,
    },
}

/// Options of `rules list`.
#[derive(Debug, Args)]
pub struct RulesListArgs {
    /// Only rules of this framework, such as `cis_debian12`, or of a family, such as `cis`
    #[arg(long)]
    pub framework: Option<String>,
    /// Only rules of this severity; repeatable
    #[arg(long = "severity")]
    pub severities: Vec<String>,
    /// Only rules of this category
    #[arg(long)]
    pub category: Option<String>,
    /// Only rules with this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// Only rules for this platform, such as `debian 12`
    #[arg(long)]
    pub platform: Option<String>,
    /// Rule directory; the corpus in the binary when absent
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `rules plan`.
#[derive(Debug, Args)]
pub struct RulesPlanArgs {
    /// Platform, such as `debian 12` or `rhel 9.4`
    #[arg(long)]
    pub platform: String,
    /// Capabilities taken as present; repeatable
    #[arg(long = "capability", num_args = 1..)]
    pub capabilities: Vec<String>,
    /// Only rules of this framework
    #[arg(long)]
    pub framework: Option<String>,
    /// Only this rule; repeatable
    #[arg(long = "rule")]
    pub rule_ids: Vec<String>,
    /// Rule directory; the corpus in the binary when absent
    #[arg(long)]
    pub rules: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
        /// Private key file; that of the data directory when absent
        #[arg(long)]
        key: Option<PathBuf>,
        #[command(flatten)]
        place: DataDirArg,
    },
    /// Verify a policy as a stage would
    Verify {
        /// The policy
        file: PathBuf,
        #[command(flatten)]
        place: KeysArgs,
    },
    /// Print a policy to begin with, or the one in force
    Show {
        /// The one in force, asked of the API
        #[arg(long)]
        in_force: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Tell every scheduler to read its policy and key files again; with a file, verify that one and put it in force
    Reload {
        /// The policy; needs --keys and the database
        #[arg(requires = "keys")]
        file: Option<PathBuf>,
        /// Key directory with the trusted keys and revocations
        #[arg(long, requires = "file")]
        keys: Option<PathBuf>,
        #[command(flatten)]
        database: DatabaseArgs,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Let the signatures of another key count: the next key, before the present one goes
    Trust {
        /// Its public key, as `policy keygen` wrote it (.pub)
        key: PathBuf,
        #[command(flatten)]
        place: KeysArgs,
    },
    /// Let the signatures of a key count no longer; this cannot be taken back
    Revoke {
        /// Its fingerprint, as `policy keygen` and `policy verify` tell it
        fingerprint: String,
        /// Private key file of another trusted key, to sign the list with
        #[arg(long)]
        key: PathBuf,
        #[command(flatten)]
        place: KeysArgs,
    },
}

/// A data directory of `openwatch up`.
#[derive(Debug, Args)]
pub struct DataDirArg {
    /// Data directory of `openwatch up`
    #[arg(long, env = "OPENWATCH_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

impl DataDirArg {
    /// The keys in it.
    pub fn keys(self) -> PathBuf {
        self.data_dir.unwrap_or_else(default_data_dir).join("keys")
    }
}

/// Whose signatures count.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Key directory with the trusted keys and revocations; that of the data directory when absent
    #[arg(long)]
    keys: Option<PathBuf>,
    #[command(flatten)]
    place: DataDirArg,
}

impl KeysArgs {
    /// The key directory.
    pub fn dir(self) -> PathBuf {
        self.keys.unwrap_or_else(|| self.place.keys())
    }
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
