//! Shell text: how a value is put into a command, and what a command's words say about how it has to be run.

use std::time::Duration;

use openwatch_model::plan::Command;

/// Time for a command that walks a file system or asks a package manager.
const LONG: Duration = Duration::from_secs(120);
/// Time for a command that walks a part of it.
const WALK: Duration = Duration::from_secs(30);
/// Most times [`LONG`] for one command of several.
const MOST: u32 = 5;

/// A value as one shell word.
pub(crate) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "'\\''"))
}

/// A script as a command, with the limit and the isolation that its text asks for.
pub(crate) fn command(script: &str) -> Command {
    let scan = scan(script);
    let limit = match () {
        () if is_long(&scan.words) => LONG,
        () if walks(&scan.words) => WALK,
        () => Command::DEFAULT_LIMIT,
    };
    Command {
        script: script.to_owned(),
        limit,
        isolate: scan.background || needs_isolation(&scan.words, script),
        login_shell: is_bash(script),
    }
}

/// A script of ours that many rules wait for, with the time that so many of their own commands would have had.
pub(crate) fn long_command(script: String, commands: usize) -> Command {
    let times = u32::try_from(commands).unwrap_or(u32::MAX).clamp(1, MOST);
    Command { script, limit: LONG * times, isolate: false, login_shell: false }
}

/// Whether a script uses what bash adds to a POSIX shell. Saying so too often costs the start of a shell.
fn is_bash(script: &str) -> bool {
    const ANYWHERE: [&str; 27] = [
        "[[ ",
        "<(",
        ">(",
        "<<<",
        "$'",
        "&>",
        "|&",
        "=~",
        "=(",
        "${!",
        "^^}",
        ",,}",
        "..}",
        "$(<",
        "pipefail",
        "shopt ",
        "source ",
        "declare ",
        "typeset ",
        "mapfile",
        "readarray",
        "PIPESTATUS",
        "BASH",
        "RANDOM",
        "read -a",
        "read -d",
        "printf -v",
    ];
    let bases = script.match_indices("$((").any(|(at, _)| {
        let inner = &script[at..];
        inner[..inner.find("))").unwrap_or(inner.len())].contains('#')
    });
    let expansions = script.match_indices("${").any(|(at, _)| {
        let inner = &script[at + 2..];
        let inner = &inner[..inner.find('}').unwrap_or(inner.len())];
        let name = inner.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inner.len());
        let after = &inner.as_bytes()[name..];
        matches!(after, [b'/' | b'[', ..]) || matches!(after, [b':', next, ..] if !b"-+=?".contains(next))
    });
    let lines = script.lines().any(|line| {
        let test = line.find("[ ").is_some_and(|at| {
            let inner = &line[at..];
            inner[..inner.find(" ]").unwrap_or(0)].contains(" == ")
        });
        // dash's echo reads backslashes.
        let echo = line
            .find("echo ")
            .is_some_and(|at| line[at..].contains('\\') || line[at..].starts_with("echo -e"));
        let word = |word: &str| line.split_ascii_whitespace().next() == Some(word);
        test || echo || ["function", "let"].into_iter().any(word) || line.trim_start().starts_with("((")
    });
    bases || expansions || lines || ANYWHERE.iter().any(|sign| script.contains(sign))
}

/// May leave children behind, end its own shell, or never end.
fn needs_isolation(words: &[String], script: &str) -> bool {
    const WORDS: [&str; 8] = ["nohup", "setsid", "mkfifo", "disown", "coproc", "kill", "pkill", "killall"];
    let follows = |pair: &[String]| pair[0] == "tail" && (pair[1] == "-f" || pair[1] == "-F");
    // What a shell is told to run may start something as well.
    let told = |words: &[String]| {
        let shell = matches!(base(&words[0]), "sh" | "bash" | "dash" | "ksh") && words[1].starts_with('-');
        (shell && scan(&words[2]).background) || (words[0] == "eval" && scan(&words[1]).background)
    };
    script.contains("$$")
        || words.iter().any(|w| WORDS.contains(&base(w)))
        || words.windows(2).any(follows)
        || words.windows(3).any(told)
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

fn walks(words: &[String]) -> bool {
    words.windows(2).any(|pair| base(&pair[0]) == "find" && pair[1].starts_with('/'))
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
            "sh -c '(sleep 1; echo late) &'",
            "/bin/bash -lc 'sleep 1 & true'",
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
    fn only_bash_understands_some_scripts() {
        for script in [
            "[[ -f /x ]]",
            "m=$((8#$mode & 8#022))",
            "[ \"$a\" == b ] || exit 1",
            "echo \"a\\tb\"",
            "x=(1 2)",
            "echo ${a[0]}",
            "echo ${a//x/y}",
            "echo ${a:0:1}",
            "diff <(a) <(b)",
            "set -o pipefail; a | b",
        ] {
            assert!(command(script).login_shell, "{script}");
        }
        for script in [
            "[ \"$a\" = b ] && echo ok",
            "awk -F: '$3 == 0 {print}' /etc/passwd",
            "grep -E '^a\\.b' /x",
            "echo ${a:-b} ${a##*/} ${#a} ${a%x}",
            "x=$(( 0$mode & 022 ))",
            "a >/dev/null 2>&1",
        ] {
            assert!(!command(script).login_shell, "{script}");
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
        for script in ["rpm -q dnf-automatic", "df -P /tmp", "# dnf\nls", "grep -q apt.conf x"] {
            assert_eq!(command(script).limit, Command::DEFAULT_LIMIT, "{script}");
        }
    }
}
