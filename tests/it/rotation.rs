//! Rotating the data-encryption key under load, and with crashes in the middle.

use std::path::Path;
use std::time::Duration;

use openwatch_tests::sshd::Options;
use openwatch_tests::{Program, Stack, eventually};
use serde_json::Value;

use crate::trunk::fleet::{Fleet, ran};
use crate::trunk::ground::Ground;
use crate::trunk::tables::{self, count, texts};

fn proves(criterion: &str) {
    println!("@spec credential-store\n@ac {criterion}");
}

async fn number(stack: &Stack, sql: &str) -> i64 {
    count(&mut tables::private_db(&stack.data_dir()).await, sql).await
}

async fn key_ids(stack: &Stack) -> Vec<String> {
    texts(
        &mut tables::private_db(&stack.data_dir()).await,
        "select distinct key_id from credential order by 1",
    )
    .await
}

async fn phase(stack: &Stack, wanted: &str) {
    eventually(&format!("a rotation that is {wanted}"), || async {
        let sql = "select phase from key_rotation order by id desc limit 1";
        let phases = texts(&mut tables::private_db(&stack.data_dir()).await, sql).await;
        (phases == [wanted.to_owned()]).then_some(())
    })
    .await;
}

fn files(stack: &Stack) -> Vec<String> {
    let dir = std::fs::read_dir(stack.data_dir().join("keys")).unwrap();
    let mut names: Vec<_> = dir
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with("dek"))
        .collect();
    names.sort();
    names
}

// @spec credential-store
// @ac AC-06
#[tokio::test]
async fn scans_go_on_while_the_key_changes_under_them() {
    proves("AC-06");
    let (ground, sshd) = (Ground::new(1).slow(4), Options::new().start());
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web", &sshd).await;
    for name in ["b", "c", "d"] {
        stack.add_host(name, &sshd).await;
    }
    eventually("a job in flight", || async {
        (number(&stack, "select count(*) from scan where state = 'running'").await > 0).then_some(())
    })
    .await;
    let before = key_ids(&stack).await;
    assert_eq!(before.len(), 1);
    let doctor = stack.json(&["doctor"]).await;
    let roles: Vec<_> =
        doctor["keys"]["holders"].as_array().unwrap().iter().map(|it| it["role"].clone()).collect();
    assert!(roles.len() >= 5, "everybody says what they hold: {doctor}");

    let (code, stdout, stderr) = stack.cli(&["credential", "rotate-key"]).await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let after = key_ids(&stack).await;
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    assert_eq!(files(&stack), ["dek", "dek.old"], "kept for what is in flight");
    let (code, _, stderr) = stack.cli(&["credential", "rotate-key"]).await;
    assert!(matches!(code, Some(64 | 75)), "one at a time: {stderr}");
    // What was signed under the old key ends well, and what begins now too.
    for host in ["web", "b", "c", "d"] {
        let scans = stack.ended_scans(host, 1).await;
        assert_eq!(scans[0]["state"], "completed", "{host}: {scans:?}");
        let (code, stdout, stderr) = stack.cli(&["scan", host, "--wait"]).await;
        assert_eq!(code, Some(0), "{stdout}{stderr}");
    }
    let signed = "select distinct key_id from scan where attempt = 1 order by 1";
    let mut keys = texts(&mut tables::private_db(&stack.data_dir()).await, signed).await;
    keys.sort();
    let mut both = [before, after].concat();
    both.sort();
    assert_eq!(keys, both, "jobs of both keys were measured");
    assert_eq!(
        number(&stack, "select count(*) from audit_event where action = 'scheduler.job.hmac_rejected'").await,
        0
    );
    let told = "select count(*) from audit_event where action = 'credential.rotation.advanced'";
    assert_eq!(number(&stack, told).await, 2, "issued and switched");
}

// @spec credential-store
// @ac AC-07
#[tokio::test]
async fn a_crash_at_any_step_of_a_rotation_is_gone_on_from() {
    proves("AC-07");
    let (ground, sshd) = (Ground::new(1), Options::new().start());
    let mut stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web", &sshd).await;
    assert_eq!(stack.ended_scans("web", 1).await[0]["state"], "completed");
    let mut seen = key_ids(&stack).await;
    for round in 0..3u64 {
        stack.json(&["credential", "rotate-key", "--retire-after", "0", "--no-wait"]).await;
        // A moment later each time: before the next key, between issue and switch, after it.
        tokio::time::sleep(Duration::from_millis(round * 700)).await;
        stack.up().kill();
        stack.restart().await;
        phase(&stack, "done").await;
        assert_eq!(files(&stack), ["dek"], "round {round}: the old key is gone");
        let now = key_ids(&stack).await;
        assert!(now.len() == 1 && !seen.contains(&now[0]), "round {round}: {seen:?} {now:?}");
        seen.extend(now);
        let (code, stdout, stderr) = stack.cli(&["scan", "web", "--wait"]).await;
        assert_eq!(code, Some(0), "round {round}: {stdout}{stderr}");
    }
}

/// Key directories of their own: a person takes the steps, and `doctor` says who is missing.
// @spec credential-store
// @ac AC-08
#[tokio::test]
async fn processes_with_directories_of_their_own_follow_their_files() {
    proves("AC-08");
    let (ground, sshd) = (Ground::new(1), Options::new().start());
    let mut fleet = Fleet::start(&ground.rules(), 1).await;
    fleet.add_hosts(1, &sshd).await;
    let rest = fleet.rest();
    let completed = |count: usize| {
        let rest = &rest;
        async move {
            eventually("a completed scan", || async {
                let page = rest.get("/scans?host=host-0").await;
                let done = |it: &&Value| it["state"] == "completed";
                (page["items"].as_array()?.iter().filter(done).count() >= count).then_some(())
            })
            .await;
        }
    };
    completed(1).await;
    let master = fleet.keys("master");
    let step = |step: &'static str| ran(Program::new(["keys", "rotate", step, "--dir"]).arg(&master));
    let place = master.parent().unwrap().to_owned();
    let issue = |what: &'static str| {
        ran(Program::new(["keys", "issue", what, "--dir"]).arg(&master).arg("--out").arg(place.join(what)))
    };
    let holding = |ids: usize, roles: usize| {
        let rest = &rest;
        async move {
            eventually("everybody holds the keys", || async {
                let view = rest.get("/keys").await;
                let held = |it: &&Value| it["key_ids"].as_array().is_some_and(|all| all.len() == ids);
                (view["holders"].as_array()?.iter().filter(held).count() == roles).then_some(())
            })
            .await;
        }
    };
    holding(1, 6).await;
    step("begin").await;
    for what in ["vault", "executor", "writer", "api", "alerts"] {
        issue(what).await;
    }
    // One is forgotten, and can be told from the others.
    holding(2, 5).await;
    let late = rest.get("/keys").await;
    let one = |it: &&Value| it["key_ids"].as_array().is_some_and(|all| all.len() == 1);
    let late: Vec<_> =
        late["holders"].as_array().unwrap().iter().filter(one).map(|it| it["role"].clone()).collect();
    assert_eq!(late, ["scheduler"]);
    issue("scheduler").await;
    holding(2, 6).await;
    let mut db = fleet.db().await;
    let old = texts(&mut db, "select distinct current_key_id from key_holder").await;
    assert_eq!(old.len(), 1, "nobody signs with the next key yet");
    step("switch").await;
    for what in ["vault", "executor", "writer", "api", "scheduler", "alerts"] {
        issue(what).await;
    }
    let behind = format!("select count(*) from key_holder where current_key_id = '{}'", old[0]);
    eventually("all sign with the next key", || async {
        (count(&mut fleet.db().await, &behind).await == 0).then_some(())
    })
    .await;
    fleet.json(&["scan", "host-0"]).await;
    completed(2).await;
    eventually("credentials under the next key", || async {
        let sql = format!("select count(*) from credential where key_id = '{}'", old[0]);
        (count(&mut fleet.db().await, &sql).await == 0).then_some(())
    })
    .await;
    // A file that cannot be used changes nothing.
    let file = fleet.keys("executor").join("executor.json");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "not keys").unwrap();
    fleet.stage("executor-1").line("the ones from before stay").await;
    fleet.json(&["scan", "host-0"]).await;
    completed(3).await;
    std::fs::write(&file, good).unwrap();
    step("retire").await;
    for what in ["executor", "writer", "api", "scheduler", "alerts", "vault"] {
        issue(what).await;
    }
    holding(1, 6).await;
    fleet.json(&["scan", "host-0"]).await;
    completed(4).await;
    assert_eq!(
        count(&mut db, "select count(*) from audit_event where action = 'scheduler.job.hmac_rejected'").await,
        0
    );
}

// @spec credential-store
// @ac AC-11
#[tokio::test]
async fn each_process_is_issued_what_it_needs_and_nothing_else() {
    proves("AC-11");
    let dir = tempfile::tempdir().unwrap();
    let (master, out) = (dir.path().join("master"), dir.path().join("out"));
    ran(Program::new(["keys", "init", "--dir"]).arg(&master)).await;
    let dek = hex::encode(std::fs::read(master.join("dek")).unwrap());
    let signing = std::fs::read_to_string(master.join("policy/policy.key")).unwrap();
    let [public, whole] = ["nats/users.conf", "policy/trusted.json"];
    for (what, files, keys) in [
        ("executor", &["executor.json", "nats/executor.nk"][..], &["queue", "executor"][..]),
        ("scheduler", &["nats/caretaker.nk", "nats/scheduler.nk", "scheduler.json"], &["queue"]),
        ("writer", &["nats/writer.nk", "writer.json"], &["executor", "result_root"]),
        ("api", &["api.json", "nats/api.nk", "nats/reader.nk"], &["channel_public", "vault_public"]),
        ("alerts", &["alerts.json", "nats/alerts.nk"], &["channel_private", "channel_public"]),
        ("stages", &["nats/drift.nk", "nats/liveness.nk"], &[]),
        ("vault", &["dek", "nats/vault.nk"], &[]),
    ] {
        let place = out.join(what);
        ran(Program::new(["keys", "issue", what, "--dir"]).arg(&master).arg("--out").arg(&place)).await;
        let mut found = below(&place, &place);
        found.retain(|file| file != whole);
        assert_eq!(found, files, "{what}");
        for file in &found {
            let text = String::from_utf8_lossy(&std::fs::read(place.join(file)).unwrap()).into_owned();
            assert!(!text.contains(&dek) && !signing.contains(text.trim()), "{what}: {file}");
            if file.ends_with(".json") {
                let it: serde_json::Value = serde_json::from_str(&text).unwrap();
                let entry = it["keys"][0].as_object().unwrap();
                let mut held: Vec<_> = entry.iter().filter(|(_, value)| !value.is_null()).collect();
                held.retain(|(name, _)| *name != "id");
                let held: std::collections::BTreeSet<_> =
                    held.iter().map(|(name, _)| name.as_str()).collect();
                assert_eq!(held, keys.iter().copied().collect(), "{what}: {file}");
            }
        }
        assert!(!place.join(public).exists() && !place.join("policy/policy.key").exists(), "{what}");
    }
}

/// Names of all files below, in order.
fn below(root: &Path, dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(below(root, &path));
        } else {
            found.push(path.strip_prefix(root).unwrap().display().to_string());
        }
    }
    found.sort();
    found
}
