//! The 39 capability probes: one command each, true exactly when it exits 0.

/// Name and script of each probe, by name.
pub(crate) const PROBES: [(&str, &str); 39] = [
    ("aide", "command -v aide"),
    ("apparmor", "aa-status 2>/dev/null | grep -q 'apparmor module is loaded'"),
    ("apt", "command -v apt-get"),
    ("apt_unattended_upgrades", "dpkg -l unattended-upgrades 2>/dev/null | grep -q '^ii'"),
    ("at", "command -v at"),
    ("auditd", "systemctl is-active auditd"),
    ("authselect", "command -v authselect"),
    ("chronyd", "systemctl list-unit-files chronyd.service 2>/dev/null | grep -qF chronyd.service"),
    ("coredump_systemd", "systemctl list-unit-files systemd-coredump.socket 2>/dev/null | grep -qF coredump"),
    (
        "cron",
        "systemctl list-unit-files crond.service 2>/dev/null | grep -qF crond.service || \
         systemctl list-unit-files cron.service 2>/dev/null | grep -qF cron.service",
    ),
    ("crypto_policies", "command -v update-crypto-policies"),
    ("dconf", "command -v dconf"),
    (
        "directory_joined",
        "s=/etc/nsswitch.conf\n\
         if realm list 2>/dev/null | grep -q 'domain-name:'; then exit 0; fi\n\
         if grep -Eq '^[[:space:]]*passwd:.*(ldap|winbind)' \"$s\" 2>/dev/null; then exit 0; fi\n\
         if grep -Eq '^[[:space:]]*passwd:.*sss' \"$s\" 2>/dev/null; then\n\
         if cat /etc/sssd/sssd.conf /etc/sssd/conf.d/*.conf 2>/dev/null | grep -Eq '^[[:space:]]*\\[domain/'; \
         then exit 0; fi\n\
         if systemctl is-active sssd >/dev/null 2>&1; then exit 0; fi\n\
         fi\n\
         systemctl is-active nslcd",
    ),
    (
        "dnf_automatic",
        "systemctl list-unit-files dnf-automatic.timer 2>/dev/null | grep -qF dnf-automatic.timer",
    ),
    ("dpkg", "command -v dpkg"),
    ("fapolicyd", "systemctl list-unit-files fapolicyd.service 2>/dev/null | grep -qF fapolicyd.service"),
    (
        "fips_mode",
        "fips-mode-setup --check 2>/dev/null | grep -q 'FIPS mode is enabled' || \
         [ \"$(cat /proc/sys/crypto/fips_enabled 2>/dev/null)\" = 1 ]",
    ),
    ("firewalld", "systemctl list-unit-files firewalld.service 2>/dev/null | grep -qF firewalld.service"),
    ("firewalld_nftables", "systemctl is-active firewalld && command -v nft"),
    (
        "gdm",
        "command -v gdm || command -v gdm3 || \
         systemctl list-unit-files 2>/dev/null | grep -Eiq 'gdm[0-9]*\\.service'",
    ),
    ("grub_bls", "[ -d /boot/loader/entries ]"),
    ("journald", "systemctl is-active systemd-journald"),
    ("nftables", "command -v nft"),
    ("nftables_active", "systemctl is-active nftables"),
    ("pam_faillock", "[ -f /etc/security/faillock.conf ]"),
    ("pam_pwquality", "[ -f /etc/security/pwquality.conf ]"),
    (
        "pam_tally2",
        "command -v pam_tally2 && exit 0\n\
         for d in /lib/security /lib/*/security /lib64/security /usr/lib/*/security /usr/lib64/security; do\n\
         [ -e \"$d/pam_tally2.so\" ] && exit 0\n\
         done\n\
         exit 1",
    ),
    ("rsyslog", "systemctl list-unit-files rsyslog.service 2>/dev/null | grep -qF rsyslog.service"),
    ("rsyslog_active", "systemctl is-active rsyslog"),
    ("selinux", "getenforce 2>/dev/null | grep -q Enforcing"),
    (
        "sshd_config_d",
        "[ -d /etc/ssh/sshd_config.d ] && \
         grep -Eiq '^[[:space:]]*include[[:space:]]+/etc/ssh/sshd_config\\.d' /etc/ssh/sshd_config",
    ),
    ("sssd", "systemctl list-unit-files sssd.service 2>/dev/null | grep -qF sssd.service"),
    (
        "sssd_configured",
        "[ -s /etc/sssd/sssd.conf ] && exit 0\n\
         for f in /etc/sssd/conf.d/*.conf; do [ -e \"$f\" ] && exit 0; done\n\
         systemctl is-active sssd",
    ),
    ("subscription_manager", "command -v subscription-manager"),
    (
        "systemd_dbus",
        "[ -S /run/dbus/system_bus_socket ] && [ -x /usr/libexec/kensa-systemd-helper ] && systemctl --version",
    ),
    ("systemd_resolved", "systemctl is-active systemd-resolved"),
    ("ubuntu_advantage", "command -v ua || command -v pro"),
    ("ufw", "systemctl list-unit-files ufw.service 2>/dev/null | grep -qF ufw.service"),
    ("usbguard", "systemctl list-unit-files usbguard.service 2>/dev/null | grep -qF usbguard.service"),
];

/// Every capability a gate can name.
pub fn capability_names() -> impl Iterator<Item = &'static str> {
    PROBES.iter().map(|(name, _)| *name)
}

pub(crate) fn is_known(name: &str) -> bool {
    PROBES.iter().any(|(known, _)| *known == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_scripts_are_shell() {
        let names: Vec<_> = capability_names().collect();
        assert!(names.windows(2).all(|pair| pair[0] < pair[1]), "sorted, so distinct");
        for (name, script) in PROBES {
            let status = std::process::Command::new("sh").args(["-n", "-c", script]).status().unwrap();
            assert!(status.success(), "{name}");
            assert!(!crate::shell::command(script).isolate, "{name}");
        }
    }
}
