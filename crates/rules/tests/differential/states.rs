//! What the tools of a host may say: nothing, because they are not there; something usual; something odd.

use std::os::unix::fs::symlink;

use super::dice::Dice;
use super::host::{Host, packages};

pub(crate) const UNITS: [&str; 5] = ["sshd", "auditd.service", "it's", "none", "ctrl-alt-del.target"];
pub(crate) const KEYS: [&str; 8] = ["key", "$key", "a.c", "* hard core", "KEY", "audit", "minlen", "net.x/y"];
pub(crate) const VALUES: [&str; 12] =
    ["0", "5", "-1", "+5", "yes", "Yes", "0640", "60 # x", "1 2", "99999999999999999999", "a:b", "/x"];
pub(crate) const SYSCTLS: [&str; 4] = ["kernel.one", "net.two", "net.many", "kernel.missing"];
pub(crate) const MODULES: [&str; 6] = ["cramfs", "usb-storage", "usb_storage", "hfs", "h.s", "Used"];
pub(crate) const AUDIT: [&str; 14] = [
    "-w /etc/group -p wa -k usergroup",
    "-w  /etc/group   -p wa -k usergroup",
    "-w /etc/group",
    "-a always,exit -F arch=b64 -S chmod,fchmod -F auid>=1000 -F auid!=unset -k perm",
    "-a always,exit -F arch=b32 -S fchmod -S chmod -F auid>=1000 -F auid!=unset -kperm",
    "-a always,exit -F arch=b64 -S chmod -F auid>=1000 -F auid!=-1 -F key=perm",
    "-a always,exit -F path=/usr/bin/su -F perm=x -F auid>=1000 -F auid!=unset -k priv",
    "-a always,exit -F path=/usr/bin/sudo -F perm=x -k priv",
    "-a always,exit -F arch=b64 -S open -F exit=-EACCES -F auid>=1000 -k access",
    "-a never,exit -F arch=b64 -S open -F exit=-EACCES",
    "-k logins",
    "-a always,exit -F perm=x",
    "# a remark",
    "-a always,exit -F arch=b64 -S execve -C uid!=euid -F auid!=4294967295 -k x",
];
const LOADED: [&str; 12] = [
    "-w /etc/group -p wa -k usergroup",
    "-w /etc/passwd -p wa -k usergroup",
    "-a always,exit -F arch=b64 -S chmod,fchmod -F auid>=1000 -F auid!=-1 -F key=perm",
    "-a always,exit -F arch=b32 -S chmod,fchmod -F auid>=1000 -F auid!=-1 -F key=perm",
    "-a always,exit -F arch=b64 -S chmod -F auid>=10000 -F auid!=-1 -F key=perm",
    "-a always,exit -S execve -F path=/usr/bin/sudo -F perm=x -F auid>=1000 -F auid!=-1 -F key=priv",
    "-a always,exit -S all -F path=/usr/bin/su -F perm=x -F auid>=1000 -F auid!=-1 -F key=priv",
    "-a always,exit -F arch=b64 -S open -F exit=-EACCES -F auid>=1000 -F key=access",
    "-a always,exit -F perm=x",
    "No rules",
    "",
    "-a always,exit -F arch=b64 -S execve -F auid!=4294967295 -F key=x -F key=y",
];

/// Puts a host into a random state.
pub(crate) fn set(host: &Host, dice: &mut Dice) {
    let kind = dice.below(30);
    packages(host, dice, kind);
    files(host, dice);
    super::walks::tree(host, dice);
    // Each tool may be missing, and may fail although it speaks.
    let exit = |dice: &mut Dice| [0, 0, 1, 3, 255][dice.below(5)];
    if !dice.one_in(6) {
        host.says("auditctl", exit(dice), &(dice.some(&LOADED).join("\n") + "\n"));
    }
    if !dice.one_in(6) {
        let lines = [
            "port 22",
            "Port 2222",
            "usepam no",
            "x11forwarding no",
            "rekeylimit 0 0",
            "acceptenv LANG",
            "acceptenv LC_*",
            "banner",
            "banner  none ",
            "ciphers a,b",
            " port 1",
            "UsePAM yes",
        ];
        host.says("sshd", exit(dice), &(dice.some(&lines).join("\n") + "\n"));
    }
    if !dice.one_in(6) {
        let lines = [
            "Module                  Size  Used by",
            "usb_storage  81920  0",
            "scsi_mod 1 2 usb_storage,hfs",
            "cramfs_extra 1 0",
            "xcramfs 1 0",
            "cramfs 16384 0",
            "h.s 1 0",
            "hss 2 1",
        ];
        host.says("lsmod", exit(dice), &(dice.some(&lines).join("\n") + "\n"));
    }
    if !dice.one_in(6) {
        let said = dice.pick(&[
            "install /bin/true \n",
            "install /bin/false\n",
            "insmod /lib/x.ko\n",
            "",
            "modprobe: FATAL: Module x not found in directory /lib/modules/1\n",
        ]);
        host.says("modprobe", exit(dice), said);
    }
    if !dice.one_in(6) {
        let state = dice.pick(&[
            "enabled",
            "enabled-runtime",
            "static",
            "generated",
            "indirect",
            "alias",
            "linked",
            "disabled",
            "masked",
            "not-found",
            "",
            "enabled\nenabled",
        ]);
        let target = dice.pick(&["multi-user.target", "Graphical.target", ""]);
        host.tool("systemctl", &format!(
            "case $1 in is-enabled) printf '%s\\n' '{state}'; exit {};; is-active) echo unknown; exit {};; get-default) echo '{target}';; esac",
            exit(dice), [0, 3, 4][dice.below(3)]
        ));
    }
    if !dice.one_in(6) {
        host.tool("sysctl", &format!(
            "case $2 in kernel.one) echo '{}';; net.two) echo ' 5 ';; net.many) printf '1\\t2\\n';; *) echo \"cannot stat $2\" >&2; exit 255;; esac",
            dice.pick(&VALUES)
        ));
    }
    if !dice.one_in(6) {
        host.tool("findmnt", "case $4 in /tmp) echo 'rw,nodev,size=1k,nosuid';; /two) printf 'rw,nodev\\nrw,nosuid\\n';; *) exit 1;; esac");
    }
    if dice.one_in(2) {
        host.says("getenforce", exit(dice), dice.pick(&["Enforcing\n", "Permissive\n", "Disabled\n", ""]));
    }
}

fn files(host: &Host, dice: &mut Dice) {
    let lines = [
        "key = 5",
        "  key=yes",
        "key: 0",
        "#key = 1",
        "key 0640",
        "key\t5",
        "$key 0640",
        "a.c 1",
        "abc 9",
        "a.c = -1",
        "* hard core 0",
        "KEY = no",
        "audit",
        "  audit  ",
        "audit # x",
        "minlen = 60 # x",
        "key = /a:b",
        "net.x/y = 1",
        "key = a:b",
        "key::5",
        "key",
        "it's [a] $x",
        "key =",
        "minlen\t=\t5",
    ];
    for name in ["conf", "login", "drop.d/10.conf", "drop.d/20.conf", "it's odd", "drop.d/30.txt"] {
        if !dice.one_in(5) {
            host.write(&format!("etc/{name}"), dice.some(&lines).join("\n") + "\n");
            host.chmod(&format!("etc/{name}"), [0o644, 0o640, 0o600, 0o4755, 0][dice.below(5)]);
        }
    }
    host.write("etc/empty", "");
    host.write("etc/binary", b"key = 5\n\0\xff key = yes\n");
    std::fs::create_dir_all(host.path("etc/dir")).unwrap();
    for (link, to) in [("etc/link", "conf"), ("etc/dangling", "nowhere")] {
        symlink(to, host.path(link)).unwrap();
    }
}
