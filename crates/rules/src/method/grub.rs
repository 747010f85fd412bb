//! `grub_parameter`: a kernel argument, now and after the next boot.

use super::{Judge, Ready, Step, Stop, Verdict, required};
use crate::rule::Leaf;

const RUNNING: &str = "cat /proc/cmdline 2>/dev/null";
const PERSISTENT: &str = "grep 'GRUB_CMDLINE_LINUX' /etc/default/grub 2>/dev/null";

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let key = required(leaf, "key")?.to_owned();
    let expected = required(leaf, "expected")?.to_owned();
    let judge: Judge = Box::new(move |answers| {
        let running = answers.ask(0)?;
        let persistent = answers.ask(1)?;
        let pair = format!("{key}={expected}");
        let runs = running.stdout.split_whitespace().any(|t| t == pair || (expected == "1" && t == key));
        if !runs {
            return Ok(Verdict::fail(format!("the running kernel was not started with {pair}")));
        }
        // The bare key anywhere in the line is enough.
        let stays = persistent.stdout.contains(&key);
        let found = if stays { "has" } else { "lacks" };
        Ok(Verdict::pass_if(stays, format!("the running kernel has {pair}, /etc/default/grub {found} {key}")))
    });
    Ok(Ready { steps: vec![Step::whole(RUNNING), Step::whole(PERSISTENT)], judge })
}

#[cfg(test)]
mod tests {
    use super::super::testing::status;

    #[test]
    fn both_places_count() {
        let ask = |expected: &str, running: &str, stored: &str| {
            let check = format!("method: grub_parameter, key: audit, expected: '{expected}'");
            status(&check, &[(0, running), (1, stored)])
        };
        let stored = "GRUB_CMDLINE_LINUX=\"quiet audit=1\"";
        assert_eq!(ask("1", "ro audit=1 quiet\n", stored), 'p');
        assert_eq!(ask("1", "ro audit quiet\n", stored), 'p');
        assert_eq!(ask("2", "ro audit quiet\n", stored), 'f');
        assert_eq!(ask("1", "ro audit=10\n", stored), 'f');
        assert_eq!(ask("1", "ro audit=1\n", ""), 'f');
        assert_eq!(ask("1", "ro audit=1\n", "GRUB_CMDLINE_LINUX=\"audit_backlog_limit=8192\""), 'p');
    }
}
