//! What a connection costs while nothing happens on it. Measured in a process of its own, which has done nothing else.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use futures::StreamExt as _;
use openwatch_model::plan;
use openwatch_remote::{RunOptions, Session};

use crate::{Door, gauge, ours};

/// Connections held.
pub(crate) const HELD: usize = 200;
/// Logins at the same time; more would be refused.
const AT_ONCE: usize = 4;

/// Bytes per connection that has run one command and waits.
pub(crate) fn per_connection(door: &Door) -> anyhow::Result<u64> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--hold", &HELD.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its input")?.write_all(&serde_json::to_vec(door)?)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().with_context(|| format!("holding {HELD} connections failed: {said}"))
}

/// The process of its own: holds that many and prints bytes per connection.
pub(crate) async fn hold(args: &[String]) -> anyhow::Result<()> {
    let held: usize = args.first().and_then(|n| n.parse().ok()).context("how many")?;
    let mut door = String::new();
    std::io::stdin().read_to_string(&mut door)?;
    let door: Door = serde_json::from_str(&door)?;
    // What the first ones touch is not the price of one more.
    let first = sessions(&door, 2 * AT_ONCE).await?;
    let before = gauge::resident_kib();
    let sessions = sessions(&door, held).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let bytes = (gauge::resident_kib().saturating_sub(before) * 1024) / held as u64;
    drop((first, sessions));
    writeln!(std::io::stdout(), "{bytes}")?;
    Ok(())
}

async fn sessions(door: &Door, count: usize) -> anyhow::Result<Vec<Session>> {
    let opening = futures::stream::iter((0..count).map(|_| idle(door))).buffer_unordered(AT_ONCE);
    opening.collect::<Vec<_>>().await.into_iter().collect()
}

async fn idle(door: &Door) -> anyhow::Result<Session> {
    let mut session = ours::login(door).await?;
    let one = plan::Plan { commands: vec![plan::Command::new("true")] };
    session.run(&one, &RunOptions::within(Duration::from_secs(30)), &ours::secret(door)).await?;
    Ok(session)
}
