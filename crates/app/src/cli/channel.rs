//! `openwatch channel`: where alerts go.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::ClientArgs;

/// Where alerts go.
#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// Make a channel; secrets come from files or the terminal, never from arguments
    #[command(subcommand)]
    Add(Box<ChannelAddCommand>),
    /// Send a test through a channel and wait for what becomes of it
    Test(ChannelArgs),
    /// List channels (never their secrets)
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Change what a channel hears, or where it leads and its secret; name, id and what waits for it stay
    Set(Box<ChannelSetArgs>),
    /// What was sent through a channel, or through all, newest first, with the last try of each
    Deliveries {
        /// Name or id; all channels when absent
        name: Option<String>,
        #[command(flatten)]
        client: ClientArgs,
        /// Only in this state
        #[arg(long, value_parser = ["pending", "delivered", "failed"], conflicts_with = "failed")]
        state: Option<String>,
        /// Only what was given up: `channel replay` has it tried again
        #[arg(long)]
        failed: bool,
        /// Most rows
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Try deliveries again that were given up: all of a channel, or one
    Replay {
        #[command(flatten)]
        channel: ChannelArgs,
        /// Only this delivery; `channel deliveries --failed` tells ids
        #[arg(long)]
        delivery: Option<uuid::Uuid>,
    },
    /// Use a channel again
    Enable(ChannelArgs),
    /// Stop using a channel; what waits for it waits on
    Disable(ChannelArgs),
    /// Remove a channel and what waits for it
    Rm(ChannelArgs),
}

/// One channel.
#[derive(Debug, Args)]
pub struct ChannelArgs {
    /// Name or id
    pub name: String,
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to change of a channel. What it takes to reach it is given whole: nobody can read what it was.
#[derive(Debug, Args)]
pub struct ChannelSetArgs {
    #[command(flatten)]
    pub channel: ChannelArgs,
    /// Only alerts of at least this severity
    #[arg(long, value_parser = ["info", "low", "medium", "high", "critical"])]
    pub min_severity: Option<String>,
    /// Only alerts of hosts with this label, written key=value; repeatable, in the place of those so far
    #[arg(long = "label", conflicts_with = "any_label")]
    pub labels: Vec<String>,
    /// Alerts of hosts with any labels
    #[arg(long)]
    pub any_label: bool,
    /// Only alerts with this tag; repeatable, in the place of those so far
    #[arg(long = "tag", conflicts_with = "any_tag")]
    pub tags: Vec<String>,
    /// Alerts with any tags
    #[arg(long)]
    pub any_tag: bool,
    #[command(flatten)]
    pub target: ChannelTargetArgs,
}

/// Where a channel leads from now on; each kind takes the flags that `channel add` has for it.
#[derive(Debug, Args)]
pub struct ChannelTargetArgs {
    /// Address of a webhook, or of another PagerDuty service region
    #[arg(long, conflicts_with = "address_file")]
    pub address: Option<String>,
    /// File with the address; `-` asks at the terminal, or reads standard input
    #[arg(long)]
    pub address_file: Option<PathBuf>,
    /// File with the signing secret of a webhook, beside its address; one is made and printed once when absent
    #[arg(long)]
    pub secret_file: Option<PathBuf>,
    /// File with the PagerDuty integration key
    #[arg(long)]
    pub routing_key_file: Option<PathBuf>,
    /// NATS subject
    #[arg(long)]
    pub subject: Option<String>,
    /// Mail server
    #[arg(long, requires_all = ["from", "to"])]
    pub server: Option<String>,
    /// Its port
    #[arg(long, requires = "server")]
    pub port: Option<u16>,
    /// How it is spoken to
    #[arg(long, requires = "server", value_parser = ["starttls", "tls", "none"])]
    pub security: Option<String>,
    /// Login user
    #[arg(long, requires_all = ["password_file", "server"])]
    pub user: Option<String>,
    /// File with its password
    #[arg(long, requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Who writes
    #[arg(long, requires = "server")]
    pub from: Option<String>,
    /// Who reads; repeatable
    #[arg(long, requires = "server")]
    pub to: Vec<String>,
    /// Allow addresses inside the network, and such without TLS
    #[arg(long)]
    pub allow_private: bool,
}

/// A channel to be made, by kind.
#[derive(Debug, Subcommand)]
pub enum ChannelAddCommand {
    /// A signed HTTPS POST (Standard Webhooks)
    Webhook {
        #[command(flatten)]
        channel: NewChannelArgs,
        /// Address
        #[arg(long, required_unless_present = "address_file", conflicts_with = "address_file")]
        address: Option<String>,
        /// File with the address, when that is a secret; `-` asks at the terminal, or reads standard input
        #[arg(long)]
        address_file: Option<PathBuf>,
        /// File with the signing secret (`whsec_...`); one is made and printed once when absent
        #[arg(long)]
        secret_file: Option<PathBuf>,
    },
    /// An incoming webhook of Slack, Mattermost or another that takes the same
    Slack {
        #[command(flatten)]
        channel: NewChannelArgs,
        /// File with the address: whoever has it may post; `-` asks at the terminal, or reads standard input
        #[arg(long)]
        address_file: PathBuf,
    },
    /// Mail over SMTP
    Email {
        #[command(flatten)]
        channel: NewChannelArgs,
        /// Mail server
        #[arg(long)]
        server: String,
        /// Its port: 587 for starttls, 465 for tls, 25 for none when absent
        #[arg(long)]
        port: Option<u16>,
        /// How it is spoken to; `none` needs --allow-private
        #[arg(long, default_value = "starttls", value_parser = ["starttls", "tls", "none"])]
        security: String,
        /// Login user
        #[arg(long, requires = "password_file")]
        user: Option<String>,
        /// File with its password; `-` asks at the terminal, or reads standard input
        #[arg(long, requires = "user")]
        password_file: Option<PathBuf>,
        /// Who writes, such as openwatch@example.org
        #[arg(long)]
        from: String,
        /// Who reads; repeatable
        #[arg(long, required = true)]
        to: Vec<String>,
    },
    /// PagerDuty (Events API v2)
    Pagerduty {
        #[command(flatten)]
        channel: NewChannelArgs,
        /// File with the integration key; `-` asks at the terminal, or reads standard input
        #[arg(long)]
        routing_key_file: PathBuf,
        /// Address of another service region
        #[arg(long)]
        address: Option<String>,
    },
    /// A NATS subject
    Nats {
        #[command(flatten)]
        channel: NewChannelArgs,
        /// Subject; `ow.v1.notify.` is put before it
        #[arg(long)]
        subject: String,
    },
    /// Lines on the standard output of the alerts stage
    Stdout {
        #[command(flatten)]
        channel: NewChannelArgs,
    },
}

/// What every new channel has.
#[derive(Debug, Args)]
pub struct NewChannelArgs {
    /// Name, unique
    pub name: String,
    /// Only alerts of at least this severity
    #[arg(long, value_parser = ["info", "low", "medium", "high", "critical"])]
    pub min_severity: Option<String>,
    /// Only alerts of hosts with this label, written key=value; repeatable
    #[arg(long = "label")]
    pub labels: Vec<String>,
    /// Only alerts with this tag, such as alert_type=drift_major; repeatable
    #[arg(long = "tag")]
    pub tags: Vec<String>,
    /// Allow addresses inside the network, and such without TLS
    #[arg(long)]
    pub allow_private: bool,
    #[command(flatten)]
    pub client: ClientArgs,
}
