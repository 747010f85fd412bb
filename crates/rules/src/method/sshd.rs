//! `sshd_effective_config`: what the SSH server says it would do. One `sshd -T` serves every keyword.

use super::compare::same_word;
use super::{Ready, Step, Stop, Verdict, View, one, required};
use crate::rule::Leaf;

/// Prints every keyword with its value.
pub(super) const SCRIPT: &str = "sshd -T 2>/dev/null";

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let key = required(leaf, "key")?.to_lowercase();
    let expected = required(leaf, "expected")?.to_owned();
    let pattern = crate::shell::quote(&format!("^{key} "));
    let command = format!("{SCRIPT} | grep -i {pattern}");
    // A key that is no plain word would mean something else to grep: then grep itself is asked.
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric());
    let view = if plain { View::SshdKey(key.clone()) } else { View::Whole };
    one(Step { command, view }, move |seen| {
        let line = seen.stdout.lines().next().unwrap_or_default();
        let value = line.split_once(' ').map(|(_, value)| value.trim()).unwrap_or_default();
        if seen.exit != 0 || value.is_empty() {
            return Verdict::fail(format!("sshd does not say {key}, wanted {expected}"));
        }
        let holds = same_word(value, &expected);
        Verdict::pass_if(holds, format!("sshd has {key} {value}, wanted {expected}")).actual(value)
    })
}

/// The lines of a keyword, as `grep -i '^key '` would print them.
pub(super) fn lines_of(all: &[u8], key: &str) -> Vec<u8> {
    let mut lines = Vec::new();
    for line in all.split(|b| *b == b'\n') {
        let starts = line.get(..key.len()).is_some_and(|start| start.eq_ignore_ascii_case(key.as_bytes()));
        if starts && line.get(key.len()) == Some(&b' ') {
            lines.extend_from_slice(line);
            lines.push(b'\n');
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::super::testing::{commands, ready, status, stop};
    use super::*;

    const CHECK: &str = "method: sshd_effective_config, key: X11Forwarding, expected: 'No'";
    const ALL: &str =
        "port 22\nx11forwarding no\nx11displayoffset 10\nrekeylimit 0 0\nacceptenv LANG\nacceptenv LC_*\n";

    #[test]
    fn one_observation_serves_every_key() {
        let with = |key: &str, expected: &str| {
            status(&format!("method: sshd_effective_config, key: {key}, expected: '{expected}'"), &[(0, ALL)])
        };
        assert_eq!(status(CHECK, &[(0, ALL)]), 'p');
        assert_eq!(with("x11forwarding", "yes"), 'f');
        assert_eq!(with("rekeylimit", "0 0"), 'p');
        assert_eq!(with("acceptenv", "LANG"), 'p');
        assert_eq!(with("acceptenv", "LC_*"), 'f');
        assert_eq!(with("x11", "no"), 'f');
        assert_eq!(status(CHECK, &[(127, "")]), 'f');
        assert_eq!(commands(CHECK), ["sshd -T 2>/dev/null | grep -i '^x11forwarding '"]);
        assert_eq!(ready(CHECK).steps[0].source(), Source::Script(SCRIPT));
    }

    #[test]
    fn an_odd_key_is_left_to_grep() {
        let check = "method: sshd_effective_config, key: 'x11.*', expected: 'no'";
        assert_eq!(ready(check).steps[0].view, View::Whole);
        assert!(matches!(stop("method: sshd_effective_config, key: a"), Stop::Broken(_)));
    }
}
