//! The variables every corpus may rely on, with the values that rules were written against.

use super::VariableKind::{self, Integer, List, Text};

/// A variable with a built-in default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Name as rules write it.
    pub name: &'static str,
    /// What a value has to look like.
    pub kind: VariableKind,
    /// Used when nobody says otherwise. Empty lists mean "nobody has declared this yet".
    pub default: &'static str,
}

/// All built-in variables.
pub fn builtin_variables() -> &'static [Builtin] {
    BUILTIN
}

const fn v(name: &'static str, kind: VariableKind, default: &'static str) -> Builtin {
    Builtin { name, kind, default }
}

const BUILTIN: &[Builtin] = &[
    v("authorized_local_accounts", List, ""),
    v("authorized_listening_ports", List, ""),
    v("authorized_service_accounts", List, ""),
    v("authorized_services", List, ""),
    v("suid_sgid_baseline", List, ""),
    v("authorized_network_protocols", List, ""),
    v("authorized_privileged_users", List, ""),
    v("flaw_remediation_max_days", Text, ""),
    v(
        "antimalware_services",
        Text,
        "clamav-daemon clamd@scan clamd mcafeed ds_agent falcon-sensor sophos-spl",
    ),
    v("antimalware_updater_services", Text, "clamav-freshclam freshclam clamav-update"),
    v("antimalware_onaccess_services", Text, "clamav-clamonacc clamonacc"),
    v("antimalware_scan_units", Text, "clamav-clamdscan.timer clamdscan.timer clamav-daily-scan.timer"),
    v("antimalware_scan_cron_match", Text, "clamscan"),
    v("pam_pwquality_minlen", Integer, "15"),
    v("pam_pwquality_minclass", Integer, "4"),
    v("pam_pwquality_difok", Integer, "8"),
    v("pam_pwquality_maxrepeat", Integer, "3"),
    v("pam_pwquality_maxsequence", Integer, "3"),
    v("pam_pwquality_maxclassrepeat", Integer, "4"),
    v("pam_pwquality_dcredit", Integer, "-1"),
    v("pam_pwquality_ucredit", Integer, "-1"),
    v("pam_pwquality_lcredit", Integer, "-1"),
    v("pam_pwquality_ocredit", Integer, "-1"),
    v("gdm_idle_delay_seconds", Integer, "900"),
    v("gdm_lock_delay_seconds", Integer, "5"),
    v("logind_idle_timeout_seconds", Integer, "600"),
    v("shell_idle_timeout_seconds", Integer, "600"),
    v("pam_faildelay_microseconds", Integer, "4000000"),
    v("root_umask", Text, "027"),
    v("audit_log_partition_min_kb", Integer, "10485760"),
    v("pam_faillock_deny", Integer, "3"),
    v("pam_faillock_fail_interval", Integer, "900"),
    v("pam_faillock_unlock_time", Integer, "0"),
    v("login_defs_pass_max_days", Integer, "60"),
    v("login_defs_pass_min_days", Integer, "1"),
    v("account_inactive_days", Integer, "35"),
    v("login_defs_pass_warn_age", Integer, "7"),
    v("login_defs_umask", Text, "077"),
    v("shadow_crypt_min_rounds", Integer, "100000"),
    v("password_remember", Integer, "5"),
    v("banner_text", Text, "Authorized uses only. All activity may be monitored and reported.\n"),
    v("rsyslog_remote_server", Text, "logserver.example.com:514"),
    v("chrony_ntp_pool", Text, "2.rhel.pool.ntp.org iburst"),
    v("ssh_client_alive_interval", Integer, "600"),
    v("ssh_client_alive_count_max", Integer, "1"),
    v("ssh_max_auth_tries", Integer, "4"),
    v("ssh_max_sessions", Integer, "10"),
    v("ssh_login_grace_time", Integer, "60"),
    v(
        "ssh_approved_ciphers",
        Text,
        "aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes192-ctr,aes128-ctr",
    ),
    v(
        "ssh_approved_kex",
        Text,
        "curve25519-sha256,curve25519-sha256@libssh.org,diffie-hellman-group-exchange-sha256,\
         diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,\
         ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,sntrup761x25519-sha512@openssh.com",
    ),
    v(
        "ssh_approved_macs",
        Text,
        "hmac-sha2-256,hmac-sha2-512,hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com",
    ),
];
