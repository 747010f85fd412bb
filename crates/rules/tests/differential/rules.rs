//! Rules made of words that collide: keys that begin other keys, quotes, blanks, wildcards, numbers in odd forms.

use openwatch_rules::CorpusFile;

use super::dice::Dice;
use super::host::{Host, PACKAGES};
use super::states::{AUDIT, KEYS, MODULES, SYSCTLS, UNITS, VALUES};

/// A rule with one check in flow style.
pub(crate) fn file(number: usize, check: &str) -> CorpusFile {
    let id = format!("r{number:04}");
    let text = format!("id: {id}\nimplementations: [{{default: true, check: {{{check}}}}}]\n");
    CorpusFile { path: format!("{id}.yml"), text }
}

/// Every question about every package, and some that only one database understands.
pub(crate) fn packages() -> Vec<CorpusFile> {
    let odd = ["foo*", "c++", "libX11:amd64", "it's", "-l", "foo bar", "foo.noarch", "foo-1.0-2", "missing"];
    let either = ["package_state", "package_state, state: absent"];
    let names = PACKAGES.iter().chain(&odd);
    let both = names.flat_map(|name| either.map(|method| format!("name: \"{name}\", method: {method}")));
    let more = ["package_installed", "package_absent", "dpkg_installed", "dpkg_absent"];
    let checks = both.chain(more.map(|method| format!("name: foo, method: {method}")));
    checks.enumerate().map(|(i, check)| file(i, &check)).collect()
}

/// This many rules for a host, all methods among them.
pub(crate) fn some(host: &Host, dice: &mut Dice, count: usize) -> Vec<CorpusFile> {
    (0..count)
        .map(|i| {
            let one = check(host, dice, i);
            if dice.one_in(8) {
                let (two, three) = (check(host, dice, i + 7), check(host, dice, i + 11));
                return file(i, &format!("checks: [{{{one}}}, {{checks: [{{{two}}}, {{{three}}}]}}]"));
            }
            file(i, &one)
        })
        .collect()
}

/// Double-quoted YAML that means this text.
pub(crate) fn text(text: &str) -> String {
    format!(
        "\"{}\"",
        text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t")
    )
}

fn comparator(dice: &mut Dice) -> &'static str {
    dice.pick(&[
        "",
        ", comparator: '=='",
        ", comparator: '!='",
        ", comparator: '<'",
        ", comparator: '<='",
        ", comparator: '>'",
        ", comparator: '>='",
        ", comparator: '~='",
        ", comparator: ''",
        ", comparator: 5",
    ])
}

fn check(host: &Host, dice: &mut Dice, turn: usize) -> String {
    let files = ["conf", "login", "missing", "dir", "link", "dangling", "binary", "empty", "it's odd", "*"];
    let path = text(&host.etc(dice.pick(&files)));
    let package = text(dice.pick(&PACKAGES));
    let unit = text(dice.pick(&UNITS));
    let value = text(dice.pick(&VALUES));
    let number = dice.pick(&[
        "",
        ", expected_exit: 0",
        ", expected_exit: 1",
        ", expected_exit: 3.7",
        ", expected_exit: '1'",
        ", not_assessable_exit: 3",
        ", expected_exit: 3, not_assessable_exit: 3",
    ]);
    match turn % 22 {
        0 => {
            let script = text(dice.pick(&[
                "echo out; exit 0",
                "exit 1",
                "echo ' why '; exit 3",
                "printf ' \\n'",
                "echo \"it's\" >&2",
                "cat",
                "read x; echo \"$x\"; exit 1",
                "printf 'a\\n\\n'",
            ]));
            let output = dice.pick(&[
                "",
                ", expected_stdout: ''",
                ", expected_output: out",
                ", expected_stdout: 5",
                ", expected_output: ' '",
                ", expected_output: ut, expected_stdout: no",
                ", expected_stdout: ~",
                ", expected_stdout: \"a\\n\"",
            ]);
            format!("method: command, {}: {script}{number}{output}", dice.pick(&["cmd", "run"]))
        }
        1 | 2 => {
            let state =
                dice.pick(&["", ", state: absent", ", state: present", ", state: Absent", ", state: 5"]);
            format!("method: package_state, name: {package}{state}")
        }
        3..=5 => {
            let lines = dice.some(&AUDIT);
            let lines = if dice.one_in(3) { &lines[..] } else { &lines[..lines.len().min(1)] };
            format!("method: audit_rule_exists, rule: {}", text(&lines.join("\n")))
        }
        6..=9 => {
            let (key, more) = (text(dice.pick(&KEYS)), comparator(dice));
            let delimiter = dice.pick(&[
                "",
                ", delimiter: ' '",
                ", delimiter: '='",
                ", delimiter: ':'",
                ", delimiter: '::'",
                ", delimiter: \"\\t\"",
                ", delimiter: ''",
            ]);
            let place = match dice.below(4) {
                0 => format!(", dropin_dir: {}", text(&host.etc(dice.pick(&["drop.d", "none.d"])))),
                1 => ", scan_pattern: conf".to_owned(),
                _ => String::new(),
            };
            let path = if place.contains("scan") { text(&host.etc("drop.d")) } else { path };
            let expected = dice.pick(&[&value, "''", "5", "~", &value, &value, &value]);
            format!(
                "method: config_value, path: {path}, key: {key}, expected: {expected}{delimiter}{more}{place}"
            )
        }
        10 | 11 => {
            let key = text(dice.pick(&[
                "Port",
                "usepam",
                "rekeylimit",
                "AcceptEnv",
                "banner",
                "x11",
                "accept.*",
                "Ciphers",
            ]));
            let expected = text(dice.pick(&["22", "No", "yes", "0 0", "LANG", "none", "a,b"]));
            format!("method: sshd_effective_config, key: {key}, expected: {expected}")
        }
        12 => {
            let enabled = dice.pick(&["", ", enabled: true", ", enabled: false", ", enabled: 'yes'"]);
            let active = dice.pick(&["", ", active: true", ", active: false", ", active: 1"]);
            format!(
                "method: {}, name: {unit}{enabled}{active}",
                dice.pick(&["service_state", "service_state", "service_enabled", "service_active"])
            )
        }
        13 => {
            let mode = dice.pick(&[
                "",
                ", mode: '0640'",
                ", mode: '0'",
                ", mode: '00000'",
                ", mode: '4755'",
                ", mode: 0640",
            ]);
            let owner = dice.pick(&["", ", owner: root", ", owner: nobody", ", group: root"]);
            format!(
                "method: {}, path: {path}{mode}{owner}",
                dice.pick(&["file_permission", "file_permissions"])
            )
        }
        14 => format!(
            "method: sysctl_value, key: {}, expected: {value}{}",
            text(dice.pick(&SYSCTLS)),
            comparator(dice)
        ),
        15 => {
            let options = dice.pick(&[
                "[nodev]",
                "[nodev, nosuid]",
                "[]",
                "['size=1k']",
                "[size]",
                "nodev",
                "[1]",
                "[NODEV]",
            ]);
            format!(
                "method: mount_option, mount_point: {}, options: {options}",
                dice.pick(&["/tmp", "/none", "/two"])
            )
        }
        16 => {
            let state = dice.pick(&["", ", state: disabled", ", state: blacklisted", ", state: other"]);
            format!("method: kernel_module_state, name: {}{state}", text(dice.pick(&MODULES)))
        }
        17 => {
            let declared = text(dice.pick(&[
                "alice,bob",
                " alice , bob,, ",
                "",
                ",",
                "1000,1001",
                "alice,1001",
                "Alice",
            ]));
            let observer = dice.pick(&[
                "printf 'alice\\\\nbob\\\\n\\\\n bob \\\\n'",
                "true",
                "exit 2",
                "printf 'alice:1000\\\\nbob:1001\\\\n:\\\\n'",
            ]);
            let more = dice.pick(&["", ", alias_separator: ':'", ", alias_separator: ''"]);
            format!("method: set_compare, observed_command: \"{observer}\", authorized: {declared}{more}")
        }
        18 => match dice.below(6) {
            0 => format!("method: selinux_state, state: {}", dice.pick(&["Enforcing", "permissive", "''"])),
            1 => "method: systemd_target, expected: Multi-User.target".to_owned(),
            2 => "method: systemd_target, not_expected: graphical.target".to_owned(),
            3 => "method: systemd_target".to_owned(),
            4 => "method: grub_parameter, key: quiet, expected: '1'".to_owned(),
            _ => "method: nonsense, name: x".to_owned(),
        },
        19 | 20 => super::walks::check(host, dice),
        _ => {
            let pattern = text(dice.pick(&["key", "^key\\s*=", "a\nb\n", "it's", "[", "$x", "-v", "KEY"]));
            match dice.below(4) {
                0 => format!("method: file_exists, path: {path}"),
                1 => format!("method: file_absent, path: {path}"),
                2 => format!("method: file_content, path: {path}, expected_content: {pattern}"),
                _ => format!("method: file_content_match, path: {path}, pattern: {pattern}"),
            }
        }
    }
}
