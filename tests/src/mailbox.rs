//! A mail server that takes every mail and keeps it: enough SMTP for one client, on loopback, in the clear or over TLS.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// How it is spoken to.
#[derive(Clone)]
enum Security {
    Plain,
    /// Encrypted from the first byte.
    Tls(TlsAcceptor),
    /// Encrypted once the client asks.
    Starttls(TlsAcceptor),
}

/// The server. Ends with this value.
#[derive(Debug)]
pub struct MailServer {
    port: u16,
    mails: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl MailServer {
    /// Starts on a loopback port, in the clear.
    pub async fn start() -> Self {
        Self::with(Security::Plain).await
    }

    /// The same over implicit TLS, with `tls.crt` and `tls.key` of a directory.
    pub async fn tls(dir: &Path) -> Self {
        Self::with(Security::Tls(acceptor(dir))).await
    }

    /// The same with STARTTLS, and no mail before it.
    pub async fn starttls(dir: &Path) -> Self {
        Self::with(Security::Starttls(acceptor(dir))).await
    }

    /// # Panics
    /// When no port can be had.
    async fn with(security: Security) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a mail server");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let mails = Arc::<Mutex<Vec<String>>>::default();
        let kept = Arc::clone(&mails);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (kept, security) = (Arc::clone(&kept), security.clone());
                tokio::spawn(async move {
                    let _ = greet(stream, security, &kept).await;
                });
            }
        });
        Self { port, mails, task }
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Mails taken so far, headers and all, each after the lines that named its sender and readers.
    ///
    /// # Panics
    /// Never in practice: a connection would have to panic.
    #[must_use]
    pub fn mails(&self) -> Vec<String> {
        self.mails.lock().expect("no connection panics").clone()
    }
}

impl Drop for MailServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor(dir: &Path) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(dir.join("tls.crt")).and_then(Iterator::collect);
    let key = PrivateKeyDer::from_pem_file(dir.join("tls.key")).expect("read tls.key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows the default versions")
        .with_no_client_auth()
        .with_single_cert(chain.expect("read tls.crt"), key)
        .expect("certificate and key belong together");
    TlsAcceptor::from(Arc::new(config))
}

async fn greet(mut stream: TcpStream, security: Security, kept: &Mutex<Vec<String>>) -> std::io::Result<()> {
    const GREETING: &[u8] = b"220 test ESMTP\r\n";
    match security {
        Security::Plain => {
            stream.write_all(GREETING).await?;
            serve(stream, false, kept).await?;
        }
        Security::Tls(acceptor) => {
            let mut stream = acceptor.accept(stream).await?;
            stream.write_all(GREETING).await?;
            stream.flush().await?;
            serve(stream, false, kept).await?;
        }
        Security::Starttls(acceptor) => {
            stream.write_all(GREETING).await?;
            if let Some(stream) = serve(stream, true, kept).await? {
                serve(acceptor.accept(stream).await?, false, kept).await?;
            }
        }
    }
    Ok(())
}

/// Speaks to a client until it leaves; gives the stream back when it asks for TLS.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    starttls: bool,
    kept: &Mutex<Vec<String>>,
) -> std::io::Result<Option<S>> {
    let (mut mail, mut in_data) = (String::new(), false);
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let text = line.trim_end_matches(['\r', '\n']);
        let word = text.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = if in_data {
            if text != "." {
                mail.push_str(text);
                mail.push('\n');
                continue;
            }
            in_data = false;
            kept.lock().expect("no connection panics").push(std::mem::take(&mut mail));
            b"250 2.0.0 kept\r\n"
        } else {
            match word.as_str() {
                "EHLO" if starttls => b"250-test\r\n250-STARTTLS\r\n250 8BITMIME\r\n",
                "EHLO" => b"250-test\r\n250-AUTH PLAIN\r\n250 8BITMIME\r\n",
                "STARTTLS" if starttls => {
                    stream.write_all(b"220 go ahead\r\n").await?;
                    stream.flush().await?;
                    return Ok(Some(stream.into_inner()));
                }
                "AUTH" => {
                    mail.push_str(text);
                    mail.push('\n');
                    b"235 ok\r\n"
                }
                "MAIL" | "RCPT" if starttls => b"530 5.7.0 STARTTLS first\r\n",
                "MAIL" | "RCPT" => {
                    mail.push_str(text);
                    mail.push('\n');
                    b"250 ok\r\n"
                }
                "DATA" => {
                    in_data = true;
                    b"354 go on\r\n"
                }
                "QUIT" => {
                    stream.write_all(b"221 bye\r\n").await?;
                    return Ok(None);
                }
                _ => b"250 ok\r\n",
            }
        };
        stream.write_all(answer).await?;
        stream.flush().await?;
    }
}
