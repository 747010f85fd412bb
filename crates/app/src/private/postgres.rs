//! The private PostgreSQL: its database directory, its password, its settings.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use zeroize::Zeroizing;

use super::child::{ChildSpec, User};
use super::data_dir::{DataDir, check_reachable};
use super::error::PrivateError;
use super::find::{Found, Kind, Places};
use super::leftovers::stop_leftovers;
use super::port;
use super::server::{Ready, Server, last_lines, signal};
use super::supervisor::StopSignal;
use super::{Durability, PostgresUrl};

const PASSWORD_FILE: &str = "postgres.password";
const INIT_FILE: &str = "postgres.initialising";
const DIRECTORY: &str = "postgres";
const NEW_DIRECTORY: &str = "postgres.new";
/// Superuser of the private server. Stages give up its powers by `SET ROLE`.
const SUPERUSER: &str = "openwatch";
const DATABASE: &str = "postgres";

/// What preparing and starting one needs.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) data: &'a DataDir,
    pub(super) places: &'a Places,
    pub(super) user: Option<&'a User>,
    pub(super) port: u16,
    pub(super) durability: Durability,
    pub(super) reexec: &'a Path,
    pub(super) stop: &'a StopSignal,
}

/// Makes the database directory usable, by us alone, and says how to start and how to reach the server.
pub(super) fn prepare(setup: &Setup<'_>) -> Result<(Server, PostgresUrl), PrivateError> {
    let dir = setup.data.path().join(DIRECTORY);
    let made_by = setup.data.read("postgres/PG_VERSION")?.map(|text| text.trim().to_owned());
    let found = choose_version(setup.places, &dir, made_by.as_deref())?;
    if let Some(user) = setup.user {
        check_reachable(&found.path, user)?;
    }
    if stop_leftovers(Kind::Postgres, &dir)? > 0 || made_by.is_some() {
        // Nobody uses the directory any more (checked just now, under our lock), so a file that says otherwise is
        // stale. PostgreSQL itself would refuse to start when a stranger happens to have that process id today.
        remove_stale(&dir.join("postmaster.pid"))?;
    }
    let password = match (setup.data.read(PASSWORD_FILE)?, &made_by) {
        (Some(password), Some(_)) => Zeroizing::new(password.trim().to_owned()),
        _ => initialise(setup, &found)?,
    };
    let port = port::choose(setup.data, Kind::Postgres, setup.port)?;
    let url = format!("postgres://{SUPERUSER}:{}@127.0.0.1:{port}/{DATABASE}", password.as_str());
    let server = Server {
        kind: Kind::Postgres,
        program: found.path,
        args: arguments(&dir, port, setup.durability),
        log: log_file(setup.data)?,
        user: setup.user.cloned(),
        port,
        ready: Ready::PostmasterFile(dir.join("postmaster.pid")),
        pid: Default::default(),
        cwd: dir,
    };
    Ok((server, PostgresUrl(Zeroizing::new(url))))
}

/// The installed PostgreSQL that can read what is there; any new enough one for a new directory.
fn choose_version(places: &Places, dir: &Path, made_by: Option<&str>) -> Result<Found, PrivateError> {
    let Some(made_by) = made_by else { return places.find(Kind::Postgres, None) };
    let major = made_by.parse().ok();
    // Without any usable PostgreSQL that is the news, whatever made the data.
    places.find(Kind::Postgres, None)?;
    places.find(Kind::Postgres, major).map_err(|_| PrivateError::WrongPostgres {
        dir: dir.to_owned(),
        data: made_by.to_owned(),
        installed: places.describe(Kind::Postgres),
    })
}

/// Creates the database directory under another name and renames it when complete, so that an interrupted start
/// leaves nothing that looks like a database. The password goes to `initdb` in a file that is removed at once.
fn initialise(setup: &Setup<'_>, found: &Found) -> Result<Zeroizing<String>, PrivateError> {
    let data = setup.data;
    let dir = data.path().join(DIRECTORY);
    if dir.join("PG_VERSION").exists() {
        // The password is gone with its file. Never guess, never delete somebody's database.
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(PrivateError::io(
            "read the password of the existing database from",
            data.path().join(PASSWORD_FILE),
        )(missing));
    }
    tracing::info!(version = %found.version.major, dir = %dir.display(), "creating a private database");
    let new = data.path().join(NEW_DIRECTORY);
    if new.exists() {
        stop_leftovers(Kind::Postgres, &new)?;
        fs::remove_dir_all(&new).map_err(PrivateError::io("remove", &new))?;
    }
    data.private_dir(NEW_DIRECTORY, setup.user)?;
    let password = random_password().map_err(PrivateError::io("make a password for", &dir))?;
    let init_file = data.write(INIT_FILE, 0o600, &password)?;
    if let Some(user) = setup.user {
        chown(&init_file, Some(user.uid), Some(user.gid))
            .map_err(PrivateError::io("change the owner of", &init_file))?;
    }
    let outcome = run_initdb(setup, found, &new, &init_file);
    fs::remove_file(&init_file).map_err(PrivateError::io("remove", &init_file))?;
    outcome?;
    // The password first: with it and without a directory the next start begins anew; the reverse would be lost.
    data.write(PASSWORD_FILE, 0o600, &password)?;
    fs::rename(&new, &dir).map_err(PrivateError::io("rename", &new))?;
    Ok(password)
}

fn run_initdb(setup: &Setup<'_>, found: &Found, dir: &Path, password: &Path) -> Result<(), PrivateError> {
    let mut args: Vec<OsString> = [
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
        "--username",
        SUPERUSER,
        "--pgdata",
    ]
    .map(OsString::from)
    .to_vec();
    args.extend([dir.into(), "--pwfile".into(), password.into()]);
    if setup.durability == Durability::ProcessCrash {
        args.push("--no-sync".into());
    }
    let initdb = found.path.with_file_name("initdb");
    let log = log_file(setup.data)?;
    let spec = ChildSpec {
        program: &initdb,
        args,
        cwd: dir,
        at_parent_death: Signal::TERM,
        user: setup.user,
        log: &log,
    };
    let mut child = spec.spawn(setup.reexec).map_err(PrivateError::io("run", setup.reexec))?;
    loop {
        match child.try_wait().map_err(PrivateError::io("wait for", &initdb))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let what = format!("initdb ended with {status}");
                return Err(PrivateError::NotReady {
                    kind: Kind::Postgres,
                    what,
                    last_lines: last_lines(&log),
                    log,
                });
            }
            None if setup.stop.within(Duration::from_millis(10)) => {
                signal(&child, Signal::TERM);
                child.wait().map_err(PrivateError::io("wait for", &initdb))?;
                return Err(PrivateError::Stopped);
            }
            None => {}
        }
    }
}

/// Settings for a small machine, given on the command line so that those of the running program always hold.
fn arguments(dir: &Path, port: u16, durability: Durability) -> Vec<OsString> {
    let port = format!("port={port}");
    let mut settings = vec![
        "listen_addresses=127.0.0.1",
        port.as_str(),
        // Loopback only: a socket file would live outside the data directory, or exceed the length of its name.
        "unix_socket_directories=",
        "password_encryption=scram-sha-256",
        "max_connections=200",
        "shared_buffers=128MB",
        "max_wal_size=512MB",
        "synchronous_commit=on",
        "full_page_writes=on",
        // Compiling a query costs more than the queries here.
        "jit=off",
        "log_line_prefix=%m [%p] ",
        // The statement of a failed query may carry data that a log must not.
        "log_min_error_statement=panic",
        "log_timezone=UTC",
        "timezone=UTC",
    ];
    match durability {
        Durability::Full => settings.extend(["fsync=on", "wal_compression=on"]),
        // Commits still reach the kernel before they are acknowledged, which is all that a killed process needs.
        Durability::ProcessCrash => settings.extend(["fsync=off", "wal_level=minimal", "max_wal_senders=0"]),
    }
    let mut args: Vec<OsString> = vec!["-D".into(), dir.into()];
    args.extend(settings.into_iter().flat_map(|setting| ["-c".into(), setting.into()]));
    args
}

fn log_file(data: &DataDir) -> Result<PathBuf, PrivateError> {
    Ok(super::log_dir(data)?.join("postgres.log"))
}

fn remove_stale(path: &Path) -> Result<(), PrivateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(PrivateError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// 256 random bits in hexadecimal: needs no escaping in a URL.
fn random_password() -> std::io::Result<Zeroizing<String>> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(Zeroizing::new(hex::encode(bytes.as_slice())))
}
