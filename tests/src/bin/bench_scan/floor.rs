//! What cannot be avoided: the checks themselves, without any network.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use openwatch_model::plan::Plan;

/// Round trips between SYN and the first answer that the protocol asks for: TCP 1, keys 2, login 2, execution 1.
pub(crate) const LEAST_TRIPS: u32 = 6;
/// Round trips that today's library and server make of them: TCP 1, keys 3, login 3, execution 3.
pub(crate) const TODAYS_TRIPS: u32 = 10;

/// Runs the checks in that many plain shells at once, each check in a subshell as it must not touch the others.
pub(crate) fn local(plan: &Plan, shells: usize, dir: &Path) -> anyhow::Result<Duration> {
    let mut scripts = vec![String::new(); shells];
    for (number, command) in plan.commands.iter().enumerate() {
        scripts[number % shells].push_str(&format!("( {}\n) </dev/null >/dev/null 2>&1\n", command.script));
    }
    let mut commands = Vec::new();
    for (number, script) in scripts.iter().enumerate() {
        let path = dir.join(format!("floor-{number}.sh"));
        std::fs::write(&path, script)?;
        let mut command = Command::new("/bin/sh");
        command.arg(path).stdin(Stdio::null());
        commands.push(command);
    }
    let since = Instant::now();
    let children: Vec<_> = commands.iter_mut().map(Command::spawn).collect::<Result<_, _>>()?;
    for mut child in children {
        child.wait()?;
    }
    Ok(since.elapsed())
}
