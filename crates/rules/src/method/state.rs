//! States of the whole system: SELinux, AppArmor, the default target.

use openwatch_model::Status;

use super::compare::same_word;
use super::{Ready, Step, Stop, Verdict, by_exit, one, optional, required};
use crate::rule::Leaf;

pub(super) fn selinux(leaf: &Leaf) -> Result<Ready, Stop> {
    let wanted = required(leaf, "state")?.to_owned();
    one(Step::whole("getenforce 2>/dev/null"), move |seen| {
        let found = seen.trimmed();
        let shown = if found.is_empty() { "unknown" } else { found };
        Verdict::pass_if(same_word(found, &wanted), format!("SELinux is {shown}, wanted {wanted}"))
            .actual(found)
    })
}

pub(super) fn target(leaf: &Leaf) -> Result<Ready, Stop> {
    let expected = leaf.text("expected").map(str::to_owned);
    let not_expected = leaf.text("not_expected").map(str::to_owned);
    one(Step::whole("systemctl get-default 2>/dev/null"), move |seen| {
        let found = seen.trimmed();
        match (&expected, &not_expected) {
            (Some(wanted), _) => Verdict::pass_if(
                same_word(found, wanted),
                format!("the default target is {found}, wanted {wanted}"),
            )
            .actual(found),
            (None, Some(unwanted)) => {
                let detail = format!("the default target is {found}, anything but {unwanted} wanted");
                Verdict::pass_if(!same_word(found, unwanted), detail).actual(found)
            }
            (None, None) => {
                let detail = "systemd_target wants expected or not_expected".into();
                Verdict { status: Status::Error, detail, actual: None }
            }
        }
    })
}

pub(super) fn apparmor(leaf: &Leaf) -> Result<Ready, Stop> {
    const LOADED: &str = "aa-status 2>/dev/null | grep -q 'apparmor module is loaded'";
    let command = match optional(leaf, "state", "enforcing") {
        "loaded" => LOADED.to_owned(),
        "enforcing" => format!(
            "{LOADED} && [ \"$(wc -l </sys/kernel/security/apparmor/profiles 2>/dev/null || echo 0)\" -gt 0 ]"
        ),
        other => {
            return Err(Stop::Broken(format!("apparmor_state knows enforcing and loaded, not {other:?}")));
        }
    };
    by_exit(command, "AppArmor is loaded".into(), "AppArmor is not loaded, or has no profiles".into())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{status, stop};
    use super::*;

    #[test]
    fn states() {
        assert_eq!(status("method: selinux_state, state: Enforcing", &[(0, "enforcing\n")]), 'p');
        assert_eq!(status("method: selinux_state, state: Enforcing", &[(0, "Permissive\n")]), 'f');
        assert_eq!(status("method: selinux_state, state: Enforcing", &[(127, "")]), 'f');
        let target =
            |param: &str, found: &str| status(&format!("method: systemd_target{param}"), &[(1, found)]);
        assert_eq!(target(", expected: multi-user.target", "Multi-User.target\n"), 'p');
        assert_eq!(target(", expected: multi-user.target, not_expected: x", "x"), 'f');
        assert_eq!(target(", not_expected: graphical.target", "graphical.target"), 'f');
        assert_eq!(target(", not_expected: graphical.target", ""), 'p');
        assert_eq!(target("", "x"), 'e');
        for (state, exit, expected) in
            [("", 0, 'p'), (", state: loaded", 1, 'f'), (", state: enforcing", 0, 'p')]
        {
            assert_eq!(status(&format!("method: apparmor_state{state}"), &[(exit, "")]), expected);
        }
        assert!(matches!(stop("method: apparmor_state, state: complain"), Stop::Broken(_)));
    }
}
