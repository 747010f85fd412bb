//! The way it is usually done: log in once, then one execution per check, one after the other. Same SSH library, no
//! Nagle, no code of ours.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use openwatch_model::plan::Plan;
use russh::ChannelMsg;
use russh::client::{Config, Handle, Handler, connect};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key};

use crate::ours::{Answer, Run};
use crate::{Door, gauge};

/// A server of our own: whatever key it shows.
struct Any;

impl Handler for Any {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

pub(crate) async fn scan(door: &Door, plan: &Plan) -> anyhow::Result<Run> {
    let (since, used) = (Instant::now(), gauge::cpu());
    let config = Arc::new(Config { nodelay: true, ..Config::default() });
    let mut handle =
        connect(config, (door.address.as_str(), door.port), Any).await.context("baseline: no connection")?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(decode_secret_key(&door.private_key, None)?), None);
    let login = handle.authenticate_publickey(&door.user, key).await?;
    anyhow::ensure!(login.success(), "baseline: no login");
    let mut answers = Vec::new();
    for command in &plan.commands {
        answers.push(execute(&handle, &command.script).await?);
    }
    let wall = since.elapsed();
    handle.disconnect(russh::Disconnect::ByApplication, "", "").await?;
    Ok(Run { wall, cpu: gauge::cpu().saturating_sub(used), answers, slowest: Vec::new() })
}

async fn execute(handle: &Handle<Any>, script: &str) -> anyhow::Result<Answer> {
    let mut channel = handle.channel_open_session().await.context("baseline: no channel")?;
    channel.exec(false, script).await?;
    let mut answer = Answer { exit: -1, stdout: Vec::new() };
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => answer.stdout.extend_from_slice(&data),
            ChannelMsg::ExitStatus { exit_status } => answer.exit = exit_status as i32,
            _ => {}
        }
    }
    Ok(answer)
}
