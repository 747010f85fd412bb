//! The same story as on one machine, told by 3 NATS nodes and 15 processes; then by what is left of them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use openwatch_tests::{eventually, eventually_within, sshd};
use serde_json::Value;

use super::engine::Engine;
use super::file::Condition;

const NATS: &str = "tls://nats-1:4222,tls://nats-2:4222,tls://nats-3:4222";
const RULES: usize = 10;

pub(super) async fn run(dir: &Path) {
    let since = Instant::now();
    let told = |what: &str| println!("{:5.1} s: {what}", since.elapsed().as_secs_f64());
    let mut engine = Engine::new(dir);
    engine.up().await;
    told("every container of docker-compose.yml is well, in namespaces, with the files as they are");
    // As the script promises: what is there stays.
    for job in ["keys", "schema", "logins", "contents"] {
        engine.start(job, 1);
        engine.wait_for(job, Condition::ServiceCompletedSuccessfully).await;
    }
    told("the one-shot jobs ran again");
    nobody_is_let_in_without_a_certificate(&mut engine).await;
    told("without a certificate nobody is let in");
    every_stream_has_three_replicas(&mut engine).await;
    told("every stream has three replicas");

    let ground = dir.join("ground");
    fs::create_dir(&ground).unwrap();
    publish_rules(&mut engine, &ground).await;
    (0..RULES).for_each(|number| set(&ground, number, true));
    let target = sshd::Options::new().config("ListenAddress 10.0.0.1:2222").start();
    let key = engine.volume("token").join("target.key");
    fs::write(&key, target.private_key()).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&key, Some(10001), Some(10001)).unwrap();
    let add =
        ["credential", "add", "key", "--user", target.user(), "--key-file", "/token/target.key", "--default"];
    cli(&engine, &add).await;
    cli(&engine, &["host", "add", "web-1", "--address", "10.0.0.1", "--port", "2222"]).await;
    let first = completed(&engine, 1).await;
    assert_eq!(first["score"].as_f64(), Some(100.0), "by the schedule: {first}");
    told("the schedule's scan completed");

    (2..5).for_each(|number| set(&ground, number, false));
    let worse = scan(&engine).await;
    assert_eq!(worse["score"].as_f64(), Some(70.0), "{worse}");
    let drift =
        eventually("a drift", || async { find(&cli(&engine, &["drift"]).await, "kind", "major_worsening") });
    assert_eq!(drift.await["scan_id"], worse["id"]);
    eventually("an alert", || alert(&engine, "active")).await;
    told("three changes made a drift and an alert");

    // One node, and one of each stage that there are two of.
    engine.kill("nats-1-1");
    let stages: Vec<String> = engine.compose.stages().into_iter().map(str::to_owned).collect();
    for stage in stages.iter().filter(|stage| *stage != "api") {
        assert_eq!(engine.of(stage).len(), 2, "{stage}");
        engine.kill(&format!("{stage}-1"));
    }
    told("a NATS node and one of each stage are dead");
    (2..5).for_each(|number| set(&ground, number, true));
    let better = scan(&engine).await;
    assert_eq!(better["score"].as_f64(), Some(100.0), "{better}");
    eventually("the end of the alert", || alert(&engine, "resolved")).await;

    told("the next scan completed and resolved the alert");
    assert_eq!(engine.ended(), Vec::<String>::new(), "what was not killed goes on");
    applied_once(&engine, &better).await;
    let dead =
        ["openwatch", "dead-letters", "list", "--nats-url", NATS, "--keys", "/volumes/root/keys", "--json"];
    let dead: Value = serde_json::from_str(&engine.run("contents", &dead).await).unwrap();
    assert_eq!(dead.as_array().map(Vec::len), Some(0), "{dead}");
}

/// NATS, PostgreSQL and REST turn away who has the password, seed or token, but no certificate; or speaks in the clear.
async fn nobody_is_let_in_without_a_certificate(engine: &mut Engine) {
    let login = "postgres://openwatch:$(cat /passwords/admin)@postgres/openwatch";
    let ask = |url: &str| format!("psql \"{login}?{url}\" -XAtc 'select 1'");
    let (ca, own) = ("sslmode=verify-full&sslrootcert=/passwords/tls/ca.crt", "/passwords/tls/tls");
    let whole = format!("{ca}&sslcert={own}.crt&sslkey={own}.key");
    for (url, let_in) in [(whole.as_str(), true), (ca, false), ("sslmode=disable", false)] {
        // A home without certificates of its own.
        let argv = ["env", "HOME=/nonexistent", "sh", "-c", &ask(url)];
        let (code, stdout, stderr) = engine.exec("postgres-1", &argv).await;
        assert_eq!(code == Some(0), let_in, "{url}: {stdout}{stderr}");
    }
    let topology = "openwatch topology check --keys /volumes/root/keys --replicas 3";
    let bare = "env -u OPENWATCH_NATS_CERTIFICATE -u OPENWATCH_NATS_KEY";
    let clear = format!("{bare} -u OPENWATCH_NATS_CA {topology} --plain-nats --nats-url nats://nats-1:4222");
    for command in [format!("{bare} {topology} --nats-url {NATS}"), clear] {
        let (code, stderr) = engine.try_run("contents", &["sh", "-c", &command]).await;
        assert_eq!(code, Some(69), "{command}: {stderr}");
    }
    let bare = "env -u OPENWATCH_CLIENT_CERTIFICATE -u OPENWATCH_CLIENT_KEY openwatch status";
    for command in [bare.to_owned(), format!("{bare} --url http://127.0.0.1:8080")] {
        let (code, _, stderr) = engine.exec("api-1", &["sh", "-c", &command]).await;
        assert_eq!(code, Some(69), "{command}: {stderr}");
    }
}

async fn every_stream_has_three_replicas(engine: &mut Engine) {
    let check = [
        "openwatch",
        "topology",
        "check",
        "--nats-url",
        NATS,
        "--keys",
        "/volumes/root/keys",
        "--replicas",
        "3",
    ];
    engine.run("contents", &check).await;
    // And the servers agree: each stream is followed by two others, who have all of it.
    let ask = ["wget", "-q", "-O", "-", "http://127.0.0.1:8222/jsz?accounts=true&streams=true&config=true"];
    let mut seen = 0;
    for node in ["nats-1-1", "nats-2-1", "nats-3-1"] {
        let (_, stdout, stderr) = engine.exec(node, &ask).await;
        let answer: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
        // The readers' mirror lives in an account of its own.
        for account in answer["account_details"].as_array().unwrap() {
            for stream in account["stream_detail"].as_array().into_iter().flatten() {
                assert_eq!(stream["config"]["num_replicas"], 3, "{stream}");
                seen += 1;
            }
        }
    }
    let wanted = fs::read_dir(super::file::checkout().join("nats/streams")).unwrap().count();
    assert_eq!(seen, wanted * 3, "every stream on every node");
}

async fn publish_rules(engine: &mut Engine, ground: &Path) {
    let dir = engine.volume("root").join("rules");
    fs::create_dir(&dir).unwrap();
    for number in 0..RULES {
        let rule = format!(
            "id: file-{number}\ntitle: File {number}\ndescription: A rule of a test.\nrationale: None.\n\
             severity: high\ncategory: test\nplatforms: []\nimplementations:\n  - default: true\n    check:\n      \
             method: file_exists\n      path: {}\n",
            file(ground, number).display()
        );
        fs::write(dir.join(format!("file-{number}.yml")), rule).unwrap();
    }
    let database = ["--database-url-file", "/volumes/root/database.url"];
    let publish = ["openwatch", "rules", "publish", "/volumes/root/rules", "--nats-url", NATS, "--keys"];
    let publish: Vec<_> = publish.into_iter().chain(["/volumes/root/keys"]).chain(database).collect();
    engine.run("contents", &publish).await;
}

fn file(ground: &Path, number: usize) -> PathBuf {
    ground.join(number.to_string())
}

fn set(ground: &Path, number: usize, there: bool) {
    if there {
        fs::write(file(ground, number), "").unwrap();
    } else {
        fs::remove_file(file(ground, number)).unwrap();
    }
}

/// The command line, as the head of docker-compose.yml says.
async fn cli(engine: &Engine, args: &[&str]) -> Value {
    let argv: Vec<_> = ["openwatch"].into_iter().chain(args.iter().copied()).chain(["--json"]).collect();
    let (code, stdout, stderr) = engine.exec("api-1", &argv).await;
    assert!(matches!(code, Some(0..=2)), "{args:?} ended in {code:?}: {stdout}{stderr}");
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{args:?}: {error} in {stdout}"))
}

/// A scan by hand, to its end.
async fn scan(engine: &Engine) -> Value {
    let ended = cli(engine, &["scans", "--host", "web-1"]).await.as_array().unwrap().len();
    cli(engine, &["scan", "web-1"]).await;
    completed(engine, ended + 1).await
}

/// The newest of so many scans, once all of them are completed.
async fn completed(engine: &Engine, count: usize) -> Value {
    // The loss of a node costs some seconds, on a busy machine more.
    eventually_within(Duration::from_secs(90), &format!("{count} completed scans"), || async {
        let scans = cli(engine, &["scans", "--host", "web-1"]).await;
        let scans = scans.as_array()?;
        let all = scans.len() == count && scans.iter().all(|scan| scan["state"] == "completed");
        all.then(|| scans[0].clone())
    })
    .await
}

async fn alert(engine: &Engine, state: &str) -> Option<Value> {
    let alerts = cli(engine, &["alerts", "--state", state]).await;
    find(&alerts, "type", "drift_major")
}

fn find(list: &Value, field: &str, value: &str) -> Option<Value> {
    list.as_array()?.iter().find(|item| item[field] == value).cloned()
}

/// One row in the ledger and each change told once, whoever was killed meanwhile.
async fn applied_once(engine: &Engine, scan: &Value) {
    let id = scan["id"].as_str().unwrap();
    let query = format!(
        "select (select count(*) from scan_ledger where scan_id = '{id}'),
                (select count(*) from transactions where scan_id = '{id}'),
                (select count(*) from drift where scan_id = '{id}'),
                (select count(*) from alert where alert_type = 'drift_major')"
    );
    let psql = ["psql", "--host=/tmp", "--username=openwatch", "--dbname=openwatch", "-XAtc", &query];
    let (code, stdout, stderr) = engine.exec("postgres-1", &psql).await;
    assert_eq!((code, stdout.trim()), (Some(0), "1|3|1|1"), "{stderr}");
}
