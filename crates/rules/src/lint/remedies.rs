//! Remediations against what each mechanism reads. No scan runs one, but whoever does would not do what is written.

use super::Report;
use crate::nearest::nearest;
use crate::rule::{Leaf, Rule, Value};

/// Mechanisms that cannot be undone as a whole.
const NOT_UNDOABLE: [&str; 4] = ["command_exec", "manual", "grub_parameter_set", "grub_parameter_remove"];

/// What any step may say: when it is not needed, and what has to notice it.
const ANY_STEP: [&str; 4] = ["unless", "reload", "restart", "notify"];

/// What stands between a key and its value in the files that are written.
const SEPARATORS: [&str; 3] = ["=", " = ", " "];

/// Every mechanism, with what it reads beside [`ANY_STEP`].
const MECHANISMS: [(&str, &[&str]); 31] = [
    ("apt_absent", &["name"]),
    ("apt_present", &["name"]),
    ("audit_rule_set", &["rule", "persist_file"]),
    ("authselect_feature_enable", &["feature"]),
    ("command_exec", &["run"]),
    ("config_append", &["path", "line"]),
    ("config_block", &["path", "block", "marker"]),
    ("config_remove", &["path", "key"]),
    ("config_set", &["path", "key", "value", "separator"]),
    ("config_set_dropin", &["dir", "file", "key", "value", "separator", "section"]),
    ("cron_job", &["name", "schedule", "command", "user", "path", "content"]),
    ("crypto_policy_set", &["policy"]),
    ("crypto_policy_subpolicy", &["subpolicy"]),
    ("dconf_set", &["schema", "key", "value", "value_type", "file", "db", "lock"]),
    ("file_absent", &["path"]),
    ("file_content", &["path", "content", "owner", "group", "mode"]),
    ("file_permissions", FILE_PERMISSIONS),
    ("grub_parameter_remove", &["key"]),
    ("grub_parameter_set", &["key", "value"]),
    ("kernel_module_disable", &["name"]),
    ("manual", &["note"]),
    ("mount_option_set", &["mount_point", "options"]),
    ("package_absent", &["name"]),
    ("package_present", &["name"]),
    ("pam_module_arg", &["action", "module", "arg", "type", "files"]),
    ("pam_module_configure", &["service", "module", "type", "control", "args"]),
    ("selinux_boolean_set", &["name", "value", "persistent"]),
    ("service_disabled", &["name", "stop"]),
    ("service_enabled", &["name", "start"]),
    ("service_masked", &["name", "stop"]),
    ("sysctl_set", &["key", "value", "persist_file"]),
];

const FILE_PERMISSIONS: &[&str] = &[
    "path",
    "owner",
    "group",
    "mode",
    "selinux_context",
    "glob",
    "find_paths",
    "find_type",
    "find_name",
    "find_args",
];

pub(super) fn check(rule: &Rule, report: &mut Report<'_>) {
    for step in rule.implementations.iter().flat_map(|implementation| &implementation.remedies) {
        let mechanism = step.method.as_str();
        if rule.transactional && NOT_UNDOABLE.contains(&mechanism) {
            let message = format!("{mechanism} cannot be undone, yet the rule is transactional");
            report.error(step.place("mechanism"), "E005", message, "say transactional: false");
        }
        check_names(step, report);
        check_separator(step, report);
    }
}

fn check_names(step: &Leaf, report: &mut Report<'_>) {
    let mechanism = step.method.as_str();
    let Some((_, params)) = MECHANISMS.iter().find(|(name, _)| *name == mechanism) else {
        let known = MECHANISMS.iter().map(|(name, _)| *name);
        let hint = match nearest(mechanism, known.clone()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", known.collect::<Vec<_>>().join(", ")),
        };
        report.error(step.place("mechanism"), "E009", format!("there is no mechanism {mechanism:?}"), &hint);
        return;
    };
    let known = params.iter().chain(&ANY_STEP).copied();
    for name in step.params.keys().filter(|name| !known.clone().any(|known| known == *name)) {
        let hint = match nearest(name, known.clone()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("it reads {}", known.clone().collect::<Vec<_>>().join(", ")),
        };
        report.error(step.place(name), "E009", format!("{mechanism} does not read {name}"), &hint);
    }
}

fn check_separator(step: &Leaf, report: &mut Report<'_>) {
    let Some(value) = step.params.get("separator") else { return };
    if !matches!(value, Value::Text(text) if SEPARATORS.contains(&text.as_str())) {
        let hint = "one of \"=\", \" = \" and \" \", quoted";
        report.error(step.place("separator"), "E011", "separator does not know this value", hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mechanisms_are_named_once_and_in_order() {
        assert!(MECHANISMS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(NOT_UNDOABLE.iter().all(|name| MECHANISMS.iter().any(|(known, _)| known == name)));
    }
}
