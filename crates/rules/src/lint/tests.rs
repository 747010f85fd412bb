use super::*;

const GOOD: &str = "\
id: good
title: t
description: d
rationale: r
severity: low
category: demo
transactional: false
references:
  cis: {debian12: {section: '1.1'}}
platforms:
  - {family: debian, min_version: 12}
implementations:
  - when: apt
    check: {method: command, cmd: 'test -e /x'}
    remediation: {mechanism: manual}
  - default: true
    check: {method: sysctl_value, key: a.b, expected: '1'}
";

fn file(path: &str, text: &str) -> CorpusFile {
    CorpusFile { path: path.into(), text: text.into() }
}

/// Codes of what is found when one piece of the good rule is replaced.
fn codes(replace: &str, with: &str) -> Vec<&'static str> {
    assert!(GOOD.contains(replace), "{replace}");
    lint(&[file("demo/good.yml", &GOOD.replace(replace, with))]).into_iter().map(|f| f.code).collect()
}

#[test]
fn a_good_rule_has_no_findings() {
    assert_eq!(codes("low", "high"), [""; 0]);
}

#[test]
fn every_constraint_is_told_by_its_code() {
    let cases = [
        ("title: t", "title: ' '", "E001"),
        ("rationale: r\n", "", "E001"),
        ("severity: low", "severity: Low", "E002"),
        ("severity: low", "severity: urgent", "E002"),
        ("default: true", "default: false", "E004"),
        ("when: apt", "default: true", "E004"),
        ("transactional: false\n", "", "E005"),
        ("id: good", "id: other", "E006"),
        ("category: demo", "category: network", "E007"),
        ("when: apt", "when: {any: [apt, snap]}", "E008"),
        ("when: apt", "when: [apt]", "E013"),
        ("method: command, ", "", "E010"),
        ("method: command", "method: commands", "E010"),
        ("cmd: 'test -e /x'", "expected_exit: 0", "E010"),
        ("cmd: 'test -e /x'", "cmd: x, expect: 0", "E010"),
        ("key: a.b", "key: a.b, comparator: '=>'", "E011"),
        ("expected: '1'", "expected: 1", "E016"),
        ("cmd: 'test -e /x'", "cmd: [a]", "E016"),
        ("cmd: 'test -e /x'", "cmd: a, expected_exit: '0'", "E016"),
        ("{debian12: {section: '1.1'}}", "{}", "E012"),
        ("key: a.b", "key: '{{ nobody_knows }}'", "E000"),
        ("min_version: 12", "min_version: '12'", "E000"),
        ("title: t", "title: t\ntitle: t", "E000"),
        ("severity: low", "severity: low\ndepends_on: [good]", "E015"),
        ("severity: low", "severity: low\ndepends_on: [gone]", "W103"),
        (
            "method: command, cmd: 'test -e /x'",
            "method: config_value, path: /etc/ssh/sshd_config, key: k, expected: e",
            "W001",
        ),
        (
            "method: command, cmd: 'test -e /x'",
            "method: config_value, path: /etc/sysctl.d/9.conf, key: k, expected: e",
            "W002",
        ),
        (
            "method: command, cmd: 'test -e /x'",
            "method: file_content_match, path: /etc/pam.d/su, pattern: p",
            "W003",
        ),
        (
            "method: command, cmd: 'test -e /x'",
            "method: file_content_match, path: /etc/fstab, pattern: p",
            "W004",
        ),
        (
            "method: command, cmd: 'test -e /x'",
            "checks: [{method: config_value, path: /etc/selinux/config, key: k, expected: e}]",
            "W005",
        ),
        ("test -e /x", "if a; then b; fi; [ $? = 1 ]", "W101"),
        ("test -e /x", "echo x; exit 0", "W102"),
        ("mechanism: manual", "mechanism: by_hand", "E009"),
        ("mechanism: manual", "mechanism: sysctl_set, key: a, val: b", "E009"),
        ("mechanism: manual", "steps: [{mechanism: manual}, {mechanism: manual, nte: x}]", "E009"),
        ("mechanism: manual", "mechanism: config_set, path: /a, key: k, value: v, separator: ':'", "E011"),
        ("mechanism: manual", "mechanism: config_set, path: /a, key: k, value: v, separator: '= '", "E011"),
        ("mechanism: manual", "steps: [{mechanism: config_set, path: /a, separator: ~}]", "E011"),
        ("platforms:", "platfroms:", "W105"),
        ("when: apt", "wehn: apt", "W105"),
        ("min_version: 12", "min_vresion: 12", "W105"),
    ];
    for (replace, with, code) in cases {
        assert!(codes(replace, with).contains(&code), "{with}: {:?} lacks {code}", codes(replace, with));
    }
    let text = format!("{}implementations: []\n", &GOOD[..GOOD.find("implementations").unwrap()]);
    assert_eq!(lint(&[file("demo/good.yml", &text)])[0].code, "E003");
}

#[test]
fn a_finding_has_its_place_and_two_files_with_one_id_are_told() {
    let findings = lint(&[file("demo/good.yml", &GOOD.replace("severity: low", "severity: Low"))]);
    assert_eq!((findings[0].line, findings[0].column), (5, 1));
    let twice = lint(&[file("demo/good.yml", GOOD), file("other/demo/good.yml", GOOD)]);
    assert_eq!(twice.len(), 1);
    assert!(twice[0].path == "demo/good.yml" && twice[0].message.contains("other/demo/good.yml"));
}

#[test]
fn every_finding_has_a_hint_and_a_near_miss_is_named() {
    for (replace, with, hint) in [
        ("method: command", "method: comand", "did you mean command?"),
        ("key: a.b", "key: a.b, comparater: '=='", "did you mean comparator?"),
        ("when: apt", "when: atp", "did you mean apt?"),
        ("platforms:", "platfroms:", "did you mean platforms?"),
        ("title: t\n", "", "`title:`"),
    ] {
        let findings = lint(&[file("demo/good.yml", &GOOD.replace(replace, with))]);
        assert!(findings.iter().all(|f| f.hint.is_some()), "{findings:#?}");
        assert!(findings.iter().any(|f| f.hint.as_ref().unwrap().contains(hint)), "{findings:#?}");
    }
}

#[test]
fn two_rules_that_contradict_each_other_are_told_once() {
    let other = GOOD.replace("id: good", "id: other");
    let rule = GOOD.replace("severity: low", "severity: low\nconflicts_with: [other]");
    let findings = lint(&[file("demo/good.yml", &rule), file("demo/other.yml", &other)]);
    assert_eq!(findings.iter().map(|f| (f.code, f.line)).collect::<Vec<_>>(), [("W104", 6)]);
}

#[test]
fn remediations_that_say_what_their_mechanism_reads_are_fine() {
    for with in [
        "note: x, unless: y",
        "note: x, reload: sshd, restart: [a, b], notify: z",
        "steps: [{mechanism: package_present, name: x}, {mechanism: sysctl_set, key: a, value: 1}]",
    ] {
        assert_eq!(codes("mechanism: manual", &format!("mechanism: manual, {with}")), [""; 0], "{with}");
    }
    for separator in ["'='", "' = '", "' '", "\"=\""] {
        let with = format!("mechanism: config_set, path: /a, key: k, value: v, separator: {separator}");
        assert_eq!(codes("mechanism: manual", &with), [""; 0], "{separator}");
    }
    // A block without a mechanism says nothing that could be held against one.
    assert_eq!(codes("mechanism: manual", "note: x"), [""; 0]);
}

/// A gate that holds where the capability is missing, or is not looked at, is no gate on it.
#[test]
fn only_a_gate_that_demands_the_capability_quiets_its_advice() {
    let sshd = "check: {method: config_value, path: /etc/ssh/sshd_config, key: k, expected: e}";
    let pam = "check: {method: config_value, path: /etc/pam.d/su, key: k, expected: e}";
    for (capability, check, code) in [("sshd_config_d", sshd, "W001"), ("authselect", pam, "W003")] {
        let told = |when: &str, default: bool| {
            let (gated, other) = (format!("when: {when}\n    default: {default}\n    {check}"), !default);
            let text = GOOD
                .replace("when: apt\n    check: {method: command, cmd: 'test -e /x'}", &gated)
                .replace("- default: true", &format!("- default: {other}\n    when: dpkg"));
            lint(&[file("demo/good.yml", &text)]).into_iter().map(|f| f.code).collect::<Vec<_>>()
        };
        for gate in ["{}", "{all: [apt, {}]}", "{any: [{}]}"] {
            assert_eq!(told(&gate.replace("{}", capability), false), [""; 0], "{gate}");
        }
        for gate in ["{not: {}}", "{any: [apt, {}]}", "apt"] {
            assert_eq!(told(&gate.replace("{}", capability), false), [code], "{gate}");
        }
        assert!(told(&format!("{{not: [{capability}]}}"), false).contains(&code));
        assert_eq!(told(capability, true), [code]);
    }
}

#[test]
fn pam_in_an_authselect_implementation_and_gated_sshd_are_fine() {
    let pam = "method: config_value, path: /etc/pam.d/su, key: k, expected: e";
    let gated =
        GOOD.replace("when: apt", "when: authselect").replace("method: command, cmd: 'test -e /x'", pam);
    assert_eq!(lint(&[file("demo/good.yml", &gated)]), []);
    let sshd = "method: config_value, path: /etc/ssh/sshd_config, key: k, expected: e";
    let gated =
        GOOD.replace("when: apt", "when: sshd_config_d").replace("method: command, cmd: 'test -e /x'", sshd);
    assert_eq!(lint(&[file("demo/good.yml", &gated)]), []);
}
