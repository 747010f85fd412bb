//! Signing keys come and go: rotation, revocation, and what a stolen or an old list achieves.

use openwatch_tests::{Program, eventually};
use openwatch_trust::policy::signature_path;
use rustix::process::Signal;
use serde_json::Value;

use super::audited;
use super::policy::{STARTUP_FAILED, follow, refused};
use crate::trunk::fleet::{Fleet, ran};
use crate::trunk::ground::Ground;
use crate::trunk::tables::texts;

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
    fleet.all_running().await;

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
