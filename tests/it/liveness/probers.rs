//! Many probers, some of which die.

use std::collections::BTreeSet;
use std::time::Duration;

use openwatch_app::run::Stage;
use openwatch_bus::message::event::Kind;
use openwatch_model::HostId;
use openwatch_model::liveness::jittered;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Proxy, Stages, eventually};

use super::{Door, Manner, become_, hurry, proves};

// @spec liveness-loop
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn two_probers_share_a_hundred_hosts_and_ask_each_once() {
    proves("AC-05");
    let stages = Stages::under(TOFU).await;
    let door = Door::open(Manner::Ssh).await;
    for number in 0..100 {
        stages.host(&format!("h{number}"), door.port).await;
    }
    let (_one, _two) = (stages.run(&[Stage::Liveness]).await, stages.run(&[Stage::Liveness]).await);
    let all = || async {
        let seen = "select count(*) from host_liveness where reachability_status = 'reachable'";
        (stages.number(seen).await == 100).then_some(())
    };
    eventually("a hundred hosts", all).await;
    assert_eq!(door.knocks(), 100);
    assert_eq!(stages.number("select count(*) from host_liveness where transition = 1").await, 100);
    assert_eq!(stages.audited("host.connectivity.checked").await, 100);
    stages.relayed().await;
    let sent = "select count(*) from outbox";
    assert_eq!(stages.number(sent).await, 0);

    // One that takes long is nobody else's meanwhile, however often they look.
    let silent = Door::open(Manner::Silent).await;
    stages.host("silent", silent.port).await;
    let missed = "select consecutive_failures::bigint from host_liveness l join host h on h.id = l.host_id where h.name = 'silent'";
    eventually("its first miss", || async { (stages.number(missed).await == 1).then_some(()) }).await;
    assert_eq!(silent.knocks(), 1);
}

// @spec liveness-loop
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn claims_of_the_dead_come_back_and_late_answers_count_for_nothing() {
    proves("AC-06");
    let stages = Stages::under(TOFU).await;
    let door = Door::open(Manner::Silent).await;
    stages.host("web", door.port).await;
    let first = stages.run(&[Stage::Liveness]).await;
    eventually("a probe", || async { (door.knocks() == 1).then_some(()) }).await;
    let lease = "select extract(epoch from next_probe_at - updated_at)::bigint from host_liveness";
    assert_eq!(stages.number(lease).await, 30, "nobody else's for so long");
    drop(first);
    // As if the half minute were over.
    stages.meddle("update host_liveness set next_probe_at = now()").await;
    let _second = stages.run(&[Stage::Liveness]).await;
    eventually("the next prober", || async { (door.knocks() == 2).then_some(()) }).await;

    // And once more, under the feet of one that lives: its answer is of a claim that is not its own any more.
    stages.meddle("update host_liveness set next_probe_at = now()").await;
    eventually("a third probe", || async { (door.knocks() == 3).then_some(()) }).await;
    let failures = "select consecutive_failures::bigint from host_liveness";
    eventually("an answer", || async { (stages.number(failures).await > 0).then_some(()) }).await;
    assert_eq!((stages.number(failures).await, door.knocks()), (1, 3), "two probes, one answer");
}

/// How long after its last probe a host is due, in milliseconds.
async fn offset(stages: &Stages, name: &str) -> i64 {
    let query = format!(
        "select round(1000 * extract(epoch from l.next_probe_at - l.last_probe_at))::bigint
         from host_liveness l join host h on h.id = l.host_id where h.name = '{name}'"
    );
    stages.number(&query).await
}

// @spec liveness-loop
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn the_interval_is_clamped_and_each_host_has_its_own_offset_for_good() {
    proves("AC-07");
    let stages =
        Stages::under("version: 1.0.0\nhost_key_policy: tofu\nliveness: { interval_sec: 1 }\n").await;
    let door = Door::open(Manner::Ssh).await;
    let mut hosts = Vec::new();
    for number in 0..5 {
        let name = format!("h{number}");
        hosts.push((stages.host(&name, door.port).await, name));
    }
    let expected =
        |host: HostId| i64::try_from(jittered(host, Duration::from_secs(60)).as_millis()).unwrap_or(i64::MAX);
    let mut knocks = 0;
    for life in 1..=2 {
        let running = stages.run(&[Stage::Liveness]).await;
        knocks += 5;
        eventually("every host", || async { (door.knocks() >= knocks).then_some(()) }).await;
        let noted = "select count(*) from host_liveness where last_probe_at > now() - interval '20 seconds'
                     and next_probe_at > now() + interval '31 seconds'";
        eventually("noted", || async { (stages.number(noted).await == 5).then_some(()) }).await;
        let mut offsets = BTreeSet::new();
        for (host, name) in &hosts {
            let offset = offset(&stages, name).await;
            assert!((offset - expected(*host)).abs() <= 1, "{name} in life {life}: {offset}");
            assert!((48_000..=72_000).contains(&offset), "{name}: {offset}");
            offsets.insert(offset);
        }
        assert_eq!(offsets.len(), 5, "{offsets:?}");
        drop(running);
        stages
            .meddle(
                "update host_liveness set last_probe_at = now() - interval '1 minute', next_probe_at = now()",
            )
            .await;
    }
}

// @spec liveness-loop
// @ac AC-13
#[tokio::test(flavor = "multi_thread")]
async fn a_transition_outlives_its_prober() {
    proves("AC-13");
    let stages = Stages::under(TOFU).await;
    let door = Door::open(Manner::Ssh).await;
    let host = stages.host("web", door.port).await;
    let way = Proxy::to(stages.world.nats.port()).await;
    let first = stages.run_at(&format!("nats://127.0.0.1:{}", way.port()), &[Stage::Liveness]).await;
    way.cut();
    become_(&stages, "reachable 1").await;
    let waiting = "select count(*) from outbox o join audit_event a on a.occurred_at = o.created_at
                   where o.sender = 'liveness' and a.action = 'host.connectivity.checked'";
    assert_eq!((stages.number(waiting).await, stages.audited("host.connectivity.checked").await), (1, 1));
    drop(first);
    assert_eq!(stages.events(Kind::HostConnectivity, host).await.len(), 0);
    let _second = stages.run(&[Stage::Liveness]).await;
    stages.relayed().await;
    hurry(&stages).await;
    assert_eq!(stages.events(Kind::HostConnectivity, host).await.len(), 1);
    assert_eq!(stages.audited("host.connectivity.checked").await, 1);
}
