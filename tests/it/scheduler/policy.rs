//! Which policy the scheduler follows, and which it refuses.

use std::path::Path;

use openwatch_tests::{Program, eventually};
use openwatch_trust::policy::{POLICY_TYPE, signature_path};
use openwatch_trust::revocation::Revocations;
use openwatch_trust::{PolicyKey, TrustedKeys, dsse};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{audited, hosts};
use crate::trunk::base64;
use crate::trunk::fleet::{Fleet, ran};
use crate::trunk::ground::Ground;
use crate::trunk::tables::{count, execute, texts};

pub(crate) const STARTUP_FAILED: &str = "scheduler.startup.failed";
const IN_FORCE: &str = "select version from policy_history where superseded_at is null";

fn write(path: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(path, text).unwrap();
}

fn with_version(policy: &str, version: &str) -> String {
    policy.replace("version: 1.0.0", &format!("version: {version}"))
}

/// Signs the policy that OpenWatch starts with, under another version and with more at its end.
pub(crate) async fn follow(fleet: &Fleet, version: &str, more: &str) {
    let text = openwatch_trust::policy::default_policy_yaml();
    write(&fleet.policy(), with_version(text, version) + more);
    fleet.sign_policy().await;
}

/// Puts the signed policy in force, as an operator does.
pub(crate) async fn reload(fleet: &Fleet) {
    let tool = fleet.tool(&["policy", "reload"]);
    ran(tool.arg(fleet.policy()).arg("--keys").arg(fleet.keys("scheduler"))).await;
}

/// Starts a scheduler that must refuse, and compares its words and its audit row.
pub(crate) async fn refused(fleet: &Fleet, case: &str, reason: &str, word: &str) {
    refuses(fleet, fleet.program("scheduler"), case, reason, word).await;
}

/// The same of one that is started like this.
pub(crate) async fn refuses(fleet: &Fleet, scheduler: Program, case: &str, reason: &str, word: &str) {
    let before = audited(&mut fleet.db().await, STARTUP_FAILED).await.len();
    let (code, stdout, stderr) = scheduler.run().await;
    let all = format!("{case}: {code:?}\n{stdout}{stderr}");
    assert_eq!(code, Some(64), "{all}");
    let sentence =
        stderr.lines().rev().find(|line| line.starts_with("openwatch: ")).unwrap_or_else(|| panic!("{all}"));
    for wanted in [reason, word] {
        assert!(sentence.contains(wanted), "no {wanted:?} in the sentence of {all}");
    }
    assert!(!stderr.contains("panicked"), "{all}");
    let rows = audited(&mut fleet.db().await, STARTUP_FAILED).await;
    assert_eq!(rows.len(), before + 1, "{all}");
    assert_eq!(rows[before]["reason"], reason, "{all}");
    assert!(sentence.contains(rows[before]["policy_path"].as_str().unwrap()), "{all}");
}

// @spec scheduler
// @ac AC-04
// @spec policy
// @ac AC-01
// @ac AC-03
#[tokio::test]
async fn without_a_policy_to_trust_it_does_not_start() {
    println!("@spec scheduler");
    println!("@ac AC-04");
    println!("@spec policy");
    println!("@ac AC-01");
    println!("@ac AC-03");
    let fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let (policy, keys) = (fleet.policy(), fleet.keys("scheduler"));
    let signature = signature_path(&policy);
    let (document, good) = (std::fs::read_to_string(&policy).unwrap(), std::fs::read(&signature).unwrap());
    hosts(&mut fleet.db().await, 1).await;

    std::fs::remove_file(&policy).unwrap();
    refused(&fleet, "no document", "policy_missing", "").await;

    write(&policy, &document);
    std::fs::remove_file(&signature).unwrap();
    refused(&fleet, "no signature", "signature_invalid", "sig").await;
    write(&signature, "not a signature");
    refused(&fleet, "nonsense for a signature", "signature_invalid", "").await;

    write(&signature, &good);
    write(&policy, document.replace("compliant: 1440", "compliant: 2880"));
    refused(&fleet, "a changed document", "signature_invalid", "").await;

    write(&policy, &document);
    let stranger = PolicyKey::generate("stranger");
    write(&signature, openwatch_trust::policy::sign(document.as_bytes(), &stranger).unwrap());
    refused(&fleet, "a stranger's signature", "signature_invalid", "").await;

    // Signed by the right key and no policy: `policy sign` refuses, so it is signed below it.
    let key_file = fleet.keys("master").join("policy/policy.key");
    let key = PolicyKey::load(&key_file).unwrap();
    let long = format!("version: 1.0.0\n# {}\n", "x".repeat(300_000));
    for (case, text) in [
        ("no YAML", "version: [1.0.0"),
        ("an unknown field", "version: 1.0.0\ncadence: 5\n"),
        ("a key twice", "version: 1.0.0\ntiers: {critical: 5, critical: 60}\n"),
        ("an anchor", "version: &v 1.0.0\n"),
        ("too large", &long),
    ] {
        write(&policy, text);
        write(&signature, sign_anything(text, &key_file, &key));
        refused(&fleet, case, "parse_error", "").await;
    }

    // A key that no longer counts, told by another that does.
    write(&policy, &document);
    write(&signature, &good);
    let second = PolicyKey::generate("second");
    let trusted = TrustedKeys::new(vec![key.trusted(), second.trusted()]).unwrap();
    std::fs::remove_file(keys.join("policy/trusted.json")).unwrap();
    trusted.save(&keys.join("policy/trusted.json")).unwrap();
    let (list, list_signature) = Revocations::none().revoke(key.fingerprint(), &second);
    let revoked = keys.join("policy/revoked.json");
    write(&revoked, list);
    write(&signature_path(&revoked), list_signature);
    refused(&fleet, "a revoked key", "revoked_key", "").await;
    let told = audited(&mut fleet.db().await, "scheduler.policy.revoked_key.rejected").await;
    assert_eq!(told.len(), 1);
    assert_eq!(
        (&told[0]["key_fingerprint"], &told[0]["policy_version"]),
        (&key.fingerprint().to_string().into(), &"1.0.0".into())
    );
    // The list was accepted and holds; only these tests can take it back.
    std::fs::remove_file(&revoked).unwrap();
    execute(&mut fleet.db().await, "delete from policy_revocation").await;

    // A newer one was in force already.
    let scans = "select count(*) from scan";
    assert_eq!(count(&mut fleet.db().await, scans).await, 0, "nobody was dispatched meanwhile");
    write(&policy, with_version(&document, "1.2.0"));
    fleet.sign_policy().await;
    let mut scheduler = fleet.program("scheduler").spawn();
    scheduler.line("policy in force").await;
    scheduler.terminate().await;
    write(&policy, &document);
    fleet.sign_policy().await;
    refused(&fleet, "an older one", "version_regression", "1.2.0").await;
    write(&policy, with_version(&document, "1.2.0") + "# other bytes\n");
    fleet.sign_policy().await;
    refused(&fleet, "the same version with other bytes", "version_regression", "1.2.0").await;
    assert_eq!(texts(&mut fleet.db().await, IN_FORCE).await, ["1.2.0"]);
}

/// A signature over anything, as somebody with the key and a tool of his own would make it.
fn sign_anything(text: &str, key_file: &Path, key: &PolicyKey) -> String {
    let file: Value = serde_json::from_slice(&std::fs::read(key_file).unwrap()).unwrap();
    let mut seed = [0; 32];
    hex::decode_to_slice(file["openwatch_policy_key"].as_str().unwrap(), &mut seed).unwrap();
    // An NKEY is an Ed25519 key with a name tag.
    let pair = nkeys::KeyPair::new_from_raw(nkeys::KeyPairType::User, seed).unwrap();
    let sig = pair.sign(&dsse::pre_authentication_encoding(POLICY_TYPE, text.as_bytes())).unwrap();
    let entry = json!({ "keyid": key.fingerprint().to_string(), "sig": base64(&sig) });
    json!({ "payloadType": POLICY_TYPE, "signatures": [entry] }).to_string()
}

// @spec scheduler
// @ac AC-05
// @spec policy
// @ac AC-02
#[tokio::test]
async fn a_refused_reload_changes_nothing_and_is_told() {
    println!("@spec scheduler");
    println!("@ac AC-05");
    println!("@spec policy");
    println!("@ac AC-02");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let document = std::fs::read_to_string(fleet.policy()).unwrap();
    fleet.spawn("scheduler");
    fleet.stage("scheduler").line("policy in force").await;
    fleet.all_running().await;
    let url = fleet.database_url().to_owned();
    let rejected = |times: usize| {
        let url = url.clone();
        async move {
            eventually("a refused reload", || async {
                use sqlx::Connection;
                let mut db = sqlx::PgConnection::connect(&url).await.unwrap();
                let rows = audited(&mut db, "scheduler.policy.reload.rejected").await;
                (rows.len() == times).then_some(rows)
            })
            .await
        }
    };
    // Not signed again.
    write(&fleet.policy(), with_version(&document, "1.1.0"));
    fleet.stage("scheduler").signal(Signal::HUP);
    let rows: Vec<Value> = rejected(1).await;
    assert_eq!(rows[0]["reason"], "signature_invalid", "{rows:?}");
    assert_eq!(rows[0]["policy_version_active"], "1.0.0", "{rows:?}");
    // Older.
    write(&fleet.policy(), with_version(&document, "0.9.0"));
    fleet.sign_policy().await;
    fleet.stage("scheduler").signal(Signal::HUP);
    let rows = rejected(2).await;
    assert_eq!(
        (&rows[1]["reason"], &rows[1]["policy_version_attempted"]),
        (&"version_regression".into(), &"0.9.0".into())
    );

    // It goes on under the policy that it had.
    let mut db = fleet.db().await;
    assert_eq!(texts(&mut db, IN_FORCE).await, ["1.0.0"]);
    hosts(&mut db, 1).await;
    eventually("a scan under the policy in force", || async {
        let policies =
            texts(&mut fleet.db().await, "select policy_version from scan where tag is not null").await;
        (policies == ["1.0.0"]).then_some(())
    })
    .await;
    // And follows a good one.
    write(&fleet.policy(), with_version(&document, "1.1.0"));
    fleet.sign_policy().await;
    fleet.stage("scheduler").signal(Signal::HUP);
    eventually("the new policy", || async {
        (texts(&mut fleet.db().await, IN_FORCE).await == ["1.1.0"]).then_some(())
    })
    .await;
    let keys = fleet.keys("scheduler");
    ran(Program::new(["policy", "verify"]).arg(fleet.policy()).arg("--keys").arg(keys)).await;
}

// @spec scheduler
// @ac AC-16
#[tokio::test]
async fn a_state_that_the_policy_does_not_name_waits_longest() {
    println!("@spec scheduler");
    println!("@ac AC-16");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    write(&fleet.policy(), "version: 1.0.0\ntiers: {critical: 60}\n");
    fleet.sign_policy().await;
    let mut db = fleet.db().await;
    hosts(&mut db, 2).await;
    let critical = "update host_compliance_schedule s set compliance_state = 'critical', claim_order = claim_order('critical', next_scheduled_scan)
                    from host h where h.id = s.host_id and h.name = 'host-2'";
    execute(&mut db, critical).await;
    fleet.spawn("scheduler");
    fleet.spawn("api");
    fleet.all_running().await;
    eventually("both scans", || async {
        (count(&mut fleet.db().await, "select count(*) from scan").await == 2).then_some(())
    })
    .await;
    let waits = "select concat_ws(' ', h.name, current_interval_minutes, next_scheduled_scan - scan.queued_at)
                 from host_compliance_schedule s join host h on h.id = s.host_id join scan on scan.host_id = h.id order by 1";
    assert_eq!(texts(&mut db, waits).await, ["host-1 2880 2 days", "host-2 60 01:00:00"]);
    let clamped = audited(&mut db, "scheduler.policy.clamped").await;
    assert_eq!(clamped.len(), 0, "nothing was out of bounds: {clamped:?}");
    let (_, stdout, _) = ran(fleet.client(&["host", "show", "host-1"])).await;
    assert!(stdout.contains("unknown are scanned every 2880 minutes"), "{stdout}");
}
