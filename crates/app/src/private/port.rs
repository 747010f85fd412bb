//! Loopback ports: fixed by the user, or free ones that stay the same over restarts.

use std::net::{Ipv4Addr, TcpListener};

use super::data_dir::DataDir;
use super::error::PrivateError;
use super::find::Kind;

/// Below the range that Linux hands out to outgoing connections, so that none of them sits on it by chance.
const FREE_RANGE: std::ops::Range<u16> = 20_000..32_000;

pub(super) fn is_taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}

/// The port to use: `wanted`, or for 0 the one remembered in the data directory, or a free one.
pub(super) fn choose(data: &DataDir, kind: Kind, wanted: u16) -> Result<u16, PrivateError> {
    if wanted != 0 {
        return if is_taken(wanted) {
            Err(PrivateError::PortTaken { kind, port: wanted })
        } else {
            Ok(wanted)
        };
    }
    let file = format!("{}.port", kind.executable());
    let remembered = data.read(&file)?.and_then(|text| text.trim().parse().ok());
    if let Some(port) = remembered.filter(|port| !is_taken(*port)) {
        return Ok(port);
    }
    let port = free(data)?;
    if let Some(taken) = remembered {
        tracing::warn!(server = %kind, taken, port, "the usual port is taken, using another one");
    }
    data.write(&file, 0o644, &format!("{port}\n"))?;
    Ok(port)
}

fn free(data: &DataDir) -> Result<u16, PrivateError> {
    // Random, so that several openwatch that start at once do not race for one port.
    for _ in 0..200 {
        let random = getrandom::u32().map_err(|error| {
            PrivateError::io("pick a port for", data.path())(std::io::Error::other(error.to_string()))
        })?;
        let width = u32::from(FREE_RANGE.end - FREE_RANGE.start);
        let offset = u16::try_from(random % width).unwrap_or_default();
        if !is_taken(FREE_RANGE.start + offset) {
            return Ok(FREE_RANGE.start + offset);
        }
    }
    let none = std::io::Error::from(std::io::ErrorKind::AddrInUse);
    Err(PrivateError::io("find a free loopback port for", data.path())(none))
}
