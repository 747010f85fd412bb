//! The private NATS server: the project's own configuration files, with port and store directory of this machine.

use std::ffi::OsString;
use std::path::Path;

use super::child::User;
use super::data_dir::{DataDir, check_reachable};
use super::error::PrivateError;
use super::find::{Kind, Places};
use super::leftovers::stop_leftovers;
use super::port;
use super::server::{Ready, Server};

const DIRECTORY: &str = "nats";
/// The same files that a server of your own would use, so that both mean the same.
const SERVER_CONF: &str = include_str!("../../../../nats/server.conf");
const PERMISSIONS_CONF: &str = include_str!("../../../../nats/permissions.conf");

/// What preparing and starting one needs.
#[derive(Debug)]
pub(super) struct Setup<'a> {
    pub(super) data: &'a DataDir,
    pub(super) places: &'a Places,
    pub(super) user: Option<&'a User>,
    pub(super) port: u16,
    pub(super) users_conf: &'a str,
}

/// Writes the configuration and says how to start and how to reach the server.
pub(super) fn prepare(setup: &Setup<'_>) -> Result<(Server, String), PrivateError> {
    let found = setup.places.find(Kind::Nats, None)?;
    if let Some(user) = setup.user {
        check_reachable(&found.path, user)?;
    }
    let dir = setup.data.private_dir(DIRECTORY, setup.user)?;
    stop_leftovers(Kind::Nats, &dir)?;
    // Readable by the unprivileged user; they hold public keys only, and the directory is closed to others.
    for (name, text) in [
        ("server.conf", SERVER_CONF),
        ("permissions.conf", PERMISSIONS_CONF),
        ("users.conf", setup.users_conf),
    ] {
        setup.data.write(&format!("{DIRECTORY}/{name}"), 0o644, text)?;
    }
    let port = port::choose(setup.data, Kind::Nats, setup.port)?;
    // The greeting says this name: how we know that the server on the port is the one we started.
    let name = format!("openwatch-{}-{port}", std::process::id());
    let server = Server {
        kind: Kind::Nats,
        program: found.path,
        args: arguments(&dir, &name, port),
        log: super::log_dir(setup.data)?.join("nats-server.log"),
        user: setup.user.cloned(),
        port,
        ready: Ready::Greeting { name },
        pid: Default::default(),
        cwd: dir,
    };
    Ok((server, format!("nats://127.0.0.1:{port}")))
}

/// The command line wins over the file, except for the store directory: that one is relative in the file, and the
/// server runs in its directory. Monitoring stays off: it has no login.
fn arguments(dir: &Path, name: &str, port: u16) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["--config".into(), dir.join("server.conf").into()];
    args.extend(["--addr".into(), "127.0.0.1".into(), "--port".into(), port.to_string().into()]);
    args.extend(["--name".into(), name.into()]);
    args
}
