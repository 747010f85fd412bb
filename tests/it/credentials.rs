//! What may log in, and what is refused before it could.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use openwatch_tests::sshd::{Options, Sshd, TempUser, generate_key};
use openwatch_tests::{Program, Stack, openwatch};
use serde_json::json;

use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{self, count, texts};

fn proves(criterion: &str) {
    println!("@spec credential-store\n@ac {criterion}");
}

fn keygen(dir: &Path, name: &str, args: &[&str]) -> PathBuf {
    let path = dir.join(name);
    let status = Command::new("ssh-keygen")
        .args(["-q", "-C", "made by a test"])
        .args(args)
        .arg("-f")
        .arg(&path)
        .stdin(Stdio::null())
        .status();
    assert!(status.unwrap().success(), "{args:?}");
    path
}

fn secret_file(dir: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

fn authorize(sshd: &Sshd, key: &Path) {
    use std::io::Write;
    let line = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let file = sshd.dir().join("authorized_keys");
    std::fs::File::options().append(true).open(file).unwrap().write_all(line.as_bytes()).unwrap();
}

// @spec credential-store
// @ac AC-03
#[tokio::test]
async fn weak_damaged_and_locked_keys_are_refused_when_they_are_added() {
    proves("AC-03");
    let (stack, dir) = (Stack::start().await, tempfile::tempdir().unwrap());
    let dir = dir.path();
    let weak = keygen(dir, "weak", &["-t", "rsa", "-b", "1024", "-N", ""]);
    let locked = keygen(dir, "locked", &["-t", "ed25519", "-N", "open sesame"]);
    let wrong = secret_file(dir, "wrong", "hunter2-canary");
    let dsa = "-----BEGIN DSA PRIVATE KEY-----\nMIIBuwIBAAKBgQDX\n-----END DSA PRIVATE KEY-----\n";
    let dsa = secret_file(dir, "dsa", dsa);
    let broken = "-----BEGIN OPENSSH PRIVATE KEY-----\naGVsbG8gaHVudGVyMi1jYW5hcnk=\n-----END OPENSSH PRIVATE KEY-----\n";
    let broken = secret_file(dir, "broken", broken);
    let (weak, locked) = (weak.display().to_string(), locked.display().to_string());
    let cases: [(&[&str], &str); 6] = [
        (&["--key-file", &weak], "RSA key of 1024 bits, 2048 are required"),
        (&["--key-file", &dsa], "DSA"),
        (&["--key-file", &broken], "damaged or of an unknown format"),
        (&["--key-file", &locked], "encrypted and the credential has no passphrase"),
        (&["--key-file", &locked, "--passphrase-file", &wrong], "the passphrase is wrong"),
        (&[], "a private key, a password, or both"),
    ];
    for (args, problem) in cases {
        let (code, stdout, stderr) =
            stack.cli(&[&["credential", "add", "bad", "--user", "root"], args].concat()).await;
        assert_eq!(code, Some(64), "{args:?}: {stdout}{stderr}");
        assert!(stderr.contains(problem), "{args:?}: {stderr}");
        assert!(!stderr.contains("canary") && !stderr.contains("aGVsbG8"), "{stderr}");
    }
    assert_eq!(stack.json(&["credential", "list"]).await, json!([]), "nothing was stored");
    // The same at an update: the old one stays.
    let good = keygen(dir, "good", &["-t", "ed25519", "-N", ""]).display().to_string();
    let made = stack.json(&["credential", "add", "good", "--user", "root", "-i", &good]).await;
    let (code, _, _) = stack.cli(&["credential", "update", "good", "-i", &weak]).await;
    assert_eq!(code, Some(64));
    let shown = stack.json(&["credential", "show", "good"]).await;
    assert_eq!(shown["key"], made["key"]);
}

// @spec credential-store
// @ac AC-04
#[tokio::test]
async fn every_safe_kind_of_key_logs_in_and_is_known_by_its_fingerprint() {
    proves("AC-04");
    let (ground, sshd) = (Ground::new(1), Options::new().start());
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    let passphrase = secret_file(dir.path(), "passphrase", "open sesame");
    let port = sshd.port().to_string();
    let kinds: [(&str, &[&str], &str, u32); 8] = [
        ("ed25519", &["-t", "ed25519", "-N", ""], "ssh-ed25519", 256),
        ("locked", &["-t", "ed25519", "-N", "open sesame"], "ssh-ed25519", 256),
        ("p256", &["-t", "ecdsa", "-b", "256", "-N", ""], "ecdsa-sha2-nistp256", 256),
        ("p384", &["-t", "ecdsa", "-b", "384", "-N", ""], "ecdsa-sha2-nistp384", 384),
        ("p521", &["-t", "ecdsa", "-b", "521", "-N", ""], "ecdsa-sha2-nistp521", 521),
        ("rsa2048", &["-t", "rsa", "-b", "2048", "-N", ""], "ssh-rsa", 2048),
        ("rsa3072-pem", &["-t", "rsa", "-b", "3072", "-m", "PEM", "-N", ""], "ssh-rsa", 3072),
        ("p256-pkcs8", &["-t", "ecdsa", "-b", "256", "-m", "PKCS8", "-N", ""], "ecdsa-sha2-nistp256", 256),
    ];
    for (name, args, algorithm, bits) in kinds {
        let key = keygen(dir.path(), name, args);
        authorize(&sshd, &key);
        let file = key.display().to_string();
        let mut add = vec!["credential", "add", name, "--user", sshd.user(), "--key-file", &file];
        if name == "locked" {
            add.extend(["--passphrase-file", &passphrase]);
        }
        let made = stack.json(&add).await;
        let listed = Command::new("ssh-keygen").arg("-lf").arg(key.with_extension("pub")).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let told = &made["key"];
        assert_eq!((&told["algorithm"], &told["bits"]), (&json!(algorithm), &json!(bits)), "{made}");
        assert!(listed.contains(told["fingerprint"].as_str().unwrap()), "{listed} {made}");
        let add = ["host", "add", name, "--address", "127.0.0.1", "--port", &port, "--credential", name];
        stack.json(&add).await;
    }
    let shown = stack.json(&["credential", "show", "ed25519"]).await;
    assert_eq!((&shown["key"]["comment"], &shown["hosts"]), (&json!("made by a test"), &json!(1)));
    for (name, ..) in kinds {
        let scans = stack.ended_scans(name, 1).await;
        assert_eq!(scans[0]["state"], "completed", "{name}: {scans:?}");
    }
}

// @spec credential-store
// @ac AC-05
#[tokio::test]
async fn passwords_answer_questions_too_and_the_hosts_user_wins() {
    proves("AC-05");
    let Some(user) = TempUser::create() else { return };
    if !Path::new("/etc/pam.d/sshd").exists() {
        eprintln!("skipped: no PAM configuration for sshd");
        return;
    }
    let ground = Ground::new(1);
    let asks =
        Options::new().config("UsePAM yes").config("KbdInteractiveAuthentication yes").user(&user).start();
    let both = Options::new().config("PasswordAuthentication yes").user(&user).start();
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    // From standard input, so that it is in no file of ours either; the user is nobody's until the host names one.
    let command = format!(
        "cat {} | {} credential add pw --user nobody-here --password-file - --default --data-dir {}",
        secret_file(dir.path(), "password", &format!("{}\n", user.password)),
        openwatch().display(),
        stack.data_dir().display()
    );
    let (code, stdout, stderr) = Program::other("sh", ["-c", &command]).run().await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    // A key that is refused and a password that is not: one credential, both are tried.
    generate_key(&dir.path().join("stranger"), "ed25519");
    let stranger = dir.path().join("stranger").display().to_string();
    let password = secret_file(dir.path(), "password", &user.password);
    let add =
        ["credential", "add", "both", "--user", &user.name, "-i", &stranger, "--password-file", &password];
    assert_eq!(stack.json(&add).await["auth_method"], "both");
    let (asking, taking) = (asks.port().to_string(), both.port().to_string());
    let add = ["host", "add", "asks", "--address", "127.0.0.1", "--port", &asking, "--user", &user.name];
    stack.json(&add).await;
    let add = ["host", "add", "both", "--address", "127.0.0.1", "--port", &taking, "--credential", "both"];
    stack.json(&add).await;
    for host in ["asks", "both"] {
        let scans = stack.ended_scans(host, 1).await;
        assert_eq!(scans[0]["state"], "completed", "{host}: {scans:?}");
    }
    assert!(asks.log().contains("keyboard-interactive"), "{}", asks.log());
}

// @spec credential-store
// @ac AC-01
// @ac AC-02
#[tokio::test]
async fn a_host_uses_its_own_or_the_default_one_and_never_parts_of_two() {
    proves("AC-01");
    println!("@ac AC-02");
    let (ground, sshd) = (Ground::new(1), Options::new().start());
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    let rest = Rest::of(&stack.client());
    let (dir, port) = (tempfile::tempdir().unwrap(), sshd.port().to_string());
    // The default logs in, the other one does not.
    stack.add_host("plain", &sshd).await;
    let password = secret_file(dir.path(), "password", "not-it-canary");
    let add = ["credential", "add", "other", "--user", sshd.user(), "--password-file", &password];
    stack.json(&add).await;
    let add = ["host", "add", "own", "--address", "127.0.0.1", "--port", &port, "--credential", "other"];
    stack.json(&add).await;
    assert_eq!(stack.ended_scans("plain", 1).await[0]["state"], "completed");
    let scans = stack.ended_scans("own", 1).await;
    assert_eq!(scans[0]["failure"], "auth_failed", "its own, though the default one would do: {scans:?}");

    // Names are unique, one is the default, one in use stays.
    let again = json!({ "name": "other", "username": "root", "password": "x" });
    let (status, body) = rest.ask(reqwest::Method::POST, "/credentials", None, Some(&again)).await.unwrap();
    assert_eq!((status, &body["code"]), (409, &json!("credential.duplicate")), "{body}");
    stack.json(&["credential", "update", "other", "--default"]).await;
    let mut db = tables::private_db(&stack.data_dir()).await;
    assert_eq!(texts(&mut db, "select name from credential where is_default").await, ["other"]);
    let (code, _, stderr) = stack.cli(&["credential", "rm", "other"]).await;
    assert_eq!(code, Some(64), "{stderr}");

    // A new secret takes the place of the whole old one: no password is left beside the key.
    let key = secret_file(dir.path(), "key", sshd.private_key());
    let changed = stack.json(&["credential", "update", "other", "--key-file", &key]).await;
    assert_eq!(changed["auth_method"], "ssh_key", "{changed}");
    let (code, stdout, stderr) = stack.cli(&["scan", "own", "--wait"]).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let rotated = "select count(*) from audit_event where action = 'credential.updated' and detail ->> 'secret_rotated' = 'true'";
    assert_eq!(count(&mut db, rotated).await, 1);

    // Back to the default, and then to none at all.
    stack.json(&["host", "set", "own", "--credential", "default"]).await;
    assert_eq!(stack.cli(&["credential", "rm", "other"]).await.0, Some(0));
    stack.cli(&["scan", "own", "--wait"]).await;
    assert_eq!(stack.ended_scans("own", 3).await[0]["failure"], "no_credential");
}
