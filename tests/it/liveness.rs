//! Liveness with hosts that go away and come back.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use openwatch_app::run::Stage;
use openwatch_bus::message::event::Kind;
use openwatch_tests::sshd::Options;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Proxy, Stages, eventually};

fn proves(criterion: &str) {
    println!("@spec liveness\n@ac {criterion}");
}

// @spec liveness
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

async fn reachability(stages: &Stages) -> String {
    stages.texts("select reachability_status || ' ' || transition from host_liveness").await.remove(0)
}

/// Waits for a state, with the next probe always due: what policies allow is a minute at least.
async fn becomes(stages: &Stages, state: &str) {
    eventually(state, || async {
        // Past the lease of a probe under way (30 s), so only what waits for its interval is hurried.
        stages
            .meddle("update host_liveness set next_probe_at = now() where next_probe_at > now() + interval '31 seconds'")
            .await;
        (reachability(stages).await == state).then_some(())
    })
    .await;
}

// @spec liveness
// @ac AC-02
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_away_and_returns_is_one_alert_that_ends() {
    proves("AC-02");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    let proxy = Proxy::to(sshd.port()).await;
    let _running = stages.run(&[Stage::Liveness, Stage::Alerts]).await;
    let host = stages.host("web", proxy.port()).await;
    becomes(&stages, "reachable 1").await;
    proxy.cut();
    becomes(&stages, "unreachable 2").await;
    let failures = stages.number("select consecutive_failures::bigint from host_liveness").await;
    assert!(failures >= 2, "one failure decides nothing: {failures}");
    let unreachable = "select state from alert where alert_type = 'host_unreachable'";
    let opened = || async { stages.texts(unreachable).await.pop() };
    assert_eq!(eventually("an alert", opened).await, "active");
    proxy.restore();
    becomes(&stages, "reachable 3").await;
    let resolved = || async { (stages.texts(unreachable).await == ["resolved"]).then_some(()) };
    eventually("the alert's end", resolved).await;
    stages.relayed().await;
    assert_eq!(stages.events(Kind::HostConnectivity, host).await.len(), 3);
    assert_eq!(stages.audited("host.connectivity.checked").await, 3);
    assert_eq!(stages.number("select count(*) from alert where alert_type = 'host_unreachable'").await, 1);
    assert!(!sshd.log().contains("Accepted") && !sshd.log().contains("Failed"), "{}", sshd.log());
}
