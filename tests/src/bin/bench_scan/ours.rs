//! A scan as the executor does it.

use std::time::{Duration, Instant};

use openwatch_model::credential::Secret;
use openwatch_model::host::HostKeyMode;
use openwatch_model::plan::{Observation, Plan};
use openwatch_remote::{HostKeyPolicy, Limits, RunOptions, Session, Target, connect};
use tokio_util::sync::CancellationToken;

use crate::{Door, gauge};

/// What a check said; both ways of asking must hear the same.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) exit: i32,
    pub(crate) stdout: Vec<u8>,
}

/// One scan.
pub(crate) struct Run {
    /// From the first packet to the last answer.
    pub(crate) wall: Duration,
    /// CPU time on our side, goodbye included.
    pub(crate) cpu: Duration,
    pub(crate) answers: Vec<Answer>,
    /// The checks that took longest, and how long.
    pub(crate) slowest: Vec<(Duration, String)>,
}

pub(crate) fn secret(door: &Door) -> Secret {
    let mut secret = Secret::default();
    secret.private_key = Some(door.private_key.clone());
    secret
}

pub(crate) async fn login(door: &Door) -> anyhow::Result<Session> {
    let target = Target { address: door.address.clone(), port: door.port, user: door.user.clone() };
    let policy = HostKeyPolicy::new(HostKeyMode::RequireKnown, vec![door.host_key.clone()]);
    let connection = connect(&target, &policy, &Limits::default(), &CancellationToken::new()).await?;
    Ok(connection.login(&secret(door)).await?)
}

/// In a task of its own, as the executor does it: on the thread that waits for this program's end every packet would
/// wake two threads.
pub(crate) async fn scan(door: &Door, plan: &Plan, lanes: u8) -> anyhow::Result<Run> {
    let (door, plan) = (door.clone(), plan.clone());
    tokio::spawn(async move { scan_here(&door, &plan, lanes).await }).await?
}

async fn scan_here(door: &Door, plan: &Plan, lanes: u8) -> anyhow::Result<Run> {
    let (since, used) = (Instant::now(), gauge::cpu());
    let mut session = login(door).await?;
    let options = RunOptions { lanes, ..RunOptions::within(Duration::from_secs(300)) };
    let (observations, report) = session.run(plan, &options, &secret(door)).await?;
    let wall = since.elapsed();
    session.close().await;
    let cpu = gauge::cpu().saturating_sub(used);
    anyhow::ensure!(
        report.fallback.is_none() && report.restarts == 0 && report.reconnects == 0,
        "not a normal scan: {report:?}"
    );
    let mut answers = Vec::new();
    let mut slowest = Vec::new();
    for (command, observation) in plan.commands.iter().zip(observations) {
        match observation {
            Observation::Done(done) => {
                slowest.push((done.duration, command.script.clone()));
                answers.push(Answer { exit: done.exit, stdout: done.stdout });
            }
            Observation::Lost(lost) => {
                anyhow::bail!("no answer from `{}`: {}", command.script, lost.as_str())
            }
        }
    }
    slowest.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    slowest.truncate(3);
    Ok(Run { wall, cpu, answers, slowest })
}
