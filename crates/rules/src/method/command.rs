//! `command`: a script by the rule's author, judged by its exit status and what it prints.

use openwatch_model::Status;

use super::{Ready, Step, Stop, Verdict, one};
use crate::rule::{Leaf, Value};

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let script = leaf.text("cmd").or_else(|| leaf.text("run"));
    let script = script.ok_or_else(|| Stop::Broken("command wants cmd or run as text".into()))?;
    let output = leaf.params.get("expected_output").or_else(|| leaf.params.get("expected_stdout"));
    // Anything but text is read as empty, and empty means: it must print nothing.
    let output = output.map(|value| if let Value::Text(text) = value { text.clone() } else { String::new() });
    let exit = leaf.params.get("expected_exit").and_then(Value::int).unwrap_or(0);
    let not_assessable = leaf.params.get("not_assessable_exit").and_then(Value::int);
    one(Step::script(script), move |seen| {
        let found = i64::from(seen.exit);
        if Some(found) == not_assessable {
            let reason = match seen.trimmed() {
                "" => "the rule's script reports that it cannot assess this host",
                reason => reason,
            };
            return Verdict { status: Status::Skipped, detail: reason.to_owned(), actual: None };
        }
        if found != exit {
            let said = seen.trimmed().lines().next().unwrap_or_default();
            let said = if said.is_empty() { String::new() } else { format!(": {said}") };
            return Verdict::fail(format!("exit {found}, wanted {exit}{said}")).actual(found.to_string());
        }
        match &output {
            None => Verdict::pass_if(true, format!("exit {exit} as wanted")),
            Some(wanted) if wanted.trim().is_empty() => {
                let first = seen.trimmed().lines().next().unwrap_or_default();
                let detail =
                    if first.is_empty() { "no output, as wanted".into() } else { format!("found {first}") };
                Verdict::pass_if(first.is_empty(), detail)
            }
            Some(wanted) => {
                let holds = seen.stdout.contains(wanted.as_str());
                let found = if holds { "has" } else { "lacks" };
                Verdict::pass_if(holds, format!("the output {found} {wanted:?}"))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, status, stop};
    use super::*;

    #[test]
    fn pinned_commands() {
        let cases = [
            ("cmd: id", (0, ""), 'p'),
            ("run: id", (0, "uid=0\n"), 'p'),
            ("cmd: id", (1, ""), 'f'),
            ("cmd: x, expected_stdout: ''", (0, ""), 'p'),
            ("cmd: x, expected_output: ' '", (0, "\n"), 'p'),
            ("cmd: x, expected_output: ''", (0, "/some/path\n"), 'f'),
            ("cmd: x, expected_stdout: 5", (0, "5"), 'f'),
            ("cmd: x, expected_output: FIPS mode is enabled", (0, "FIPS mode is enabled."), 'p'),
            ("cmd: x, expected_output: FIPS mode is enabled", (0, "FIPS mode is not enabled"), 'f'),
            ("cmd: x, expected_output: a, expected_stdout: b", (0, "a"), 'p'),
            ("cmd: x, expected_exit: 1", (1, "anything"), 'p'),
            ("cmd: x, expected_exit: 1.9", (1, ""), 'p'),
            ("cmd: x, expected_exit: '1'", (1, ""), 'f'),
            ("cmd: x, not_assessable_exit: 3", (3, ""), 's'),
            ("cmd: x, expected_exit: 3, not_assessable_exit: 3", (3, ""), 's'),
            ("cmd: x, not_assessable_exit: 3", (2, ""), 'f'),
        ];
        for (check, answer, expected) in cases {
            assert_eq!(status(&format!("method: command, {check}"), &[answer]), expected, "{check}");
        }
    }

    #[test]
    fn cmd_wins_and_the_reason_is_the_output() {
        assert_eq!(super::super::testing::commands("method: command, cmd: a, run: b"), ["a"]);
        let verdict =
            judge("method: command, cmd: x, not_assessable_exit: 3", &[(3, " no window declared \n")]);
        assert_eq!(verdict.detail, "no window declared");
        assert!(matches!(stop("method: command"), Stop::Broken(_)));
        assert!(matches!(stop("method: command, cmd: 5"), Stop::Broken(_)));
    }
}
