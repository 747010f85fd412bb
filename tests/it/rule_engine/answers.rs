//! Answers that many rules share, that are lost, that cannot be assessed, that are long.

use super::host::Host;

// @spec rule-engine
// @ac AC-05
#[tokio::test]
async fn many_rules_ask_a_tool_once() {
    println!("@spec rule-engine");
    println!("@ac AC-05");
    let host = Host::new();
    host.says("auditctl", 0, "-w /etc/f1 -p wa -k k\n-w /etc/f3 -p wa -k k\n");
    host.says("sshd", 0, "port 22\nx1 no\nx2 yes\nx2 no\nx3 no\n");
    host.says("lsmod", 0, "Module Size Used by\nm2 1 0\nm-3 1 0\n");
    host.says("modprobe", 0, "install /bin/true\n");
    host.without("dpkg");
    host.tool(
        "rpm",
        "shift; e=0; for p; do case $p in p[13]) echo \"$p-1-1.noarch\";; *) echo \"package $p is not installed\"; e=$((e+1));; esac; done; exit $e",
    );
    host.tool("find", "exec /usr/bin/find \"$@\"");
    let tree = host.path("tree").display().to_string();
    std::fs::create_dir(&tree).unwrap();
    for name in ["t1", "t3"] {
        std::fs::write(format!("{tree}/{name}"), "").unwrap();
    }
    for n in 0..40 {
        let walk = format!("find {tree} -xdev -type f -name t{n} 2>/dev/null");
        host.rule(
            &format!("walk-{n}"),
            "",
            &format!("method: command, cmd: '{walk}', expected_output: t{n}"),
        );
        host.rule(
            &format!("audit-{n}"),
            "",
            &format!("method: audit_rule_exists, rule: '-w /etc/f{n} -p wa -k k'"),
        );
        host.rule(
            &format!("sshd-{n}"),
            "",
            &format!("method: sshd_effective_config, key: X{n}, expected: 'no'"),
        );
        host.rule(&format!("module-{n}"), "", &format!("method: kernel_module_state, name: m{n}"));
        host.rule(&format!("package-{n}"), "", &format!("method: package_state, name: p{n}"));
        host.rule(&format!("gone-{n}"), "", &format!("method: package_state, name: p{n}, state: absent"));
    }
    let report = host.check(&["--lanes", "2"]).await;
    for (tool, calls) in [("auditctl", 1), ("sshd -T", 1), ("lsmod", 1), ("rpm", 1), ("modprobe", 40)] {
        assert_eq!(host.calls(tool), calls, "{tool}");
    }
    // Once to see whether this find can do it, once to walk.
    assert_eq!(host.calls(&format!("find {tree} -xdev")), 2);
    assert_eq!(report.whole["executions"], 3, "one to look, one for each lane");
    for n in 0..40 {
        let is = |holds: bool| if holds { "pass" } else { "fail" };
        report.says(&[
            (&format!("audit-{n}"), is(n == 1 || n == 3)),
            (&format!("walk-{n}"), is(n == 1 || n == 3)),
            (&format!("sshd-{n}"), is(n == 1 || n == 3)),
            (&format!("module-{n}"), is(n != 2)),
            (&format!("package-{n}"), is(n == 1 || n == 3)),
            (&format!("gone-{n}"), is(n != 1 && n != 3)),
        ]);
    }
    let sshd = &report.evidence("sshd-2")[0];
    assert_eq!(sshd["command"], "sshd -T 2>/dev/null | grep -i '^x2 '");
    assert_eq!((&sshd["stdout"], &sshd["exit_code"]), (&"x2 yes\nx2 no".into(), &0.into()));
    assert_eq!(report.evidence("sshd-9")[0]["exit_code"], 1);
    let module = report.evidence("module-2");
    assert_eq!((module.len(), &module[0]["command"]), (1, &"lsmod 2>/dev/null | grep -qw 'm2'".into()));
    assert_eq!(report.evidence("module-3").len(), 2);
    let walk = &report.evidence("walk-3")[0];
    assert_eq!(walk["command"], format!("find {tree} -xdev -type f -name t3 2>/dev/null"));
    assert_eq!(walk["stdout"], format!("{tree}/t3"));
    let package = &report.evidence("package-7")[0];
    assert!(package["command"].as_str().unwrap().starts_with("rpm -q 'p7' "), "{package}");
    assert_eq!(package["exit_code"], 1);
}

// @spec rule-engine
// @ac AC-07
#[tokio::test]
async fn what_has_no_answer_is_an_error() {
    println!("@spec rule-engine");
    println!("@ac AC-07");
    let host = Host::new();
    for n in 0..20 {
        host.rule(
            &format!("around-{n:02}"),
            "",
            &format!("method: command, cmd: 'echo {n}', expected_output: '{n}'"),
        );
    }
    for (id, check) in [
        ("no-method", "cmd: 'true'"),
        ("unknown-method", "method: file_exist, path: /"),
        ("no-script", "method: command, expected_exit: 0"),
        ("script-is-a-number", "method: command, cmd: 5"),
        ("no-mode", "method: file_permission, path: /"),
        ("mode-is-a-number", "method: file_permission, path: /, mode: 0755"),
        ("options-are-text", "method: mount_option, mount_point: /, options: nodev"),
        ("no-expected", "method: config_value, path: /etc/passwd, key: k"),
        ("no-name", "method: service_state, enabled: false"),
        ("odd-apparmor", "method: apparmor_state, state: complain"),
        ("no-target", "method: systemd_target"),
        ("observer-fails", "method: set_compare, observed_command: 'exit 2', authorized: a"),
        ("one-of-two", "checks: [{method: command, cmd: 'true'}, {method: nonsense}]"),
    ] {
        host.rule(id, "", check);
    }
    let report = host.check(&[]).await;
    assert_eq!(report.code, Some(2), "some rules are in error");
    for (id, outcome) in &report.outcomes {
        let wanted = if id.starts_with("around") { "pass" } else { "error" };
        assert_eq!(outcome["status"], wanted, "{outcome}");
    }
    assert_eq!(report.evidence("observer-fails")[0]["exit_code"], 2);
    assert!(
        report.detail("script-is-a-number").contains("cmd or run"),
        "{}",
        report.detail("script-is-a-number")
    );

    // Never says anything, which is what the rule wants.
    host.rule("never-ends", "", "method: command, cmd: 'sleep 300', expected_stdout: ''");
    let report = host.check(&[]).await;
    assert_eq!(report.status("never-ends"), "error", "{}", report.outcomes["never-ends"]);
    assert_eq!(report.evidence("never-ends")[0]["exit_code"], serde_json::Value::Null);
    assert!(
        report.detail("never-ends").starts_with("no answer (timeout)"),
        "{}",
        report.detail("never-ends")
    );
    for (id, outcome) in report.outcomes.iter().filter(|(id, _)| id.starts_with("around")) {
        assert_eq!(outcome["status"], "pass", "{id}: {outcome}");
    }
}

// @spec rule-engine
// @ac AC-08
#[tokio::test]
async fn what_cannot_be_assessed_is_skipped_with_its_reason() {
    println!("@spec rule-engine");
    println!("@ac AC-08");
    let host = Host::new();
    let review = "method: command, cmd: 'echo nobody said when; exit 3', not_assessable_exit: 3";
    host.rule(
        "undeclared",
        "",
        "method: set_compare, observed_command: 'touch {dir}/ran', authorized: '{{ authorized_services }}'",
    );
    host.rule("said", "", review);
    host.rule("said-as-expected", "", &format!("{review}, expected_exit: 3"));
    host.rule(
        "after-a-finding",
        "",
        &format!("checks: [{{method: command, cmd: 'echo found; exit 1'}}, {{{review}}}]"),
    );
    host.rule("before-a-finding", "", &format!("checks: [{{{review}}}, {{method: command, cmd: 'exit 1'}}]"));
    host.rule("all-run", "", "checks: [{method: command, cmd: 'exit 1'}, {checks: [{method: command, cmd: 'exit 2'}]}, {method: command, cmd: 'true'}]");
    host.rule("unset", "", "method: command, cmd: 'test {{ nobody_sets_this }} -gt 5 {{ nor_this }}'");
    let report = host.check(&[]).await;
    report.says(&[
        ("undeclared", "skipped"),
        ("said", "skipped"),
        ("said-as-expected", "skipped"),
        ("after-a-finding", "skipped"),
        ("before-a-finding", "skipped"),
        ("all-run", "fail"),
        ("unset", "skipped"),
    ]);
    assert_eq!(report.code, Some(1));
    assert_eq!(report.detail("said"), "nobody said when");
    assert_eq!(report.detail("after-a-finding"), "nobody said when; before that: exit 1, wanted 0: found");
    assert_eq!(report.evidence("after-a-finding").len(), 2);
    assert_eq!(report.evidence("before-a-finding").len(), 1);
    assert_eq!(report.evidence("all-run").len(), 3);
    assert!(report.detail("unset").contains("nobody_sets_this, nor_this"), "{}", report.detail("unset"));
    assert_eq!(report.outcomes["unset"]["severity"], "high");
    // With values, the same rules have verdicts.
    host.rule("undeclared", "", "method: set_compare, observed_command: 'printf \"a\\\\nb\\\\n\"', authorized: '{{ authorized_services }}'");
    let set = ["--var", "authorized_services=a,b,c", "--var", "nobody_sets_this=6", "--var", "nor_this="];
    let report = host.check(&set).await;
    report.says(&[("undeclared", "pass"), ("unset", "pass")]);
    assert!(report.detail("undeclared").contains("declared but absent: c"));
}

// @spec rule-engine
// @ac AC-12
#[tokio::test]
async fn a_verdict_is_made_from_all_of_a_long_answer() {
    println!("@spec rule-engine");
    println!("@ac AC-12");
    let host = Host::new();
    let long = "head -c 200000 /dev/zero | tr '\\0' a; echo needle";
    host.rule(
        "found",
        "",
        &format!("method: command, expected_output: aneedle, cmd: \"{}\"", long.replace('\\', "\\\\")),
    );
    host.rule("exact", "", "method: command, cmd: \"head -c 65536 /dev/zero | tr '\\\\0' a; echo\"");
    let report = host.check(&[]).await;
    report.says(&[("found", "pass"), ("exact", "pass")]);
    let found = &report.evidence("found")[0];
    assert_eq!(found["stdout"].as_str().unwrap().len(), 65_536);
    assert_eq!(found["truncated"]["original_bytes"], 200_007);
    let exact = &report.evidence("exact")[0];
    assert_eq!(exact["stdout"].as_str().unwrap().len(), 65_536);
    assert!(exact["truncated"].is_null(), "exactly enough is not too much");
}

/// Time that runs out, and a rule that floods, cost nobody else the answer that is here.
// @spec rule-engine
// @ac AC-07
#[tokio::test]
async fn what_was_answered_is_told_when_time_or_room_runs_out() {
    println!("@spec rule-engine");
    println!("@ac AC-07");
    let host = Host::new();
    for n in 0..12 {
        host.rule(&format!("quick-{n}"), "", &format!("method: command, cmd: 'echo {n}'"));
    }
    host.rule("flood", "", "method: command, cmd: 'yes | head -c 11000000'");
    let report = host.check(&["--lanes", "1"]).await;
    assert_eq!((report.code, report.status("flood"), report.status("quick-0")), (Some(2), "error", "pass"));
    // Longer than the whole check may take.
    host.rule("hang", "", "method: command, cmd: 'du /dev/null; sleep 97'");
    let report = host.check(&["--lanes", "1", "--timeout", "8"]).await;
    assert_eq!((report.code, report.status("hang")), (Some(2), "error"));
    for n in 0..12 {
        assert_eq!(report.status(&format!("quick-{n}")), "pass");
    }
}
