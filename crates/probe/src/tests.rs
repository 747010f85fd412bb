use std::time::Instant;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use super::*;

const SOON: Duration = Duration::from_millis(300);

/// Accepts one connection, says each part with a pause before it, then closes or, with `hold`, stays silent.
async fn server(bind: &str, parts: Vec<Vec<u8>>, hold: bool) -> u16 {
    let listener = TcpListener::bind(bind).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        for part in parts {
            stream.write_all(&part).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if hold {
            std::future::pending::<()>().await;
        }
    });
    port
}

async fn answer(parts: &[&[u8]], hold: bool) -> ProbeOutcome {
    let parts = parts.iter().map(|part| part.to_vec()).collect();
    let port = server("127.0.0.1:0", parts, hold).await;
    probe("127.0.0.1", port, SOON).await
}

#[tokio::test]
async fn every_kind_of_answer_has_its_class() {
    let banner: &[u8] = b"SSH-2.0-OpenSSH_9.9\r\n";
    let flood = vec![b'x'; 4096];
    assert!(answer(&[banner], true).await.is_ok());
    assert!(answer(&[b"SS", b"H-2", b".0-slow\r\n"], true).await.is_ok(), "partial reads");
    assert!(
        answer(&[b"welcome\r\n", b"please log in\r\n", banner], true).await.is_ok(),
        "lines before the banner"
    );
    let http: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\r\n";
    for (parts, hold) in [
        (vec![http], true),
        (vec![b"220 mail ESMTP\r\n".as_slice()], false),
        (vec![b"220 mail ESMTP\r\n".as_slice()], true),
        (vec![b"S".as_slice()], false),
        (vec![flood.as_slice()], true),
    ] {
        assert_eq!(answer(&parts, hold).await, Err(ProbeError::BannerMismatch), "{} bytes", parts[0].len());
    }
    assert_eq!(answer(&[], true).await, Err(ProbeError::TcpTimeout), "silence");
    assert_eq!(answer(&[], false).await, Err(ProbeError::TcpError), "closed without a word");
}

#[tokio::test]
async fn a_closed_port_is_refused_and_a_bad_name_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    assert_eq!(probe("127.0.0.1", port, SOON).await, Err(ProbeError::ConnectionRefused));
    // Too long to be a name at all, so that no resolver is asked.
    assert_eq!(probe(&"x".repeat(300), port, DEFAULT_LIMIT).await, Err(ProbeError::TcpError));
}

#[tokio::test]
async fn ipv6_literals_work_with_and_without_brackets() {
    if TcpListener::bind("[::1]:0").await.is_err() {
        println!("skipped: this machine has no IPv6 loopback");
        return;
    }
    for address in ["::1", "[::1]"] {
        let port = server("[::1]:0", vec![b"SSH-2.0-six\r\n".to_vec()], true).await;
        assert!(probe(address, port, SOON).await.is_ok(), "{address}");
    }
}

#[tokio::test]
async fn the_limit_covers_the_whole_probe_and_short_times_are_kept() {
    let started = Instant::now();
    assert_eq!(answer(&[], true).await, Err(ProbeError::TcpTimeout));
    assert!(started.elapsed() < SOON * 3);
    let took = answer(&[b"SSH-2.0-near\r\n"], true).await.unwrap();
    assert!(took > Duration::ZERO && took < SOON);
    assert_ne!(took.subsec_nanos() % 1_000_000, 0, "finer than milliseconds");
}

#[tokio::test]
async fn cancelling_a_probe_ends_it_at_once() {
    let port = server("127.0.0.1:0", Vec::new(), true).await;
    let task = tokio::spawn(probe("127.0.0.1", port, Duration::from_secs(60)));
    tokio::task::yield_now().await;
    let started = Instant::now();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    assert!(started.elapsed() < Duration::from_secs(1));
}

/// LIV-06: the probe cannot log in because nothing it is built from can.
#[test]
fn the_manifest_names_no_ssh_and_no_keys() {
    let manifest: toml::Table = toml::from_str(include_str!("../Cargo.toml")).unwrap();
    let dependencies: Vec<_> =
        manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    assert_eq!(dependencies, ["openwatch-model", "tokio"]);
    for source in [include_str!("lib.rs"), include_str!("banner.rs")] {
        assert!(!source.contains("credential::") && !source.contains("russh"));
    }
}
