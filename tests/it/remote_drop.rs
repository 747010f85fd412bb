//! Connections that break in the middle.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use openwatch_model::host::HostKeyMode;
use openwatch_model::plan::{Command, Lost, Observation, Plan};
use openwatch_remote::{HostKeyPolicy, Limits, RemoteError, RunOptions, connect};
use openwatch_tests::sshd::{Options, Sshd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::remote::{known, out, proves, target};

/// A proxy that breaks its first `cuts` connections after so many bytes from the server, and sends later ones to `then`.
async fn cutting(first: u16, bytes: usize, cuts: u32, then: u16) -> (u16, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let count = Arc::new(AtomicU32::new(0));
    let seen = count.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let number = seen.fetch_add(1, Ordering::SeqCst);
            let (to, limit) = if number < cuts { (first, bytes) } else { (then, usize::MAX) };
            tokio::spawn(carry(client, to, limit));
        }
    });
    (port, count)
}

async fn carry(client: TcpStream, to: u16, mut limit: usize) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let down = async {
        let mut buffer = [0; 512];
        while limit > 0 {
            let room = buffer.len().min(limit);
            let Ok(n @ 1..) = from_server.read(&mut buffer[..room]).await else { return };
            limit -= n;
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}

fn numbered(n: usize) -> Plan {
    Plan { commands: (0..n).map(|i| Command::new(format!("echo {i}"))).collect() }
}

fn assert_all(observations: &[Observation]) {
    for (i, observation) in observations.iter().enumerate() {
        assert_eq!(out(observation), format!("{i}\n"));
    }
}

/// A line to a server whose first connection breaks after so many bytes from there.
struct Line {
    port: u16,
    /// What the server sent on the first connection.
    passed: Arc<Mutex<Vec<u8>>>,
    connections: Arc<AtomicU32>,
}

impl Line {
    async fn breaking(to: u16, after: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (passed, connections) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU32::new(0)));
        let (notes, count) = (passed.clone(), connections.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                match count.fetch_add(1, Ordering::SeqCst) {
                    0 => tokio::spawn(carry_noting(client, to, after, notes.clone())),
                    _ => tokio::spawn(carry(client, to, usize::MAX)),
                };
            }
        });
        Self { port, passed, connections }
    }

    /// Where each packet of the first connection ended. With AES-GCM the length of a packet is not encrypted; the tag that
    /// follows each is 16 bytes, from the packet after "new keys" on.
    fn packet_ends(&self) -> Vec<usize> {
        let sent = self.passed.lock().expect("unpoisoned");
        let mut at = sent.iter().position(|byte| *byte == b'\n').expect("a version") + 1;
        let (mut ends, mut tag) = (vec![at], 0);
        while let Some(length) = sent.get(at..).and_then(<[u8]>::first_chunk) {
            let new_keys = sent.get(at + 5) == Some(&21);
            at += 4 + u32::from_be_bytes(*length) as usize + tag;
            if at > sent.len() {
                break;
            }
            ends.push(at);
            tag = if new_keys && tag == 0 { 16 } else { tag };
        }
        ends
    }
}

async fn carry_noting(client: TcpStream, to: u16, limit: usize, passed: Arc<Mutex<Vec<u8>>>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async { tokio::io::copy(&mut from_client, &mut to_server).await };
    let down = async {
        let (mut buffer, mut sum) = (vec![0; 1 << 16], 0);
        while sum < limit {
            let room = buffer.len().min(limit - sum);
            let Ok(n @ 1..) = from_server.read(&mut buffer[..room]).await else { return };
            sum += n;
            passed.lock().expect("unpoisoned").extend(&buffer[..n]);
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}

/// Runs twelve commands over a line that breaks; returns the line and, where the login was through, the reconnects. Every
/// answer is right and told once, and no command runs again that had been answered before the break.
async fn over_a_line_that_breaks(sshd: &Sshd, after: usize) -> (Line, Option<u32>) {
    let line = Line::breaking(sshd.port(), after).await;
    let dir = tempfile::tempdir().expect("a directory");
    let ran = dir.path().join("ran");
    let script = |i: usize| Command::new(format!("echo {i}; echo {i} >>'{}'", ran.display()));
    let plan = Plan { commands: (0..12).map(script).collect() };
    let limits = Limits { hello: Duration::from_secs(30), ..Limits::default() };
    let (target, cancel) = (target(line.port, sshd.user()), CancellationToken::new());
    let connection = connect(&target, &known(sshd), &limits, &cancel).await;
    // A break before authentication is retried there.
    let mut session = match connection.expect("connects").login(&sshd.secret()).await {
        Ok(session) => session,
        Err(RemoteError::Unreachable { .. }) => return (line, None),
        Err(error) => panic!("after {after} bytes: {error}"),
    };
    let (told, early) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let tell = |index: usize, _: &Observation| {
        told.lock().expect("unpoisoned").push(index);
        if line.connections.load(Ordering::SeqCst) == 1 {
            early.lock().expect("unpoisoned").push(index.to_string());
        }
    };
    let options = RunOptions { on_progress: Some(&tell), ..RunOptions::within(Duration::from_secs(60)) };
    let (observations, report) = session.run(&plan, &options, &sshd.secret()).await.expect("runs");
    session.close().await;
    assert_all(&observations);
    assert!(report.reconnects <= 1 && report.fallback.is_none(), "after {after} bytes: {report:?}");
    let mut told = told.into_inner().expect("unpoisoned");
    told.sort_unstable();
    assert_eq!(told, (0..12).collect::<Vec<_>>(), "after {after} bytes");
    let ran = std::fs::read_to_string(&ran).expect("something ran");
    for index in early.into_inner().expect("unpoisoned") {
        assert_eq!(ran.lines().filter(|line| *line == index).count(), 1, "{index} after {after} bytes");
    }
    (line, Some(report.reconnects))
}

// @spec remote-session
// @ac AC-04
#[tokio::test]
async fn a_break_at_any_packet_is_repaired_once() {
    proves("AC-04");
    let sshd = Options::new().config("Ciphers aes256-gcm@openssh.com").start();
    let (line, _) = over_a_line_that_breaks(&sshd, usize::MAX).await;
    let ends = line.packet_ends();
    let whole = *ends.last().expect("the server speaks");
    assert_eq!(whole, line.passed.lock().expect("unpoisoned").len(), "packets and nothing else");
    // No packet is as short as the long test's step.
    let breaks: Vec<usize> = match std::env::var_os("OPENWATCH_LONG") {
        Some(_) => (1..whole).step_by(24).collect(),
        None => ends,
    };
    let results: Vec<Option<u32>> = futures::stream::iter(&breaks)
        .map(|after| async { over_a_line_that_breaks(&sshd, *after).await.1 })
        .buffer_unordered(4)
        .collect()
        .await;
    let repaired = results.iter().filter(|reconnects| **reconnects == Some(1)).count();
    println!("{} breaks over {whole} bytes, {repaired} of them in the run", breaks.len());
    assert!(repaired >= 5, "the test has to hit the run itself: {results:?}");
}

// @spec remote-session
// @ac AC-04
#[tokio::test]
async fn breaks_without_end_are_given_up_without_inventing_answers() {
    proves("AC-04");
    let sshd = Options::new().start();
    let (port, count) = cutting(sshd.port(), 12_000, 100, sshd.port()).await;
    let cancel = CancellationToken::new();
    let connection = connect(&target(port, sshd.user()), &known(&sshd), &Limits::default(), &cancel).await;
    let mut session = connection.expect("connects").login(&sshd.secret()).await.expect("logs in");
    // Time is not what is tried here: a busy machine takes a while for a dozen logins.
    let options = RunOptions::within(Duration::from_secs(120));
    let (observations, report) = session.run(&numbered(500), &options, &sshd.secret()).await.expect("runs");
    // Five to go on, and one to clear away where a spool may be left.
    let connections = (report.reconnects, count.load(Ordering::SeqCst));
    assert!(matches!(connections, (5, 6) | (6, 7)), "{report:?}");
    let lost = observations.iter().filter(|o| **o == Observation::Lost(Lost::Connection)).count();
    assert!(lost > 100 && lost < 500, "{lost}");
    for (i, observation) in observations.iter().enumerate() {
        if let Observation::Done(_) = observation {
            assert_eq!(out(observation), format!("{i}\n"));
        }
    }
}

#[tokio::test]
async fn another_host_after_the_break_is_not_measured() {
    let (sshd, impostor) = (Options::new().start(), Options::new().start());
    let (port, _) = cutting(sshd.port(), 6_000, 1, impostor.port()).await;
    let cancel = CancellationToken::new();
    // Even where a first key would be taken on trust.
    let tofu = HostKeyPolicy::new(HostKeyMode::Tofu, Vec::new());
    let connection = connect(&target(port, sshd.user()), &tofu, &Limits::default(), &cancel).await;
    let mut session = connection.expect("connects").login(&sshd.secret()).await.expect("logs in");
    let options = RunOptions::within(Duration::from_secs(30));
    let result = session.run(&numbered(500), &options, &sshd.secret()).await;
    assert!(matches!(result, Err(RemoteError::HostKeyChanged { .. })), "{result:?}");
    assert!(!impostor.log().contains("Accepted"));
}

#[tokio::test]
async fn those_that_kill_the_connection_hurt_themselves_only() {
    let sshd = Options::new().start();
    let cancel = CancellationToken::new();
    // The process that carries our connection: the first server above us.
    let poison = r#"q=$$; while :; do case $(ps -o comm= -p $q) in sshd*) kill -9 $q; sleep 5 ;; esac; q=$(ps -o ppid= -p $q); done"#;
    for (many, culprits) in [(64, vec![31]), (60, vec![20, 40])] {
        let mut plan = numbered(many);
        for i in &culprits {
            plan.commands[*i] = Command::new(poison);
        }
        let connection =
            connect(&target(sshd.port(), sshd.user()), &known(&sshd), &Limits::default(), &cancel).await;
        let mut session = connection.expect("connects").login(&sshd.secret()).await.expect("logs in");
        let options = RunOptions::within(Duration::from_secs(60));
        let (observations, report) = session.run(&plan, &options, &sshd.secret()).await.expect("runs");
        println!("{many} commands, {culprits:?}: {report:?}");
        for (i, observation) in observations.iter().enumerate() {
            if culprits.contains(&i) {
                assert_eq!(*observation, Observation::Lost(Lost::Connection), "{report:?}");
            } else {
                assert_eq!(out(observation), format!("{i}\n"), "{report:?}");
            }
        }
    }
}
