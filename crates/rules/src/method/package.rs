//! Installed or absent packages, whichever database the host has. One query serves every package.

use super::package_query::is_plain;
use super::{Ready, Step, Stop, Verdict, View, one, required};
use crate::rule::Leaf;
use crate::shell::quote;

pub(super) fn state(leaf: &Leaf) -> Result<Ready, Stop> {
    required(leaf, "name")?;
    if leaf.text("state") == Some("absent") { absent(leaf) } else { installed(leaf) }
}

pub(super) fn installed(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?;
    let quoted = quote(name);
    let either =
        format!("rpm -q {quoted} >/dev/null 2>&1 || (command -v dpkg >/dev/null 2>&1 && {})", dpkg(name));
    either_database(name, true, either)
}

pub(super) fn absent(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?;
    let quoted = quote(name);
    let neither =
        format!("! rpm -q {quoted} >/dev/null 2>&1 && ! (command -v dpkg >/dev/null 2>&1 && {})", dpkg(name));
    either_database(name, false, neither)
}

fn either_database(name: &str, wanted: bool, command: String) -> Result<Ready, Stop> {
    // A wildcard or an architecture means something else to each database: then its own command is run.
    let view = if is_plain(name) { View::Package { name: name.to_owned(), wanted } } else { View::Whole };
    let name = name.to_owned();
    one(Step { command, view }, move |seen| {
        let found = if (seen.exit == 0) == wanted { "is" } else { "is not" };
        let want = if wanted { "present" } else { "absent" };
        Verdict::pass_if(seen.exit == 0, format!("{name} {found} installed, wanted {want}"))
    })
}

pub(super) fn dpkg_installed(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?;
    super::by_exit(dpkg(name), format!("{name} is installed"), format!("{name} is not installed"))
}

pub(super) fn dpkg_absent(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?.to_owned();
    one(Step::whole(dpkg(&name)), move |seen| {
        let found = if seen.exit == 0 { "is" } else { "is not" };
        Verdict::pass_if(seen.exit != 0, format!("{name} {found} installed, wanted absent"))
    })
}

fn dpkg(name: &str) -> String {
    format!("dpkg -l {} 2>/dev/null | grep -q '^ii'", quote(name))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{ready, status, stop};
    use super::*;

    #[test]
    fn verdicts_follow_the_exit_status() {
        for (method, on_zero, on_one) in [
            ("package_state, name: 'x*'", 'p', 'f'),
            ("package_state, name: 'x*', state: present", 'p', 'f'),
            ("package_state, name: 'x*', state: installed", 'p', 'f'),
            ("package_state, name: 'x*', state: absent", 'p', 'f'),
            ("package_installed, name: 'x*'", 'p', 'f'),
            ("package_absent, name: 'x*'", 'p', 'f'),
            ("dpkg_installed, name: x", 'p', 'f'),
            ("dpkg_absent, name: x", 'f', 'p'),
        ] {
            let check = format!("method: {method}");
            assert_eq!(status(&check, &[(0, "")]), on_zero, "{method}");
            assert_eq!(status(&check, &[(1, "")]), on_one, "{method}");
        }
        assert!(matches!(stop("method: package_state, state: absent"), Stop::Broken(_)));
    }

    #[test]
    fn a_plain_name_is_read_out_of_one_query() {
        for (method, there, not) in [
            ("package_state, name: x", 'p', 'f'),
            ("package_state, name: x, state: absent", 'f', 'p'),
            ("package_installed, name: x", 'p', 'f'),
            ("package_absent, name: x", 'f', 'p'),
        ] {
            let check = format!("method: {method}");
            assert_eq!(status(&check, &[(0, "w\nx\n.\n")]), there, "{method}");
            assert_eq!(status(&check, &[(0, "xx\n.\n")]), not, "{method}");
            assert_eq!(status(&check, &[(0, "w\n")]), 'e', "{method}: the query did not end");
            assert!(matches!(ready(&check).steps[0].view, View::Package { .. }));
        }
        for odd in ["xorg-x11-server*", "libc6:amd64", "-v", "a b", "a/b", "'", ".x", "\u{e9}"] {
            assert!(!is_plain(odd), "{odd}");
        }
        assert!(is_plain("xorg-x11-server-Xorg") && is_plain("gtk2.0_x~1+2"));
    }
}
