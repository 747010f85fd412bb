//! NATS or PostgreSQL away for a while.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use openwatch_bus::User;
use openwatch_tests::{Program, Proxy, sshd};

use super::fleet::{Fleet, ran};
use super::ground::Ground;
use super::rest::Rest;
use super::tables;

const HOSTS: usize = 6;
const AWAY: Duration = Duration::from_secs(10);

// @spec trunk
// @ac AC-05
#[tokio::test]
async fn scans_end_once_when_nats_is_back_and_when_postgres_is() {
    println!("@spec trunk");
    println!("@ac AC-05");
    let (ground, sshd) = (Ground::new(5).slow(2), sshd::Options::new().start());
    // Servers by hand, with a bad network before each; everything else is one `openwatch up`.
    let fleet = Fleet::prepare(&ground.rules()).await;
    let port = |url: &str| -> u16 {
        let host = url.rsplit('@').next().unwrap().trim_start_matches("nats://");
        host.split(['/', '?']).next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
    };
    let (database, nats) =
        (Proxy::to(port(fleet.database_url())).await, Proxy::to(port(fleet.nats_url())).await);
    let through = fleet
        .database_url()
        .replace(&format!(":{}/", port(fleet.database_url())), &format!(":{}/", database.port()));
    let dir = tempfile::Builder::new().prefix("ow-outage-").tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let data = dir.path().join("data");
    let mut up = Program::new(["up", "--listen", "127.0.0.1:0", "--slots", "6", "--rules"])
        .arg(ground.rules())
        .arg("--data-dir")
        .arg(&data)
        .arg("--keys")
        .arg(fleet.keys("master"))
        .arg("--policy")
        .arg(fleet.policy())
        .env("OPENWATCH_DATABASE_URL", through)
        .env("OPENWATCH_NATS_URL", format!("nats://127.0.0.1:{}", nats.port()))
        .spawn();
    up.line("openwatch: ready at").await;
    let rest = Rest::of(&openwatch_app::place::ClientFile::read(&data).unwrap());
    let key = dir.path().join("target.key");
    std::fs::write(&key, sshd.private_key()).unwrap();
    let add = Program::new(["credential", "add", "key", "--default", "--user", sshd.user(), "--key-file"]);
    ran(add.arg(&key).arg("--data-dir").arg(&data)).await;
    for number in 0..HOSTS {
        let host = serde_json::json!({ "name": format!("host-{number}"), "address": "127.0.0.1", "port": sshd.port() });
        rest.post("/hosts", host).await;
    }
    let admin = fleet.bus(User::Admin).await;
    let quiet = || tables::quiet(fleet.database_url(), &admin, Duration::from_secs(90));
    some_running(&fleet, 2).await;
    nats.cut();
    tokio::time::sleep(AWAY).await;
    nats.restore();
    quiet().await;

    ground.set(0, false);
    let mut scans = Vec::new();
    for number in 0..HOSTS {
        scans.push(rest.scan(&format!("host-{number}")).await);
    }
    some_running(&fleet, 2).await;
    database.cut();
    tokio::time::sleep(AWAY).await;
    database.restore();
    quiet().await;

    assert!(up.try_wait().is_none(), "an outage ends nothing:\n{}", up.stderr());
    assert_eq!(tables::dead_letters(&admin).await, Vec::<String>::new());
    for scan in &scans {
        let ended = rest.scan_in(scan, &["completed", "failed"]).await;
        assert_eq!(ended["scan"]["state"], "completed", "{ended}");
        assert_eq!(ended["changes"].as_array().unwrap().len(), 1, "{ended}");
    }
    let mut db = fleet.db().await;
    let hosts = HOSTS as i64;
    assert_eq!(tables::count(&mut db, "select count(*) from scan_ledger").await, 2 * hosts);
    assert_eq!(
        tables::count(&mut db, "select count(*) from scan where state = 'completed'").await,
        2 * hosts
    );
    let alerts = "select count(*) from alert where alert_type like 'drift%'";
    assert_eq!(tables::count(&mut db, alerts).await, hosts, "one for each host");
    up.terminate().await;
}

async fn some_running(fleet: &Fleet, count: i64) {
    let mut db = fleet.db().await;
    let since = std::time::Instant::now();
    while tables::count(&mut db, "select count(*) from scan where state = 'running'").await < count {
        assert!(since.elapsed() < Duration::from_secs(30), "no scans are running");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
