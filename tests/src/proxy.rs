//! A TCP proxy that can be a bad network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// What the network does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fair,
    /// Connections break, new ones break at once.
    Cut,
    /// Connections stay, nothing gets through.
    Silent,
}

#[derive(Debug)]
struct Shared {
    weather: watch::Sender<Weather>,
    delay_ms: AtomicU64,
    /// Bytes that connections may still carry together, in both directions, before the network is cut.
    budget: AtomicU64,
    accepted: AtomicU64,
}

/// A proxy before one server. Ends with this value.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Starts in fair weather, in front of a loopback port.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("bind a proxy");
        let own = listener.local_addr().expect("a bound listener has an address").port();
        let shared = Arc::new(Shared {
            weather: watch::Sender::new(Weather::Fair),
            delay_ms: AtomicU64::new(0),
            budget: AtomicU64::new(u64::MAX),
            accepted: AtomicU64::new(0),
        });
        let task =
            tokio::spawn(accept(listener, SocketAddr::from(([127, 0, 0, 1], port)), Arc::clone(&shared)));
        Self { port: own, shared, task }
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks all connections, and every new one, until [`Proxy::restore`].
    pub fn cut(&self) {
        self.shared.weather.send_replace(Weather::Cut);
    }

    /// Lets nothing through, and breaks nothing, until [`Proxy::restore`].
    pub fn silence(&self) {
        self.shared.weather.send_replace(Weather::Silent);
    }

    /// Fair weather again: no limit, no delay.
    pub fn restore(&self) {
        self.shared.budget.store(u64::MAX, Ordering::SeqCst);
        self.shared.delay_ms.store(0, Ordering::SeqCst);
        self.shared.weather.send_replace(Weather::Fair);
    }

    /// Holds back everything that is sent from now on for that long.
    pub fn delay(&self, time: Duration) {
        self.shared.delay_ms.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Cuts the network after that many more bytes, in the middle of whatever they are.
    pub fn cut_after(&self, bytes: u64) {
        self.shared.budget.store(bytes, Ordering::SeqCst);
    }

    /// Connections that were let in so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        if *shared.weather.borrow() == Weather::Cut {
            continue;
        }
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        connections.spawn(connection(client, server, Arc::clone(&shared)));
    }
}

async fn connection(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut weather = shared.weather.subscribe();
    // Whichever ends first takes the other halves down with it.
    tokio::select! {
        () = pump(from_client, to_server, &shared) => {}
        () = pump(from_server, to_client, &shared) => {}
        _ = weather.wait_for(|now| *now == Weather::Cut) => {}
    }
}

/// One direction. A long way carries as much as a short one, only later.
async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    shared: &Shared,
) {
    let mut weather = shared.weather.subscribe();
    let (departs, mut arrives) = unbounded_channel::<(Instant, Vec<u8>)>();
    let depart = async {
        let mut buffer = vec![0_u8; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let delay = Duration::from_millis(shared.delay_ms.load(Ordering::SeqCst));
            if departs.send((Instant::now() + delay, buffer[..read].to_vec())).is_err() {
                break;
            }
        }
        drop(departs);
        std::future::pending::<()>().await;
    };
    let arrive = async {
        while let Some((due, bytes)) = arrives.recv().await {
            tokio::time::sleep_until(due).await;
            if weather.wait_for(|now| *now != Weather::Silent).await.is_err() {
                return;
            }
            let (allowed, spent) = take(&shared.budget, bytes.len());
            if to.write_all(&bytes[..allowed]).await.is_err() {
                return;
            }
            if spent {
                shared.weather.send_replace(Weather::Cut);
                return;
            }
        }
    };
    tokio::select! {
        () = depart => {}
        () = arrive => {}
    }
}

/// How many of `wanted` bytes may pass, and whether the budget is spent with them.
fn take(budget: &AtomicU64, wanted: usize) -> (usize, bool) {
    let wanted = wanted as u64;
    let update = |left: u64| if left == u64::MAX { None } else { Some(left.saturating_sub(wanted)) };
    match budget.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update) {
        Err(_) => (usize::try_from(wanted).unwrap_or(usize::MAX), false),
        Ok(before) => (usize::try_from(before.min(wanted)).unwrap_or(usize::MAX), before <= wanted),
    }
}
