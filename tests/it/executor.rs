//! Workers: what a host, a job or a crash can do to a scan, seen from outside.

pub(crate) mod crew;
mod fleet;
mod jobs;
mod lanes;
mod lives;
mod reasons;
mod results;
mod setup;
mod stops;
mod workers;

pub(crate) use self::fleet::{Targets, side_by_side};

use std::net::TcpListener;
use std::time::Duration;

use openwatch_app::keydir::KeyDir;
use openwatch_tests::sshd::{Options, generate_key};
use openwatch_tests::{Database, Program, Stack, eventually, eventually_within};
use rustix::process::Signal;
use serde_json::Value;
use sqlx::AssertSqlSafe;

fn proves(criterion: &str) {
    println!("@spec kensa-executor\n@ac {criterion}");
}

/// A running system on a database that the test can look into.
async fn system() -> (Stack, Database) {
    let database = Database::new().await;
    let stack = Stack::with(&["--database-url", database.url()]).await;
    (stack, database)
}

async fn number(database: &Database, query: &str) -> i64 {
    let mut connection = database.connect().await;
    sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut connection).await.unwrap()
}

async fn released(database: &Database) -> i64 {
    number(database, "select count(*) from audit_event where action = 'credential.released'").await
}

/// Signs a policy as a person does, and has the running system read it.
async fn follow(stack: &mut Stack, database: &Database, policy: &str, version: &str) {
    let data = stack.data_dir();
    let file = data.join("policy/schedules.yaml");
    std::fs::write(&file, policy).unwrap();
    let key = KeyDir::new(data.join("keys")).policy_key_file();
    let sign = Program::new(["policy", "sign"]).arg(&file).arg("--key").arg(key);
    let (code, _, stderr) = sign.run().await;
    assert_eq!(code, Some(0), "{stderr}");
    stack.up().signal(Signal::HUP);
    let query = format!("select count(*) from policy_history where version = '{version}'");
    eventually("the policy is in force", || async { (number(database, &query).await == 1).then_some(()) })
        .await;
}

/// The newest ended scan of a host.
async fn ended(stack: &Stack, host: &str, limit: Duration) -> Value {
    eventually_within(limit, &format!("an ended scan of {host}"), || async {
        let scans = stack.json(&["scans", "--host", host]).await;
        let newest = scans.as_array()?.first()?.clone();
        (newest["state"] == "completed" || newest["state"] == "failed").then_some(newest)
    })
    .await
}

// @spec kensa-executor
// @ac AC-13
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_refused_before_the_vault_is_asked() {
    proves("AC-13");
    let (mut stack, database) = system().await;
    follow(&mut stack, &database, "version: 1.0.1\nhost_key_policy: require_known\n", "1.0.1").await;
    let sshd = Options::new().start();
    stack.add_host("web", &sshd).await;
    let scan = ended(&stack, "web", Duration::from_secs(30)).await;
    assert_eq!(scan["failure"], "host_key_unknown", "{scan}");
    assert_eq!(released(&database).await, 0);
    assert_eq!(
        number(&database, "select count(*) from audit_event where action = 'credential.refused'").await,
        0
    );
    assert!(!sshd.log().contains("Accepted") && !sshd.log().contains("Failed"), "{}", sshd.log());
}

// @spec kensa-executor
// @ac AC-18
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_host_key_is_refused_and_critical() {
    proves("AC-18");
    let (stack, database) = system().await;
    let sshd = Options::new().start();
    // The host had another key when somebody put it on record.
    let before = generate_key(&sshd.dir().join("before"), "ed25519");
    stack.add_host("web", &sshd).await;
    ended(&stack, "web", Duration::from_secs(30)).await;
    let (had, logins) = (released(&database).await, sshd.log().matches("Accepted").count());
    let key = format!("{} {}", before.algorithm, before.key);
    stack.json(&["host", "accept-key", "web", "--key", &key]).await;
    let (code, out, _) = stack.cli(&["scan", "web", "--wait", "--json"]).await;
    assert_ne!(code, Some(0), "{out}");
    let scan = ended(&stack, "web", Duration::from_secs(30)).await;
    assert_eq!(scan["failure"], "host_key_mismatch", "{scan}");
    assert_eq!((released(&database).await, sshd.log().matches("Accepted").count()), (had, logins));
    let alert = eventually("an alert", || async {
        let alerts = stack.json(&["alerts"]).await;
        alerts.as_array()?.iter().find(|alert| alert["type"] == "host_key_changed").cloned()
    })
    .await;
    assert_eq!((&alert["severity"], &alert["state"]), (&"critical".into(), &"active".into()), "{alert}");
}

// @spec kensa-executor
// @ac AC-19
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_credential_is_tried_once() {
    proves("AC-19");
    let (stack, _database) = system().await;
    let sshd = Options::new().start();
    let wrong = sshd.dir().join("wrong");
    generate_key(&wrong, "ed25519");
    let (file, port) = (wrong.display().to_string(), sshd.port().to_string());
    stack.json(&["credential", "add", "key", "--user", sshd.user(), "--key-file", &file, "--default"]).await;
    stack.json(&["host", "add", "web", "--address", "127.0.0.1", "--port", &port]).await;
    let scan = ended(&stack, "web", Duration::from_secs(30)).await;
    assert_eq!(scan["failure"], "auth_failed", "{scan}");
    let log = sshd.log();
    let tried = log.lines().filter(|line| line.contains("Failed publickey for")).count();
    assert_eq!((tried, log.matches("Accepted").count()), (1, 0), "{log}");
}

// @spec kensa-executor
// @ac AC-20
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_and_a_silent_host_have_their_own_reasons() {
    proves("AC-20");
    let (stack, database) = system().await;
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port().to_string();
    let closed = port(&TcpListener::bind("127.0.0.1:0").unwrap());
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    stack
        .json(&["host", "add", "closed", "--address", "127.0.0.1", "--port", &closed, "--user", "root"])
        .await;
    // A name that nobody will ever have.
    stack.json(&["host", "add", "away", "--address", "nobody.invalid", "--user", "root"]).await;
    let long = std::env::var_os("OPENWATCH_LONG").is_some();
    if long {
        let silent = port(&silent);
        stack
            .json(&["host", "add", "silent", "--address", "127.0.0.1", "--port", &silent, "--user", "root"])
            .await;
    } else {
        println!("skipped: the port that takes connections and says nothing needs OPENWATCH_LONG=1");
    }
    let scan = ended(&stack, "closed", Duration::from_secs(60)).await;
    assert_eq!(scan["failure"], "connect_refused", "{scan}");
    let scan = ended(&stack, "away", Duration::from_secs(60)).await;
    assert_eq!(scan["failure"], "unreachable", "{scan}");
    if long {
        let scan = ended(&stack, "silent", Duration::from_secs(180)).await;
        assert_eq!(scan["failure"], "unreachable", "{scan}");
    }
    assert_eq!(released(&database).await, 0);
}
