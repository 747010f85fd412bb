//! Host keys: what is believed, what stops a scan, and who may say otherwise.

use openwatch_app::run::Stage;
use openwatch_bus::Outgoing;
use openwatch_bus::message::result::{Part, encode_final, message_id};
use openwatch_bus::subject;
use openwatch_model::host::KnownKey;
use openwatch_model::scan::Job;
use openwatch_remote::fingerprint;
use openwatch_tests::sshd::{KeyKind, Options, Sshd};
use openwatch_tests::stages::{TOFU, headers, measured};
use openwatch_tests::{Program, Stack, Stages, eventually};
use serde_json::{Value, json};

use crate::jump::any_key;
use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::tables::{self, count};
use crate::writer::outcomes;

fn proves(criterion: &str) {
    println!("@spec host-keys\n@ac {criterion}");
}

fn line(key: &KnownKey) -> String {
    format!("{} {}", key.algorithm, key.key)
}

async fn number(stack: &Stack, sql: &str) -> i64 {
    count(&mut tables::private_db(&stack.data_dir()).await, sql).await
}

fn audited(code: &str) -> String {
    format!("select count(*) from audit_event where action = '{code}'")
}

// @spec host-keys
// @ac AC-01
#[tokio::test]
async fn a_strict_worker_waits_for_a_person_and_says_what_it_saw() {
    proves("AC-01");
    let (ground, sshd) = (Ground::new(1), Options::new().start());
    let mut fleet = Fleet::prepare(&ground.rules()).await;
    std::fs::write(fleet.policy(), "version: 1.0.0\nhost_key_policy: require_known\n").unwrap();
    fleet.sign_policy().await;
    for stage in ["api", "vault", "writer", "executor-1"] {
        fleet.spawn(stage);
    }
    fleet.all_running().await;
    fleet.add_hosts(1, &sshd).await;
    // Of another one the key is known beforehand.
    let (pinned, home) = (Options::new().start(), tempfile::tempdir().unwrap());
    let (key, port) = (home.path().join("key"), pinned.port().to_string());
    std::fs::write(&key, pinned.private_key()).unwrap();
    let key = key.display().to_string();
    fleet.json(&["credential", "add", "own", "--user", pinned.user(), "--key-file", &key]).await;
    let add = ["host", "add", "pinned", "--address", "127.0.0.1", "--port", &port, "--credential", "own"];
    fleet.json(&add).await;
    fleet.json(&["host", "accept-key", "pinned", "--key", &line(&pinned.host_keys()[0])]).await;
    fleet.spawn("scheduler");
    let ended = |host: &'static str, count: usize| {
        let rest = fleet.rest();
        async move {
            eventually("an ended scan", || async {
                let page = rest.get(&format!("/scans?host={host}")).await;
                let all = page["items"].as_array()?.clone();
                let over = |it: &Value| it["state"] == "completed" || it["state"] == "failed";
                (all.len() >= count && all.iter().all(over)).then(|| all[0].clone())
            })
            .await
        }
    };
    let scan = ended("pinned", 1).await;
    assert_eq!(scan["state"], "completed", "its very first scan: {scan}");
    let scan = ended("host-0", 1).await;
    assert_eq!(scan["failure"], "host_key_unknown", "{scan}");
    assert!(!sshd.log().contains("Accepted") && !sshd.log().contains("Failed"), "{}", sshd.log());
    let mut db = fleet.db().await;
    let released = "select h.name from audit_event a join host h on h.id = a.host_id where a.action = 'credential.released'";
    assert_eq!(tables::texts(&mut db, released).await, ["pinned"], "no secret of the other moved");

    let keys = fleet.rest().get("/hosts/host-0/keys").await;
    let print = fingerprint(&sshd.host_keys()[0]).unwrap();
    assert_eq!(
        (&keys["items"][0]["state"], &keys["items"][0]["fingerprint"]),
        (&json!("shown"), &json!(print))
    );
    assert!(scan["failure_detail"].as_str().unwrap().contains(&print), "{scan}");
    fleet.json(&["host", "accept-key", "host-0", "--fingerprint", &print]).await;
    fleet.json(&["scan", "host-0"]).await;
    let scan = ended("host-0", 2).await;
    assert_eq!(scan["state"], "completed", "{scan}");
}

/// Asks for a scan and waits for its end.
async fn scan_of(stack: &Stack, host: &str) -> Value {
    let before = stack.json(&["scans", "--host", host]).await.as_array().map_or(0, Vec::len);
    stack.cli(&["scan", host, "--wait"]).await;
    stack.ended_scans(host, before + 1).await[0].clone()
}

// @spec host-keys
// @ac AC-02
// @ac AC-03
#[tokio::test]
async fn a_changed_key_stops_the_scan_alerts_once_and_is_accepted_by_its_fingerprint() {
    proves("AC-02");
    println!("@ac AC-03");
    let ground = Ground::new(1);
    let sshd = Options::new().host_key(KeyKind::Ed25519).host_key(KeyKind::Ecdsa).start();
    let neighbour = Options::new().start();
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web", &sshd).await;
    assert_eq!(stack.ended_scans("web", 1).await[0]["state"], "completed");
    // Two servers at one address: no attack. Nor is a second kind of key.
    stack.add_host_at("next", &sshd, neighbour.port()).await;
    let next = stack.ended_scans("next", 1).await;
    assert_eq!(next[0]["failure"], "auth_failed", "its key was believed, the login was not: {next:?}");
    let learned = "select count(*) from known_host_key where accepted_by = 'first contact'";
    assert_eq!(number(&stack, learned).await, 2, "one for each port");
    stack.json(&["host", "accept-key", "web", "--key", &line(&sshd.host_keys()[1])]).await;
    assert_eq!(stack.json(&["host", "keys", "web"]).await.as_array().unwrap().len(), 2);
    assert_eq!(scan_of(&stack, "web").await["state"], "completed");

    let other = any_key();
    stack.json(&["host", "accept-key", "web", "--key", &line(&other)]).await;
    // The host has shown its ed25519 key first; hold it to that kind only.
    let ecdsa = "delete from known_host_key where algorithm <> 'ssh-ed25519'";
    tables::execute(&mut tables::private_db(&stack.data_dir()).await, ecdsa).await;
    let released = number(&stack, &audited("credential.released")).await;
    let logins = sshd.log().matches("Accepted").count();
    for _ in 0..2 {
        let scan = scan_of(&stack, "web").await;
        assert_eq!(scan["failure"], "host_key_mismatch", "{scan}");
    }
    assert_eq!(number(&stack, &audited("credential.released")).await, released, "no secret moved");
    assert_eq!(sshd.log().matches("Accepted").count(), logins, "nor did anybody log in");
    assert_eq!(number(&stack, &audited("host_key.changed")).await, 2);
    let alerts = "select count(*) from alert where alert_type = 'host_key_changed' and severity = 'critical'";
    eventually("the alert", || async { (number(&stack, alerts).await > 0).then_some(()) }).await;
    assert_eq!(number(&stack, alerts).await, 1, "one incident, one alert");

    let (old, new) = (fingerprint(&other).unwrap(), fingerprint(&sshd.host_keys()[0]).unwrap());
    let (code, _, stderr) = stack.cli(&["host", "accept-key", "web"]).await;
    assert_eq!(code, Some(64), "{stderr}");
    for part in [format!("old: ssh-ed25519 {old}"), format!("new: ssh-ed25519 {new}")] {
        assert!(stderr.contains(&part), "{part} in {stderr}");
    }
    let (code, _, stderr) = stack.cli(&["host", "accept-key", "web", "--fingerprint", &old]).await;
    assert_eq!(code, Some(64), "nobody was shown that one: {stderr}");
    let (code, stdout, stderr) = stack.cli(&["host", "accept-key", "web", "--fingerprint", &new]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains(&old) && stdout.contains(&new), "{stdout}");
    let vouched = format!(
        "select count(*) from audit_event where action = 'host_key.accepted'
         and detail ->> 'fingerprint' = '{new}' and detail ->> 'replaced' = '{old}' and actor_type = 'user'"
    );
    assert_eq!(number(&stack, &vouched).await, 1);
    assert_eq!(number(&stack, "select count(*) from shown_host_key where port <> 0").await, 0);
    assert_eq!(scan_of(&stack, "web").await["state"], "completed");
}

/// A result that says that this key was believed on first contact.
fn with_key(stages: &Stages, job: &Job, key: &KnownKey) -> Outgoing {
    let mut result = measured(job, &outcomes(3, 0));
    result.learned_key = Some(key.clone());
    let payload = encode_final(&result);
    let subject = subject::result(Part::Final, job.host, job.scan);
    let signed =
        stages.vault_keys().result_key(job.scan, job.attempt).sign(Part::Final.as_str(), &subject, &payload);
    let message_id = message_id(job.scan, job.attempt, 1, Part::Final);
    Outgoing { subject, message_id, headers: headers(&signed, "attempt"), payload }
}

// @spec host-keys
// @ac AC-04
#[tokio::test(flavor = "multi_thread")]
async fn of_two_first_contacts_at_once_exactly_one_is_believed() {
    proves("AC-04");
    let stages = Stages::under(TOFU).await;
    let _writers = (stages.run(&[Stage::Writer]).await, stages.run(&[Stage::Writer]).await);
    for round in 0..5u16 {
        // Two names for one address and port.
        let port = 2000 + round;
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        let (a, b) = (stages.host(&a, port).await, stages.host(&b, port).await);
        let (first, _) = stages.job(a, |_| ()).await;
        let (second, _) = stages.job(b, |_| ()).await;
        let (first_says, second_says) =
            (with_key(&stages, &first, &any_key()), with_key(&stages, &second, &any_key()));
        tokio::join!(stages.send(&first_says), stages.send(&second_says));
        let mut ends = [stages.ended(first.scan).await, stages.ended(second.scan).await];
        ends.sort();
        assert_eq!(ends, ["completed", "failed"]);
        let kept = format!("select count(*) from known_host_key where port = {port}");
        assert_eq!(stages.number(&kept).await, 1);
    }
    let reasons = stages.texts("select distinct failure_reason from scan where state = 'failed'").await;
    assert_eq!(reasons, ["host_key_mismatch"]);
    assert_eq!(stages.audited("host_key.changed").await, 5);
}

// @spec host-keys
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_read_are_not_keys_that_are_unknown() {
    proves("AC-06");
    let stages = Stages::under(TOFU).await;
    stages.publish(&[("r", "true")]).await;
    stages.meddle("revoke select on job_target from openwatch_scheduler").await;
    // One is due, of the other somebody wants to know now.
    stages.host("web", 22).await;
    let asked = stages.host("db", 22).await;
    stages
        .meddle(&format!(
            "update host set last_number = 1 where id = '{asked}';
             insert into open_scan (host_id, scan_id, unissued) values ('{asked}', gen_random_uuid(), true);
             insert into scan (id, host_id, number, lane, trigger, actor, framework, queued_at)
             select scan_id, host_id, 1, 'manual', 'manual', 'tester', '*', now() from open_scan"
        ))
        .await;
    let process = stages.run(&[Stage::Scheduler]).await;
    // A round of each loop: one counts the host that it could not dispatch, the other ends with the first error.
    let tried =
        "select count(*) from counter where name in ('host_error_count', 'tick_error_count') and value > 0";
    eventually("a round of each", || async { (stages.number(tried).await == 2).then_some(()) }).await;
    assert_eq!(
        stages.number("select count(*) from scan where tag is not null").await,
        0,
        "no job without its keys"
    );
    stages.relayed().await;
    assert_eq!(stages.admin.stream_info("OW_JOBS").await.unwrap().messages, 0);
    drop(process);
    stages.meddle("grant select on job_target to openwatch_scheduler").await;
    let _process = stages.run(&[Stage::Scheduler]).await;
    let issued = || async {
        (stages.number("select count(*) from scan where tag is not null").await == 2).then_some(())
    };
    eventually("their jobs", issued).await;
}

async fn check(sshd: &Sshd, home: &std::path::Path) -> (Option<i32>, String, String) {
    let ground = Ground::new(1);
    let key = home.join("key");
    std::fs::write(&key, sshd.private_key()).unwrap();
    Program::new(["check".to_owned(), format!("{}@127.0.0.1", sshd.user())])
        .arg("--port")
        .arg(sshd.port().to_string())
        .arg("-i")
        .arg(key)
        .arg("--rules")
        .arg(ground.rules())
        .arg("--host-key")
        .arg("tofu")
        .env("HOME", home)
        .run()
        .await
}

// @spec host-keys
// @ac AC-07
#[tokio::test]
async fn a_host_that_only_signs_with_sha1_is_refused() {
    proves("AC-07");
    let home = tempfile::tempdir().unwrap();
    let sha1 = Options::new().host_key(KeyKind::Rsa).config("HostKeyAlgorithms ssh-rsa").start();
    let (code, _, stderr) = check(&sha1, home.path()).await;
    assert_eq!(code, Some(69), "{stderr}");
    assert!(stderr.contains("SHA-1"), "{stderr}");
    assert!(!sha1.log().contains("Accepted"), "{}", sha1.log());
    let sha2 = Options::new().host_key(KeyKind::Rsa).start();
    let (code, _, stderr) = check(&sha2, home.path()).await;
    assert_eq!(code, Some(0), "the same kind of key with SHA-2: {stderr}");
}
