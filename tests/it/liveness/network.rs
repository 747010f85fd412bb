//! Hosts that fall silent together, and our own network as the reason.

use openwatch_app::run::Stage;
use openwatch_bus::message::event::{Body, Event, Kind};
use openwatch_bus::subject;
use openwatch_model::liveness::Standing;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Stages, eventually};

use super::{Door, Manner, alerts, become_, hurry, proves, states};

const HOSTS: i64 = 12;

/// So many hosts behind one door.
async fn fleet(stages: &Stages, door: &Door, hosts: i64) {
    for number in 0..hosts {
        stages.host(&format!("h{}-{number}", door.port), door.port).await;
    }
}

/// What was said of the probers' network.
async fn told(stages: &Stages) -> Vec<Standing> {
    stages.relayed().await;
    let subject = subject::event(Kind::ProberConnectivity, None);
    let (mut from, mut all) = (1, Vec::new());
    while let Some(stored) = stages.admin.next_message(subject::EVENTS, from, &subject).await.unwrap() {
        from = stored.sequence + 1;
        let event = Event::decode(&stored.headers, &stored.payload).unwrap();
        let Body::ProberConnectivity(body) = event.body else { panic!("{event:?}") };
        assert!(body.asked >= body.silent && body.asked >= 10, "{body:?}");
        all.push(body.status);
    }
    all
}

/// Makes due what a prober that is cut off asks again in half a minute.
async fn hurry_all(stages: &Stages) {
    stages
        .meddle(
            "update host_liveness set next_probe_at = now()
             where next_probe_at between now() + interval '6 seconds' and now() + interval '29 seconds'",
        )
        .await;
    hurry(stages).await;
}

/// Waits for alerts, with the next probes always due.
async fn alarmed(stages: &Stages, wanted: &[&str]) {
    eventually(&format!("{wanted:?}"), || async {
        hurry_all(stages).await;
        (alerts(stages).await == wanted).then_some(())
    })
    .await;
}

// @spec liveness-loop
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_falls_silent_is_one_alert_about_our_own_network() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    let door = Door::open(Manner::Ssh).await;
    fleet(&stages, &door, HOSTS).await;
    let _alerts = stages.run(&[Stage::Alerts]).await;
    let prober = stages.run(&[Stage::Liveness]).await;
    become_(&stages, "reachable 12").await;
    door.be(Manner::Shut);
    alarmed(&stages, &["prober_isolated active 1"]).await;
    assert_eq!(states(&stages).await, "reachable 12");

    // The next prober knows it from the first, and tells nobody again.
    drop(prober);
    let _prober = stages.run(&[Stage::Liveness]).await;
    let before = door.knocks();
    eventually("everybody is asked again", || async {
        hurry_all(&stages).await;
        (door.knocks() > before + 3 * HOSTS as u64).then_some(())
    })
    .await;
    assert_eq!(alerts(&stages).await, ["prober_isolated active 1"]);
    assert_eq!(
        (states(&stages).await, told(&stages).await),
        ("reachable 12".into(), vec![Standing::Isolated])
    );

    door.be(Manner::Ssh);
    alarmed(&stages, &["prober_isolated resolved 1"]).await;
    assert_eq!(told(&stages).await, [Standing::Isolated, Standing::Connected]);
    // Of the hosts: that they were seen at first, and nothing since.
    let transitions = "select sum(transition)::bigint from host_liveness";
    assert_eq!(stages.number(transitions).await, HOSTS);
    assert_eq!(stages.audited("host.prober.changed").await, 2);
}

// @spec liveness-loop
// @ac AC-09
#[tokio::test(flavor = "multi_thread")]
async fn who_is_really_down_is_told_with_the_network_there_or_back() {
    proves("AC-09");
    let stages = Stages::under(TOFU).await;
    let (most, few) = (Door::open(Manner::Ssh).await, Door::open(Manner::Ssh).await);
    fleet(&stages, &most, HOSTS).await;
    fleet(&stages, &few, 2).await;
    let _running = stages.run(&[Stage::Liveness, Stage::Alerts]).await;
    become_(&stages, "reachable 14").await;
    few.be(Manner::Shut);
    alarmed(&stages, &["host_unreachable active 2"]).await;
    few.be(Manner::Ssh);
    alarmed(&stages, &["host_unreachable resolved 2"]).await;
    assert_eq!(told(&stages).await, []);

    most.be(Manner::Shut);
    few.be(Manner::Shut);
    alarmed(&stages, &["host_unreachable resolved 2", "prober_isolated active 1"]).await;
    most.be(Manner::Ssh);
    let after = ["host_unreachable active 2", "host_unreachable resolved 2", "prober_isolated resolved 1"];
    alarmed(&stages, &after).await;
    assert_eq!(states(&stages).await, "reachable 12, unreachable 2");
    assert_eq!(told(&stages).await, [Standing::Isolated, Standing::Connected]);
}

// @spec liveness-loop
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn few_hosts_or_a_policy_that_says_so_make_every_outage_its_hosts_own() {
    proves("AC-10");
    let never = "version: 1.0.0\nhost_key_policy: tofu\nliveness: { isolation_percent: 0 }\n";
    for (policy, hosts) in [(TOFU, 10), (never, HOSTS)] {
        let stages = Stages::under(policy).await;
        let door = Door::open(Manner::Ssh).await;
        fleet(&stages, &door, hosts).await;
        let _running = stages.run(&[Stage::Liveness, Stage::Alerts]).await;
        become_(&stages, &format!("reachable {hosts}")).await;
        door.be(Manner::Shut);
        alarmed(&stages, &[&format!("host_unreachable active {hosts}")]).await;
        assert_eq!(told(&stages).await, []);
    }
}
