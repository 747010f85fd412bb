//! Answers that never came, and answers that are too long.

use std::collections::BTreeMap;

use openwatch_model::outcome::{OUTPUT_RULE_CAP, Status};
use openwatch_model::plan::{Done, Lost, Observation};
use openwatch_model::scan::Selection;

use super::{done, load, one, plan, rule};

#[test]
fn a_lost_answer_is_an_error_whatever_silence_would_mean() {
    for (check, command) in [
        ("method: service_state, name: x, enabled: false", "systemctl is-enabled 'x'"),
        ("method: service_state, name: x, active: false", "systemctl is-active 'x'"),
        ("method: dpkg_absent, name: x", "dpkg -l 'x' 2>/dev/null | grep -q '^ii'"),
        ("method: systemd_target, not_expected: a.target", "systemctl get-default 2>/dev/null"),
        ("method: command, cmd: x, expected_exit: 255", "x"),
    ] {
        for lost in [
            Lost::Connection,
            Lost::Timeout,
            Lost::KilledLane,
            Lost::Protocol,
            Lost::TooMuchOutput,
            Lost::NoRoom,
        ] {
            let outcome = one(check, &[(command, Observation::Lost(lost))]);
            assert_eq!(outcome.status, Status::Error, "{check}");
            assert!(
                outcome.detail.contains(lost.as_str()) && outcome.detail.contains(command),
                "{outcome:?}"
            );
            let evidence = &outcome.evidence.checks[0];
            assert_eq!((evidence.exit_code, evidence.error.as_deref()), (None, Some(lost.as_str())));
        }
    }
}

#[test]
fn an_answer_that_nobody_needed_may_be_lost() {
    let check = "method: service_state, name: x, enabled: true, active: true";
    let outcome = one(check, &[("systemctl is-enabled 'x'", done(1, "disabled\n"))]);
    assert_eq!((outcome.status, outcome.evidence.checks.len()), (Status::Fail, 1));
}

#[test]
fn a_lost_operating_system_is_an_error_for_rules_that_name_platforms() {
    let files = [
        rule("a", "platforms: [{family: rhel}]", "method: command, cmd: x"),
        rule("b", "", "method: command, cmd: x"),
    ];
    let corpus = load(&files);
    let facts = corpus.facts(&[], &BTreeMap::new());
    let judged = corpus.plan(&facts, &Selection::full()).judge(&[done(0, "")]);
    let statuses: Vec<_> = judged.outcomes.iter().map(|o| o.status).collect();
    assert_eq!(statuses, [Status::Error, Status::Pass]);
}

#[test]
fn too_much_output_is_told_and_exactly_enough_is_not() {
    let plan =
        plan(&[rule("a", "", "method: command, cmd: small"), rule("b", "", "method: command, cmd: big")]);
    let big = |bytes: usize| Observation::Done(Done { stdout: vec![b'x'; bytes], ..Done::default() });
    let of = |observation| plan.judge(&[done(0, ""), observation]);
    assert_eq!(of(big(OUTPUT_RULE_CAP)).oversize, None);
    assert_eq!(of(big(OUTPUT_RULE_CAP + 1)).oversize.as_deref(), Some("b"));
    assert_eq!(of(Observation::Lost(Lost::TooMuchOutput)).oversize.as_deref(), Some("b"));
}

/// The host's total, or a shared answer, is not what one rule printed.
#[test]
fn what_others_said_is_not_held_against_a_rule() {
    let plan = plan(&[
        rule("a", "", "method: sshd_effective_config, key: port, expected: '22'"),
        rule("b", "", "method: command, cmd: x"),
    ]);
    let stdout = format!("port 22\n{}", "banner x\n".repeat(OUTPUT_RULE_CAP / 8));
    let long = Observation::Done(Done { stdout: stdout.into_bytes(), ..Done::default() });
    let judged = plan.judge(&[long, Observation::Lost(Lost::NoRoom)]);
    assert_eq!(judged.oversize, None);
    assert_eq!(judged.outcomes[0].status, Status::Pass);
    let (lost, evidence) = (&judged.outcomes[1], &judged.outcomes[1].evidence.checks[0]);
    assert_eq!(lost.status, Status::Error);
    assert!(lost.detail.contains("no room left beside"), "{lost:?}");
    assert_eq!(evidence.error.as_deref(), Some(Lost::NoRoom.as_str()));
}

#[test]
fn the_verdict_is_made_from_what_evidence_no_longer_holds() {
    let filler = "x".repeat(100_000);
    let check = "method: command, cmd: x, expected_output: needle";
    let outcome = one(check, &[("x", done(0, &format!("{filler}needle")))]);
    assert_eq!(outcome.status, Status::Pass);
    let evidence = &outcome.evidence.checks[0];
    assert!(
        evidence.stdout.len() == 65_536 && evidence.truncated.as_ref().unwrap().original_bytes == 100_006
    );
}
