//! Shell text: how a value is put into a command, and what a command's words say about how it has to be run.

use std::time::Duration;

use openwatch_model::plan::Command;

/// Time for a command that walks a file system or asks a package manager.
const LONG: Duration = Duration::from_secs(120);

/// A value as one shell word.
pub(crate) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// A script as a command, with the limit and the isolation that its text asks for.
pub(crate) fn command(script: &str) -> Command {
    let scan = scan(script);
    let limit = if is_long(&scan.words) { LONG } else { Command::DEFAULT_LIMIT };
    Command {
        script: script.to_owned(),
        limit,
        isolate: scan.background || needs_isolation(&scan.words, script),
    }
}

/// A script of ours that many rules wait for: it gets the time that all of their own commands would have had.
pub(crate) fn long_command(script: String) -> Command {
    Command { script, limit: LONG, isolate: false }
}

/// May leave children behind, end its own shell, or never end.
fn needs_isolation(words: &[String], script: &str) -> bool {
    const WORDS: [&str; 8] = ["nohup", "setsid", "mkfifo", "disown", "coproc", "kill", "pkill", "killall"];
    let follows = |pair: &[String]| pair[0] == "tail" && (pair[1] == "-f" || pair[1] == "-F");
    script.contains("$$") || words.iter().any(|w| WORDS.contains(&base(w))) || words.windows(2).any(follows)
}

fn is_long(words: &[String]) -> bool {
    const WORDS: [&str; 13] = [
        "dnf",
        "yum",
        "apt",
        "apt-get",
        "apt-cache",
        "aptitude",
        "zypper",
        "subscription-manager",
        "debsums",
        "aide",
        "du",
        "needs-restarting",
        "microdnf",
    ];
    let walks = |pair: &[String]| match (base(&pair[0]), pair[1].as_str()) {
        ("find", root) => root == "/" || root.starts_with(['$', '{']),
        ("df", flags) => flags == "-l" || flags == "--local",
        ("rpm", flags) => flags.starts_with("-V") || flags == "--verify",
        ("dpkg", flags) => flags == "-V" || flags == "--verify",
        _ => false,
    };
    words.iter().any(|w| WORDS.contains(&base(w))) || words.windows(2).any(walks)
}

/// The last part of a path.
fn base(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// The words of a script without its comments, and whether it starts something in the background.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub(crate) words: Vec<String>,
    pub(crate) background: bool,
}

/// What the reader is inside of.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Code,
    Double,
    Arithmetic,
    Backquote,
}

/// Splits a script roughly as a shell would: good enough to decide about time and isolation, where being wrong
/// costs a little speed and never a verdict.
pub(crate) fn scan(script: &str) -> Scan {
    let chars: Vec<char> = script.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = Scan::default();
    let mut word = String::new();
    let mut inside = vec![Inside::Code];
    let mut i = 0;
    while i < chars.len() {
        let state = inside.last().copied().unwrap_or(Inside::Code);
        let c = chars[i];
        let code = matches!(state, Inside::Code | Inside::Backquote);
        match c {
            '\\' => {
                if code && at(i + 1) != '\n' {
                    word.push(at(i + 1));
                }
                i += 1;
            }
            '\'' if code => {
                while i + 1 < chars.len() && chars[i + 1] != '\'' {
                    word.push(chars[i + 1]);
                    i += 1;
                }
                i += 1;
            }
            '"' if state == Inside::Double => _ = inside.pop(),
            '"' if code => inside.push(Inside::Double),
            '$' if at(i + 1) == '(' => {
                finish(&mut word, &mut out.words);
                let arithmetic = at(i + 2) == '(';
                inside.push(if arithmetic { Inside::Arithmetic } else { Inside::Code });
                i += if arithmetic { 2 } else { 1 };
            }
            '`' if state == Inside::Backquote => {
                finish(&mut word, &mut out.words);
                inside.pop();
            }
            '`' => {
                finish(&mut word, &mut out.words);
                inside.push(Inside::Backquote);
            }
            ')' if state == Inside::Arithmetic && at(i + 1) == ')' => {
                inside.pop();
                i += 1;
            }
            ')' if code => {
                finish(&mut word, &mut out.words);
                if inside.len() > 1 && state == Inside::Code {
                    inside.pop();
                }
            }
            '(' if code => {
                finish(&mut word, &mut out.words);
                inside.push(Inside::Code);
            }
            '#' if code && word.is_empty() => {
                while i + 1 < chars.len() && chars[i + 1] != '\n' {
                    i += 1;
                }
            }
            '&' if code => {
                let redirect = i > 0 && matches!(chars[i - 1], '>' | '<') || at(i + 1) == '>';
                if at(i + 1) == '&' {
                    i += 1;
                } else if !redirect {
                    out.background = true;
                }
                finish(&mut word, &mut out.words);
            }
            ';' | '|' | '<' | '>' | '\n' | ' ' | '\t' if code => finish(&mut word, &mut out.words),
            _ if state == Inside::Arithmetic => {}
            _ => word.push(c),
        }
        i += 1;
    }
    finish(&mut word, &mut out.words);
    out
}

fn finish(word: &mut String, words: &mut Vec<String>) {
    if !word.is_empty() {
        words.push(std::mem::take(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_a_value_one_word() {
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }

    #[test]
    fn isolation() {
        for script in [
            "sleep 5 & echo x",
            "nohup x",
            "/usr/bin/setsid x",
            "mkfifo /tmp/x",
            "echo $$",
            "tail -f /var/log/messages",
            "x=$(sleep 1 & wait)",
            "echo \"$(sleep 1 &)\"",
            "kill -9 1",
        ] {
            assert!(command(script).isolate, "{script}");
        }
        for script in [
            "a && b",
            "a 2>&1",
            "a >&2",
            "a &>/dev/null",
            "grep 'a & b' /x",
            "grep \"a & b\" /x",
            "x=$(( 0$mode & 037 ))",
            "# a & b\ntrue",
            "grep nohups x",
            "tail -n 1 x",
            "sed 's/\\&//' x",
            "awk '{print $1}' /etc/passwd",
            "case \"$a\" in b) c;; esac",
        ] {
            assert!(!command(script).isolate, "{script}");
        }
    }

    #[test]
    fn long_commands_get_more_time() {
        for script in [
            "find / -xdev -type f",
            "df --local -P | awk '{print $6}' | while read m; do find \"$m\" -xdev; done",
            "dnf -q check-update",
            "x=$(apt-get -s upgrade)",
            "rpm -Va",
            "if true; then /usr/bin/yum x; fi",
        ] {
            assert_eq!(command(script).limit, LONG, "{script}");
        }
        for script in
            ["find /etc -name x", "rpm -q dnf-automatic", "df -P /tmp", "# dnf\nls", "grep -q apt.conf x"]
        {
            assert_eq!(command(script).limit, Command::DEFAULT_LIMIT, "{script}");
        }
    }
}
