//! What a scan leaves in the logs of its target, and what it says about its own time.

use std::path::Path;

use openwatch_tests::Program;
use openwatch_tests::sshd::{Options, Sshd, TempUser};

const RULES: usize = 60;

/// Rules of one command each, so that many rules are many commands.
fn write_rules(dir: &Path) {
    for number in 0..RULES {
        let text = format!(
            "id: gentle-{number}\ntitle: Gentle {number}\ndescription: A rule of a test.\nrationale: None.\nseverity: low\n\
             category: test\ntags: [test]\nreferences:\n  nist_800_53: [\"AC-6\"]\n\
             platforms:\n  - family: debian\n  - family: ubuntu\n  - family: rhel\n\
             implementations:\n  - default: true\n    check:\n      method: command\n\
             \x20     run: test \"$(id -u)\" = 0 && echo {number}\n"
        );
        std::fs::write(dir.join(format!("gentle-{number}.yml")), text).expect("a rule");
    }
}

async fn check(sshd: &Sshd, rules: &Path, more: &[&str]) -> String {
    let key = sshd.dir().join("key-of-the-test");
    std::fs::write(&key, sshd.private_key()).expect("a key");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    let program = Program::new(["check", "--sudo", "--host-key", "tofu", "-p"])
        .arg(sshd.port().to_string())
        .arg("-i")
        .arg(&key)
        .arg("--rules")
        .arg(rules);
    let program = more.iter().fold(program, |program, word| program.arg(*word));
    let (code, stdout, stderr) = program.arg(format!("{}@127.0.0.1", sshd.user())).run().await;
    assert!(matches!(code, Some(0 | 1)), "{code:?}\n{stdout}\n{stderr}");
    stdout
}

/// The words before the accounts' rights: every command that sudo was asked for, a line each.
fn logging(log: &Path, rights: &str) -> String {
    format!("Defaults:{{}} logfile={}, !syslog, loglinelen=0\n{{}} ALL=(ALL) {rights}", log.display())
}

#[tokio::test]
async fn a_password_for_sudo_costs_no_complaint_and_no_line_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("sudo.log");
    let Some(user) = TempUser::create().and_then(|user| user.sudoers(&logging(&log, "ALL"))) else { return };
    let rules = tempfile::tempdir().expect("a directory");
    write_rules(rules.path());
    let sshd = Options::new().user(&user).start();
    let password = sshd.dir().join("sudo-password");
    std::fs::write(&password, &user.password).expect("a password");
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    let json =
        check(&sshd, rules.path(), &["--json", "--sudo-password-file", &password.display().to_string()])
            .await;
    let said: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(said["counts"]["pass"], RULES, "{json}");
    let sudo = std::fs::read_to_string(&log).expect("what sudo logged");
    assert!((2..=3).contains(&sudo.matches("COMMAND=").count()), "{sudo}");
    assert!(!sudo.contains("password"), "{sudo}");
}

#[tokio::test]
async fn a_scan_is_one_login_and_a_line_per_lane_whatever_the_rules() {
    let logs = tempfile::tempdir().expect("a directory");
    let log = logs.path().join("sudo.log");
    let words = logging(&log, "NOPASSWD: ALL");
    let Some(user) = TempUser::create().and_then(|user| user.sudoers(&words)) else { return };
    let rules = tempfile::tempdir().expect("a directory");
    write_rules(rules.path());
    for lanes in [2, 4] {
        let _ = std::fs::remove_file(&log);
        let sshd = Options::new().user(&user).start();
        let json = check(&sshd, rules.path(), &["--json", "--lanes", &lanes.to_string()]).await;
        let said: serde_json::Value = serde_json::from_str(&json).expect("one object");
        assert_eq!(said["counts"]["pass"], RULES, "{json}");
        for outcome in said["outcomes"].as_array().expect("outcomes") {
            assert!(outcome["duration_ms"].is_u64(), "{outcome}");
        }
        let auth = sshd.log();
        assert_eq!(auth.matches("Accepted publickey for ").count(), 1, "{auth}");
        // The probe, then one per lane.
        let sudo = std::fs::read_to_string(&log).expect("what sudo logged");
        let lines = sudo.matches("COMMAND=").count();
        assert!((2..=lanes + 1).contains(&lines), "{lines} lines for {lanes} lanes:\n{sudo}");
    }
    let sshd = Options::new().user(&user).start();
    let table = check(&sshd, rules.path(), &[]).await;
    assert!(table.contains("slowest: "), "{table}");
}
