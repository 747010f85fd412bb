//! Places where asking a file is weaker than asking the system, and scripts that cannot say no.

use super::{Report, script};
use crate::rule::{Check, Implementation, Leaf, Rule, Value};

pub(super) fn check(rule: &Rule, report: &mut Report<'_>) {
    let reads_drop_ins = rule.implementations.iter().any(|i| is_gated_on(i, "sshd_config_d"));
    for implementation in &rule.implementations {
        for leaf in implementation.check.iter().flat_map(Check::leaves) {
            check_file(leaf, implementation, reads_drop_ins, report);
            if let Some(text) =
                leaf.text("cmd").or_else(|| leaf.text("run")).filter(|_| leaf.method == "command")
            {
                check_script(leaf, text, report);
            }
        }
    }
}

fn check_file(leaf: &Leaf, implementation: &Implementation, reads_drop_ins: bool, report: &mut Report<'_>) {
    let path = leaf.text("path").unwrap_or_default();
    let at = leaf.place("path");
    let value = leaf.method == "config_value";
    let pattern = leaf.method == "file_content_match";
    if value && path == "/etc/ssh/sshd_config" && !reads_drop_ins {
        report.advice(
            at,
            "W001",
            "sshd also reads drop-in files",
            "use sshd_effective_config, or gate on sshd_config_d",
        );
    }
    if value && (path == "/etc/sysctl.conf" || path.starts_with("/etc/sysctl.d/")) {
        report.advice(at, "W002", "one sysctl file does not say what the kernel has", "use sysctl_value");
    }
    if (value || pattern) && path.starts_with("/etc/pam.d/") && !is_gated_on(implementation, "authselect") {
        report.advice(
            at,
            "W003",
            "authselect rewrites the files of PAM",
            "add an implementation gated on authselect",
        );
    }
    if pattern && path == "/etc/fstab" {
        report.advice(at, "W004", "fstab does not say what is mounted", "use mount_option");
    }
    if value && path == "/etc/selinux/config" {
        report.advice(at, "W005", "the file does not say what SELinux does now", "use selinux_state");
    }
}

/// Whether it is only ever chosen where this capability is; the gate of a default is not looked at.
fn is_gated_on(implementation: &Implementation, capability: &str) -> bool {
    !implementation.default && implementation.when.demands(capability)
}

fn check_script(leaf: &Leaf, text: &str, report: &mut Report<'_>) {
    let at = if leaf.text("cmd").is_some() { leaf.place("cmd") } else { leaf.place("run") };
    if script::status_after_compound(text) {
        let message = "$? after fi, done or esac is the status of the compound, not of a command in it";
        report.advice(at, "W101", message, "keep the status in a variable where it arises");
    }
    let asks_output =
        leaf.params.contains_key("expected_output") || leaf.params.contains_key("expected_stdout");
    let wants_zero = leaf.params.get("expected_exit").and_then(Value::int).unwrap_or(0) == 0;
    if !asks_output && wants_zero && script::only_exits_zero(text) {
        let message = "the script can only exit 0 and its output is not looked at, so the check cannot fail";
        report.advice(at, "W102", message, "exit with another status on a finding, or set expected_output");
    }
}
