//! Hosts that are reached through another host, with two real SSH servers of which only the first knows where the second
//! is.

use openwatch_model::host::KnownKey;
use openwatch_tests::sshd::{Options, Sshd, generate_key};
use openwatch_tests::{Program, Stack, eventually};
use serde_json::{Value, json};

use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{self, count, texts};

/// A name that nobody but the outer server can resolve.
const INNER: &str = "inner.ow-test.invalid";

fn servers(outer: Options) -> Option<(Sshd, Sshd)> {
    let outer = outer.hosts(&format!("127.0.0.1 {INNER} localhost\n"))?.start();
    Some((outer, Options::new().start()))
}

pub(crate) fn any_key() -> KnownKey {
    let dir = tempfile::tempdir().unwrap();
    generate_key(&dir.path().join("any"), "ed25519")
}

async fn credential(rest: &Rest, name: &str, sshd: &Sshd) {
    let body = json!({ "name": name, "username": sshd.user(), "private_key": sshd.private_key() });
    rest.post("/credentials", body).await;
}

/// A bastion and a host behind it, each with a credential of its own.
async fn fleet(outer: &Sshd, inner: &Sshd) -> (Ground, Stack) {
    let ground = Ground::new(2);
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    let rest = Rest::of(&stack.client());
    credential(&rest, "outer", outer).await;
    credential(&rest, "inner", inner).await;
    let port = outer.port().to_string();
    stack
        .json(&["host", "add", "bastion", "--address", "127.0.0.1", "--port", &port, "--credential", "outer"])
        .await;
    (ground, stack)
}

async fn add_inner(stack: &Stack, inner: &Sshd) {
    let port = inner.port().to_string();
    let args = ["host", "add", "inner", "--address", INNER, "--port", &port, "--credential", "inner"];
    stack.json(&[&args[..], &["--jump", "bastion"]].concat()).await;
}

async fn released(stack: &Stack, host: &str) -> i64 {
    let mut db = tables::private_db(&stack.data_dir()).await;
    let sql = format!(
        "select count(*) from audit_event a join host h on h.id = a.host_id
         where a.action = 'credential.released' and h.name = '{host}'"
    );
    count(&mut db, &sql).await
}

/// What an attempt was told, newest scan first.
fn why(scan: &Value) -> (String, String) {
    let word = |name: &str| scan[name].as_str().unwrap_or_default().to_owned();
    (word("failure"), word("failure_detail"))
}

// @spec host-keys
// @ac AC-05
#[tokio::test]
async fn a_host_is_measured_through_its_jump_host_and_both_are_held_to_their_keys() {
    println!("@spec host-keys");
    println!("@ac AC-05");
    let Some((outer, inner)) = servers(Options::new()) else { return };
    let (_ground, stack) = fleet(&outer, &inner).await;
    add_inner(&stack, &inner).await;
    let scans = stack.ended_scans("inner", 1).await;
    assert_eq!(scans[0]["state"], "completed", "{scans:?}");
    assert_eq!(stack.json(&["host", "show", "inner"]).await["host"]["jump"], "bastion");
    // First contact put a key on record at each.
    for (host, sshd) in [("bastion", &outer), ("inner", &inner)] {
        let keys = stack.json(&["host", "keys", host]).await;
        assert_eq!(
            (&keys[0]["state"], &keys[0]["key"]),
            (&json!("on_record"), &json!(sshd.host_keys()[0].key)),
            "{host}: {keys}"
        );
    }
    assert!(inner.log().contains("Accepted publickey"), "{}", inner.log());
    // Two secrets for the scan, each audited under the host it logs in to.
    let mut db = tables::private_db(&stack.data_dir()).await;
    let sql = "select h.name from audit_event a join host h on h.id = a.host_id join scan s on s.id::text = a.detail ->> 'scan_id'
               join host t on t.id = s.host_id where a.action = 'credential.released' and t.name = 'inner' order by a.occurred_at, a.id";
    assert_eq!(texts(&mut db, sql).await, ["bastion", "inner"]);
    let probed = "select count(*) from host_liveness l join host h on h.id = l.host_id where h.name = 'inner' and l.last_probe_at is not null";
    assert_eq!(count(&mut db, probed).await, 0, "its banner cannot be had from here");

    // Another key at the host: nothing of its secret moves, whoever the jump host is.
    let (jumped, given) = (released(&stack, "bastion").await, released(&stack, "inner").await);
    let wrong = any_key();
    let line = format!("{} {}", wrong.algorithm, wrong.key);
    stack.json(&["host", "accept-key", "inner", "--key", &line]).await;
    let (code, stdout, _) = stack.cli(&["scan", "inner", "--wait"]).await;
    assert_ne!(code, Some(0), "{stdout}");
    let scans = stack.ended_scans("inner", 2).await;
    let (reason, detail) = why(&scans[0]);
    assert_eq!(reason, "host_key_mismatch", "{}", scans[0]);
    assert!(detail.contains(&format!("through 127.0.0.1:{}", outer.port())), "{detail}");
    assert_eq!(released(&stack, "inner").await, given, "the secret of the host stayed where it was");
    assert_eq!(released(&stack, "bastion").await, jumped + 1);

    // Another key at the jump host: nothing moves at all, and the failure says where it was.
    let outer_key = &outer.host_keys()[0];
    let inner_key = &inner.host_keys()[0];
    let accept = |host: &str, key: &KnownKey| {
        let line = format!("{} {}", key.algorithm, key.key);
        let (host, stack) = (host.to_owned(), &stack);
        async move { stack.json(&["host", "accept-key", &host, "--key", &line]).await }
    };
    accept("inner", inner_key).await;
    accept("bastion", &wrong).await;
    stack.cli(&["scan", "inner", "--wait"]).await;
    let scans = stack.ended_scans("inner", 3).await;
    let (reason, detail) = why(&scans[0]);
    assert_eq!(reason, "host_key_mismatch", "{}", scans[0]);
    assert!(detail.contains("jump host"), "{detail}");
    assert_eq!((released(&stack, "bastion").await, released(&stack, "inner").await), (jumped + 1, given));

    // All well again.
    accept("bastion", outer_key).await;
    let (code, stdout, stderr) = stack.cli(&["scan", "inner", "--wait"]).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");

    // One step only, so no chains and no cycles; and a jump host stays while others need it.
    let refused = |args: &'static [&'static str]| {
        let stack = &stack;
        async move {
            let (code, _, stderr) = stack.cli(args).await;
            assert_eq!(code, Some(64), "{args:?}: {stderr}");
            stderr
        }
    };
    assert!(refused(&["host", "add", "deeper", "--jump", "inner"]).await.contains("dialled directly"));
    assert!(refused(&["host", "set", "bastion", "--jump", "inner"]).await.contains("dialled directly"));
    assert!(refused(&["host", "set", "bastion", "--jump", "bastion"]).await.contains("dialled directly"));
    assert!(refused(&["host", "set", "inner", "--jump", "nobody"]).await.contains("add the jump host first"));
    assert!(refused(&["host", "rm", "bastion"]).await.contains("reached through it"));

    // Without its jump host it cannot even be found.
    stack.json(&["host", "set", "inner", "--jump", "none"]).await;
    stack.cli(&["scan", "inner", "--wait"]).await;
    let scans = stack.ended_scans("inner", 5).await;
    assert_eq!(scans[0]["state"], "failed", "{}", scans[0]);
    eventually("it is probed again", || async {
        (count(&mut tables::private_db(&stack.data_dir()).await, probed).await == 1).then_some(())
    })
    .await;
}

async fn check(outer: &Sshd, inner: &Sshd, home: &std::path::Path) -> (Option<i32>, String, String) {
    let ground = Ground::new(1);
    let key = |name: &str, sshd: &Sshd| {
        let path = home.join(name);
        std::fs::write(&path, sshd.private_key()).unwrap();
        path
    };
    let (inner_key, outer_key) = (key("inner.key", inner), key("outer.key", outer));
    Program::new(["check".to_owned(), format!("{}@{INNER}", inner.user())])
        .arg("--port")
        .arg(inner.port().to_string())
        .arg("-i")
        .arg(inner_key)
        .arg("-J")
        .arg(format!("{}@127.0.0.1:{}", outer.user(), outer.port()))
        .arg("--jump-key")
        .arg(outer_key)
        .arg("--rules")
        .arg(ground.rules())
        .arg("--host-key")
        .arg("tofu")
        .env("HOME", home)
        .run()
        .await
}

#[tokio::test]
async fn check_goes_through_a_jump_host_and_says_which_hop_failed() {
    let Some((outer, inner)) = servers(Options::new()) else { return };
    let home = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = check(&outer, &inner, home.path()).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let known = std::fs::read_to_string(home.path().join(".ssh/known_hosts")).unwrap();
    assert_eq!(known.lines().count(), 2, "both are remembered: {known}");

    let Some((strict, inner)) = servers(Options::new().config("AllowTcpForwarding no")) else { return };
    let home = tempfile::tempdir().unwrap();
    let (code, _, stderr) = check(&strict, &inner, home.path()).await;
    assert_eq!(code, Some(69), "{stderr}");
    assert!(stderr.contains("jump host") && stderr.contains("AllowTcpForwarding"), "{stderr}");
    assert!(!inner.log().contains("Accepted"), "{}", inner.log());

    // The wrong key for the jump host.
    let (code, _, stderr) = check(&inner, &strict, home.path()).await;
    assert_eq!(code, Some(69), "{stderr}");
    assert!(stderr.contains("jump host") || stderr.contains("through"), "{stderr}");
}
