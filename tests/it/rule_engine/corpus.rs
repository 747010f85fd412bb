//! What the words of a rule file mean on a host, and that no rule gets lost.

use super::host::Host;

// @spec rule-engine
// @ac AC-09
#[tokio::test]
async fn words_in_a_rule_file_mean_what_the_format_says() {
    println!("@spec rule-engine");
    println!("@ac AC-09");
    let host = Host::new();
    let etc = host.path("etc").display().to_string();
    let conf = host.file("conf", "PermitRootLogin = no\nrounds = 007\ncount 5\nbare\nbanner = x\n");
    std::fs::set_permissions(&conf, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    host.file("issue", "Keep out. Two lines. \nTwo lines.\n");
    let value = |params: &str| format!("method: config_value, path: '{conf}', {params}");
    let checks = [
        ("no-is-text", value("key: PermitRootLogin, expected: no"), "pass"),
        ("case-does-not-matter", value("key: PermitRootLogin, expected: NO"), "pass"),
        ("key-case-does", value("key: permitrootlogin, expected: no"), "fail"),
        ("false-is-no-text", value("key: bare, expected: false"), "pass"),
        ("a-number-asks-for-the-key", value("key: count, delimiter: ' ', expected: 5"), "fail"),
        ("numbers-are-numbers", value("key: rounds, expected: '7', comparator: '<='"), "pass"),
        ("text-is-text", value("key: rounds, expected: '7'"), "fail"),
        ("unknown-comparator", value("key: rounds, expected: '7', comparator: '=~'"), "fail"),
        ("octal-exit", "method: command, cmd: 'exit 8', expected_exit: 010".into(), "pass"),
        ("exit-in-quotes", "method: command, cmd: 'exit 1', expected_exit: '1'".into(), "fail"),
        ("exit-of-a-fraction", "method: command, cmd: 'exit 1', expected_exit: 1.9".into(), "pass"),
        ("blank-wants-silence", "method: command, cmd: 'echo x', expected_stdout: ' '".into(), "fail"),
        ("nothing-wants-silence", "method: command, cmd: 'echo x', expected_stdout: ~".into(), "fail"),
        ("cmd-before-run", "method: command, cmd: 'true', run: 'false'".into(), "pass"),
        (
            "output-before-stdout",
            "method: command, cmd: 'echo a', expected_output: a, expected_stdout: b".into(),
            "pass",
        ),
        ("yes-in-quotes-is-not-true", "method: service_state, name: x, active: 'yes'".into(), "pass"),
        (
            "a-list-is-undeclared",
            "method: set_compare, observed_command: 'exit 2', authorized: [a]".into(),
            "skipped",
        ),
        ("unread-words", "method: file_exists, path: /, comparator: nonsense, extra: [1]".into(), "pass"),
    ];
    for (id, check, _) in &checks {
        host.rule(id, "", check);
    }
    host.tool("systemctl", "echo unknown; exit 4");
    let block = "id: block\nimplementations:\n  - default: yes\n    check:\n      method: command\n      run: |\n        \
                 x=1\n\n        test $x = 1 &&\n          echo \"{{ root_umask }} {{root_umask}} {{ 1bad }}\"\n      \
                 expected_stdout: 027 027 {{ 1bad }}\n---\n[not read\n";
    host.rule_text("block", block);
    // The closing quote lands in the first column, and with it the second line of what a person wrote.
    let banner = format!(
        "id: banner\nimplementations:\n  - default: true\n    check:\n      method: file_content\n      path: {etc}/issue\n      \
                          expected_content: \"{{{{ banner_text }}}}\"\n"
    );
    host.rule_text("banner", &banner);
    let report = host.check(&["--var", "banner_text=Keep out.\nTwo lines.\n"]).await;
    for (id, _, status) in
        checks.iter().chain(&[("block", String::new(), "pass"), ("banner", String::new(), "pass")])
    {
        assert_eq!(report.status(id), *status, "{id}: {}", report.outcomes[*id]);
    }
    assert_eq!(report.evidence("block")[0]["stdout"], "027 027 {{ 1bad }}");
    let wrong = host.check(&["--var", "banner_text=Keep out.\nOther.\n"]).await;
    assert_eq!(wrong.status("banner"), "fail");
}

// @spec rule-engine
// @ac AC-10
#[tokio::test]
async fn no_rule_gets_lost() {
    println!("@spec rule-engine");
    println!("@ac AC-10");
    let host = Host::new();
    let check = "method: command, cmd: 'true'";
    host.rule("new", "supersedes: [old, not-here]", check);
    host.rule("old", "", check);
    host.rule("chicken", "depends_on: [egg]", check);
    host.rule("egg", "depends_on: [chicken]", check);
    host.rule("farm", "depends_on: [egg]", check);
    host.rule("twice", "depends_on: [new, new, not-here]", check);
    host.rule("foe", "conflicts_with: [new]", check);
    host.rule("foreign", "platforms: [{family: plan9}]", check);
    host.rule_text("typo", "id: typo\nseverity: low\nplatforms: [{family: rhel, min_version: \"8\"}]\n");
    host.rule_text("torn", "id: torn\nseverity: low\nimplementations: [\n");
    host.rule_text("empty", "");
    host.rule("unset", "", "method: command, cmd: '{{ unset }}'");
    let report = host.check(&[]).await;
    let said: Vec<String> = report.outcomes.keys().map(|id| format!("{id}={}", report.status(id))).collect();
    assert_eq!(
        said.join(" "),
        "chicken=skipped egg=skipped empty=skipped farm=skipped foe=pass foreign=skipped new=pass old=skipped \
         torn=skipped twice=pass typo=skipped unset=skipped"
    );
    for (id, words) in [
        ("old", "superseded by new"),
        ("farm", "dependency cycle"),
        ("typo", "min_version"),
        ("torn", "cannot be read"),
        ("empty", "the file is empty"),
        ("foreign", "plan9"),
    ] {
        assert!(report.detail(id).contains(words), "{id}: {}", report.detail(id));
    }
    assert_eq!(report.outcomes["torn"]["severity"], "low");
    for id in ["old", "egg", "foreign", "unset", "new"] {
        assert_eq!(report.outcomes[id]["framework_refs"]["nist_800_53"][0], "AC-6", "{id}");
        assert_eq!(report.outcomes[id]["severity"], "high", "{id}");
    }
    assert_eq!(report.code, Some(0), "nothing failed");
}
