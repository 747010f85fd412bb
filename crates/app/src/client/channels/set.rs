//! `openwatch channel set`: what it hears, and where it leads.

use openwatch_api::dto::{Channel, ChannelChange, ChannelTarget, MadeChannel, NewMail};
use openwatch_model::alert::AlertSeverity;

use super::{Client, mail_security, pairs, path, secret, table};
use crate::cli::{ChannelSetArgs, ChannelTargetArgs};
use crate::exit::Failure;

/// Where it leads comes first: when that is refused, nothing is changed.
pub(super) async fn set(args: ChannelSetArgs) -> Result<(), Failure> {
    let client = Client::new(&args.channel.client)?;
    let narrow = |what: &str, texts: &[String], any: bool| match texts {
        [] if !any => Ok(None),
        texts => pairs(what, texts).map(Some),
    };
    let change = ChannelChange {
        enabled: None,
        min_severity: args.min_severity.as_deref().and_then(AlertSeverity::parse),
        tags: narrow("--tag", &args.tags, args.any_tag)?,
        labels: narrow("--label", &args.labels, args.any_label)?,
    };
    let target = target(args.target)?;
    if target.is_none() && change == ChannelChange::default() {
        return Err(Failure::usage("say what to change; see `openwatch channel set --help`"));
    }
    let mut made = None;
    if let Some(target) = target {
        let it: MadeChannel = client.put(&format!("{}/target", path(&args.channel)), &target).await?;
        made = it.secret;
    }
    let channel: Channel = client.patch(&path(&args.channel), &change).await?;
    if client.json {
        return table::json(&MadeChannel { channel, secret: made });
    }
    table::line(&format!("channel {} changed ({} {})", channel.name, channel.kind.as_str(), channel.target));
    if let Some(secret) = made {
        table::line(&format!("signing secret, for the receiver and shown this once: {secret}"));
    }
    if !channel.enabled {
        table::line(&format!("it is off; `openwatch channel enable {}` has it used", channel.name));
    }
    Ok(())
}

/// The target that the flags stand for; nothing when there are none.
fn target(args: ChannelTargetArgs) -> Result<Option<ChannelTarget>, Failure> {
    let url = match &args.address_file {
        Some(file) => secret(Some(file), "address")?,
        None => args.address,
    };
    if args.secret_file.is_some() && url.is_none() {
        let detail = "--secret-file needs --address or --address-file too: the address so far is sealed, and nobody here can read it";
        return Err(Failure::usage(detail));
    }
    let password = secret(args.password_file.as_deref(), "mail password")?;
    let mail = args.server.map(|server| NewMail {
        server,
        port: args.port,
        security: mail_security(args.security.as_deref().unwrap_or("starttls")),
        username: args.user,
        password,
        from: args.from.unwrap_or_default(),
        to: args.to,
    });
    let target = ChannelTarget {
        url,
        secret: secret(args.secret_file.as_deref(), "signing secret")?,
        routing_key: secret(args.routing_key_file.as_deref(), "integration key")?,
        mail,
        subject: args.subject,
        allow_private: args.allow_private,
    };
    let given = target.url.is_some()
        || target.routing_key.is_some()
        || target.mail.is_some()
        || target.subject.is_some();
    if args.allow_private && !given {
        let detail = "--allow-private goes with where the channel leads: give the address or server again";
        return Err(Failure::usage(detail));
    }
    Ok(given.then_some(target))
}
