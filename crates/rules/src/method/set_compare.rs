//! `set_compare`: what is there against what was declared. Extra is a finding, missing is only told.

use std::collections::BTreeSet;

use openwatch_model::Status;

use super::{Ready, Step, Stop, Verdict, one, required};
use crate::rule::{Leaf, Value};

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let observer = required(leaf, "observed_command")?;
    let authorized = match leaf.params.get("authorized") {
        None => return Err(Stop::Broken("set_compare wants authorized".into())),
        Some(Value::Text(text)) => members(text),
        Some(_) => BTreeSet::new(),
    };
    if authorized.is_empty() {
        return Err(Stop::NotAssessable("nobody has declared what is authorized here".into()));
    }
    let separator = leaf.text("alias_separator").map(str::to_owned);
    one(Step::whole(observer), move |seen| {
        if seen.exit != 0 {
            let detail = format!("the observing command exited {}", seen.exit);
            return Verdict { status: Status::Error, detail, actual: None };
        }
        let entities = entities(&seen.stdout, separator.as_deref());
        let known = |names: &&Vec<&str>| names.iter().any(|name| authorized.contains(*name));
        let extra: BTreeSet<&str> =
            entities.iter().filter(|names| !known(names)).map(|names| names[0]).collect();
        let extra: Vec<&str> = extra.into_iter().collect();
        let present: BTreeSet<&str> = entities.iter().flatten().copied().collect();
        let absent: Vec<&str> =
            authorized.iter().map(String::as_str).filter(|m| !present.contains(m)).collect();
        let missing = if absent.is_empty() {
            String::new()
        } else {
            format!("; declared but absent: {}", absent.join(", "))
        };
        if extra.is_empty() {
            Verdict::pass_if(true, format!("everything found is authorized ({}){missing}", entities.len()))
        } else {
            Verdict::fail(format!("not authorized: {}{missing}", extra.join(", "))).actual(extra.join(","))
        }
    })
}

fn members(text: &str) -> BTreeSet<String> {
    text.split(',').map(str::trim).filter(|member| !member.is_empty()).map(str::to_owned).collect()
}

/// Every distinct line as the names it holds; the first is the one to report.
fn entities<'a>(stdout: &'a str, separator: Option<&str>) -> Vec<Vec<&'a str>> {
    let lines: BTreeSet<&str> = stdout.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let names = |line: &'a str| -> Vec<&'a str> {
        match separator {
            Some(separator) => line.split(separator).map(str::trim).filter(|name| !name.is_empty()).collect(),
            None => vec![line],
        }
    };
    lines.into_iter().map(names).filter(|names| !names.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, status, stop};
    use super::*;

    fn check(authorized: &str, more: &str) -> String {
        format!("method: set_compare, observed_command: x, authorized: '{authorized}'{more}")
    }

    #[test]
    fn pinned_sets() {
        let cases = [
            ("alice\nbob\n", "alice,bob,carol", 'p'),
            ("alice\nbob\nmallory\n", "alice,bob", 'f'),
            ("", "alice", 'p'),
            ("alice\n\n  bob \nalice\n", "bob,alice,alice", 'p'),
            ("Alice\n", "alice", 'f'),
        ];
        for (found, authorized, expected) in cases {
            assert_eq!(status(&check(authorized, ""), &[(0, found)]), expected, "{found}");
        }
        assert_eq!(status(&check("alice", ""), &[(2, "")]), 'e');
        assert!(judge(&check("alice,bob,carol", ""), &[(0, "alice\nbob\n")]).detail.contains("carol"));
        assert!(judge(&check("alice", ""), &[(0, "z\nm\n")]).detail.contains("not authorized: m, z"));
    }

    #[test]
    fn an_undeclared_set_is_not_assessable() {
        for authorized in ["", " , ,"] {
            assert!(matches!(stop(&check(authorized, "")), Stop::NotAssessable(_)));
        }
        let list = "method: set_compare, observed_command: x, authorized: [a]";
        assert!(matches!(stop(list), Stop::NotAssessable(_)));
        assert!(matches!(stop("method: set_compare, observed_command: x"), Stop::Broken(_)));
        assert!(matches!(stop("method: set_compare, authorized: x"), Stop::Broken(_)));
    }

    #[test]
    fn any_alias_authorizes() {
        let found = [(0, "owadmin:1000\ndeploybot:1001\n:\n")];
        let ask = |authorized: &str| judge(&check(authorized, ", alias_separator: ':'"), &found);
        for good in ["owadmin,deploybot", "1000,1001", "owadmin,1001"] {
            assert_eq!(ask(good).status, Status::Pass, "{good}");
        }
        for bad in ["owadmin", "1000"] {
            let verdict = ask(bad);
            assert_eq!(verdict.status, Status::Fail);
            assert!(verdict.detail.contains("not authorized: deploybot") && !verdict.detail.contains("1001"));
        }
    }
}
