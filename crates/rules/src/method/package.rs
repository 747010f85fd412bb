//! Installed or absent packages, whichever database the host has.

use super::{Ready, Step, Stop, Verdict, by_exit, one, required};
use crate::rule::Leaf;
use crate::shell::quote;

pub(super) fn state(leaf: &Leaf) -> Result<Ready, Stop> {
    required(leaf, "name")?;
    if leaf.text("state") == Some("absent") { absent(leaf) } else { installed(leaf) }
}

pub(super) fn installed(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?;
    by_exit(either_database(name), format!("{name} is installed"), format!("{name} is not installed"))
}

pub(super) fn absent(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?;
    let quoted = quote(name);
    let neither =
        format!("! rpm -q {quoted} >/dev/null 2>&1 && ! (command -v dpkg >/dev/null 2>&1 && {})", dpkg(name));
    by_exit(
        neither,
        format!("{name} is not installed, as wanted"),
        format!("{name} is installed, wanted absent"),
    )
}

pub(super) fn dpkg_installed(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?;
    by_exit(dpkg(name), format!("{name} is installed"), format!("{name} is not installed"))
}

pub(super) fn dpkg_absent(leaf: &Leaf) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?.to_owned();
    one(Step::whole(dpkg(&name)), move |seen| {
        let found = if seen.exit == 0 { "is" } else { "is not" };
        Verdict::pass_if(seen.exit != 0, format!("{name} {found} installed, wanted absent"))
    })
}

fn either_database(name: &str) -> String {
    let quoted = quote(name);
    format!("rpm -q {quoted} >/dev/null 2>&1 || (command -v dpkg >/dev/null 2>&1 && {})", dpkg(name))
}

fn dpkg(name: &str) -> String {
    format!("dpkg -l {} 2>/dev/null | grep -q '^ii'", quote(name))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{status, stop};
    use super::*;

    #[test]
    fn verdicts_follow_the_exit_status() {
        for (method, on_zero, on_one) in [
            ("package_state", 'p', 'f'),
            ("package_state, state: present", 'p', 'f'),
            ("package_state, state: installed", 'p', 'f'),
            ("package_state, state: absent", 'p', 'f'),
            ("package_installed", 'p', 'f'),
            ("package_absent", 'p', 'f'),
            ("dpkg_installed", 'p', 'f'),
            ("dpkg_absent", 'f', 'p'),
        ] {
            let check = format!("name: x, method: {method}");
            assert_eq!(status(&check, &[(0, "")]), on_zero, "{method}");
            assert_eq!(status(&check, &[(1, "")]), on_one, "{method}");
        }
        assert!(matches!(stop("method: package_state, state: absent"), Stop::Broken(_)));
    }
}
