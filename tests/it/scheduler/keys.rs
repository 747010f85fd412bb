//! Signing keys come and go: rotation, revocation, and what a stolen or an old list achieves.

use openwatch_tests::{Program, eventually, sshd};
use openwatch_trust::policy::signature_path;
use rustix::process::Signal;
use serde_json::Value;

use super::counters::free_port;
use super::policy::{STARTUP_FAILED, follow, refused, refuses, reload};
use super::{audited, hosts};
use crate::trunk::fleet::{Fleet, ran};
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute, texts};

const IN_FORCE: &str = "select version from policy_history where superseded_at is null";

/// Makes a key; its fingerprint.
async fn keygen(fleet: &Fleet, name: &str) -> String {
    let file = fleet.keys("master").join("policy").join(format!("{name}.key"));
    let made = Program::new(["policy", "keygen", "--name", name, "--out"]).arg(file);
    let (_, stdout, _) = ran(made).await;
    stdout.split_whitespace().nth(1).unwrap().to_owned()
}

fn key(fleet: &Fleet, name: &str) -> std::path::PathBuf {
    fleet.keys("master").join("policy").join(format!("{name}.key"))
}

/// Signs the policy with that key.
async fn sign(fleet: &Fleet, name: &str) {
    ran(Program::new(["policy", "sign"]).arg(fleet.policy()).arg("--key").arg(key(fleet, name))).await;
}

async fn revoke(fleet: &Fleet, fingerprint: &str, by: &str) {
    let tool = Program::new(["policy", "revoke", fingerprint, "--key"]).arg(key(fleet, by));
    ran(tool.arg("--keys").arg(fleet.keys("scheduler"))).await;
}

// @spec policy
// @ac AC-05
#[tokio::test]
async fn the_next_key_takes_over_and_the_old_one_goes() {
    println!("@spec policy");
    println!("@ac AC-05");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let verify =
        Program::new(["policy", "verify"]).arg(fleet.policy()).arg("--keys").arg(fleet.keys("master"));
    let (_, stdout, _) = ran(verify).await;
    let old = stdout.split_whitespace().last().unwrap().to_owned();
    let next = keygen(&fleet, "next").await;
    fleet.spawn("scheduler");
    let health = free_port();
    fleet.spawn_more("drift", &["--health-listen", &format!("127.0.0.1:{health}")]);
    fleet.all_running().await;
    let follows = |port: u16, wanted: bool| {
        eventually("the other process", move || async move {
            let ready = format!("http://127.0.0.1:{port}/health/ready");
            let text = reqwest::get(ready).await.ok()?.text().await.ok()?;
            let told: Value = serde_json::from_str(&text).ok()?;
            let policy = told["checks"].as_array()?.iter().find(|check| check["name"] == "policy")?;
            (policy["ok"] == wanted).then_some(())
        })
    };
    follows(health, true).await;

    // Signed by the next key: a stranger's, until it is trusted and the key files are read again.
    follow(&fleet, "1.1.0", "").await;
    sign(&fleet, "next").await;
    fleet.stage("scheduler").signal(Signal::HUP);
    let rows = eventually("a refusal", || async {
        let rows = audited(&mut fleet.db().await, "scheduler.policy.reload.rejected").await;
        (rows.len() == 1).then_some(rows)
    })
    .await;
    assert_eq!(rows[0]["reason"], "signature_invalid");
    let trust = Program::new(["policy", "trust"]).arg(key(&fleet, "next").with_extension("key.pub"));
    ran(trust.arg("--keys").arg(fleet.keys("scheduler"))).await;
    fleet.stage("scheduler").signal(Signal::HUP);
    eventually("the next key's policy", || async {
        (texts(&mut fleet.db().await, IN_FORCE).await == ["1.1.0"]).then_some(())
    })
    .await;
    let signer = "select key_fingerprint from policy_history where superseded_at is null";
    assert_eq!(texts(&mut fleet.db().await, signer).await, [next]);
    // A process that was not told of the key does not follow its policy, and does as soon as it is, without a restart.
    // Nor does one that begins now.
    follows(health, false).await;
    let late = free_port();
    fleet.spawn_more("drift-late", &["--health-listen", &format!("127.0.0.1:{late}")]);
    fleet.stage("drift-late").line("no trusted key made it").await;
    follows(late, false).await;
    let trust = Program::new(["policy", "trust"]).arg(key(&fleet, "next").with_extension("key.pub"));
    ran(trust.arg("--keys").arg(fleet.keys("stages"))).await;
    follows(health, true).await;
    follows(late, true).await;

    // The old key goes: what it signs, however new, is refused and told with its key and version.
    revoke(&fleet, &old, "next").await;
    follow(&fleet, "1.2.0", "").await;
    fleet.stage("scheduler").signal(Signal::HUP);
    let rows: Vec<Value> = eventually("a revoked key's refusal", || async {
        let rows = audited(&mut fleet.db().await, "scheduler.policy.revoked_key.rejected").await;
        (rows.len() == 1).then_some(rows)
    })
    .await;
    assert_eq!(
        (&rows[0]["key_fingerprint"], &rows[0]["policy_version"]),
        (&old.clone().into(), &"1.2.0".into())
    );
    let rows = audited(&mut fleet.db().await, "scheduler.policy.reload.rejected").await;
    assert_eq!(
        (&rows[1]["reason"], &rows[1]["policy_version_active"]),
        (&"revoked_key".into(), &"1.1.0".into())
    );
    assert_eq!(texts(&mut fleet.db().await, IN_FORCE).await, ["1.1.0"]);
    let told = audited(&mut fleet.db().await, "policy.revocations.loaded").await;
    assert_eq!((told.len(), &told[0]["revoked"][0]), (1, &old.into()));
    // A key cannot revoke itself, and an accepted key is not told of.
    let (code, _, stderr) =
        Program::new(["policy", "revoke", told[0]["revoked"][0].as_str().unwrap(), "--key"])
            .arg(key(&fleet, "policy"))
            .arg("--keys")
            .arg(fleet.keys("master"))
            .run()
            .await;
    assert!(code == Some(64) && stderr.contains("cannot revoke itself"), "{stderr}");
    sign(&fleet, "next").await;
    fleet.stage("scheduler").signal(Signal::HUP);
    eventually("the next policy", || async {
        (texts(&mut fleet.db().await, IN_FORCE).await == ["1.2.0"]).then_some(())
    })
    .await;
    assert_eq!(audited(&mut fleet.db().await, "scheduler.policy.revoked_key.rejected").await.len(), 1);
}

// @spec policy
// @ac AC-06
#[tokio::test]
async fn a_revoked_key_never_comes_back() {
    println!("@spec policy");
    println!("@ac AC-06");
    let fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let [first, second, third] =
        [keygen(&fleet, "a").await, keygen(&fleet, "b").await, keygen(&fleet, "c").await];
    for name in ["a", "b", "c"] {
        let trust = Program::new(["policy", "trust"]).arg(key(&fleet, name).with_extension("key.pub"));
        ran(trust.arg("--keys").arg(fleet.keys("scheduler"))).await;
    }
    let list = fleet.keys("scheduler").join("policy/revoked.json");
    let keep = || (std::fs::read(&list).unwrap(), std::fs::read(signature_path(&list)).unwrap());
    let put = |(document, signature): &(Vec<u8>, Vec<u8>)| {
        std::fs::write(&list, document).unwrap();
        std::fs::write(signature_path(&list), signature).unwrap();
    };
    revoke(&fleet, &first, "c").await;
    let one = keep();
    revoke(&fleet, &second, "c").await;
    let two = keep();
    let mut scheduler = fleet.program("scheduler").spawn();
    scheduler.line("policy in force").await;
    scheduler.terminate().await;
    assert_eq!(texts(&mut fleet.db().await, "select sequence::text from policy_revocation").await, ["2"]);

    // After a restart: an older list, a shorter one with a higher number, an unsigned one.
    put(&one);
    refused(&fleet, "an older list", "version_regression", "revoked.json").await;
    std::fs::write(&list, format!(r#"{{"sequence": 3, "revoked": ["{third}"]}}"#)).unwrap();
    refused(&fleet, "a list that nobody signed", "signature_invalid", "revoked.json").await;
    std::fs::write(&list, "{").unwrap();
    refused(&fleet, "no list", "signature_invalid", "revoked.json").await;
    std::fs::remove_file(signature_path(&list)).unwrap();
    refused(&fleet, "a list without signature", "signature_invalid", "revoked.json").await;
    // Told with the path of the list, not of the policy.
    let rows = audited(&mut fleet.db().await, STARTUP_FAILED).await;
    assert!(
        rows.iter().all(|row| row["policy_path"].as_str().unwrap().ends_with("revoked.json")),
        "{rows:?}"
    );

    // Without a list here, the stored one counts: the key stays revoked.
    std::fs::remove_file(&list).unwrap();
    follow(&fleet, "1.1.0", "").await;
    sign(&fleet, "b").await;
    refused(&fleet, "a revoked key without a list", "revoked_key", "1.1.0").await;
    // The very list that is in force is no change, and with it a good key's policy is followed.
    put(&two);
    sign(&fleet, "c").await;
    let mut scheduler = fleet.program("scheduler").spawn();
    scheduler.line("policy in force").await;
    scheduler.terminate().await;
    assert_eq!(texts(&mut fleet.db().await, IN_FORCE).await, ["1.1.0"]);
}

// @spec policy
// @ac AC-09
#[tokio::test]
async fn without_a_file_a_scheduler_goes_by_what_it_can_verify() {
    println!("@spec policy");
    println!("@ac AC-09");
    let fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let bare = || fleet.tool(&["scheduler"]).arg("--keys").arg(fleet.keys("scheduler"));
    let scans = |wanted: i64| {
        let fleet = &fleet;
        eventually("scans", move || async move {
            let queued =
                count(&mut fleet.db().await, "select count(*) from scan where tag is not null").await;
            (queued == wanted).then_some(())
        })
    };
    refuses(&fleet, bare(), "nothing was ever accepted", "policy_missing", "--policy").await;
    reload(&fleet).await;
    hosts(&mut fleet.db().await, 1).await;
    let mut scheduler = bare().spawn();
    scans(1).await;
    scheduler.terminate().await;

    // The key that signed what is in force goes.
    let signer = "select key_fingerprint from policy_history where superseded_at is null";
    let old = texts(&mut fleet.db().await, signer).await.remove(0);
    let next = keygen(&fleet, "next").await;
    let trust = Program::new(["policy", "trust"]).arg(key(&fleet, "next").with_extension("key.pub"));
    ran(trust.arg("--keys").arg(fleet.keys("scheduler"))).await;
    revoke(&fleet, &old, "next").await;
    refuses(&fleet, bare(), "a revoked key's policy in force", "revoked_key", "in force").await;
    refused(&fleet, "the same in its file", "revoked_key", "1.0.0").await;

    // The same document, signed by the key that counts, is in force for whoever starts from now on.
    sign(&fleet, "next").await;
    let mut scheduler = fleet.program("scheduler").spawn();
    eventually("the new signature", || async {
        (texts(&mut fleet.db().await, signer).await == [next.clone()]).then_some(())
    })
    .await;
    scheduler.terminate().await;
    let loaded = audited(&mut fleet.db().await, "policy.loaded").await;
    let told: Vec<_> = loaded.iter().map(|row| (&row["new_version"], &row["key_fingerprint"])).collect();
    assert_eq!(told, [(&"1.0.0".into(), &old.into()), (&"1.0.0".into(), &next.into())], "{loaded:?}");
    let insert = "insert into host (id, name, address, created_by) values (gen_random_uuid(), 'later', '192.0.2.1', 'test')";
    execute(&mut fleet.db().await, insert).await;
    let mut scheduler = bare().spawn();
    scans(2).await;
    scheduler.terminate().await;
}

// @spec policy
// @ac AC-10
#[tokio::test]
async fn rules_signed_by_a_revoked_key_are_not_run_until_another_signs_them() {
    println!("@spec policy");
    println!("@ac AC-10");
    let (ground, sshd) = (Ground::new(1), sshd::Options::new().start());
    let mut fleet = Fleet::prepare(&ground.rules()).await;
    let next = keygen(&fleet, "next").await;
    for stage in ["api", "vault", "writer", "scheduler", "executor-1"] {
        fleet.spawn(stage);
    }
    fleet.all_running().await;
    // What a worker that runs is given: the next key counts, the one that signed the rules no longer does.
    let trusted = fleet.keys("executor");
    let trust = Program::new(["policy", "trust"]).arg(key(&fleet, "next").with_extension("key.pub"));
    ran(trust.arg("--keys").arg(&trusted)).await;
    let mut db = fleet.db().await;
    let old = texts(&mut db, "select key_fingerprint from corpus").await.remove(0);
    let tool = Program::new(["policy", "revoke", &old, "--key"]).arg(key(&fleet, "next"));
    ran(tool.arg("--keys").arg(&trusted)).await;
    fleet.add_hosts(1, &sshd).await;
    let ends = "select concat_ws(' ', state, failure_reason) from scan where finished_at is not null order by number";
    let ended = |wanted: &'static [&'static str]| {
        let fleet = &fleet;
        eventually("the ends", move || async move {
            let ends = texts(&mut fleet.db().await, ends).await;
            (ends == wanted).then_some(())
        })
    };
    ended(&["failed corpus_unavailable"]).await;
    let detail = texts(&mut db, "select failure_detail from scan").await.remove(0);
    assert!(detail.contains("revoked"), "{detail}");
    assert!(!sshd.log().contains("Accepted"), "{}", sshd.log());

    let publish = fleet.tool(&["rules", "publish", "--keys"]).arg(fleet.keys("master")).arg("--key");
    ran(publish.arg(key(&fleet, "next")).arg(ground.rules())).await;
    assert_eq!(texts(&mut db, "select key_fingerprint from corpus").await, [next]);
    fleet.json(&["scan", "host-0"]).await;
    ended(&["failed corpus_unavailable", "completed"]).await;
}
