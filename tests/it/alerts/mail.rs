//! Mail over TLS: to a server that proves its name, and to no other.

use std::path::{Path, PathBuf};

use openwatch_tests::{MailServer, Program, Stack};

/// A certificate for `localhost` or another name, and the authority that made it.
async fn certificate(dir: &Path, authority: &str, name: &str, host: &str) -> PathBuf {
    let out = dir.join(name);
    let issue = Program::new(["keys", "issue", "certificate", "--host", host, "--name", "mail", "--dir"]);
    let (code, _, stderr) = issue.arg(dir.join(authority)).arg("--out").arg(&out).run().await;
    assert_eq!(code, Some(0), "{stderr}");
    out
}

// @spec alerts
// @ac AC-13
#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_only_to_a_server_whose_certificate_is_believed() {
    println!("@spec alerts\n@ac AC-13");
    let dir = tempfile::tempdir().unwrap();
    let ours = certificate(dir.path(), "ours", "server", "localhost").await;
    let theirs = certificate(dir.path(), "theirs", "stranger", "localhost").await;
    let other = certificate(dir.path(), "ours", "other", "mail.example.org").await;
    let stack = Stack::believing(ours.join("ca.crt")).await;
    let password = dir.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    std::fs::set_permissions(&password, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let password = password.display().to_string();
    let good = [("tls", MailServer::tls(&ours).await), ("starttls", MailServer::starttls(&ours).await)];
    let bad = [
        ("tls", MailServer::tls(&theirs).await, "certificate"),
        ("starttls", MailServer::starttls(&theirs).await, "certificate"),
        ("tls", MailServer::tls(&other).await, "certificate"),
        ("starttls", MailServer::starttls(&other).await, "certificate"),
        // Offers no encryption: the password would go in the clear.
        ("starttls", MailServer::start().await, "STARTTLS"),
    ];
    let all = good.iter().map(|(how, server)| (*how, server, None));
    let all = all.chain(bad.iter().map(|(how, server, why)| (*how, server, Some(*why))));
    for (n, (how, server, why)) in all.enumerate() {
        let (name, port) = (format!("mail-{n}"), server.port().to_string());
        let mut add = vec!["channel", "add", "email", &name, "--server", "localhost", "--port", &port];
        add.extend(["--security", how, "--user", "watch", "--password-file", &password, "--allow-private"]);
        add.extend(["--from", "openwatch@example.org", "--to", "ops@example.org"]);
        stack.json(&add).await;
        let (code, stdout, stderr) = stack.cli(&["channel", "test", &name]).await;
        let told = format!("{how} {why:?}: {code:?} {stdout} {stderr}");
        match why {
            None => {
                assert!(code == Some(0) && server.mails().len() == 1, "{told}");
                assert!(server.mails()[0].contains("AUTH PLAIN"), "{:?}", server.mails());
            }
            Some(why) => {
                assert!(code == Some(75) && stderr.contains(why), "{told}");
                assert_eq!(server.mails(), Vec::<String>::new(), "{told}");
            }
        }
    }
}
