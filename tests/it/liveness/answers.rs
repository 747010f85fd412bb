//! What a host can answer, and what becomes of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use openwatch_app::run::Stage;
use openwatch_bus::message::event::Kind;
use openwatch_tests::sshd::Options;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Proxy, Stack, Stages, eventually};
use serde_json::Value;

use super::{Door, Manner, become_, hurry, proves};

// @spec liveness-loop
// @ac AC-01
#[test]
fn the_prober_is_built_without_ssh_and_without_credentials() {
    proves("AC-01");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let tree =
        ["tree", "--offline", "--locked", "-p", "openwatch-probe", "-e", "normal,build", "--prefix", "none"];
    let output = Command::new(cargo).args(tree).current_dir(root).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let built: BTreeSet<_> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(built.contains("openwatch-probe") && built.contains("tokio"), "{built:?}");
    for name in &built {
        let ours = ["openwatch-probe", "openwatch-model"];
        assert!(!name.starts_with("openwatch-") || ours.contains(name), "the prober must not know {name}");
        assert!(!name.contains("ssh") && !name.contains("rustls") && !name.contains("sqlx"), "{name}");
    }
}

// @spec liveness-loop
// @ac AC-02
// @ac AC-12
#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_answer_is_told_apart_and_counted() {
    proves("AC-02");
    proves("AC-12");
    let stack = Stack::start().await;
    let mut doors = Vec::new();
    for (name, manner) in [
        ("ssh", Manner::Ssh),
        ("web", Manner::Http),
        ("shut", Manner::Shut),
        ("silent", Manner::Silent),
        ("refused", Manner::Shut),
    ] {
        let door = Door::open(manner).await;
        let port = door.port.to_string();
        stack.json(&["host", "add", name, "--address", "127.0.0.1", "--port", &port]).await;
        // A door that is gone refuses.
        if name != "refused" {
            doors.push(door);
        }
    }
    let liveness = |name: &'static str| {
        let stack = &stack;
        async move { stack.json(&["host", "show", name]).await["host"]["liveness"].clone() }
    };
    let word = |of: &Value, field: &str| of[field].as_str().unwrap_or("-").to_owned();
    for (name, error) in [
        ("web", "banner_mismatch"),
        ("shut", "tcp_error"),
        ("silent", "tcp_timeout"),
        ("refused", "connection_refused"),
    ] {
        let down = eventually(name, || async {
            let now = liveness(name).await;
            (word(&now, "reachability") == "unreachable").then_some(now)
        })
        .await;
        assert_eq!(word(&down, "error"), error, "{name}: {down}");
        assert!(down["missed"].as_u64() >= Some(2) && down["since"].is_string(), "{name}: {down}");
        assert_eq!(down["response_time_ms"], Value::Null, "{name}: {down}");
    }
    let up = liveness("ssh").await;
    assert_eq!((word(&up, "reachability"), up["missed"].as_u64()), ("reachable".into(), Some(0)), "{up}");
    let took = up["response_time_ms"].as_f64().unwrap();
    assert!(took > 0.0 && took < 5000.0, "{up}");

    let (_, shown, _) = stack.cli(&["host", "show", "web"]).await;
    assert!(
        shown.contains("does not answer since") && shown.contains("something else than SSH answers"),
        "{shown}"
    );
    let (_, listed, _) = stack.cli(&["host", "list"]).await;
    let line = |name: &str| listed.lines().find(|line| line.contains(name)).unwrap_or_default().to_owned();
    assert!(line("silent").contains("unreachable") && line("ssh ").contains(" reachable"), "{listed}");

    let client = stack.client();
    let token = std::fs::read_to_string(&client.token_file).unwrap();
    let metrics = reqwest::Client::new().get(format!("{}/metrics", client.url)).bearer_auth(token.trim());
    let text = metrics.send().await.unwrap().text().await.unwrap();
    let value = |series: &str| -> f64 {
        let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        found.unwrap_or_else(|| panic!("no {series} in {text}"))
    };
    for outcome in ["success", "banner_mismatch", "tcp_error", "tcp_timeout", "connection_refused"] {
        assert!(value(&format!("openwatch_probes_total{{outcome=\"{outcome}\"}}")) >= 1.0);
    }
    let transitions = |to: &str| value(&format!("openwatch_liveness_transitions_total{{to=\"{to}\"}}"));
    assert_eq!((transitions("reachable"), transitions("unreachable")), (1.0, 4.0));
    assert_eq!(value("openwatch_prober_isolated"), 0.0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - value("openwatch_last_probe_timestamp_seconds")).abs() < 120.0);
}

// @spec liveness-loop
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn it_takes_two_misses_to_go_and_one_answer_to_return() {
    proves("AC-03");
    let stages = Stages::under(TOFU).await;
    let door = Door::open(Manner::Shut).await;
    let host = stages.host("web", door.port).await;
    let _running = stages.run(&[Stage::Liveness]).await;
    let row = || async {
        stages
            .texts("select concat_ws(' ', reachability_status, consecutive_failures, transition) from host_liveness")
            .await
            .remove(0)
    };
    // The first miss ever, then the second.
    let seen = eventually("a miss", || async { Some(row().await).filter(|it| it != "unknown 0 0") }).await;
    assert_eq!(seen, "unknown 1 0");
    assert_eq!(stages.audited("host.connectivity.checked").await, 0);
    let seen =
        eventually("the second", || async { Some(row().await).filter(|it| it != "unknown 1 0") }).await;
    assert_eq!(seen, "unreachable 2 1");
    // More of the same is nothing new.
    eventually("a third", || async {
        hurry(&stages).await;
        row().await.starts_with("unreachable 3").then_some(())
    })
    .await;
    door.be(Manner::Ssh);
    become_(&stages, "reachable 1").await;
    assert_eq!(row().await, "reachable 0 2");
    let since = "select last_state_change_at::text from host_liveness";
    let then = stages.texts(since).await;
    let before = door.knocks();
    eventually("another answer", || async {
        hurry(&stages).await;
        (door.knocks() > before + 1).then_some(())
    })
    .await;
    assert_eq!((row().await, stages.texts(since).await), ("reachable 0 2".to_owned(), then));
    door.be(Manner::Shut);
    let seen = eventually("a miss", || async {
        hurry(&stages).await;
        Some(row().await).filter(|it| it != "reachable 0 2")
    })
    .await;
    assert_eq!(seen, "reachable 1 2");
    door.be(Manner::Ssh);
    let seen =
        eventually("forgiven", || async { Some(row().await).filter(|it| it != "reachable 1 2") }).await;
    assert_eq!(seen, "reachable 0 2");
    stages.relayed().await;
    assert_eq!(stages.audited("host.connectivity.checked").await, 2);
    assert_eq!(stages.events(Kind::HostConnectivity, host).await.len(), 2);
}

// @spec liveness-loop
// @ac AC-04
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_away_and_returns_is_one_alert_that_ends() {
    proves("AC-04");
    proves("AC-01");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    let proxy = Proxy::to(sshd.port()).await;
    let _running = stages.run(&[Stage::Liveness, Stage::Alerts]).await;
    let host = stages.host("web", proxy.port()).await;
    become_(&stages, "reachable 1").await;
    proxy.cut();
    become_(&stages, "unreachable 1").await;
    let unreachable = "select state from alert where alert_type = 'host_unreachable'";
    let opened = || async { stages.texts(unreachable).await.pop() };
    assert_eq!(eventually("an alert", opened).await, "active");
    proxy.restore();
    become_(&stages, "reachable 1").await;
    let resolved = || async { (stages.texts(unreachable).await == ["resolved"]).then_some(()) };
    eventually("the alert's end", resolved).await;
    stages.relayed().await;
    assert_eq!(stages.events(Kind::HostConnectivity, host).await.len(), 3);
    assert_eq!(stages.audited("host.connectivity.checked").await, 3);
    assert_eq!(stages.number("select count(*) from alert where alert_type = 'host_unreachable'").await, 1);
    assert!(!sshd.log().contains("Accepted") && !sshd.log().contains("Failed"), "{}", sshd.log());
}

// @spec liveness-loop
// @ac AC-11
#[tokio::test(flavor = "multi_thread")]
async fn what_is_removed_or_in_maintenance_is_left_alone_and_a_stop_waits_for_no_probe() {
    proves("AC-11");
    let policy = "version: 1.0.0\nhost_key_policy: tofu\nmaintenance: { hosts: [quiet] }\n";
    let stages = Stages::under(policy).await;
    let (quiet, gone, up, silent) = (
        Door::open(Manner::Ssh).await,
        Door::open(Manner::Ssh).await,
        Door::open(Manner::Ssh).await,
        Door::open(Manner::Silent).await,
    );
    stages.host("quiet", quiet.port).await;
    let removed = stages.host("gone", gone.port).await;
    stages.meddle(&format!("update host set deleted_at = now() where id = '{removed}'")).await;
    stages.host("up", up.port).await;
    let mut running = stages.run(&[Stage::Liveness]).await;
    become_(&stages, "reachable 1, unknown 2").await;
    assert_eq!((quiet.knocks(), gone.knocks()), (0, 0));
    assert_eq!(stages.number("select count(*) from host_liveness").await, 3);

    stages.host("silent", silent.port).await;
    eventually("a probe under way", || async { (silent.knocks() == 1).then_some(()) }).await;
    let since = Instant::now();
    running.shutdown.cancel();
    let _ended = running.failure().await;
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());

    // A row goes with its host.
    let cascades = "select confdeltype::text from pg_constraint where conrelid = 'host_liveness'::regclass and contype = 'f'";
    assert_eq!(stages.texts(cascades).await, ["c"]);
}
