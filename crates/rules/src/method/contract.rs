//! Which parameters each method knows: the closed world that lint holds rules to.

/// One method's parameters.
pub(crate) struct Contract {
    pub(crate) method: &'static str,
    /// Must be there.
    pub(crate) required: &'static [&'static str],
    /// At least one of these must be there; empty: no such demand.
    pub(crate) one_of: &'static [&'static str],
    /// May be there.
    pub(crate) optional: &'static [&'static str],
    /// Parameters that know only these words.
    pub(crate) words: &'static [(&'static str, &'static [&'static str])],
}

const fn contract(method: &'static str, required: &'static [&'static str]) -> Contract {
    Contract { method, required, one_of: &[], optional: &[], words: &[] }
}

const COMPARATORS: &[&str] = &["==", "!=", "<", "<=", ">", ">="];

/// Every method.
pub(crate) const CONTRACTS: [Contract; 26] = [
    Contract {
        one_of: &["cmd", "run"],
        optional: &["expected_exit", "expected_output", "expected_stdout", "not_assessable_exit"],
        ..contract("command", &[])
    },
    Contract {
        optional: &["state"],
        words: &[("state", &["absent", "present"])],
        ..contract("package_state", &["name"])
    },
    contract("package_installed", &["name"]),
    contract("package_absent", &["name"]),
    contract("dpkg_installed", &["name"]),
    contract("dpkg_absent", &["name"]),
    contract("audit_rule_exists", &["rule"]),
    Contract {
        optional: &["delimiter", "comparator", "scan_pattern", "dropin_dir"],
        words: &[("comparator", COMPARATORS)],
        ..contract("config_value", &["path", "key", "expected"])
    },
    contract("sshd_effective_config", &["key", "expected"]),
    Contract { one_of: &["enabled", "active"], ..contract("service_state", &["name"]) },
    contract("service_enabled", &["name"]),
    contract("service_active", &["name"]),
    Contract { one_of: &["mode", "owner", "group"], ..contract("file_permission", &["path"]) },
    Contract { one_of: &["mode", "owner", "group"], ..contract("file_permissions", &["path"]) },
    contract("file_exists", &["path"]),
    contract("file_absent", &["path"]),
    contract("file_content", &["path", "expected_content"]),
    contract("file_content_match", &["path", "pattern"]),
    Contract {
        optional: &["comparator"],
        words: &[("comparator", COMPARATORS)],
        ..contract("sysctl_value", &["key", "expected"])
    },
    contract("mount_option", &["mount_point", "options"]),
    Contract {
        optional: &["state"],
        words: &[("state", &["blacklisted", "disabled"])],
        ..contract("kernel_module_state", &["name"])
    },
    contract("grub_parameter", &["key", "expected"]),
    Contract {
        optional: &["alias_separator"],
        ..contract("set_compare", &["observed_command", "authorized"])
    },
    Contract { one_of: &["expected", "not_expected"], ..contract("systemd_target", &[]) },
    contract("selinux_state", &["state"]),
    Contract {
        optional: &["state"],
        words: &[("state", &["enforcing", "loaded"])],
        ..contract("apparmor_state", &[])
    },
];

impl Contract {
    pub(crate) fn of(method: &str) -> Option<&'static Contract> {
        CONTRACTS.iter().find(|contract| contract.method == method)
    }

    /// Every parameter it reads.
    pub(crate) fn params(&self) -> impl Iterator<Item = &'static str> {
        [self.required, self.one_of, self.optional].into_iter().flatten().copied()
    }

    pub(crate) fn knows(&self, param: &str) -> bool {
        self.params().any(|name| name == param)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Stop, compile, testing};
    use super::*;

    #[test]
    fn every_contract_has_a_method_and_wants_its_parameters() {
        for contract in &CONTRACTS {
            let bare = compile(&testing::leaf(&format!("method: {}", contract.method)));
            match bare {
                Ok(_) => assert!(contract.required.is_empty(), "{}", contract.method),
                Err(Stop::Broken(why)) => assert!(!why.contains("no method"), "{why}"),
                Err(other) => panic!("{other:?}"),
            }
        }
        assert!(matches!(testing::stop("method: nonsense"), Stop::Broken(why) if why.contains("nonsense")));
        assert!(matches!(testing::stop("cmd: x"), Stop::Broken(_)));
    }
}
