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
    /// What was sent through a channel, newest first, with the last try of each
    Deliveries {
        #[command(flatten)]
        channel: ChannelArgs,
        /// Only in this state
        #[arg(long, value_parser = ["pending", "delivered", "failed"])]
        state: Option<String>,
        /// Most rows
        #[arg(long, default_value_t = 50)]
        limit: u32,
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
