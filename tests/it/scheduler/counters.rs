//! Every counter moves when its event happens, where Prometheus and where an administrator looks.

use std::net::TcpListener;

use openwatch_bus::{Outgoing, User};
use openwatch_tests::eventually;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::Value;

use super::policy::{follow, reload};
use super::{audited, hosts};
use crate::trunk::fleet::{Fleet, ran};
use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;
use crate::trunk::tables::{count, execute, texts};

/// What a process tells Prometheus.
async fn metric(port: u16, line: &str) -> f64 {
    let text = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().text().await.unwrap();
    let value = text.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {line:?} in {text}"))
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

// @spec scheduler
// @ac AC-14
#[tokio::test]
async fn each_counter_moves_when_its_event_happens() {
    println!("@spec scheduler");
    println!("@ac AC-14");
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 6).await;
    execute(
        &mut db,
        "update host_compliance_schedule s set maintenance_mode = true from host h where h.id = s.host_id and h.name = 'host-1';
         insert into host_backoff_state (host_id, consecutive_failures, suppress_until, last_error_code, last_failure_at)
         select id, 3, now() + interval '1 hour', 'unreachable', now() from host where name in ('host-2', 'host-3')",
    )
    .await;
    let text = std::fs::read_to_string(fleet.policy()).unwrap();
    let clamped = text.replace("critical: 60", "critical: 1").replace("partial: 720", "partial: 99999");
    std::fs::write(fleet.policy(), clamped).unwrap();
    fleet.sign_policy().await;
    let (scheduler, writer) = (free_port(), free_port());
    for (name, port) in [("scheduler", scheduler), ("writer", writer)] {
        fleet.spawn_more(name, &["--health-listen", &format!("127.0.0.1:{port}")]);
    }
    fleet.spawn("api");
    fleet.spawn("executor-1");
    fleet.all_running().await;
    eventually("a tick", || async {
        (count(&mut fleet.db().await, "select value from counter where name = 'tick_count'").await >= 1)
            .then_some(())
    })
    .await;
    let rest = fleet.rest();
    // Over REST: exactly what the ticks told, summed.
    let told = "select sum((detail ->> 'dispatched_count')::bigint) || ' ' || sum((detail ->> 'skipped_maintenance_count')::bigint)
                  || ' ' || sum((detail ->> 'skipped_backoff_count')::bigint) || ' ' || count(*)
                from audit_event where action = 'scheduler.tick.dispatched'";
    let snapshot = eventually("the snapshot of the ticks", || async {
        let told = texts(&mut fleet.db().await, told).await.remove(0);
        let it = rest.get("/scheduler").await;
        let shown = ["dispatched_count", "skipped_maintenance_count", "skipped_backoff_count", "tick_count"]
            .map(|name| it[name].to_string());
        (shown.join(" ") == told).then_some(it)
    })
    .await;
    assert_eq!(snapshot["dispatched_count"], 3, "{snapshot}");
    assert!(snapshot["skipped_maintenance_count"].as_i64() >= Some(1), "{snapshot}");
    assert!(snapshot["skipped_backoff_count"].as_i64() >= Some(2), "{snapshot}");
    assert!(snapshot["due_count"].as_i64() >= Some(3), "{snapshot}");
    assert_eq!(
        (&snapshot["policy_clamped_count"], &snapshot["refuse_count"]),
        (&2.into(), &0.into()),
        "{snapshot}"
    );
    assert!(snapshot["last_tick_at"].is_string(), "{snapshot}");
    let clamps = audited(&mut db, "scheduler.policy.clamped").await;
    let clamp =
        |tier: &str| clamps.iter().find(|row| row["tier"] == tier).unwrap_or_else(|| panic!("{clamps:?}"));
    assert_eq!(
        (&clamp("critical")["clamped_minutes"], &clamp("critical")["clamp_kind"]),
        (&5.into(), &"min_floor".into())
    );
    assert_eq!(
        (&clamp("partial")["clamped_minutes"], &clamp("partial")["clamp_kind"]),
        (&2880.into(), &"max_ceiling".into())
    );
    for (line, least) in [
        ("openwatch_scheduler_due ", 3.0),
        ("openwatch_scheduler_dispatched_total ", 3.0),
        ("openwatch_scheduler_skipped_total{cause=\"maintenance\"} ", 1.0),
        ("openwatch_scheduler_skipped_total{cause=\"backoff\"} ", 2.0),
        ("openwatch_policy_clamped_total ", 2.0),
    ] {
        assert!(metric(scheduler, line).await >= least, "{line}");
    }
    assert!(metric(scheduler, "openwatch_scheduler_last_tick_timestamp_seconds ").await > 1e9);

    // A refused reload, and a job that nobody signed.
    std::fs::write(fleet.policy(), "version: 9.0.0\n").unwrap();
    fleet.stage("scheduler").signal(Signal::HUP);
    let forged = Outgoing {
        subject: format!("ow.v1.job.manual.{}", uuid::Uuid::new_v4()),
        message_id: "forged".to_owned(),
        headers: Vec::new(),
        payload: b"{}".to_vec().into(),
    };
    fleet.bus(User::Scheduler).await.publish(&forged).await.unwrap();
    for name in ["refuse_count", "hmac_reject_count"] {
        eventually(name, || async { (rest.get("/scheduler").await[name] == 1).then_some(()) }).await;
    }
    assert!((metric(scheduler, "openwatch_policy_refused_total ").await - 1.0).abs() < 0.5);
    assert!((metric(writer, "openwatch_scheduler_hmac_rejected_total ").await - 1.0).abs() < 0.5);
}

// @spec policy
// @ac AC-07
#[tokio::test]
async fn an_administrator_has_the_policy_read_again_and_all_follow_one() {
    println!("@spec policy");
    println!("@ac AC-07");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    for name in ["scheduler-1", "scheduler-2", "api"] {
        fleet.spawn(name);
    }
    fleet.all_running().await;
    let shown = fleet.json(&["policy", "show", "--in-force"]).await;
    assert_eq!((&shown["version"], &shown["loaded_by"]), (&"1.0.0".into(), &"scheduler".into()), "{shown}");
    follow(&fleet, "1.1.0", "").await;
    let (_, stdout, _) = ran(fleet.client(&["policy", "reload"])).await;
    assert!(stdout.contains("policy 1.1.0 is in force"), "{stdout}");
    // Both schedulers read the same file; one was first, and history has it once.
    assert_eq!(audited(&mut fleet.db().await, "policy.loaded").await.len(), 2);
    let (_, stdout, _) = ran(fleet.client(&["policy", "reload"])).await;
    assert!(stdout.contains("was in force already"), "{stdout}");
    std::fs::write(fleet.policy(), "version: 1.2.0\n").unwrap();
    let (code, _, stderr) = fleet.client(&["policy", "reload"]).run().await;
    assert!(
        code == Some(64) && stderr.contains("signature_invalid") && stderr.contains("1.1.0 stays"),
        "{stderr}"
    );

    // A policy of one scheduler's own is refused or followed by both: what is in force is what the database says.
    follow(&fleet, "1.3.0", "").await;
    reload(&fleet).await;
    let mut db = fleet.db().await;
    hosts(&mut db, 20).await;
    eventually("scans", || async {
        (count(&mut fleet.db().await, "select count(*) from scan where tag is not null").await == 20)
            .then_some(())
    })
    .await;
    assert_eq!(texts(&mut db, "select distinct policy_version from scan").await, ["1.3.0"]);
    // Who may not.
    let viewer = fleet.rest().post("/tokens", serde_json::json!({ "name": "eve", "role": "viewer" })).await;
    let url = format!("http://127.0.0.1:{}", fleet.port());
    let eve = Rest::new(&url, viewer["secret"].as_str().unwrap());
    let asked = eve.ask(Method::POST, "/policy/reload", None, None).await.unwrap();
    assert_eq!(asked.0, 403, "{}", asked.1);
    assert_eq!(eve.get("/policy").await["version"], "1.3.0");
}

// @spec policy
// @ac AC-08
#[tokio::test]
async fn a_scan_keeps_the_policy_it_was_queued_under_and_says_who_asked() {
    println!("@spec policy");
    println!("@ac AC-08");
    let mut fleet = Fleet::prepare(&Ground::new(1).rules()).await;
    fleet.spawn("scheduler");
    fleet.spawn("api");
    fleet.all_running().await;
    let mut db = fleet.db().await;
    hosts(&mut db, 1).await;
    eventually("the scheduled scan's job", || async {
        (count(&mut fleet.db().await, "select count(*) from scan where tag is not null").await == 1)
            .then_some(())
    })
    .await;
    // The job as a worker would see it: all that the signature binds.
    let bus = fleet.bus(User::Admin).await;
    let jobs = eventually("the job", || async {
        let info = bus.stream_info("OW_JOBS").await.ok()?;
        (info.messages == 1).then_some(info.messages)
    })
    .await;
    assert_eq!(jobs, 1);
    follow(&fleet, "1.1.0", "").await;
    reload(&fleet).await;
    execute(
        &mut db,
        "insert into host (id, name, address, created_by) values (gen_random_uuid(), 'later', '192.0.2.1', 'test')",
    )
    .await;
    eventually("the second scan's job", || async {
        (count(&mut fleet.db().await, "select count(*) from scan where tag is not null").await == 2)
            .then_some(())
    })
    .await;
    let versions =
        "select h.name || ' ' || s.policy_version from scan s join host h on h.id = s.host_id order by 1";
    assert_eq!(texts(&mut db, versions).await, ["host-1 1.0.0", "later 1.1.0"]);
    // By hand: the waiting scan moves to the front, and the table says who asked and under which policy.
    let scan = fleet.rest().scan("host-1").await;
    let rows: Value = fleet.json(&["scans"]).await;
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == scan.as_str()).unwrap();
    assert_eq!(row["initiator"]["kind"], "scheduled", "promoted, but not asked for first by a person: {row}");
    let lane = format!("select lane || ' ' || attempt from scan where id = '{scan}'");
    eventually("a job on the manual lane", || async {
        (texts(&mut fleet.db().await, &lane).await == ["manual 2"]).then_some(())
    })
    .await;
    let (_, stdout, _) = ran(fleet.client(&["scans"])).await;
    assert!(
        stdout.contains("policy") && stdout.contains("1.1.0") && stdout.contains("scheduler"),
        "{stdout}"
    );
}
