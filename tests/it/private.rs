//! Private servers: started, kept, stopped, and never left behind.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use openwatch_app::private::{
    CHILD, DataDir, Durability, Kind, NatsOptions, Places, Private, PrivateError, PrivateOptions,
};
use openwatch_tests::nats::identities;
use openwatch_tests::{Program, Running, eventually_within, openwatch};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

fn options() -> PrivateOptions {
    PrivateOptions {
        postgres_port: Some(0),
        nats: Some(NatsOptions { port: 0, users_conf: identities().1 }),
        durability: Durability::ProcessCrash,
        places: Places::from_environment(),
        reexec: Some(openwatch()),
    }
}

fn postgres_only() -> PrivateOptions {
    PrivateOptions { nats: None, ..options() }
}

async fn start(dir: &Place, options: PrivateOptions) -> Result<Private, PrivateError> {
    Private::start(DataDir::open(&dir.path())?, options).await
}

/// A data directory to be, with room beside it.
struct Place(TempDir);

impl Place {
    fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }
}

fn directory() -> Place {
    let outer = TempDir::with_prefix("ow-private-").unwrap();
    // Servers may run as another user, who must get through.
    std::fs::set_permissions(outer.path(), Permissions::from_mode(0o711)).unwrap();
    Place(outer)
}

/// Every process whose working directory is somewhere in `dir`: servers and their helpers.
fn processes_in(dir: &Path) -> BTreeSet<u32> {
    let inside =
        |pid: &u32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(inside).collect()
}

async fn none_left_within(limit: Duration, dir: &Path) {
    eventually_within(limit, "no process left", || async { processes_in(dir).is_empty().then_some(()) })
        .await;
}

async fn execute(url: &str, statement: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn kept_rows(url: &str) -> Option<i64> {
    let mut connection = PgConnection::connect(url).await.ok()?;
    sqlx::query_scalar("select count(*) from kept").fetch_one(&mut connection).await.ok()
}

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
}

/// The hidden entry that only runs the servers, for tests that kill their supervisor.
async fn supervisor(dir: &Place) -> Running {
    let mut running = spawn_supervisor(dir, "0");
    running.line("ready nats=").await;
    running
}

fn spawn_supervisor(dir: &Place, postgres_port: &str) -> Running {
    let users = dir.0.path().join("users.conf");
    std::fs::write(&users, identities().1).unwrap();
    let args = ["__private".into(), dir.path(), postgres_port.into(), "0".into(), users];
    Program::new(args).spawn()
}

/// What the supervisor would have told, had it been ours: it is all in the directory.
fn url_in(dir: &Place) -> String {
    let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().trim().to_owned();
    format!("postgres://openwatch:{}@127.0.0.1:{}/postgres", read("postgres.password"), read("postgres.port"))
}

#[tokio::test]
async fn servers_answer_and_stop_in_order() {
    let dir = directory();
    let private = start(&dir, options()).await.unwrap();
    let url = private.postgres_url().unwrap().expose().to_owned();
    execute(&url, "create table kept (); insert into kept default values").await;
    assert!(private.nats_url().unwrap().starts_with("nats://127.0.0.1:"));
    assert!(processes_in(&dir.path()).len() > 2, "a NATS server, PostgreSQL and its helpers");

    private.stop().await;
    assert_eq!(processes_in(&dir.path()), BTreeSet::new());

    let again = start(&dir, options()).await.unwrap();
    assert_eq!(again.postgres_url().unwrap().expose(), url, "port and password are kept");
    assert_eq!(kept_rows(&url).await, Some(1));
    let log = std::fs::read_to_string(dir.path().join("log/postgres.log")).unwrap();
    assert!(!log.contains("automatic recovery in progress"), "the stop was an orderly one:\n{log}");
}

#[tokio::test]
async fn dropping_it_leaves_nothing_running() {
    let dir = directory();
    let private = start(&dir, options()).await.unwrap();
    drop(private);
    assert_eq!(processes_in(&dir.path()), BTreeSet::new());
    // Dropped in the middle of a start.
    let dir = directory();
    let starting = tokio::time::timeout(Duration::from_millis(100), start(&dir, options()));
    assert!(starting.await.is_err(), "no start is that quick");
    // What makes the database has helpers, which end when they find it gone.
    none_left_within(Duration::from_secs(10), &dir.path()).await;
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_servers_along_and_the_next_one_goes_on() {
    let dir = directory();
    let mut first = supervisor(&dir).await;
    let url = url_in(&dir);
    execute(&url, "create table kept (); insert into kept default values").await;
    let servers = processes_in(&dir.path());

    first.kill();
    none_left_within(Duration::from_secs(2), &dir.path()).await;

    let mut second = supervisor(&dir).await;
    assert_eq!(url_in(&dir), url, "port and password are kept");
    assert_eq!(kept_rows(&url).await, Some(1), "what was committed is there");
    assert!(processes_in(&dir.path()).is_disjoint(&servers), "all servers are new");
    assert!(second.terminate().await.success());
    assert_eq!(processes_in(&dir.path()), BTreeSet::new());
}

#[tokio::test]
async fn interrupted_at_any_moment_of_its_first_start_it_leaves_nothing_and_can_start_again() {
    let dir = directory();
    for moment_ms in [0, 30, 100, 250, 500] {
        let mut running = spawn_supervisor(&dir, "0");
        tokio::time::sleep(Duration::from_millis(moment_ms)).await;
        running.hears_interrupts().await;
        running.signal(Signal::INT);
        running.wait().await;
        none_left_within(Duration::from_secs(2), &dir.path()).await;
        let mut running = spawn_supervisor(&dir, "0");
        tokio::time::sleep(Duration::from_millis(moment_ms)).await;
        running.kill();
        none_left_within(Duration::from_secs(2), &dir.path()).await;
    }
    let mut last = supervisor(&dir).await;
    execute(&url_in(&dir), "select 1").await;
    assert!(last.terminate().await.success());
    assert!(!dir.path().join("postgres.initialising").exists(), "the password given to initdb is gone");
}

#[tokio::test]
async fn ctrl_c_in_a_terminal_reaches_the_supervisor_and_not_its_servers() {
    let dir = directory();
    let running = supervisor(&dir).await;
    let groups: Vec<_> = processes_in(&dir.path())
        .into_iter()
        .map(|pid| rustix::process::getpgid(Pid::from_raw(pid.try_into().unwrap())).unwrap())
        .collect();
    let own = Pid::from_raw(running.process_id().try_into().unwrap()).unwrap();
    assert!(!groups.contains(&own), "{groups:?} holds {own:?}");
}

#[tokio::test]
async fn a_server_that_dies_comes_back_with_its_data() {
    let dir = directory();
    let private = start(&dir, options()).await.unwrap();
    let url = private.postgres_url().unwrap().expose().to_owned();
    execute(&url, "create table kept (); insert into kept default values").await;
    for kind in [Kind::Postgres, Kind::Nats] {
        let pid = private.process_id(kind).unwrap();
        kill(pid);
        let another = || async { private.process_id(kind).filter(|now| *now != pid) };
        eventually_within(Duration::from_secs(10), "another process", another).await;
    }
    let back = || async { kept_rows(&url).await };
    assert_eq!(eventually_within(Duration::from_secs(20), "the table", back).await, 1);
    let nats = private.nats_url().unwrap().trim_start_matches("nats://").to_owned();
    let open = || async { tokio::net::TcpStream::connect(&nats).await.ok() };
    eventually_within(Duration::from_secs(10), "NATS", open).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_kept_is_reported() {
    let dir = directory();
    let mut private = start(&dir, postgres_only()).await.unwrap();
    // A database that no PostgreSQL starts on.
    std::fs::remove_file(dir.path().join("postgres/global/pg_control")).unwrap();
    kill(private.process_id(Kind::Postgres).unwrap());
    let failure = tokio::time::timeout(Duration::from_secs(60), private.wait_failure()).await.unwrap();
    let text = failure.to_string();
    assert!(matches!(failure, PrivateError::GaveUp { kind: Kind::Postgres, .. }), "{text}");
    assert!(text.contains("pg_control"), "says why: {text}");
    assert_eq!(processes_in(&dir.path()), BTreeSet::new());
}

#[tokio::test]
async fn a_directory_in_use_names_its_user() {
    let dir = directory();
    let running = supervisor(&dir).await;
    let refused = DataDir::open(&dir.path()).expect_err("in use").to_string();
    let expected = format!("already in use by pid {}", running.process_id());
    assert!(refused.contains(&expected), "{refused}");

    let mut second = spawn_supervisor(&dir, "0");
    assert_eq!(second.wait().await.code(), Some(69));
    assert!(second.stderr().contains(&expected), "{}", second.stderr());
}

#[tokio::test]
async fn data_of_another_version_is_refused_and_left_alone() {
    let dir = directory();
    start(&dir, postgres_only()).await.unwrap().stop().await;
    let version = dir.path().join("postgres/PG_VERSION");
    let real = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, "9\n").unwrap();
    let refused = start(&dir, postgres_only()).await.expect_err("another PostgreSQL's").to_string();
    assert!(
        refused.contains("made by PostgreSQL 9") && refused.contains("install PostgreSQL 9"),
        "{refused}"
    );

    std::fs::write(&version, &real).unwrap();
    let format = dir.path().join("openwatch-data");
    let ours = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, "openwatch data directory, format 7\n").unwrap();
    let refused = start(&dir, postgres_only()).await.expect_err("another openwatch's").to_string();
    assert!(refused.contains("format 7") && refused.contains("run the openwatch that made it"), "{refused}");

    std::fs::write(&format, ours).unwrap();
    start(&dir, postgres_only()).await.expect("as it was");
}

#[tokio::test]
async fn a_lost_password_is_told_and_never_costs_the_database() {
    let dir = directory();
    start(&dir, postgres_only()).await.unwrap().stop().await;
    let password = dir.path().join("postgres.password");
    let kept = std::fs::read(&password).unwrap();
    std::fs::remove_file(&password).unwrap();
    let refused = start(&dir, postgres_only()).await.expect_err("no password").to_string();
    assert!(refused.contains("postgres.password"), "{refused}");
    std::fs::write(&password, kept).unwrap();
    start(&dir, postgres_only()).await.expect("as it was");
}

#[tokio::test]
async fn a_taken_port_is_an_error_when_fixed_and_replaced_when_free_to_choose() {
    let stranger = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let taken = stranger.local_addr().unwrap().port();
    let dir = directory();
    let fixed = PrivateOptions { postgres_port: Some(taken), ..postgres_only() };
    let refused = start(&dir, fixed).await.expect_err("taken");
    assert!(
        matches!(refused, PrivateError::PortTaken { kind: Kind::Postgres, port } if port == taken),
        "{refused}"
    );
    assert!(refused.to_string().contains(&format!("127.0.0.1:{taken}")), "{refused}");
    assert_eq!(processes_in(&dir.path()), BTreeSet::new());

    std::fs::write(dir.path().join("postgres.port"), format!("{taken}\n")).unwrap();
    let private = start(&dir, postgres_only()).await.expect("another port");
    let url = private.postgres_url().unwrap().expose().to_owned();
    assert!(!url.contains(&format!(":{taken}/")), "{taken}");
    assert_eq!(url, url_in(&dir), "and keeps that one");
}

#[tokio::test]
async fn a_free_port_that_a_stranger_takes_first_is_given_up() {
    let dir = directory();
    let places = Places::from_environment();
    let real = places.nats_server.clone().into_iter();
    let real =
        real.chain(places.directories.iter().map(|d| d.join("nats-server"))).find(|p| p.is_file()).unwrap();
    // Comes too late the first time: says which port it was given, waits for the stranger, and ends.
    let slow = dir.0.path().join("nats-server");
    let script = format!(
        "#!/bin/sh\nPATH=/usr/bin:/bin\ncase $1 in --config) ;; *) exec {real} \"$@\" ;; esac\n\
         [ -e asked ] && exec {real} \"$@\"\necho \"$6\" >asking; mv asking asked\n\
         until [ -e taken ]; do sleep 0.05; done; exit 1\n",
        real = real.display()
    );
    std::fs::write(&slow, script).unwrap();
    std::fs::set_permissions(&slow, Permissions::from_mode(0o755)).unwrap();
    let places = Places { nats_server: Some(slow), ..places };
    let options = PrivateOptions { postgres_port: None, places, ..options() };

    let here = dir.path().join("nats");
    let stranger = async {
        let port: u16 = eventually_within(Duration::from_secs(30), "a port", || async {
            std::fs::read_to_string(here.join("asked")).ok()?.trim().parse().ok()
        })
        .await;
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        std::fs::write(here.join("taken"), "").unwrap();
        (listener, port)
    };
    let (private, (_listener, port)) = tokio::join!(start(&dir, options), stranger);
    let private = private.expect("another port");
    assert!(!private.nats_url().unwrap().ends_with(&format!(":{port}")), "{port}");
    private.stop().await;
}

#[tokio::test]
async fn a_leftover_server_is_stopped_and_not_adopted() {
    let dir = directory();
    let private = start(&dir, postgres_only()).await.unwrap();
    let url = private.postgres_url().unwrap().expose().to_owned();
    execute(&url, "create table kept (); insert into kept default values").await;
    let mut command = like(private.process_id(Kind::Postgres).unwrap());
    private.stop().await;

    let mut leftover = command.spawn().unwrap();
    eventually_within(Duration::from_secs(20), "the leftover", || async { kept_rows(&url).await }).await;
    let private = start(&dir, postgres_only()).await.expect("starts all the same");
    assert!(!ended_badly(&mut leftover), "it was asked to end, not killed");
    assert_ne!(private.process_id(Kind::Postgres), Some(leftover.id()));
    assert_eq!(kept_rows(&url).await, Some(1));
    private.stop().await;

    // A stale file that names a living stranger.
    let stranger = std::process::id();
    std::fs::write(dir.path().join("postgres/postmaster.pid"), format!("{stranger}\n")).unwrap();
    start(&dir, postgres_only()).await.expect("the stranger is none of its business");
}

/// The command that starts the same server again, outside any supervisor.
fn like(pid: u32) -> Command {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    let id = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    let user = if id("Uid:") == "0" || !rustix::process::geteuid().is_root() {
        "-".to_owned()
    } else {
        format!("{}:{}", id("Uid:"), id("Gid:"))
    };
    let args = std::fs::read_to_string(proc.join("cmdline")).unwrap();
    let mut command = Command::new(openwatch());
    command.args([CHILD, &std::process::id().to_string(), "9", &user, "--"]);
    command.args(args.trim_end_matches('\0').split('\0'));
    command
        .current_dir(std::fs::read_link(proc.join("cwd")).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn ended_badly(child: &mut Child) -> bool {
    use std::os::unix::process::ExitStatusExt;
    child.wait().unwrap().signal() == Some(Signal::KILL.as_raw())
}

#[tokio::test]
async fn nothing_secret_shows_in_processes_or_open_files() {
    let dir = directory();
    let running = supervisor(&dir).await;
    let password = std::fs::read_to_string(dir.path().join("postgres.password")).unwrap();
    let password = password.trim();
    for pid in processes_in(&dir.path()).into_iter().chain([running.process_id()]) {
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            assert!(!String::from_utf8_lossy(&text).contains(password), "{file} of {pid}");
        }
    }
    let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("postgres.password"), 0o600);
    assert_eq!((mode("postgres"), mode("nats"), mode("log")), (0o700, 0o700, 0o700));
    for log in ["log/postgres.log", "log/nats-server.log"] {
        assert!(!std::fs::read_to_string(dir.path().join(log)).unwrap().contains(password), "{log}");
    }
    assert!(!running.stdout().contains(password) && !running.stderr().contains(password));
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let dir = directory();
    let private = start(&dir, postgres_only()).await.unwrap();
    let url = private.postgres_url().unwrap().expose();
    let password = std::fs::read_to_string(dir.path().join("postgres.password")).unwrap();
    let error = PgConnection::connect(&url.replace(password.trim(), "guess")).await.expect_err("a guess");
    assert!(error.to_string().contains("password authentication failed"), "{error}");
}

#[tokio::test]
async fn missing_servers_are_named_with_their_remedy() {
    let nowhere = Places { directories: vec![PathBuf::from("/nonexistent")], ..Places::default() };
    let dir = directory();
    let refused =
        start(&dir, PrivateOptions { places: nowhere.clone(), ..postgres_only() }).await.expect_err("none");
    assert!(refused.is_unavailable());
    assert!(refused.to_string().contains("scripts/provide-postgres"), "{refused}");
    let refused = start(&dir, PrivateOptions { places: nowhere, ..options() }).await.expect_err("none");
    assert!(refused.to_string().contains("scripts/provide-nats"), "{refused}");
    assert!(!dir.path().join("postgres").exists(), "what is missing shows before a database is made");
}

#[tokio::test]
async fn a_place_that_the_servers_user_cannot_enter_is_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("only root runs servers as somebody else: nothing to test");
        return;
    }
    let outer = TempDir::with_prefix("ow-private-").unwrap();
    std::fs::set_permissions(outer.path(), Permissions::from_mode(0o700)).unwrap();
    let data = DataDir::open(&outer.path().join("data")).unwrap();
    let refused = Private::start(data, postgres_only()).await.expect_err("closed").to_string();
    assert!(refused.contains("chmod o+x") && refused.contains(outer.path().to_str().unwrap()), "{refused}");
}
