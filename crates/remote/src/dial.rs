//! From a name and a port to a TCP connection.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::error::RemoteError;
use crate::wire::Wire;

/// Dials every address of the name in turn until one answers.
pub(crate) async fn dial(address: &str, port: u16, limit: Duration) -> Result<Wire, RemoteError> {
    let peer = peer_name(address, port);
    let found = tokio::time::timeout(limit, tokio::net::lookup_host((address, port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(source)) => return Err(RemoteError::NameUnresolved { address: address.to_owned(), source }),
        Err(_) => return Err(unreachable(peer, format!("no answer from the resolver within {limit:?}"))),
    };
    let mut last = unreachable(peer.clone(), "the name has no address".into());
    for address in addresses {
        let since = Instant::now();
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                return Wire::new(stream, since.elapsed()).map_err(|e| unreachable(peer, e.to_string()));
            }
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => {
                last = RemoteError::ConnectRefused { peer: peer.clone() };
            }
            Ok(Err(e)) => last = unreachable(peer.clone(), e.to_string()),
            Err(_) => last = unreachable(peer.clone(), format!("no answer within {limit:?}")),
        }
    }
    Err(last)
}

/// `host:port`, with brackets around an IPv6 address.
pub(crate) fn peer_name(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn unreachable(peer: String, detail: String) -> RemoteError {
    RemoteError::Unreachable { peer, detail }
}
