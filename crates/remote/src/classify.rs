//! What a target meant when it did not say hello. Pure.

use openwatch_model::harmless::is_harmful;

/// Meaning of the noise before a hello that never came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHello {
    /// sudo wants a password.
    SudoPassword,
    /// sudo wants a terminal.
    SudoTty,
    /// sudo's policy says no.
    SudoRefused,
    /// There is no sudo.
    SudoMissing,
    /// There is no `timeout`, or one that takes other arguments.
    TimeoutMissing,
    /// Anything else.
    Unknown,
}

/// sudo speaks English to us: it runs with `LC_ALL=C`.
pub(crate) fn classify(noise: &str, sudo: bool) -> NoHello {
    let text = noise.to_ascii_lowercase();
    let has = |needle: &str| text.contains(needle);
    if sudo {
        if has("you must have a tty")
            || has("no tty present")
            || has("a terminal is required to authenticate")
        {
            return NoHello::SudoTty;
        }
        if has("password is required") || has("authentication is required") {
            return NoHello::SudoPassword;
        }
        if text
            .lines()
            .any(|l| l.contains("timeout") && (l.contains("not found") || l.contains("unrecognized")))
        {
            return NoHello::TimeoutMissing;
        }
        if has("is not in the sudoers file")
            || has("is not allowed to")
            || has("may not run sudo")
            || has("account validation failure")
            || has("unable to initialize policy")
            || has("error initializing audit plugin")
        {
            return NoHello::SudoRefused;
        }
        if text.lines().any(|l| l.contains("sudo") && (l.contains("not found") || l.contains("no such file")))
        {
            return NoHello::SudoMissing;
        }
    }
    if text.lines().any(|l| l.contains("timeout") && !l.contains("timed out")) {
        return NoHello::TimeoutMissing;
    }
    NoHello::Unknown
}

/// The first words of it, safe to show.
pub(crate) fn first_words(noise: &str) -> String {
    let line = noise.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
    line.chars().filter(|c| !is_harmful(*c)).take(160).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table() {
        for (noise, sudo, want) in [
            ("sudo: a password is required\n", true, NoHello::SudoPassword),
            // sudo-rs
            ("sudo: interactive authentication is required\n", true, NoHello::SudoPassword),
            ("sudo: sorry, you must have a tty to run sudo\n", true, NoHello::SudoTty),
            ("ow is not in the sudoers file.\n", true, NoHello::SudoRefused),
            (
                "Sorry, user ow is not allowed to execute '/bin/sh' as root on x.\n",
                true,
                NoHello::SudoRefused,
            ),
            ("env: 'sudo': No such file or directory\n", true, NoHello::SudoMissing),
            ("env: sudo: not found", true, NoHello::SudoMissing),
            ("sudo: timeout: command not found\n", true, NoHello::TimeoutMissing),
            ("sh: 1: exec: timeout: not found\n", false, NoHello::TimeoutMissing),
            ("timeout: invalid option -- 'k'\n", false, NoHello::TimeoutMissing),
            ("This account is currently not available.\n", false, NoHello::Unknown),
            ("", true, NoHello::Unknown),
        ] {
            assert_eq!(classify(noise, sudo), want, "{noise}");
        }
    }

    #[test]
    fn first_words_are_harmless() {
        assert_eq!(first_words("\n\n \x1b[31mred\x07\nmore"), "[31mred");
        assert_eq!(first_words(&"x".repeat(500)).len(), 160);
    }
}
