//! The API over TLS.

use openwatch_api::{ApiConfig, ApiError, Health, TlsFiles};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// For `localhost` and 127.0.0.1, a hundred years.
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBeDCCAR2gAwIBAgIUDeqjB28mdah8zwDrmYcDrJSmxQQwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTIxNDc1NVoYDzIxMjYxMDI4
MjE0NzU1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAATxdIN8j/pBxG0HgIB98xAzQfzZv9C/9qX+SABme/jxo8N2epPqH+bY
4EMx970NX2g2+xLuBry/IQBEqhTgx5Wxo0swSTAMBgNVHRMBAf8EAjAAMBoGA1Ud
EQQTMBGHBH8AAAGCCWxvY2FsaG9zdDAdBgNVHQ4EFgQUQROcDKhdrMe7ap2kK8z4
fhxSh/EwCgYIKoZIzj0EAwIDSQAwRgIhAI/B8L1+c+mYbDZOTZ5rAVBJFF1V28DQ
RQLC/8p5rLwCAiEAtSsH8J8GAMJ/CIWsCtg7qOnWLlHVSg8hpCF2egtzSLc=
-----END CERTIFICATE-----
";
/// Known to everybody: it protects nothing but this test.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgi1PZJH/iU1cqpsnp
A4lpVklSANPCCLdT8en41l5QHJOhRANCAATxdIN8j/pBxG0HgIB98xAzQfzZv9C/
9qX+SABme/jxo8N2epPqH+bY4EMx970NX2g2+xLuBry/IQBEqhTgx5Wx
-----END PRIVATE KEY-----
";

fn files(dir: &std::path::Path) -> TlsFiles {
    let files = TlsFiles { certificate: dir.join("cert.pem"), key: dir.join("key.pem"), client_ca: None };
    std::fs::write(&files.certificate, CERTIFICATE).unwrap();
    std::fs::write(&files.key, KEY).unwrap();
    files
}

#[tokio::test]
async fn whoever_trusts_the_certificate_is_served_and_a_slow_handshake_delays_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let config = ApiConfig { listen, tls: Some(files(dir.path())), plain_beyond_loopback: false };
    let (told, address) = oneshot::channel();
    let stop = CancellationToken::new();
    let bound = move |address| told.send(address).unwrap();
    let serving = tokio::spawn(openwatch_api::run_health(Health::new(), None, config, bound, stop.clone()));
    let address = address.await.unwrap();

    // Connects and says nothing.
    let _silent = tokio::net::TcpStream::connect(address).await.unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root = reqwest::Certificate::from_pem(CERTIFICATE.as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{address}/health/live");
    assert_eq!(trusting.get(&url).send().await.unwrap().status(), 200);

    let plain = reqwest::Client::builder().no_proxy().build().unwrap();
    assert!(plain.get(&url).send().await.is_err(), "nobody vouches for it");
    assert!(plain.get(url.replace("https", "http")).send().await.is_err(), "no answer in the clear");
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused_before_listening() {
    let dir = tempfile::tempdir().unwrap();
    let tls = files(dir.path());
    std::fs::write(&tls.key, "nothing").unwrap();
    let config =
        ApiConfig { listen: "127.0.0.1:0".parse().unwrap(), tls: Some(tls), plain_beyond_loopback: false };
    let bound = |_| unreachable!("it must not listen");
    let refused =
        openwatch_api::run_health(Health::new(), None, config, bound, CancellationToken::new()).await;
    assert!(matches!(refused, Err(ApiError::TlsFile { path, .. }) if path.ends_with("key.pem")));
}
