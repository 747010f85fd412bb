//! Every method on a host in order, in disorder, and without what it asks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::host::Host;

/// Rule id, check, and the statuses in order, in disorder, and on a bare host.
const RULES: [(&str, &str, &str); 31] = [
    ("command", "method: command, cmd: 'test -s {etc}/conf'", "pass fail fail"),
    (
        "command-silent",
        "method: command, run: 'cat {etc}/bad 2>/dev/null; true', expected_stdout: ''",
        "pass fail pass",
    ),
    ("command-says", "method: command, run: 'cat {etc}/conf', expected_output: 'key = 5'", "pass fail fail"),
    ("package", "method: package_state, name: aide", "pass fail fail"),
    ("package-gone", "method: package_state, name: telnet, state: absent", "pass fail pass"),
    ("package-installed", "method: package_installed, name: aide", "pass fail fail"),
    ("package-absent", "method: package_absent, name: telnet", "pass fail pass"),
    ("package-wild", "method: package_state, name: 'tel*', state: absent", "pass fail pass"),
    ("dpkg-installed", "method: dpkg_installed, name: aide", "pass fail fail"),
    ("dpkg-absent", "method: dpkg_absent, name: telnet", "pass fail pass"),
    ("audit", "method: audit_rule_exists, rule: '-w /etc/group -p wa -k group'", "pass fail fail"),
    (
        "config",
        "method: config_value, path: '{etc}/conf', key: key, expected: '5', comparator: '>='",
        "pass fail fail",
    ),
    (
        "config-spaces",
        "method: config_value, path: '{etc}/conf', key: DAYS, delimiter: ' ', expected: '60'",
        "pass fail fail",
    ),
    (
        "config-drop-in",
        "method: config_value, path: '{etc}/conf', dropin_dir: '{etc}/d', key: key, expected: '5'",
        "pass fail fail",
    ),
    (
        "config-tree",
        "method: config_value, path: '{etc}/d', scan_pattern: conf, key: key, expected: '5'",
        "pass fail fail",
    ),
    ("config-bare", "method: config_value, path: '{etc}/conf', key: audit, expected: ''", "pass fail fail"),
    ("sshd", "method: sshd_effective_config, key: PermitRootLogin, expected: 'No'", "pass fail fail"),
    ("service-on", "method: service_state, name: auditd, enabled: true, active: true", "pass fail fail"),
    ("service-off", "method: service_state, name: telnet, enabled: false, active: false", "pass fail pass"),
    ("service-enabled", "method: service_enabled, name: auditd", "pass fail fail"),
    ("service-active", "method: service_active, name: auditd", "pass fail fail"),
    ("permission", "method: file_permission, path: '{etc}/conf', mode: '0640'", "pass fail fail"),
    ("permissions", "method: file_permissions, path: '{etc}/conf', mode: '00640'", "pass fail fail"),
    ("exists", "method: file_exists, path: '{etc}/conf'", "pass pass fail"),
    ("absent", "method: file_absent, path: '{etc}/bad'", "pass fail pass"),
    ("content", "method: file_content, path: '{etc}/conf', expected_content: 'key = 5'", "pass fail fail"),
    (
        "content-match",
        "method: file_content_match, path: '{etc}/conf', pattern: '^key\\s*=\\s*5$'",
        "pass fail fail",
    ),
    ("sysctl", "method: sysctl_value, key: kernel.x, expected: '2', comparator: '>='", "pass fail fail"),
    ("mount", "method: mount_option, mount_point: /x, options: [nodev, noexec]", "pass fail fail"),
    ("selinux", "method: selinux_state, state: enforcing", "pass fail fail"),
    ("target", "method: systemd_target, not_expected: graphical.target", "pass fail pass"),
];

/// The same for what asks two things, or may not be assessed.
const MORE: [(&str, &str, &str); 6] = [
    ("target-is", "method: systemd_target, expected: Multi-User.target", "pass fail fail"),
    ("module", "method: kernel_module_state, name: cramfs", "pass fail pass"),
    ("module-loaded", "method: kernel_module_state, name: hfs", "pass fail pass"),
    ("apparmor", "method: apparmor_state, state: loaded", "pass fail fail"),
    (
        "set",
        "method: set_compare, observed_command: 'cat {etc}/users', authorized: 'alice,bob'",
        "pass fail error",
    ),
    (
        "set-alias",
        "method: set_compare, observed_command: 'cat {etc}/users', authorized: '1,2', alias_separator: ':'",
        "fail fail error",
    ),
];

fn rules(host: &Host) {
    let etc = host.path("etc").display().to_string();
    for (id, check, _) in RULES.iter().chain(&MORE) {
        host.rule(id, "", &check.replace("{etc}", &etc));
    }
}

async fn expect(host: &Host, column: usize) {
    let report = host.check(&[]).await;
    let wanted: Vec<(&str, &str)> = RULES
        .iter()
        .chain(&MORE)
        .map(|(id, _, statuses)| (*id, statuses.split(' ').nth(column).unwrap()))
        .collect();
    report.says(&wanted);
    assert_eq!(report.outcomes.len(), wanted.len());
}

/// The databases of packages: which names each has.
fn packages(host: &Host, rpm: &str, dpkg: &str) {
    host.tool(
        "rpm",
        &format!(
            "[ \"$1\" = -q ] || exit 1; shift; e=0; for p; do case ' {rpm} ' in *\" $p \"*) echo \"$p-1-1.noarch\";; \
             *) echo \"package $p is not installed\"; e=$((e+1));; esac; done; exit $e"
        ),
    );
    host.tool(
        "dpkg",
        &format!(
            "[ \"$1\" = -l ] || exit 1; shift; e=1; for p; do for n in {dpkg}; do case $n in $p) echo \"ii  $n 1 all x\"; e=0;; esac; done; done; exit $e"
        ),
    );
}

fn in_order(host: &Host) {
    packages(host, "aide", "aide");
    host.says("auditctl", 0, "-w /etc/passwd -p wa -k group\n-w /etc/group -p wa -k group\n");
    host.says("sshd", 0, "port 22\npermitrootlogin no\n");
    host.tool(
        "systemctl",
        "case \"$1 $2\" in 'is-enabled auditd') echo static;; 'is-active auditd') echo active;; 'is-enabled telnet') echo static;; \
         'get-default '*) echo multi-user.target;; *) echo inactive; exit 3;; esac",
    );
    host.says("sysctl", 0, "3\n");
    host.says("findmnt", 0, "rw,nodev,noexec,size=1k\n");
    host.says("getenforce", 0, "Enforcing\n");
    host.says("lsmod", 0, "Module Size Used by\nhfsplus 1 0\n");
    host.says("modprobe", 0, "install /bin/false \n");
    host.says("aa-status", 0, "apparmor module is loaded.\n");
    let conf = host.file("conf", "# key = 1\nkey = 5\nDAYS\t 60\n  audit  \n");
    fs::set_permissions(conf, fs::Permissions::from_mode(0o640)).unwrap();
    host.file("d/10.conf", "key = 5\n");
    host.file("users", "alice:1\nbob:2\n\n");
}

// @spec rule-engine
// @ac AC-03
#[tokio::test]
async fn every_method_tells_order_from_disorder() {
    println!("@spec rule-engine");
    println!("@ac AC-03");
    let host = Host::new();
    rules(&host);
    in_order(&host);
    // The lines of users hold two names each, so only the one that takes them apart is content.
    for (id, check, _) in MORE.iter().filter(|(id, ..)| id.starts_with("set")) {
        let etc = host.path("etc").display().to_string();
        let check = check.replace("{etc}", &etc);
        let check =
            if *id == "set" { format!("{check}, alias_separator: ':'") } else { check.replace("1,2", "9") };
        host.rule(id, "", &check);
    }
    expect(&host, 0).await;

    packages(&host, "telnet", "telnet");
    host.says("auditctl", 0, "-w /etc/group -p w -k group\n");
    host.says("sshd", 0, "permitrootlogin yes\npermitrootlogin no\n");
    host.tool(
        "systemctl",
        "case \"$1 $2\" in 'is-enabled auditd') echo indirect;; 'is-enabled telnet') echo enabled;; 'is-active telnet') echo active;; \
         'get-default '*) echo Graphical.target;; *) echo failed; exit 3;; esac",
    );
    host.says("sysctl", 0, "1\n");
    host.says("findmnt", 0, "rw,nodev,noexecute\n");
    host.says("getenforce", 0, "Permissive\n");
    host.says("lsmod", 0, "Module Size Used by\nx 1 1 hfs,cramfs\n");
    host.says("aa-status", 0, "apparmor module is not here.\n");
    let conf = host.file("conf", "");
    fs::set_permissions(conf, fs::Permissions::from_mode(0o600)).unwrap();
    host.file("d/10.conf", "key = 5\n");
    host.file("d/20.conf", "key = 4\n");
    host.file("bad", "bad\n");
    host.file("users", "alice\nbob\nmallory\n");
    // A tree is read from its first file, drop-ins from their last.
    host.file("d/10.conf", "key = 3\n");
    expect(&host, 1).await;
}

// @spec rule-engine
// @ac AC-04
#[tokio::test]
async fn what_is_not_there_is_an_answer() {
    println!("@spec rule-engine");
    println!("@ac AC-04");
    let host = Host::new();
    rules(&host);
    for tool in [
        "rpm",
        "dpkg",
        "auditctl",
        "sshd",
        "systemctl",
        "sysctl",
        "findmnt",
        "getenforce",
        "lsmod",
        "modprobe",
        "aa-status",
        "apt-get",
        "realm",
    ] {
        host.without(tool);
    }
    expect(&host, 2).await;
}
