//! `config_value`: one setting of a text file. The target's grep finds the line, we read the value out of it.

use super::compare::holds;
use super::{Ready, Step, Stop, Verdict, by_exit, one, optional, required};
use crate::rule::{Leaf, Value};
use crate::shell::quote;

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let path = required(leaf, "path")?;
    let key = required(leaf, "key")?;
    let expected = match leaf.params.get("expected") {
        None => return Err(Stop::Broken("config_value wants expected".into())),
        Some(Value::Text(text)) => text.as_str(),
        // A number or a truth value is no text, so it asks for nothing but the key.
        Some(_) => "",
    };
    let target = leaf.text("scan_pattern").map(|suffix| format!("{}/*.{suffix}", quote(path)));
    let escaped = escape(key);
    if expected.is_empty() {
        let pattern = quote(&format!("^\\s*{escaped}\\s*$"));
        let command = match target {
            Some(target) => format!("grep -rqE {pattern} {target} 2>/dev/null"),
            None => format!("grep -qE {pattern} {} 2>/dev/null", quote(path)),
        };
        return by_exit(command, format!("{path} has {key}"), format!("{path} has no line {key}"));
    }
    let delimiter = optional(leaf, "delimiter", "=");
    let pattern = quote(&match delimiter {
        " " => format!("^\\s*{escaped}\\s+"),
        other => format!("^\\s*{escaped}\\s*[{other}:]\\s*"),
    });
    let (command, drop_ins) = match (leaf.text("dropin_dir"), target) {
        (Some(dir), _) => {
            (format!("grep -E {pattern} {} {}/*.conf 2>/dev/null", quote(path), quote(dir)), true)
        }
        (None, Some(target)) => (format!("grep -rE {pattern} {target} 2>/dev/null"), false),
        (None, None) => (format!("grep -E {pattern} {} 2>/dev/null", quote(path)), false),
    };
    let setting = Setting { key: key.into(), delimiter: delimiter.into() };
    let (path, expected) = (path.to_owned(), expected.to_owned());
    let comparator = optional(leaf, "comparator", "==").to_owned();
    one(Step::whole(command), move |seen| {
        let line = match drop_ins {
            // A drop-in directory without files makes grep complain though the base file has the line.
            true => seen.stdout.lines().rfind(|line| !line.trim().is_empty()),
            false if seen.exit == 0 => seen.stdout.lines().next(),
            false => None,
        };
        let key = &setting.key;
        let Some(value) = line.and_then(|line| setting.value(line)) else {
            return Verdict::fail(format!("{path} does not set {key}, wanted {comparator} {expected}"));
        };
        let detail = format!("{path} sets {key} to {value}, wanted {comparator} {expected}");
        Verdict::pass_if(holds(value, &expected, &comparator, true), detail).actual(value)
    })
}

struct Setting {
    key: String,
    delimiter: String,
}

impl Setting {
    /// The value in a line of grep's output.
    fn value<'l>(&self, line: &'l str) -> Option<&'l str> {
        // Before the first colon a path is the name of the file.
        let line = match line.split_once(':') {
            Some((file, rest)) if file.contains('/') => rest,
            _ => line,
        };
        if self.delimiter == " " {
            let line = line.trim_start();
            let value = line.strip_prefix(&self.key).unwrap_or(line).trim();
            return Some(value).filter(|value| !value.is_empty());
        }
        let parts = line.split_once(&self.delimiter).or_else(|| line.split_once(':'));
        parts.map(|(_, value)| value.trim())
    }
}

/// A key as an extended regular expression that means only itself.
fn escape(key: &str) -> String {
    let mut out = String::new();
    for c in key.chars() {
        if "\\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::testing::{commands, judge, status, stop};
    use super::*;

    fn ask(params: &str, answer: (i32, &str)) -> char {
        status(&format!("method: config_value, path: /etc/x.conf, {params}"), &[answer])
    }

    #[test]
    fn pinned_values() {
        let root = "key: PermitRootLogin, expected: 'no'";
        assert_eq!(ask(root, (0, "PermitRootLogin = no\n")), 'p');
        assert_eq!(ask(root, (0, "PermitRootLogin = NO\n")), 'p');
        assert_eq!(ask(root, (0, "PermitRootLogin = yes\n")), 'f');
        assert_eq!(ask(root, (1, "")), 'f');
        assert_eq!(ask(root, (0, "PermitRootLogin: no\n")), 'p');
        assert_eq!(ask(root, (0, "PermitRootLogin = no\nPermitRootLogin = yes\n")), 'p');
        let difok = "key: difok, expected: '8', comparator: '>=', dropin_dir: /etc/x.conf.d";
        assert_eq!(ask(difok, (0, "/etc/x.conf.d/50.conf:difok = 8\n")), 'p');
        assert_eq!(ask(difok, (0, "/etc/x.conf:difok = 8\n/etc/x.conf.d/99-z.conf:difok = 2\n\n")), 'f');
        assert_eq!(ask(difok, (2, "/etc/x.conf:difok = 8\n")), 'p');
        assert_eq!(ask(difok, (2, "")), 'f');
    }

    #[test]
    fn blanks_separate_as_they_like() {
        let days = "key: PASS_MAX_DAYS, delimiter: ' ', expected: '365', comparator: '<='";
        for (line, expected) in [
            ("PASS_MAX_DAYS 60", 'p'),
            ("PASS_MAX_DAYS 99999", 'f'),
            ("PASS_MAX_DAYS 365", 'p'),
            ("PASS_MAX_DAYS   30", 'p'),
            ("PASS_MAX_DAYS\t90", 'p'),
            ("PASS_MAX_DAYS ", 'f'),
        ] {
            assert_eq!(ask(days, (0, line)), expected, "{line:?}");
        }
        assert_eq!(ask(days, (1, "")), 'f');
        for (key, expected, comparator, line, verdict) in [
            ("PASS_WARN_AGE", "7", "==", "PASS_WARN_AGE   7", 'p'),
            ("PASS_WARN_AGE", "7", "==", "PASS_WARN_AGE\t7", 'p'),
            ("UMASK", "077", "==", "UMASK 077", 'p'),
            ("UMASK", "077", "==", "UMASK 022", 'f'),
            ("SHA_CRYPT_MIN_ROUNDS", "5000", ">=", "SHA_CRYPT_MIN_ROUNDS 10000", 'p'),
            ("SHA_CRYPT_MIN_ROUNDS", "5000", ">=", "SHA_CRYPT_MIN_ROUNDS 1000", 'f'),
            ("SHA_CRYPT_MIN_ROUNDS", "5000", ">=", "SHA_CRYPT_MIN_ROUNDS 5000", 'p'),
            ("$FileCreateMode", "0640", "==", "$FileCreateMode 0640", 'p'),
            ("* hard core", "0", "==", "* hard core 0", 'p'),
            ("net.ipv4.tcp_syncookies", "1", "==", "  net.ipv4.tcp_syncookies 1", 'p'),
        ] {
            let params =
                format!("key: '{key}', delimiter: ' ', expected: '{expected}', comparator: '{comparator}'");
            assert_eq!(ask(&params, (0, line)), verdict, "{line}");
        }
    }

    #[test]
    fn keys_mean_only_themselves() {
        let with =
            |params: &str| commands(&format!("method: config_value, path: /etc/x, expected: '1', {params}"));
        assert_eq!(with("key: a.c, delimiter: ' '"), ["grep -E '^\\s*a\\.c\\s+' '/etc/x' 2>/dev/null"]);
        assert_eq!(with("key: '* hard'"), ["grep -E '^\\s*\\* hard\\s*[=:]\\s*' '/etc/x' 2>/dev/null"]);
        assert_eq!(
            with("key: a, dropin_dir: /d, scan_pattern: y"),
            ["grep -E '^\\s*a\\s*[=:]\\s*' '/etc/x' '/d'/*.conf 2>/dev/null"]
        );
        assert_eq!(
            with("key: a, scan_pattern: conf"),
            ["grep -rE '^\\s*a\\s*[=:]\\s*' '/etc/x'/*.conf 2>/dev/null"]
        );
        assert_eq!(escape("a(b)|c[d]{e}^f$g+h?i\\"), "a\\(b\\)\\|c\\[d\\]\\{e\\}\\^f\\$g\\+h\\?i\\\\");
    }

    #[test]
    fn a_bare_key_is_asked_of_grep() {
        for expected in ["''", "5", "true"] {
            let check = format!("method: config_value, path: /etc/x, key: audit, expected: {expected}");
            assert_eq!(commands(&check), ["grep -qE '^\\s*audit\\s*$' '/etc/x' 2>/dev/null"]);
            assert_eq!((status(&check, &[(0, "")]), status(&check, &[(1, "")])), ('p', 'f'));
        }
        for bad in ["key: k", "expected: e", "key: 1, expected: e"] {
            assert!(
                matches!(stop(&format!("method: config_value, path: /x, {bad}")), Stop::Broken(_)),
                "{bad}"
            );
        }
    }

    #[test]
    fn file_names_are_cut_off_in_every_mode() {
        assert_eq!(ask("key: a, expected: 'b'", (0, "a = /x:b\n")), 'f');
        assert_eq!(ask("key: a, expected: 'c:d'", (0, "a = c:d\n")), 'p');
        let verdict = judge(
            "method: config_value, path: /d, scan_pattern: conf, key: a, expected: b",
            &[(0, "/d/1.conf:a=b")],
        );
        assert_eq!(verdict.actual.as_deref(), Some("b"));
    }
}
