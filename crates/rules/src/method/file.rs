//! Files: mode and owner, being there or not, and what they hold.

use super::{Ready, Step, Stop, Verdict, by_exit, one, required};
use crate::rule::Leaf;
use crate::shell::quote;

pub(super) fn permission(leaf: &Leaf) -> Result<Ready, Stop> {
    let path = required(leaf, "path")?.to_owned();
    let part = |name: &str| leaf.text(name).map(str::to_owned);
    let (mode, owner, group) = (part("mode"), part("owner"), part("group"));
    if mode.is_none() && owner.is_none() && group.is_none() {
        return Err(Stop::Broken(format!("{} wants mode, owner or group", leaf.method)));
    }
    one(Step::whole(format!("stat -c '%a %U %G' {}", quote(&path))), move |seen| {
        let fields: Vec<&str> = seen.stdout.split_whitespace().collect();
        let &[has_mode, has_owner, has_group, ..] = fields.as_slice() else {
            return Verdict::fail(format!("{path} cannot be looked at (exit {})", seen.exit));
        };
        if seen.exit != 0 {
            return Verdict::fail(format!("{path} cannot be looked at (exit {})", seen.exit));
        }
        let mut wrong = Vec::new();
        if let Some(wanted) = mode.as_deref().filter(|wanted| octal(wanted) != octal(has_mode)) {
            wrong.push(format!("mode {has_mode}, wanted {wanted}"));
        }
        if let Some(wanted) = owner.as_deref().filter(|wanted| *wanted != has_owner) {
            wrong.push(format!("owner {has_owner}, wanted {wanted}"));
        }
        if let Some(wanted) = group.as_deref().filter(|wanted| *wanted != has_group) {
            wrong.push(format!("group {has_group}, wanted {wanted}"));
        }
        let found = format!("{has_mode} {has_owner} {has_group}");
        let detail = if wrong.is_empty() {
            format!("{path} is {found}")
        } else {
            format!("{path}: {}", wrong.join(", "))
        };
        Verdict::pass_if(wrong.is_empty(), detail).actual(found)
    })
}

/// An octal mode without leading zeros.
fn octal(mode: &str) -> &str {
    match mode.trim_start_matches('0') {
        "" => "0",
        digits => digits,
    }
}

pub(super) fn exists(leaf: &Leaf) -> Result<Ready, Stop> {
    let path = required(leaf, "path")?;
    by_exit(format!("[ -e {} ]", quote(path)), format!("{path} exists"), format!("{path} does not exist"))
}

pub(super) fn absent(leaf: &Leaf) -> Result<Ready, Stop> {
    let path = required(leaf, "path")?;
    by_exit(format!("[ ! -e {} ]", quote(path)), format!("{path} is absent"), format!("{path} exists"))
}

pub(super) fn content(leaf: &Leaf) -> Result<Ready, Stop> {
    let (path, content) = (required(leaf, "path")?, required(leaf, "expected_content")?);
    by_exit(
        format!("grep -qF {} {}", quote(content), quote(path)),
        format!("{path} holds the wanted text"),
        format!("{path} does not hold the wanted text"),
    )
}

pub(super) fn content_match(leaf: &Leaf) -> Result<Ready, Stop> {
    let (path, pattern) = (required(leaf, "path")?, required(leaf, "pattern")?);
    by_exit(
        format!("grep -qE {} {}", quote(pattern), quote(path)),
        format!("{path} has a line like {pattern}"),
        format!("{path} has no line like {pattern}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::testing::{commands, status, stop};
    use super::*;

    #[test]
    fn pinned_permissions() {
        let ask = |wanted: &str, answer: (i32, &str)| {
            status(&format!("method: file_permission, path: /etc/shadow, {wanted}"), &[answer])
        };
        let full = "mode: '0640', owner: root, group: shadow";
        assert_eq!(ask(full, (0, "640 root shadow\n")), 'p');
        assert_eq!(ask(full, (0, "644 root shadow\n")), 'f');
        assert_eq!(ask(full, (0, "600 root shadow\n")), 'f');
        assert_eq!(ask(full, (0, "640 nobody shadow\n")), 'f');
        assert_eq!(ask(full, (0, "640 root root\n")), 'f');
        assert_eq!(ask("mode: '0000'", (0, "0 root root\n")), 'p');
        assert_eq!(ask("mode: '0640'", (0, "4640 root root\n")), 'f');
        assert_eq!(ask("owner: root", (0, "777 root x\n")), 'p');
        assert_eq!(ask("owner: root", (1, "")), 'f');
        assert_eq!(ask("owner: root", (0, "777 root\n")), 'f');
        assert!(matches!(stop("method: file_permissions, path: /x"), Stop::Broken(_)));
        // An unquoted mode is a number, so it is no mode at all.
        assert!(matches!(stop("method: file_permissions, path: /x, mode: 0640"), Stop::Broken(_)));
    }

    #[test]
    fn presence_and_content_follow_the_exit_status() {
        for check in [
            "method: file_exists, path: /x",
            "method: file_absent, path: /x",
            "method: file_content, path: /x, expected_content: a",
            "method: file_content_match, path: /x, pattern: '^a'",
        ] {
            assert_eq!(
                (status(check, &[(0, "")]), status(check, &[(1, "")]), status(check, &[(2, "")])),
                ('p', 'f', 'f')
            );
        }
        assert_eq!(
            commands("method: file_content, path: /a b, expected_content: it's"),
            ["grep -qF 'it'\\''s' '/a b'"]
        );
        assert_eq!(commands("method: file_absent, path: /x"), ["[ ! -e '/x' ]"]);
    }
}
