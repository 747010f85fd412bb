//! Connections that break in the middle.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use openwatch_model::host::HostKeyMode;
use openwatch_model::plan::{Command, Lost, Observation, Plan};
use openwatch_remote::{HostKeyPolicy, Limits, RemoteError, RunOptions, connect};
use openwatch_tests::sshd::Options;
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

// @spec remote-session
// @ac AC-04
#[tokio::test]
async fn a_break_at_any_point_is_repaired_once() {
    proves("AC-04");
    let sshd = Options::new().start();
    let plan = numbered(40);
    let cancel = CancellationToken::new();
    let mut reconnects = 0;
    for bytes in (500..12_000).step_by(700) {
        let (port, _) = cutting(sshd.port(), bytes, 1, sshd.port()).await;
        let connection =
            connect(&target(port, sshd.user()), &known(&sshd), &Limits::default(), &cancel).await;
        // A break before authentication is retried there.
        let session = connection.expect("connects").login(&sshd.secret()).await;
        let mut session = match session {
            Ok(session) => session,
            Err(RemoteError::Unreachable { .. }) => continue,
            Err(error) => panic!("after {bytes} bytes: {error}"),
        };
        let options = RunOptions::within(Duration::from_secs(30));
        let (observations, report) = session.run(&plan, &options, &sshd.secret()).await.expect("runs");
        assert_all(&observations);
        assert!(report.reconnects <= 1, "{report:?}");
        reconnects += report.reconnects;
    }
    assert!(reconnects >= 5, "the test has to hit the run itself: {reconnects}");
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
    let options = RunOptions::within(Duration::from_secs(30));
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
