//! Who may log in, with what, and what it takes to become root.

use std::process::{Command as Process, Stdio};
use std::time::Duration;

use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::scan::FailureReason;
use openwatch_remote::{Limits, RemoteError, RunOptions, connect};
use openwatch_tests::sshd::{Options, Sshd, TempUser, find, generate_key};
use tokio_util::sync::CancellationToken;

use crate::remote::{dial, known, out, plan, proves, run_with, target};

fn key_secret(text: &str, passphrase: Option<&str>) -> Secret {
    let mut secret = Secret::default();
    secret.private_key = Some(text.to_owned());
    secret.passphrase = passphrase.map(str::to_owned);
    secret
}

fn password_secret(password: &str) -> Secret {
    let mut secret = Secret::default();
    secret.password = Some(password.to_owned());
    secret
}

fn keygen(args: &[&str]) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("key");
    let status =
        Process::new("ssh-keygen").arg("-q").args(args).arg("-f").arg(&path).stdin(Stdio::null()).status();
    assert!(status.expect("ssh-keygen runs").success(), "{args:?}");
    std::fs::read_to_string(&path).expect("a key")
}

fn passwords() -> Options {
    Options::new().config("PasswordAuthentication yes")
}

async fn login_error(sshd: &Sshd, secret: &Secret) -> RemoteError {
    dial(sshd).await.login(secret).await.expect_err("no way in")
}

fn failures(sshd: &Sshd) -> usize {
    sshd.log()
        .lines()
        .filter(|line| line.contains("Failed password") || line.contains("Failed keyboard"))
        .count()
}

/// The server writes about a refusal after it has told us.
async fn fails_once(sshd: &Sshd) {
    for _ in 0..100 {
        if failures(sshd) > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Time for a second one to show.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(failures(sshd), 1, "{}", sshd.log());
}

#[tokio::test]
async fn keys_right_wrong_and_weak() {
    let sshd = Options::new().start();
    dial(&sshd).await.login(&sshd.secret()).await.expect("the right key").close().await;

    let dir = tempfile::tempdir().expect("a directory");
    generate_key(&dir.path().join("other"), "ed25519");
    let other = std::fs::read_to_string(dir.path().join("other")).expect("a key");
    let error = login_error(&sshd, &key_secret(&other, None)).await;
    assert_eq!(error.reason(), FailureReason::AuthFailed, "{error}");
    assert!(error.to_string().contains("refused the key"), "{error}");

    let weak = keygen(&["-t", "rsa", "-b", "1024", "-N", ""]);
    let error = login_error(&sshd, &key_secret(&weak, None)).await;
    assert!(matches!(error, RemoteError::PrivateKeyWeak { .. }), "{error}");

    let locked = keygen(&["-t", "ed25519", "-N", "open sesame"]);
    for passphrase in [None, Some("wrong one")] {
        let error = login_error(&sshd, &key_secret(&locked, passphrase)).await;
        assert!(
            matches!(error, RemoteError::PrivateKeyUnreadable { .. } | RemoteError::PrivateKeyEncrypted),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("wrong one"));
    }
    // The passphrase opens it; that the host does not know it is another matter.
    let error = login_error(&sshd, &key_secret(&locked, Some("open sesame"))).await;
    assert!(matches!(error, RemoteError::AuthFailed { .. }), "{error}");

    let error = login_error(&sshd, &Secret::default()).await;
    assert_eq!(error.reason(), FailureReason::NoCredential);
}

#[tokio::test]
async fn rsa_and_ecdsa_keys_of_both_formats() {
    let sshd = Options::new().start();
    for args in [
        &["-t", "rsa", "-b", "2048", "-N", ""][..],
        &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""],
        &["-t", "ecdsa", "-b", "256", "-N", ""],
        &["-t", "ecdsa", "-b", "384", "-N", "", "-m", "PKCS8"],
    ] {
        let key = keygen(args);
        let path = sshd.dir().join("added");
        std::fs::write(&path, &key).expect("written");
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
        let public =
            Process::new("ssh-keygen").arg("-yf").arg(&path).output().expect("ssh-keygen runs").stdout;
        std::fs::write(sshd.dir().join("authorized_keys"), public).expect("authorized");
        let session = dial(&sshd).await.login(&key_secret(&key, None)).await;
        session.unwrap_or_else(|e| panic!("{args:?}: {e}")).close().await;
    }
}

#[tokio::test]
async fn passwords_are_tried_once() {
    let Some(user) = TempUser::create() else { return };
    let sshd = passwords().user(&user).start();
    dial(&sshd).await.login(&user.secret()).await.expect("the right password").close().await;
    assert_eq!(failures(&sshd), 0);
    let error = login_error(&sshd, &password_secret("not-it-at-all")).await;
    assert_eq!(error.reason(), FailureReason::AuthFailed);
    assert!(!format!("{error} {error:?}").contains("not-it"), "{error}");
    fails_once(&sshd).await;
}

#[tokio::test]
async fn a_wrong_key_and_then_the_right_password() {
    let Some(user) = TempUser::create() else { return };
    let sshd = passwords().user(&user).start();
    let mut both = key_secret(&keygen(&["-t", "ed25519", "-N", ""]), None);
    both.password = Some(user.password.clone());
    dial(&sshd).await.login(&both).await.expect("by password").close().await;
}

#[tokio::test]
async fn both_factors_where_both_are_wanted() {
    let Some(user) = TempUser::create() else { return };
    let sshd = passwords().config("AuthenticationMethods publickey,password").user(&user).start();
    let mut both = sshd.secret();
    both.password = Some(user.password.clone());
    dial(&sshd).await.login(&both).await.expect("by both").close().await;
    let error = login_error(&sshd, &sshd.secret()).await;
    assert_eq!(error.reason(), FailureReason::AuthFailed, "{error}");
}

#[tokio::test]
async fn questions_are_answered_with_the_password_once() {
    let Some(user) = TempUser::create() else { return };
    if !std::path::Path::new("/etc/pam.d/sshd").exists() {
        eprintln!("skipped: no PAM configuration for sshd");
        return;
    }
    let sshd =
        Options::new().config("UsePAM yes").config("KbdInteractiveAuthentication yes").user(&user).start();
    dial(&sshd).await.login(&user.secret()).await.expect("by keyboard-interactive").close().await;
    let error = login_error(&sshd, &password_secret("not-it-at-all")).await;
    assert_eq!(error.reason(), FailureReason::AuthFailed);
    fails_once(&sshd).await;
}

#[tokio::test]
async fn accounts_without_a_shell() {
    let nologin = find("nologin").map_or("/bin/false".to_owned(), |p| p.display().to_string());
    for command in [nologin.as_str(), "/bin/false"] {
        let sshd = Options::new().force_command(command).start();
        let options = RunOptions::within(Duration::from_secs(30));
        let error = run_with(&sshd, &plan(&["true"]), &sshd.secret(), &options).await.expect_err("no shell");
        assert_eq!(error.reason(), FailureReason::NoShell, "{error}");
        if command != "/bin/false" {
            assert!(error.to_string().contains("not available"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_opens_no_session() {
    let sshd = Options::new().config("MaxSessions 0").start();
    let options = RunOptions::within(Duration::from_secs(30));
    let error = run_with(&sshd, &plan(&["true"]), &sshd.secret(), &options).await.expect_err("no session");
    assert_eq!(error.reason(), FailureReason::NoShell, "{error}");
}

async fn whoami(user: &TempUser, sshd: &Sshd, secret: &Secret) -> Result<String, RemoteError> {
    let options = RunOptions { sudo: SudoMode::Sudo, ..RunOptions::within(Duration::from_secs(60)) };
    let scripts =
        ["id -un", "echo $((6*7)); cat", "id -u", "true", "true", "true", "true", "true", "true", "true"];
    let (observations, report) = run_with(sshd, &plan(&scripts), secret, &options).await?;
    assert_eq!(out(&observations[1]), "42\n");
    assert_eq!(report.fallback, None, "{}", user.name);
    Ok(out(&observations[0]).trim().to_owned())
}

// @spec remote-session
// @ac AC-07
#[tokio::test]
async fn sudo_without_a_password() {
    proves("AC-07");
    let Some(user) = TempUser::create().and_then(|u| u.sudoers("{} ALL=(ALL) NOPASSWD: ALL")) else { return };
    let sshd = passwords().user(&user).start();
    assert_eq!(whoami(&user, &sshd, &user.secret()).await.expect("root"), "root");
    // And with a key, so that there is no password at all.
    assert_eq!(whoami(&user, &sshd, &sshd.secret()).await.expect("root"), "root");
}

// @spec remote-session
// @ac AC-07
#[tokio::test]
async fn sudo_with_a_password() {
    proves("AC-07");
    let Some(user) = TempUser::create().and_then(|u| u.sudoers("{} ALL=(ALL) ALL")) else { return };
    let sshd = passwords().user(&user).start();
    assert_eq!(whoami(&user, &sshd, &user.secret()).await.expect("root"), "root");

    let mut own = sshd.secret();
    own.sudo_password = Some(user.password.clone());
    assert_eq!(whoami(&user, &sshd, &own).await.expect("root"), "root");

    let error = whoami(&user, &sshd, &sshd.secret()).await.expect_err("none to give");
    assert!(matches!(error, RemoteError::SudoPasswordRequired { .. }), "{error}");

    let mut wrong = sshd.secret();
    wrong.sudo_password = Some("not-it-at-all".into());
    let error = whoami(&user, &sshd, &wrong).await.expect_err("wrong");
    assert!(matches!(error, RemoteError::SudoPasswordWrong { .. }), "{error}");
    assert_eq!(error.reason(), FailureReason::SudoFailed);
}

// @spec remote-session
// @ac AC-07
#[tokio::test]
async fn sudo_is_told_the_password_once_and_nothing_else() {
    proves("AC-07");
    // Stands in for sudo: refuses every password, asks three times as sudo does, and notes what it was told.
    let fake = "#!/bin/sh\n[ \"$1\" = -n ] && { echo 'sudo: a password is required' >&2; exit 1; }\n\
                for try in 1 2 3; do printf '%s' \"$4\" >&2; IFS= read -r line && printf '%s\\n' \"$line\" >>\"$OW_BIN/told\"; done\n";
    let bin = tempfile::tempdir().expect("a directory");
    std::fs::write(bin.path().join("sudo"), fake).expect("a program");
    use std::os::unix::fs::PermissionsExt as _;
    for path in [bin.path().to_owned(), bin.path().join("sudo")] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("permissions");
    }
    let Some(user) = TempUser::create() else { return };
    let sshd = Options::new()
        .force_command("PATH=$OW_BIN:$PATH; export PATH; exec sh -c \"$SSH_ORIGINAL_COMMAND\"")
        .config(format!("SetEnv OW_BIN={}", bin.path().display()))
        .user(&user)
        .start();
    let mut wrong = sshd.secret();
    wrong.sudo_password = Some("not-it-at-all".into());
    let error = whoami(&user, &sshd, &wrong).await.expect_err("refused");
    assert!(matches!(error, RemoteError::SudoPasswordWrong { .. }), "{error}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let told = std::fs::read_to_string(bin.path().join("told")).expect("something was said");
    assert_eq!(told, "not-it-at-all\n");
}

/// A sudo that says nothing, neither before nor after the password, has not refused.
#[tokio::test]
async fn sudo_that_says_nothing() {
    for (fake, password) in [
        ("sleep 60", None),
        ("sleep 60", Some("it")),
        ("printf '%s' \"$4\" >&2; read -r line; sleep 60", Some("it")),
    ] {
        let bin = tempfile::tempdir().expect("a directory");
        std::fs::write(bin.path().join("sudo"), format!("#!/bin/sh\n{fake}\n")).expect("a program");
        use std::os::unix::fs::PermissionsExt as _;
        for path in [bin.path().to_owned(), bin.path().join("sudo")] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        let Some(user) = TempUser::create() else { return };
        let sshd = Options::new()
            .force_command("PATH=$OW_BIN:$PATH; export PATH; exec sh -c \"$SSH_ORIGINAL_COMMAND\"")
            .config(format!("SetEnv OW_BIN={}", bin.path().display()))
            .user(&user)
            .start();
        let mut secret = sshd.secret();
        secret.sudo_password = password.map(Into::into);
        let limits = Limits { hello: Duration::from_secs(2), ..Limits::default() };
        let target = target(sshd.port(), sshd.user());
        let connection = connect(&target, &known(&sshd), &limits, &CancellationToken::new()).await;
        let mut session = connection.expect("connects").login(&secret).await.expect("logs in");
        let options = RunOptions { sudo: SudoMode::Sudo, ..RunOptions::within(Duration::from_secs(30)) };
        let error = session.run(&plan(&["true"]), &options, &secret).await.expect_err("no root");
        assert!(matches!(error, RemoteError::SudoSilent { .. }), "{fake}: {error}");
        assert!(error.to_string().contains("did not answer") && error.to_string().contains("2 s"), "{error}");
        assert_eq!(error.reason(), FailureReason::SudoFailed);
    }
}

// @spec remote-session
// @ac AC-07
#[tokio::test]
async fn sudo_that_says_no() {
    proves("AC-07");
    let Some(user) = TempUser::create().and_then(|u| u.sudoers("{} ALL=(ALL) NOPASSWD: /bin/true")) else {
        return;
    };
    let sshd = passwords().user(&user).start();
    let error = whoami(&user, &sshd, &sshd.secret()).await.expect_err("not allowed");
    assert_eq!(error.reason(), FailureReason::SudoFailed, "{error}");

    let Some(user) =
        TempUser::create().and_then(|u| u.sudoers("Defaults:{} requiretty\n{} ALL=(ALL) NOPASSWD: ALL"))
    else {
        return;
    };
    let sshd = passwords().user(&user).start();
    let error = whoami(&user, &sshd, &sshd.secret()).await.expect_err("wants a terminal");
    assert!(matches!(error, RemoteError::SudoRequiresTty { .. }), "{error}");
    assert!(error.to_string().contains("!requiretty"), "{error}");
}

// @spec remote-session
// @ac AC-07
#[tokio::test]
async fn sudo_that_allows_a_shell_and_nothing_else() {
    proves("AC-07");
    let Some(user) =
        TempUser::create().and_then(|u| u.sudoers("{} ALL=(ALL) NOPASSWD: /bin/sh, /usr/bin/sh"))
    else {
        return;
    };
    let sshd = Options::new().user(&user).start();
    let answer = whoami(&user, &sshd, &sshd.secret()).await.expect("becomes root");
    assert_eq!(answer.trim(), "root");
}

/// What sudo itself has noted, by the number of wrong passwords in each line.
fn incorrect(log: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let words = text.replace("\n    ", " ");
    words.lines().filter(|line| line.contains("incorrect password")).map(str::to_owned).collect()
}

// @spec remote-session
// @ac AC-07
#[tokio::test]
async fn sudo_with_lectures_prompts_and_tickets() {
    proves("AC-07");
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("sudo.log");
    let moods = [
        "Defaults:{} lecture=always",
        "Defaults:{} passprompt=\"Kennwort, bitte: \", passprompt_override",
        "Defaults:{} badpass_message=\"password is required\", insults",
        "Defaults:{} timestamp_type=global, timestamp_timeout=5",
        "Defaults:{} targetpw, passwd_tries=1",
        "Defaults:{} env_keep+=SHELLOPTS, secure_path=/usr/bin\\:/bin, !env_reset",
        "Defaults:{} use_pty",
        "Defaults:{} noexec",
    ];
    for mood in moods {
        let text = format!("{mood}\nDefaults:{{}} logfile={}, !syslog\n{{}} ALL=(ALL) ALL", log.display());
        let Some(user) = TempUser::create().and_then(|u| u.sudoers(&text)) else { return };
        let sshd = passwords().user(&user).start();
        // Root's password is nobody's: there only the refusal counts.
        if mood.contains("targetpw") || mood.contains("noexec") {
            let error = whoami(&user, &sshd, &user.secret()).await.expect_err("no root");
            assert_eq!(error.reason(), FailureReason::SudoFailed, "{mood}: {error}");
        } else {
            // Twice: the second time there may be a ticket.
            for _ in 0..2 {
                let root = whoami(&user, &sshd, &user.secret()).await;
                assert_eq!(root.unwrap_or_else(|error| panic!("{mood}: {error}")), "root");
            }
        }
        std::fs::write(&log, "").expect("writable");
        if mood.contains("noexec") || mood.contains("timestamp") {
            continue;
        }
        let mut wrong = sshd.secret();
        wrong.sudo_password = Some("not-it-at-all".into());
        let error = whoami(&user, &sshd, &wrong).await.expect_err("wrong");
        assert!(matches!(error, RemoteError::SudoPasswordWrong { .. }), "{mood}: {error}");
        for _ in 0..100 {
            if !incorrect(&log).is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let failed = incorrect(&log);
        assert!(
            failed.len() == 1 && failed[0].contains("1 incorrect password attempt"),
            "{mood}: {failed:?}"
        );
    }
}

/// One line per lane and one for the probe, whatever the number of rules.
#[tokio::test]
async fn sudo_is_asked_once_per_lane() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("sudo.log");
    let text = format!("Defaults:{{}} logfile={}, !syslog\n{{}} ALL=(ALL) ALL", log.display());
    let Some(user) = TempUser::create().and_then(|u| u.sudoers(&text)) else { return };
    let sshd = passwords().user(&user).start();
    let options = RunOptions { sudo: SudoMode::Sudo, ..RunOptions::within(Duration::from_secs(60)) };
    let mut session = dial(&sshd).await.login(&user.secret()).await.expect("logs in");
    let one_lane = RunOptions {
        lanes: 1,
        ..RunOptions { on_progress: None, ..RunOptions::within(Duration::from_secs(60)) }
    };
    let one_lane = RunOptions { sudo: SudoMode::Sudo, ..one_lane };
    session.run(&plan(&["true"; 40]), &one_lane, &user.secret()).await.expect("the probe");
    let (observations, report) =
        session.run(&plan(&["id -u"; 200]), &options, &user.secret()).await.expect("runs");
    session.close().await;
    assert!(observations.iter().all(|o| out(o) == "0\n"));
    let text = std::fs::read_to_string(&log).expect("a log").replace("\n    ", " ");
    let ran =
        text.lines().filter(|line| line.contains("COMMAND=") && !line.contains("a password is required"));
    assert!(ran.count() <= usize::from(report.lanes) + 1, "{text}");
    assert_eq!(sshd.log().matches("Accepted").count(), 1);
}

#[tokio::test]
async fn a_hang_under_sudo_is_ended() {
    use openwatch_model::plan::{Command, Lost, Observation, Plan};
    let Some(user) = TempUser::create().and_then(|u| u.sudoers("{} ALL=(ALL) NOPASSWD: ALL")) else { return };
    let sshd = Options::new().user(&user).start();
    let hang = Command { limit: Duration::from_secs(1), ..Command::new("sleep 7781") };
    let plan = Plan { commands: vec![Command::new("id -un"), hang, Command::new("echo after")] };
    let options = RunOptions { sudo: SudoMode::Sudo, ..RunOptions::within(Duration::from_secs(60)) };
    let (observations, _) = run_with(&sshd, &plan, &sshd.secret(), &options).await.expect("runs");
    assert_eq!((out(&observations[0]).as_str(), out(&observations[2]).as_str()), ("root\n", "after\n"));
    assert_eq!(observations[1], Observation::Lost(Lost::Timeout));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(crate::remote::processes_with("sleep 7781"), [""; 0]);
}
