//! Secrets of every kind are planted, used, refused and rotated, and then looked for in everything that the system wrote.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use openwatch_bus::User;
use openwatch_tests::{Program, Stack, eventually, sshd};
use serde_json::{Value, json};

use crate::trunk::base64;
use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{self, execute};
use crate::vault::{columns_with, files_with, forms, holds, messages_with};

/// A secret, and the files that are there to hold it.
struct Canary {
    what: String,
    text: String,
    kept_in: Vec<String>,
}

fn canary(what: &str, text: impl Into<String>, kept_in: &[&str]) -> Canary {
    let kept_in = kept_in.iter().map(|file| (*file).to_owned()).collect();
    Canary { what: what.to_owned(), text: text.into().trim().to_owned(), kept_in }
}

fn fresh(what: &str) -> Canary {
    canary(what, format!("{what}-{}", uuid::Uuid::new_v4().simple()), &[])
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path.display().to_string()
}

/// Keys derived from the data-encryption keys and the key that signs policies, each with the files that are there to hold it.
fn keys_of(dir: &Path) -> Vec<Canary> {
    let mut found = BTreeMap::<String, Canary>::new();
    let mut files = vec!["policy/policy.key".to_owned()];
    let names = std::fs::read_dir(dir).unwrap().flatten().map(|it| it.file_name().display().to_string());
    files.extend(names.filter(|name| name.ends_with(".json")));
    for name in files {
        let file: Value = serde_json::from_slice(&std::fs::read(dir.join(&name)).unwrap()).unwrap();
        let entries = file["keys"].as_array().cloned().unwrap_or_else(|| vec![file.clone()]);
        for (field, value) in entries.iter().flat_map(|entry| entry.as_object().unwrap()) {
            let Some(text) = value.as_str().filter(|text| text.len() >= 40) else { continue };
            if !field.ends_with("public") {
                let what = format!("{field} of keys/{name}");
                let it = found.entry(text.to_owned()).or_insert_with(|| canary(&what, text, &[]));
                it.kept_in.push(format!("keys/{name}"));
            }
        }
    }
    found.into_values().collect()
}

/// Every file below that holds it. The database alone is tens of megabytes, and there are many secrets: grep is quick.
fn files_that_hold(dir: &Path, forms: &[Vec<u8>]) -> Vec<String> {
    let mut grep = Command::new("grep");
    grep.args(["-rlaF"]);
    for form in forms {
        grep.arg("-e").arg(String::from_utf8(form.clone()).unwrap());
    }
    let output = grep.arg("--").arg(dir).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Arguments and environment of whatever runs on this machine.
fn processes_with(forms: &[Vec<u8>]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        for part in ["cmdline", "environ"] {
            let path = entry.path().join(part);
            if holds(&std::fs::read(&path).unwrap_or_default(), forms) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

// @spec vault
// @ac AC-03
#[tokio::test]
async fn no_secret_of_any_kind_lies_where_it_does_not_belong() {
    println!("@spec vault");
    println!("@ac AC-03");
    let (ground, sshd) = (Ground::new(1), sshd::Options::new().start());
    let mut stack = Stack::with(&["--rules", &ground.rules_arg(), "--log", "debug"]).await;
    let outside = tempfile::tempdir().unwrap();
    let (passphrase, password, sudo) = (fresh("passphrase"), fresh("password"), fresh("sudo"));
    let (second, refused) = (fresh("second"), fresh("refused"));

    let locked = outside.path().join("locked");
    let args = ["-q", "-t", "ed25519", "-C", "", "-N", &passphrase.text, "-f"];
    let made = Command::new("ssh-keygen").args(args).arg(&locked).stdin(Stdio::null()).status();
    assert!(made.unwrap().success());
    let public = std::fs::read_to_string(locked.with_extension("pub")).unwrap();
    let known = sshd.dir().join("authorized_keys");
    std::fs::write(&known, std::fs::read_to_string(&known).unwrap() + &public).unwrap();
    let text = std::fs::read_to_string(&locked).unwrap();
    let key = canary("private key", text.lines().nth(3).unwrap(), &[]);

    let (locked, of) = (locked.display().to_string(), |it: &Canary| file(outside.path(), &it.what, &it.text));
    let add = ["credential", "add", "key", "--user", sshd.user(), "-i", &locked, "--default"];
    stack
        .json(
            &[&add[..], &["--passphrase-file", &of(&passphrase), "--sudo-password-file", &of(&sudo)]]
                .concat(),
        )
        .await;
    stack.json(&["credential", "add", "pw", "--user", sshd.user(), "--password-file", &of(&password)]).await;
    stack.json(&["credential", "update", "pw", "--password-file", &of(&second)]).await;
    let add = ["credential", "add", "no", "--user", "x", "-i", &locked, "--passphrase-file", &of(&refused)];
    assert_eq!(stack.cli(&add).await.0, Some(64));
    // One door opens, one does not.
    let port = sshd.port().to_string();
    let host = ["--address", "127.0.0.1", "--port", &port];
    stack.json(&[&["host", "add", "web"], &host[..]].concat()).await;
    stack.json(&[&["host", "add", "shut"], &host[..], &["--credential", "pw"]].concat()).await;
    assert_eq!(stack.ended_scans("web", 1).await[0]["state"], "completed");
    assert_eq!(stack.ended_scans("shut", 1).await[0]["failure"], "auth_failed");
    // Where alerts go, and a token for somebody else; one channel is tried, though nobody is there.
    let (hook, mail) = (fresh("hook"), fresh("mail"));
    let routing = canary("routing", uuid::Uuid::new_v4().simple().to_string(), &[]);
    let signing = canary("signing", format!("whsec_{}", base64(fresh("").text.as_bytes())), &[]);
    let address = file(outside.path(), "address", &format!("http://127.0.0.1:9/{}", hook.text));
    let add = ["channel", "add", "webhook", "hook", "--address-file", &address, "--allow-private"];
    stack.json(&[&add[..], &["--secret-file", &of(&signing)]].concat()).await;
    assert_eq!(stack.cli(&["channel", "test", "hook"]).await.0, Some(75));
    stack.json(&["channel", "add", "pagerduty", "duty", "--routing-key-file", &of(&routing)]).await;
    let add = ["channel", "add", "email", "mail", "--server", "127.0.0.1", "--port", "9", "--allow-private"];
    let from =
        ["--from", "a@example.org", "--to", "b@example.org", "--user", "u", "--password-file", &of(&mail)];
    stack.json(&[&add[..], &from].concat()).await;
    stack.cli(&["channel", "test", "mail"]).await;
    let made = Rest::of(&stack.client()).post("/tokens", json!({ "name": "eve", "role": "viewer" })).await;
    let token = canary("another token", made["secret"].as_str().unwrap(), &[]);
    let (code, stdout, stderr) = stack.cli(&["credential", "rotate-key"]).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");

    let data = stack.data_dir();
    let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
    let mut all = vec![key, passphrase, password, sudo, second, refused, hook, routing, mail, signing, token];
    let derived = keys_of(&data.join("keys"));
    assert!(derived.len() > 2, "keys of this machine");
    all.extend(derived);
    all.push(canary("API token", read("admin.token"), &["admin.token"]));
    all.push(canary("database password", read("postgres.password"), &["postgres.password"]));
    for seed in std::fs::read_dir(data.join("keys/nats")).unwrap().flatten() {
        let name = format!("keys/nats/{}", seed.file_name().display());
        if name.ends_with(".nk") {
            all.push(canary(&name, read(&name), &[&name]));
        }
    }
    assert!(all.len() > 15, "seeds of every user");

    let mut db = tables::private_db(&data).await;
    let admin = tables::bus(&stack.client().nats_url, &data.join("keys"), User::Admin).await;
    tables::quiet(&tables::private_url(&data), &admin, Duration::from_secs(20)).await;
    // PostgreSQL's files must hold what its tables do before they are read.
    execute(&mut db, "checkpoint").await;
    let log = format!("{}{}", stack.up().stdout(), stack.up().stderr());
    assert!(log.contains("DEBUG"), "everything is logged");
    for Canary { what, text, kept_in } in &all {
        let forms = forms(text);
        assert_eq!(columns_with(&mut db, &forms).await, [""; 0], "{what} in a table");
        assert_eq!(messages_with(&admin, &forms).await, [""; 0], "{what} in a stream");
        assert!(!holds(log.as_bytes(), &forms), "{what} in the log");
        assert_eq!(processes_with(&forms), [""; 0], "{what} in arguments or environment");
        // Looked for last: by now its own arguments are gone from the list of processes.
        let mut files = files_that_hold(&data, &forms);
        files.retain(|found| !kept_in.iter().any(|name| Path::new(found) == data.join(name)));
        assert_eq!(files, [""; 0], "{what} in a file");
        for name in kept_in {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
            assert_eq!(mode & 0o077, 0, "{name} is open to others");
        }
    }
    // The data-encryption keys stand in their own files and nowhere else, raw or in hex.
    for name in ["keys/dek", "keys/dek.old"] {
        let bytes = std::fs::read(data.join(name)).unwrap();
        let forms = vec![bytes.clone(), hex::encode(&bytes).into_bytes()];
        let mut files = Vec::new();
        files_with(&data, &forms, &mut files);
        assert_eq!(files, [data.join(name).display().to_string()]);
        assert!(columns_with(&mut db, &forms[1..]).await.is_empty() && !holds(log.as_bytes(), &forms));
    }
    // Our own process, the database's, and a command that waits for somebody.
    let postmaster = read("postgres/postmaster.pid").lines().next().unwrap().parse().unwrap();
    let tail = Program::new(["events", "tail", "--data-dir"]).arg(&data).spawn();
    for pid in [stack.up().process_id(), postmaster, tail.process_id()] {
        let core = eventually("its limits", || async {
            let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
            let core = limits.lines().find(|line| line.starts_with("Max core file size"))?;
            core.split_whitespace().eq(["Max", "core", "file", "size", "0", "0", "bytes"]).then_some(())
        });
        core.await;
    }
}
