//! The account that logs in: its shell, its locale, its search path.

use super::host::{Host, Report};

fn rules(host: &Host) {
    host.tool("owtool", "echo mine");
    for (id, check) in [
        (
            "posix",
            "method: command, cmd: 'x=1; if [ $x = 1 ]; then printf \"%s\" a$x; fi', expected_output: a1",
        ),
        ("locale", "method: command, cmd: 'echo ${LC_ALL:-none}', expected_output: C"),
        (
            "english",
            "method: command, cmd: 'ls /no/such/thing 2>&1; true', expected_output: 'No such file or directory'",
        ),
        (
            "sbin",
            "method: command, cmd: 'case :$PATH: in *:/usr/sbin:/sbin:*) echo found;; esac', expected_output: found",
        ),
        ("first", "method: command, cmd: 'owtool', expected_output: mine"),
        ("state-1", "method: command, cmd: 'cd /; umask 0777; secret=1; set -e; exec 2>&1; false'"),
        ("state-2", "method: command, cmd: 'exit 7', expected_exit: 7"),
        ("state-3", "method: command, cmd: 'echo ${secret:-clean}$#', expected_output: clean0"),
        ("input", "method: command, cmd: 'read x; cat; echo \"<$x>\"', expected_output: '<>'"),
    ] {
        host.rule(id, "", check);
    }
}

fn same(report: &Report) {
    for id in ["posix", "locale", "english", "sbin", "first", "state-2", "state-3", "input"] {
        assert_eq!(report.status(id), "pass", "{}", report.outcomes[id]);
    }
    report.says(&[("state-1", "fail")]);
}

// @spec rule-engine
// @ac AC-11
#[tokio::test]
async fn the_account_makes_no_difference() {
    println!("@spec rule-engine");
    println!("@ac AC-11");
    let plain = Host::new();
    rules(&plain);
    same(&plain.check(&["--lanes", "1"]).await);
    let short = "LC_ALL=de_DE.UTF-8 LANGUAGE=de PATH='{bin}':/usr/bin:/bin ENV=/nonexistent";
    let shells = ["/bin/sh", "/bin/bash", "/bin/dash", "/bin/csh", "/usr/bin/fish"];
    let there = shells.iter().filter(|shell| std::path::Path::new(shell).exists());
    let mut tried = 0;
    for shell in there {
        let host = Host::through(&format!("{short} exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
        rules(&host);
        same(&host.check(&["--lanes", "1"]).await);
        tried += 1;
    }
    assert!(tried > 0, "at least the shell that every system has");
}

/// A script that only bash understands is run by the account's own bash, as if somebody had typed it there.
// @spec rule-engine
// @ac AC-11
#[tokio::test]
async fn what_only_bash_understands_runs_in_the_accounts_bash() {
    println!("@spec rule-engine");
    println!("@ac AC-11");
    let sh = std::process::Command::new("/bin/sh").args(["-c", "echo $((8#22))"]).output().unwrap();
    for (shell, understood) in [("/bin/bash", true), ("/bin/sh", sh.status.success())] {
        if !std::path::Path::new(shell).exists() {
            continue;
        }
        let host = Host::through(&format!("SHELL={shell} exec {shell} -c \"$SSH_ORIGINAL_COMMAND\""));
        host.rule("octal", "", "method: command, cmd: 'echo $((8#22))', expected_output: '18'");
        host.rule(
            "alone",
            "",
            "method: command, cmd: 'true & wait; echo $((8#22)) $#', expected_output: '18 0'",
        );
        host.rule("plain", "", "method: command, cmd: 'echo $((022))', expected_output: '18'");
        let report = host.check(&["--lanes", "1"]).await;
        let is = |holds: bool| if holds { "pass" } else { "fail" };
        report.says(&[("octal", is(understood)), ("alone", is(understood)), ("plain", "pass")]);
    }
}
