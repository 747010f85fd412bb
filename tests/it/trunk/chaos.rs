//! Processes die at random while many hosts are scanned again and again; afterwards the tables tell the truth.

use std::time::{Duration, Instant};

use openwatch_app::private::Kind;
use openwatch_bus::User;
use openwatch_tests::{Catcher, eventually_within, sshd};
use serde_json::json;

use super::fleet::Fleet;
use super::ground::Ground;
use super::rest::Rest;
use super::tables;

/// Deaths of a server that its supervisor forgives without a healthy minute between them.
const SERVER_DEATHS: usize = 5;
/// After this long it has forgotten them.
const FORGIVEN: Duration = Duration::from_secs(65);

/// A small generator: a failed run is repeated with its number, which it prints.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

/// Asks for scans of all hosts, over and over, and changes the target meanwhile.
async fn keep_scanning(rest: Rest, hosts: usize, ground: &Ground, mut dice: Dice, until: Instant) -> usize {
    let mut promised = 0;
    while Instant::now() < until {
        let host = format!("host-{}", dice.roll(hosts));
        let (key, body) = (uuid::Uuid::new_v4().to_string(), json!({ "host": host }));
        match rest.ask(reqwest::Method::POST, "/scans", Some(&key), Some(&body)).await {
            Some((200..300, _)) => promised += 1,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        if dice.roll(4) == 0 {
            ground.set(dice.roll(8), dice.roll(2) == 0);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    promised
}

/// Kills one thing after the other; a stage is started again a moment later, a server comes back by itself.
async fn keep_killing(fleet: &mut Fleet, mut dice: Dice, until: Instant) -> Vec<String> {
    let (mut killed, mut servers, mut last) = (Vec::new(), 0, Instant::now());
    while Instant::now() < until {
        if last.elapsed() > FORGIVEN {
            servers = 0;
        }
        let stages = fleet.names();
        let victim = dice.roll(stages.len() + 3);
        match stages.get(victim) {
            Some(stage) => {
                fleet.take(stage).kill();
                tokio::time::sleep(Duration::from_millis(dice.roll(700) as u64)).await;
                fleet.spawn(stage);
                killed.push(stage.clone());
            }
            None if servers < SERVER_DEATHS => {
                let kind = if victim.is_multiple_of(2) { Kind::Nats } else { Kind::Postgres };
                fleet.kill_server(kind);
                (servers, last) = (servers + 1, Instant::now());
                killed.push(kind.to_string());
            }
            None => {}
        }
        // A stage may have given up while a server was away, as it says in its exit code: its supervisor starts it again.
        for stage in fleet.ended() {
            fleet.spawn(&stage);
        }
        tokio::time::sleep(Duration::from_millis(300 + dice.roll(700) as u64)).await;
    }
    killed
}

async fn survive(hosts: usize, lasting: Duration) {
    let seed = std::env::var("OPENWATCH_SEED").ok().and_then(|text| text.parse().ok());
    let seed =
        seed.unwrap_or_else(|| u64::from(std::process::id()) ^ u64::from(uuid::Uuid::new_v4().as_fields().0));
    println!("chaos with OPENWATCH_SEED={seed}");
    let (ground, sshd) = (Ground::new(10), sshd::Options::new().start());
    let mut fleet = Fleet::start(&ground.rules(), 2).await;
    fleet.add_hosts(hosts, &sshd).await;
    let hook = Catcher::start().await;
    fleet.json(&["channel", "add", "webhook", "hook", "--address", &hook.url("/"), "--allow-private"]).await;
    let until = Instant::now() + lasting;
    let (dice, other) = (Dice(seed), Dice(seed ^ 0x5eed));
    let rest = fleet.rest();
    let (promised, killed) = tokio::join!(
        keep_scanning(rest, hosts, &ground, other, until),
        keep_killing(&mut fleet, dice, until)
    );
    println!("{promised} scans promised; killed: {}", killed.join(" "));
    for stage in fleet.ended() {
        fleet.spawn(&stage);
    }

    // Quiet: what is open ends by itself, within what redelivery takes.
    let admin = eventually_within(Duration::from_secs(30), "NATS", || async {
        openwatch_bus::Bus::connect(fleet.bus_options(User::Admin)).await.ok()
    })
    .await;
    restart_until_quiet(&mut fleet, &admin).await;
    // The target rests; one last look at every host.
    for number in 0..hosts {
        fleet.rest().scan(&format!("host-{number}")).await;
    }
    tables::quiet(fleet.database_url(), &admin, Duration::from_secs(120)).await;

    let mut db = fleet.db().await;
    let states = tables::rule_states(&mut db).await;
    assert_eq!(states.len(), hosts);
    for (host, states) in states {
        assert_eq!(states, ground.truth(), "{host}");
    }
    let promised = i64::try_from(promised).unwrap();
    assert!(tables::count(&mut db, "select count(*) from scan").await > 0 && promised > 0);
    assert_eq!(tables::dead_letters(&admin).await, Vec::<String>::new());
    let failed = tables::texts(
        &mut db,
        "select failure_reason || ': ' || coalesce(failure_detail, '') from scan where state = 'failed'",
    )
    .await;
    assert_eq!(failed, Vec::<String>::new(), "the target was there all the time");

    // People know what the tables say: of each host how its newest drift left it, of each transition once.
    assert_eq!(tables::texts(&mut db, MISTAKEN).await, Vec::<String>::new());
    let pending = "select count(*) from alert_delivery where state <> 'delivered'";
    let delivered = async || (tables::count(&mut fleet.db().await, pending).await == 0).then_some(());
    eventually_within(Duration::from_secs(60), "every delivery", delivered).await;
    let ids = "select alert_id || '-' || transition from alert_delivery order by 1";
    let mut caught: Vec<_> = hook.all().iter().map(|it| it.headers["webhook-id"].clone()).collect();
    let many = caught.len();
    caught.sort();
    caught.dedup();
    assert_eq!(caught, tables::texts(&mut db, ids).await, "none is missing and none made up");
    // A receiver that knows `webhook-id` drops these: what had arrived when the sender died is sent again.
    let again = many - caught.len();
    println!("{} transitions told, {again} of them again", caught.len());
    assert!(again <= killed.len() * IN_FLIGHT, "{again}");
}

/// Deliveries of one channel under way at once.
const IN_FLIGHT: usize = 8;

/// Hosts with an open drift alert though their score rose last, or without one though it fell.
const MISTAKEN: &str = "
    with newest as (
      select distinct on (d.host_id) d.host_id, d.kind from drift d join scan_ledger l using (scan_id)
      where d.kind <> 'stable' order by d.host_id, l.number desc)
    select h.name || ': ' || n.kind from newest n join host h on h.id = n.host_id
    where (n.kind in ('minor_worsening', 'major_worsening')) <> exists (
      select 1 from alert a where a.host_id = n.host_id and a.alert_type in ('drift_minor', 'drift_major')
        and a.state in ('active', 'acknowledged', 'silenced'))";

/// A stage may give up while its servers are away; whatever supervises it starts it again.
async fn restart_until_quiet(fleet: &mut Fleet, admin: &openwatch_bus::Bus) {
    let since = Instant::now();
    loop {
        let url = fleet.database_url().to_owned();
        let quiet = tables::is_quiet(&url, admin).await;
        match quiet {
            Ok(()) => return,
            Err(left) => assert!(since.elapsed() < Duration::from_secs(180), "still: {left:#?}"),
        }
        for stage in fleet.ended() {
            fleet.spawn(&stage);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

// @spec trunk
// @ac AC-09
#[tokio::test]
async fn twenty_hosts_while_processes_die() {
    println!("@spec trunk");
    println!("@ac AC-09");
    survive(20, Duration::from_secs(20)).await;
}

#[tokio::test]
async fn fifty_hosts_for_minutes() {
    if std::env::var_os("OPENWATCH_LONG").is_none() {
        println!("skipped: set OPENWATCH_LONG=1");
        return;
    }
    survive(50, Duration::from_secs(180)).await;
}
