//! Shell idioms that look like a test and are none. Textual and modest: they miss more than they invent.

/// `fi`, `done` or `esac`, and then `$?` in the next command.
pub(super) fn status_after_compound(script: &str) -> bool {
    let code = without_comments(script);
    let commands: Vec<&str> = code.split(['\n', ';']).map(str::trim).filter(|c| !c.is_empty()).collect();
    let closes = |command: &str| {
        command.split(['>', '<', '|', '&']).next().is_some_and(|head| {
            head.split_whitespace().last().is_some_and(|word| matches!(word, "fi" | "done" | "esac"))
        })
    };
    commands.windows(2).any(|pair| closes(pair[0]) && pair[1].contains("$?"))
}

/// Nothing in the script leads to another status than 0.
pub(super) fn only_exits_zero(script: &str) -> bool {
    let code = without_comments(script);
    let commands: Vec<&str> = code.split(['\n', ';']).map(str::trim).filter(|c| !c.is_empty()).collect();
    let other_exit = code.match_indices("exit").any(|(at, word)| {
        let bounded = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_' && c != '-');
        let status = code[at + word.len()..].trim_start_matches([' ', '\t']);
        bounded(code[..at].chars().next_back())
            && bounded(code[at + word.len()..].chars().next())
            && !status.starts_with('0')
    });
    let errexit = code.contains("set -e") || code.contains("set -o errexit");
    let last = commands.last().copied().unwrap_or_default();
    let zero = last == "exit 0"
        || last == "true"
        || last == ":"
        || last.ends_with("|| true")
        || last.ends_with("|| :");
    zero && !other_exit && !errexit
}

fn without_comments(script: &str) -> String {
    script.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_of_compounds() {
        for (script, expected) in [
            ("if a; then b; fi; [ $? -eq 0 ]", true),
            ("for x in y; do z; done\n[ \"$?\" = 100 ]", true),
            ("if a; then b; fi >/dev/null\n# remark\nrc=$?", true),
            ("if a; then b; rc=$?; fi; exit $rc", false),
            ("a; rc=$?; if b; then c; fi", false),
            ("grep -q x /y; [ $? -eq 1 ]", false),
        ] {
            assert_eq!(status_after_compound(script), expected, "{script}");
        }
    }

    #[test]
    fn scripts_that_cannot_say_no() {
        for (script, expected) in [
            ("echo review this; exit 0", true),
            ("ls /x || true", true),
            ("if a; then exit 1; fi; exit 0", false),
            ("if a; then exit $rc; fi; exit 0", false),
            ("a && exit; exit 0", false),
            ("set -e\na\nexit 0", false),
            ("grep -q x /y", false),
            ("a; exit_code=3; exit 0", true),
        ] {
            assert_eq!(only_exits_zero(script), expected, "{script}");
        }
    }
}
