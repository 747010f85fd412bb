//! Everything that a person can get wrong and a machine can lack: each is told in a sentence, with its exit code.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use openwatch_tests::{Database, Program, Stack, sshd};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;

use super::ground::Ground;
use super::rest::Rest;

/// A directory with keys and a signed policy, and a port where nobody listens.
struct Place {
    dir: TempDir,
    nobody: u16,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("ow-bad-").tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let it = Self { dir, nobody };
        super::fleet::ran(Program::new(["keys", "init", "--dir"]).arg(it.keys())).await;
        it
    }

    fn keys(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// A stage against these servers.
    fn stage(&self, stage: &str, database: &str, nats: &str) -> Program {
        Program::new([stage])
            .arg("--keys")
            .arg(self.keys())
            .env("OPENWATCH_DATABASE_URL", database)
            .env("OPENWATCH_NATS_URL", nats)
    }
}

/// Ends in that code with a sentence that has these words; never with a panic.
async fn says(program: Program, code: i32, words: &[&str]) {
    let (ended, stdout, stderr) = program.run().await;
    let all = format!("{program:?} ended in {ended:?}:\n{stdout}{stderr}");
    assert_eq!(ended, Some(code), "{all}");
    let last = stderr
        .lines()
        .rev()
        .find(|line| line.starts_with("openwatch: "))
        .unwrap_or_else(|| panic!("no sentence: {all}"));
    let sentence = &stderr[stderr.find(last).unwrap()..];
    for word in words {
        assert!(sentence.contains(word), "no {word:?} in the sentence: {all}");
    }
    for bad in ["panicked", "RUST_BACKTRACE", "stack backtrace", "Some(", "Err("] {
        assert!(!all.contains(bad) || bad.ends_with('(') && !sentence.contains(bad), "{all}");
    }
}

// @spec trunk
// @ac AC-04
#[tokio::test]
async fn servers_that_are_not_there() {
    println!("@spec trunk");
    println!("@ac AC-04");
    let (place, database) = (Place::new().await, Database::new().await);
    let nobody = place.nobody;
    let (no_database, no_nats) =
        (format!("postgres://x@127.0.0.1:{nobody}/x"), format!("nats://127.0.0.1:{nobody}"));
    let address = format!("127.0.0.1:{nobody}");
    let (postgres_there, nats_there) = (["PostgreSQL", &address], ["NATS", &address]);
    let new = |args: &[&str]| Program::new(args.iter().copied());
    tokio::join!(
        says(place.stage("writer", &no_database, &no_nats), 69, &postgres_there),
        says(place.stage("writer", database.url(), &no_nats), 69, &nats_there),
        says(place.stage("executor", "", &no_nats), 69, &nats_there),
        says(place.stage("writer", "mysql://x/y", &no_nats), 64, &["postgres://"]),
        says(place.stage("writer", database.url(), "http://127.0.0.1"), 64, &["http://127.0.0.1", "nats://"]),
        says(new(&["writer", "--keys"]).arg(place.keys()), 64, &["--database-url"]),
        says(new(&["executor", "--keys"]).arg(place.keys()), 64, &["--nats-url"]),
        says(new(&["writer"]).env("OPENWATCH_DATABASE_URL", &no_database), 64, &["--keys"]),
        says(new(&["migrate"]).env("OPENWATCH_DATABASE_URL", &no_database), 69, &postgres_there),
        says(
            new(&["up", "--listen", "127.0.0.1:0", "--data-dir"])
                .arg(place.dir.path().join("data"))
                .env("OPENWATCH_POSTGRES_BIN", "/nonexistent"),
            69,
            &["PostgreSQL", "OPENWATCH_POSTGRES_BIN"]
        ),
    );
}

// @spec trunk
// @ac AC-04
#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    println!("@spec trunk");
    println!("@ac AC-04");
    let (place, database) = (Place::new().await, Database::new().await);
    let newer = "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
                 values (9000, 'from the future', true, '', 0)";
    sqlx::raw_sql(AssertSqlSafe(newer.to_owned())).execute(&mut database.connect().await).await.unwrap();
    for stage in ["writer", "scheduler", "api"] {
        says(place.stage(stage, database.url(), "nats://127.0.0.1:1"), 64, &["9000", "upgrade"]).await;
    }
    says(Program::new(["migrate"]).env("OPENWATCH_DATABASE_URL", database.url()), 64, &["9000", "upgrade"])
        .await;
}

// @spec trunk
// @ac AC-04
#[tokio::test]
async fn ports_and_directories_that_others_have() {
    println!("@spec trunk");
    println!("@ac AC-04");
    let mut stack = Stack::start().await;
    let data = stack.data_dir();
    let up =
        |dir: &Path, listen: &str| Program::new(["up", "--data-dir"]).arg(dir).arg("--listen").arg(listen);
    let holder = format!("pid {}", stack.up().process_id());
    says(up(&data, "127.0.0.1:0"), 69, &[&data.display().to_string(), "in use", &holder]).await;

    let other = tempfile::Builder::new().prefix("ow-bad-").tempdir().unwrap();
    let taken = stack.client().url.trim_start_matches("http://").to_owned();
    says(up(&data, &taken), 69, &[&data.display().to_string(), "in use", &holder]).await;
    says(up(&other.path().join("data"), &taken), 69, &[&taken, "--listen"]).await;
    says(up(other.path(), &taken), 69, &[&taken, "--listen"]).await;
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0, "it was not taken over");

    std::fs::write(other.path().join("a-file-of-somebody"), "").unwrap();
    says(up(other.path(), "127.0.0.1:0"), 64, &[&other.path().display().to_string(), "empty"]).await;

    assert!(stack.up().terminate().await.success());
    std::fs::write(data.join("openwatch-data"), "openwatch data directory, format 999\n").unwrap();
    says(up(&data, "127.0.0.1:0"), 64, &[&data.display().to_string(), "999"]).await;
}

// @spec trunk
// @ac AC-04
#[tokio::test]
async fn names_and_files_that_are_wrong() {
    println!("@spec trunk");
    println!("@ac AC-04");
    let stack = Stack::start().await;
    let (url, data) = (stack.client().url, stack.data_dir());
    let cli = |args: &[&str]| Program::new(args.iter().copied()).arg("--data-dir").arg(&data);
    let plain = |args: &[&str]| Program::new(args.iter().copied());
    says(cli(&["scan", "no-such-host"]), 64, &["no-such-host"]).await;
    says(cli(&["host", "list", "--as-of", "2999-01-15"]), 64, &["as_of", "future"]).await;
    says(cli(&["host", "show", "no-such-host"]), 64, &["no-such-host"]).await;
    says(cli(&["host", "rm", "no-such-host"]), 64, &["no-such-host"]).await;
    says(
        cli(&["credential", "add", "k", "--user", "u", "--key-file", "/nonexistent/key"]),
        64,
        &["/nonexistent/key"],
    )
    .await;
    says(cli(&["host", "import", "/nonexistent/hosts.csv"]), 64, &["/nonexistent/hosts.csv"]).await;
    says(cli(&["alerts", "--state", "sideways"]), 64, &["sideways"]).await;

    says(
        plain(&["status", "--url", &url, "--token-file", "/nonexistent/token"]),
        64,
        &["/nonexistent/token"],
    )
    .await;
    let forged = stack.data_dir().join("forged.token");
    std::fs::write(&forged, "owt_this_is_not_a_token\n").unwrap();
    std::fs::set_permissions(&forged, std::fs::Permissions::from_mode(0o600)).unwrap();
    says(plain(&["status", "--url", &url, "--token-file"]).arg(&forged), 64, &["token"]).await;
    says(plain(&["status", "--data-dir", "/nonexistent/data"]), 64, &["/nonexistent/data", "--url"]).await;
    says(
        plain(&["status", "--url", "http://127.0.0.1:1", "--token-file"]).arg(&forged),
        69,
        &["127.0.0.1:1"],
    )
    .await;

    let fresh = tempfile::Builder::new().prefix("ow-bad-").tempdir().unwrap();
    std::fs::set_permissions(fresh.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    for command in ["lint", "publish"] {
        says(plain(&["rules", command, "/nonexistent/rules"]), 64, &["/nonexistent/rules"]).await;
    }
    let up = plain(&["up", "--listen", "127.0.0.1:0", "--rules", "/nonexistent/rules", "--data-dir"]);
    says(up.arg(fresh.path().join("data")), 64, &["/nonexistent/rules"]).await;
    says(plain(&["events", "tail", "--data-dir", "/nonexistent/data"]), 64, &["/nonexistent/data"]).await;
    says(
        plain(&["config", "check", "--config", "/nonexistent/openwatch.toml"]),
        64,
        &["/nonexistent/openwatch.toml"],
    )
    .await;
    says(plain(&["up", "--listen", "everywhere"]), 64, &["everywhere"]).await;
}

// @spec trunk
// @ac AC-04
#[tokio::test]
async fn keys_that_cannot_be_used() {
    println!("@spec trunk");
    println!("@ac AC-04");
    let (place, database) = (Place::new().await, Database::new().await);
    let nats = "nats://127.0.0.1:1";
    let dek = place.keys().join("dek");
    std::fs::set_permissions(&dek, std::fs::Permissions::from_mode(0o644)).unwrap();
    says(place.stage("vault", database.url(), nats), 64, &[&dek.display().to_string(), "600"]).await;
    std::fs::set_permissions(&dek, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&dek, "nonsense").unwrap();
    says(place.stage("vault", database.url(), nats), 64, &[&dek.display().to_string()]).await;
    let writer = place.keys().join("writer.json");
    std::fs::remove_file(&writer).unwrap();
    says(place.stage("writer", database.url(), nats), 64, &[&writer.display().to_string()]).await;
    let again = Program::new(["keys", "init", "--dir"]).arg(place.keys());
    says(again, 64, &[&place.keys().display().to_string(), "empty"]).await;

    let policy = place.dir.path().join("schedules.yaml");
    let verify = || Program::new(["policy", "verify"]).arg(&policy).arg("--keys").arg(place.keys());
    says(verify(), 64, &[&policy.display().to_string()]).await;
    std::fs::write(&policy, "version: 1.0.0\n").unwrap();
    says(verify(), 64, &["sign"]).await;
}

// @spec trunk
// @ac AC-07
#[tokio::test]
async fn a_broken_rule_is_named_and_the_others_run() {
    println!("@spec trunk");
    println!("@ac AC-07");
    let (ground, sshd) = (Ground::new(3), sshd::Options::new().start());
    let broken = ground.rules().join("broken.yml");
    std::fs::write(&broken, "id: broken\ntitle: Broken\nimplementations: [\n  - default: true\n").unwrap();
    let lint = Program::new(["rules", "lint"]).arg(ground.rules());
    let (code, stdout, stderr) = lint.run().await;
    assert_eq!(code, Some(1), "as every linter: {stdout}{stderr}");
    let line = |text: &str| {
        let line = text.lines().find(|line| line.contains("broken.yml")).unwrap_or_else(|| panic!("{text}"));
        let place = line.split("broken.yml").nth(1).unwrap();
        assert!(place.chars().any(|c| c.is_ascii_digit()), "the line is named: {line}");
    };
    line(&format!("{stdout}{stderr}"));

    let mut stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    line(&stack.up().stderr());
    stack.add_host("web-1", &sshd).await;
    let scans = stack.ended_scans("web-1", 1).await;
    assert_eq!(scans[0]["state"], "completed");
    let detail = Rest::of(&stack.client()).get(&format!("/scans/{}", scans[0]["id"].as_str().unwrap())).await;
    let rules = detail["rules"].as_array().unwrap();
    let told =
        |name: &str| rules.iter().find(|rule| rule["rule_id"] == name).unwrap_or_else(|| panic!("{detail}"));
    for rule in ["file-0", "file-1", "file-2"] {
        assert_eq!(told(rule)["status"], "pass", "{detail}");
    }
    // Not left out: who reads the scan sees that something was not measured, and why.
    let broken = told("broken");
    assert_eq!(broken["status"], "skipped", "{detail}");
    assert!(broken["skip_reason"].as_str().unwrap().contains("broken.yml"), "{detail}");
}
