//! Listening: plain on the machine, TLS beyond it, and a stop that lets answers finish.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Longest a client may take over the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that are through the handshake and wait to be served.
const BACKLOG: usize = 64;
/// Longest that answers may take to finish after the stop.
const GRACE: Duration = Duration::from_secs(10);

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Address and port; port 0 takes any.
    pub listen: SocketAddr,
    /// Certificate and key; required beyond loopback unless `plain_beyond_loopback`.
    pub tls: Option<TlsFiles>,
    /// Listen without TLS beyond loopback, because something in front speaks it.
    pub plain_beyond_loopback: bool,
}

/// PEM files.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, then its chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Authorities: only clients with a certificate of theirs are let in.
    pub client_ca: Option<PathBuf>,
}

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Plain HTTP would leave the machine.
    #[error(
        "listen on {0} without TLS: give a certificate and key, listen on loopback, or allow plain HTTP explicitly"
    )]
    PlainBeyondLoopback(SocketAddr),
    /// The address is taken or not ours.
    #[error("listen on {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// A certificate or key file cannot be read.
    #[error("read {path}: {reason}")]
    TlsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificate and key do not go together.
    #[error("use the TLS certificate and key: {0}")]
    Tls(#[from] rustls::Error),
    /// The server stopped by itself.
    #[error("serve HTTP: {0}")]
    Serve(#[source] io::Error),
}

/// Serves `router` until `shutdown`, then lets answers finish. `bound` is told the address, once.
pub(crate) async fn serve(
    router: Router,
    config: &ApiConfig,
    bound: impl FnOnce(SocketAddr) + Send,
    shutdown: CancellationToken,
) -> Result<(), ApiError> {
    let address = config.listen;
    if config.tls.is_none() && !address.ip().is_loopback() && !config.plain_beyond_loopback {
        return Err(ApiError::PlainBeyondLoopback(address));
    }
    let tls = config.tls.as_ref().map(tls_config).transpose()?;
    let refused = |source| ApiError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    bound(listener.local_addr().map_err(refused)?);

    let stopped = shutdown.clone().cancelled_owned();
    let serving = async {
        match tls {
            None => {
                let service = router.into_make_service_with_connect_info::<Peer>();
                axum::serve(listener, service).with_graceful_shutdown(stopped).await
            }
            Some(tls) => {
                let service = router.into_make_service_with_connect_info::<Peer>();
                axum::serve(TlsListener::new(listener, tls)?, service).with_graceful_shutdown(stopped).await
            }
        }
    };
    let grace_over = async {
        shutdown.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = serving => ended.map_err(ApiError::Serve),
        () = grace_over => Ok(()),
    }
}

fn tls_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, ApiError> {
    let bad = |path: &PathBuf, error: rustls::pki_types::pem::Error| ApiError::TlsFile {
        path: path.clone(),
        reason: error.to_string(),
    };
    let certificates = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| bad(&files.certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| bad(&files.key, error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let config = match &files.client_ca {
        None => config.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let all = CertificateDer::pem_file_iter(path).map_err(|error| bad(path, error))?;
            for certificate in all {
                roots.add(certificate.map_err(|error| bad(path, error))?)?;
            }
            let roots = Arc::new(roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|error| ApiError::TlsFile { path: path.clone(), reason: error.to_string() })?;
            config.with_client_cert_verifier(verifier)
        }
    };
    let config = config.with_single_cert(certificates, key)?;
    Ok(Arc::new(config))
}

/// Who is at the other end of a connection, whatever it speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// Shakes hands beside the accept loop, so that a slow client delays nobody.
struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
    _accepting: AbortOnDropHandle<()>,
}

impl TlsListener {
    fn new(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (send, ready) = mpsc::channel(BACKLOG);
        let accepting = tokio::spawn(accept(listener, TlsAcceptor::from(config), send));
        Ok(Self { ready, address, _accepting: AbortOnDropHandle::new(accepting) })
    }
}

async fn accept(
    mut listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let mut handshakes = tokio::task::JoinSet::new();
    loop {
        let (stream, peer) = Listener::accept(&mut listener).await;
        while handshakes.try_join_next().is_some() {}
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        handshakes.spawn(async move {
            match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(ready.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake refused"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn plain_http_does_not_leave_the_machine_by_accident() {
        let listen = "0.0.0.0:0".parse().unwrap();
        let config = ApiConfig { listen, tls: None, plain_beyond_loopback: false };
        let refused = serve(Router::new(), &config, |_| (), CancellationToken::new()).await;
        assert!(matches!(refused, Err(ApiError::PlainBeyondLoopback(_))));
    }

    #[test]
    fn a_missing_certificate_names_the_file() {
        let files = TlsFiles {
            certificate: "/nonexistent/cert.pem".into(),
            key: "/nonexistent/key.pem".into(),
            client_ca: None,
        };
        let text = tls_config(&files).unwrap_err().to_string();
        assert!(text.contains("/nonexistent/cert.pem"), "{text}");
    }
}
