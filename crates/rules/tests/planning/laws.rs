//! What holds for every host and every file.

use openwatch_model::outcome::{EVIDENCE_RULE_CAP, Status};
use openwatch_model::plan::{Done, Lost, Observation};
use openwatch_model::scan::Selection;
use openwatch_rules::CorpusFile;
use proptest::prelude::*;

use super::{load, plan, rhel, rule};

/// One rule for each method, and some that are wrong.
fn every_method() -> Vec<CorpusFile> {
    let checks = [
        "method: command, cmd: a, expected_output: ''",
        "method: command, cmd: b, not_assessable_exit: 3",
        "method: package_state, name: a, state: absent",
        "method: package_installed, name: a",
        "method: dpkg_absent, name: a",
        "method: audit_rule_exists, rule: '-a always,exit -S open -k x'",
        "method: config_value, path: /a, key: k, expected: v",
        "method: config_value, path: /a, key: k, expected: '5', comparator: '>=', dropin_dir: /d, delimiter: ' '",
        "method: sshd_effective_config, key: port, expected: '22'",
        "method: service_state, name: a, enabled: false, active: false",
        "method: file_permission, path: /a, mode: '0600'",
        "method: file_absent, path: /a",
        "method: file_content, path: /a, expected_content: b",
        "method: sysctl_value, key: a, expected: '1'",
        "method: mount_option, mount_point: /a, options: [nodev]",
        "method: kernel_module_state, name: a",
        "method: kernel_module_state, name: a, state: blacklisted",
        "method: grub_parameter, key: a, expected: '1'",
        "method: set_compare, observed_command: o, authorized: 'a,b', alias_separator: ':'",
        "method: systemd_target, not_expected: a",
        "method: selinux_state, state: enforcing",
        "method: apparmor_state",
        "method: nonsense",
        "checks: [{method: command, cmd: c}, {checks: [{method: command, cmd: d, not_assessable_exit: 1}]}]",
    ];
    checks.iter().enumerate().map(|(i, check)| rule(&format!("r{i:02}"), "", check)).collect()
}

fn observation() -> impl Strategy<Value = Observation> {
    let words = prop::sample::select(vec![
        "enabled",
        "disabled",
        "a",
        "k = 5",
        "port 22",
        "install /bin/true",
        "not found",
        "600 root root",
        "\0",
        "é",
        "-a always,exit -S open -F key=x",
        "nodev,ro",
        "\u{fffd}",
        ":",
        "1",
        "",
    ]);
    let text = prop::collection::vec(words, 0..4).prop_map(|words| words.join("\n").into_bytes());
    let bytes = prop_oneof![4 => text, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let lost = prop::sample::select(vec![Lost::Timeout, Lost::Connection, Lost::KilledLane, Lost::Protocol]);
    prop_oneof![
        8 => (0..5i32, bytes.clone(), bytes).prop_map(|(exit, stdout, stderr)| {
            Observation::Done(Done { exit, stdout, stderr, ..Done::default() })
        }),
        1 => lost.prop_map(Observation::Lost),
    ]
}

proptest! {
    /// Whatever a host says, every rule ends, nothing that cannot be stored gets out, and a second judge agrees.
    #[test]
    fn any_answer_makes_one_storable_outcome(observations in prop::collection::vec(observation(), 0..40)) {
        let plan = plan(&every_method());
        let judged = plan.judge(&observations);
        prop_assert_eq!(judged.outcomes.len(), 24);
        for outcome in &judged.outcomes {
            let json = serde_json::to_string(outcome).unwrap();
            prop_assert!(!json.contains("\\u0000"));
            prop_assert!(serde_json::to_string(&outcome.evidence).unwrap().len() <= EVIDENCE_RULE_CAP);
            prop_assert!(!outcome.detail.contains('\n') && !outcome.detail.is_empty());
            let lost = outcome.evidence.checks.iter().any(|check| check.error.is_some());
            prop_assert!(!lost || outcome.status == Status::Error);
        }
        prop_assert_eq!(plan.judge(&observations), judged);
    }

    /// A host that answers nothing passes nothing and fails nothing.
    #[test]
    fn silence_has_no_verdict(cut in 0usize..40) {
        let observations = vec![Observation::Lost(Lost::Connection); cut];
        for outcome in plan(&every_method()).judge(&observations).outcomes {
            prop_assert_eq!(outcome.status, Status::Error, "{}", outcome.rule);
        }
    }

    /// Any text is a rule, or a problem and a skipped rule.
    #[test]
    fn any_file_is_accounted_for(text in "(id: x\n)?([a-z{}\\[\\]:&*<>|\"'%~ -]{0,20}\n){0,8}") {
        let corpus = load(&[CorpusFile { path: "any.yml".into(), text }]);
        let (rules, unusable) = (corpus.rules().count(), corpus.unusable().count());
        prop_assert_eq!(rules + unusable, 1);
        prop_assert_eq!(unusable, usize::from(!corpus.problems().is_empty()));
        prop_assert_eq!(corpus.plan(&rhel(), &Selection::full()).rules().len(), 1);
    }
}
