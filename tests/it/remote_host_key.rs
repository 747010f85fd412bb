//! A host proves who it is before anything secret is in reach.

use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use openwatch_model::host::{HostKeyMode, KnownKey};
use openwatch_model::scan::FailureReason;
use openwatch_remote::known_hosts::{KnownHosts, render};
use openwatch_remote::{Connection, HostKeyPolicy, Limits, RemoteError, Trust, connect, fingerprint};
use openwatch_tests::sshd::{KeyKind, Options, Sshd};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::remote::target;

async fn try_connect(port: u16, policy: &HostKeyPolicy) -> Result<Connection, RemoteError> {
    let limits = Limits { handshake: Duration::from_secs(2), attempts: 2, ..Limits::default() };
    connect(&target(port, "nobody"), policy, &limits, &CancellationToken::new()).await
}

fn policy(mode: HostKeyMode, known: &[KnownKey]) -> HostKeyPolicy {
    HostKeyPolicy::new(mode, known.to_vec())
}

fn other_key() -> KnownKey {
    let dir = tempfile::tempdir().expect("a directory");
    openwatch_tests::sshd::generate_key(&dir.path().join("other"), "ed25519")
}

fn assert_no_authentication(sshd: &Sshd) {
    let log = sshd.log();
    assert!(!log.contains("Accepted") && !log.contains("Failed"), "somebody tried to log in: {log}");
}

#[tokio::test]
async fn known_and_tofu() {
    let sshd = Options::new().start();
    let key = &sshd.host_keys()[0];
    let connection =
        try_connect(sshd.port(), &policy(HostKeyMode::RequireKnown, sshd.host_keys())).await.expect("known");
    assert_eq!((connection.host_key(), connection.is_first_contact()), (key, false));
    let connection = try_connect(sshd.port(), &policy(HostKeyMode::Tofu, &[])).await.expect("first contact");
    assert_eq!((connection.host_key(), connection.is_first_contact()), (key, true));
    let connection =
        try_connect(sshd.port(), &policy(HostKeyMode::Tofu, sshd.host_keys())).await.expect("known");
    assert!(!connection.is_first_contact());
}

#[tokio::test]
async fn unknown_is_refused_before_login_and_says_what_it_saw() {
    let sshd = Options::new().start();
    let error = try_connect(sshd.port(), &policy(HostKeyMode::RequireKnown, &[])).await.expect_err("unknown");
    assert_eq!(error.reason(), FailureReason::HostKeyUnknown);
    let key = &sshd.host_keys()[0];
    assert_eq!(error.shown_key(), Some(key));
    assert!(error.to_string().contains(&fingerprint(key).expect("a fingerprint")), "{error}");
    assert_no_authentication(&sshd);
}

#[tokio::test]
async fn changed_revoked_and_pinned() {
    let sshd = Options::new().start();
    let key = sshd.host_keys()[0].clone();
    for mode in [HostKeyMode::Tofu, HostKeyMode::RequireKnown] {
        let error = try_connect(sshd.port(), &policy(mode, &[other_key()])).await.expect_err("changed");
        assert!(matches!(error, RemoteError::HostKeyChanged { .. }), "{error}");
        assert_eq!(error.reason(), FailureReason::HostKeyMismatch);
        let text = error.to_string();
        assert!(text.contains(&fingerprint(&key).expect("a fingerprint")), "says what it saw: {text}");
    }
    let revoked =
        HostKeyPolicy { revoked: vec![key.clone()], ..policy(HostKeyMode::Tofu, std::slice::from_ref(&key)) };
    let error = try_connect(sshd.port(), &revoked).await.expect_err("revoked");
    assert!(matches!(error, RemoteError::HostKeyRevoked { .. }), "{error}");

    let pin = |key: &KnownKey| HostKeyPolicy {
        trust: Trust::Pinned(fingerprint(key).expect("a fingerprint")),
        ..policy(HostKeyMode::Tofu, &[])
    };
    assert!(!try_connect(sshd.port(), &pin(&key)).await.expect("pinned").is_first_contact());
    let error = try_connect(sshd.port(), &pin(&other_key())).await.expect_err("another pin");
    assert!(matches!(error, RemoteError::HostKeyChanged { .. }), "{error}");
    assert_no_authentication(&sshd);
}

#[tokio::test]
async fn the_kind_on_record_is_the_kind_asked_for() {
    let sshd =
        Options::new().host_key(KeyKind::Ed25519).host_key(KeyKind::Ecdsa).host_key(KeyKind::Rsa).start();
    for key in sshd.host_keys() {
        let policy = policy(HostKeyMode::RequireKnown, std::slice::from_ref(key));
        let connection = try_connect(sshd.port(), &policy).await.expect("finds the key on record");
        assert_eq!(connection.host_key(), key);
    }
}

#[tokio::test]
async fn a_host_that_lost_the_kind_on_record_has_changed() {
    let with_rsa = Options::new().host_key(KeyKind::Rsa).start();
    let sshd = Options::new().start();
    let error = try_connect(sshd.port(), &policy(HostKeyMode::Tofu, with_rsa.host_keys()))
        .await
        .expect_err("swapped");
    assert!(matches!(error, RemoteError::HostKeyChanged { .. }), "{error}");
}

#[test]
fn files_written_by_openssh_are_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("known_hosts");
    let (a, b) = (other_key(), other_key());
    let text = format!("{}\n{}\n", render("web.example", 22, &a), render("web.example", 2222, &b));
    std::fs::write(&path, text).expect("written");
    for hashed in [false, true] {
        if hashed {
            let status =
                Process::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&path).stderr(Stdio::null()).status();
            assert!(status.expect("ssh-keygen runs").success());
        }
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text.contains("web.example"), !hashed);
        let hosts = KnownHosts::parse(&text);
        assert_eq!(hosts.unreadable(), []);
        assert_eq!(hosts.lookup("Web.Example", 22).known, std::slice::from_ref(&a));
        assert_eq!(hosts.lookup("web.example", 2222).known, std::slice::from_ref(&b));
        assert_eq!(hosts.lookup("other.example", 22).known, []);
    }
}

#[tokio::test]
async fn nobody_there() {
    let tofu = policy(HostKeyMode::Tofu, &[]);
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let error = try_connect(port, &tofu).await.expect_err("closed");
    assert_eq!(error.reason(), FailureReason::ConnectRefused, "{error}");

    let limits = Limits { connect: Duration::from_secs(3), ..Limits::default() };
    let mut nowhere = target(22, "nobody");
    nowhere.address = "no-such-host.invalid".into();
    let error = connect(&nowhere, &tofu, &limits, &CancellationToken::new()).await.expect_err("no such name");
    assert_eq!(error.reason(), FailureReason::Unreachable, "{error}");
}

#[tokio::test]
async fn something_else_there() {
    let tofu = policy(HostKeyMode::Tofu, &[]);
    for words in
        ["", "HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-Nonsense\r\n\0\0\0\0garbage garbage garbage"]
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(words.as_bytes()).await;
                held.push(stream);
            }
        });
        let since = Instant::now();
        let error = try_connect(port, &tofu).await.expect_err("not an SSH server");
        assert_eq!(error.reason(), FailureReason::Unreachable, "{error}");
        assert!(since.elapsed() < Duration::from_secs(6), "{words:?} took {:?}", since.elapsed());
        serving.abort();
    }
}
