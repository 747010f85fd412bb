//! A wire to a NATS server on which chosen messages of the client are lost, and nothing else.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

type Loses = Arc<dyn Fn(&str, &[u8]) -> bool + Send + Sync>;

/// One wire before one server. Ends with this value.
#[derive(Debug)]
pub struct Lossy {
    port: u16,
    task: JoinHandle<()>,
}

impl Lossy {
    /// A wire to a loopback port that loses what `loses` picks, by subject and by payload (headers before it).
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn to(port: u16, loses: impl Fn(&str, &[u8]) -> bool + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a wire");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let loses: Loses = Arc::new(loses);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connection(client, port, Arc::clone(&loses)));
            }
        });
        Self { port: own, task }
    }

    /// Where it listens, for a client without TLS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(client: TcpStream, server: u16, loses: Loses) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, mut to_client), (mut from_server, to_server)) =
        (client.into_split(), server.into_split());
    // Whichever ends first takes the other down with it.
    tokio::select! {
        _ = said(from_client, to_server, &loses) => {}
        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
    }
}

/// Passes on what a client says, frame by frame: a line, and after `PUB` and `HPUB` as many bytes as its last word says.
async fn said(from: OwnedReadHalf, mut to: OwnedWriteHalf, loses: &Loses) -> std::io::Result<()> {
    let mut from = BufReader::new(from);
    loop {
        let mut frame = Vec::new();
        if from.read_until(b'\n', &mut frame).await? == 0 {
            return Ok(());
        }
        let line = String::from_utf8_lossy(&frame).into_owned();
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["PUB" | "HPUB", subject, .., size] = words[..] {
            let line_ends = frame.len();
            let size: usize = size.parse().map_err(std::io::Error::other)?;
            frame.resize(line_ends + size + "\r\n".len(), 0);
            from.read_exact(&mut frame[line_ends..]).await?;
            if loses(subject, &frame[line_ends..line_ends + size]) {
                continue;
            }
        }
        to.write_all(&frame).await?;
    }
}
