//! Going through another host: a connection that was let in there carries the connection to the next one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use openwatch_model::credential::Secret;
use russh::ChannelOpenFailure;
use russh::client::Msg;
use tokio::time::Instant;

use crate::auth;
use crate::connection::{Connection, Route};
use crate::error::RemoteError;
use crate::host_key::Trust;

/// A host that has let us in and carries connections to others. Clones share the one connection; it ends with the last.
#[derive(Clone)]
pub struct Jump(Arc<Inner>);

struct Inner {
    route: Route,
    /// To be let in again after the connection broke. Lives as long as the scan that goes through.
    secret: Secret,
    live: tokio::sync::Mutex<Connection>,
}

/// A byte stream to the next host, and what the connection to it has to know.
pub(crate) struct Carried {
    pub(crate) stream: russh::ChannelStream<Msg>,
    pub(crate) round_trip: Duration,
    pub(crate) steady: Arc<AtomicBool>,
}

impl Jump {
    /// Logs in there, to go on from there. No shell is asked for.
    pub(crate) async fn enter(connection: Connection, secret: Secret) -> Result<Self, RemoteError> {
        let mut route = connection.route.clone();
        // Whoever answers after a broken connection must be the one that answered now.
        route.policy.known = vec![connection.host_key().clone()];
        route.policy.trust = Trust::Mode(openwatch_model::host::HostKeyMode::RequireKnown);
        let live = auth::authenticate(connection, &secret).await?;
        Ok(Self(Arc::new(Inner { route, secret, live: tokio::sync::Mutex::new(live) })))
    }

    /// `address:port` of the host that is gone through.
    pub(crate) fn peer(&self) -> &str {
        &self.0.route.peer
    }

    /// Has it connect to the next host, logging in again first when the connection broke.
    pub(crate) async fn carry(
        &self,
        address: &str,
        port: u16,
        limit: Duration,
    ) -> Result<Carried, RemoteError> {
        let mut live = self.0.live.lock().await;
        if live.handle.is_closed() {
            // Boxed: connecting may go through a jump, which may connect.
            let again = Box::pin(self.0.route.clone().connect()).await.map_err(RemoteError::at_jump)?;
            *live = auth::authenticate(again, &self.0.secret).await.map_err(RemoteError::at_jump)?;
        }
        let since = Instant::now();
        let opening = live.handle.channel_open_direct_tcpip(address, u32::from(port), "127.0.0.1", 0);
        let refused = |detail: String| RemoteError::NotCarried {
            peer: crate::dial::peer_name(address, port),
            jump: self.peer().to_owned(),
            detail,
        };
        match tokio::time::timeout(limit, opening).await {
            Ok(Ok(channel)) => Ok(Carried {
                stream: channel.into_stream(),
                round_trip: since.elapsed(),
                steady: live.steady.clone(),
            }),
            Ok(Err(russh::Error::ChannelOpenFailure(why))) => Err(refused(explain(why).to_owned())),
            Ok(Err(error)) => Err(refused(error.to_string())),
            Err(_) => Err(refused(format!("no answer within {limit:?}"))),
        }
    }

    /// Says goodbye, unless others still go through.
    pub(crate) async fn leave(self) {
        let Some(inner) = Arc::into_inner(self.0) else { return };
        let handle = inner.live.into_inner().handle;
        // A host that is gone has been said goodbye to.
        let _ = handle.disconnect(russh::Disconnect::ByApplication, "", "").await;
    }
}

fn explain(why: ChannelOpenFailure) -> &'static str {
    match why {
        ChannelOpenFailure::AdministrativelyProhibited => {
            "it does not allow forwarding there (AllowTcpForwarding, PermitOpen)"
        }
        ChannelOpenFailure::ConnectFailed => "it cannot connect there: nobody listens, or no route",
        ChannelOpenFailure::ResourceShortage => "it has no room for another connection",
        _ => "it does not know how to forward",
    }
}

impl fmt::Debug for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Jump").field(&self.peer()).finish()
    }
}
