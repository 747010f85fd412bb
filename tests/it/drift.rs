//! Drift behind a real writer: once per scan, from what was stored.

mod founding;
mod histories;

use openwatch_app::run::Stage;
use openwatch_bus::message::event::Kind;
use openwatch_bus::{Outgoing, User};
use openwatch_model::{HostId, ScanId};
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Stages, eventually};
use serde_json::Value;

use crate::writer::outcomes;

fn proves(criterion: &str) {
    println!("@spec drift-detector\n@ac {criterion}");
}

/// Waits until drift has looked at a scan; kind, and what it found.
pub(crate) async fn detected(stages: &Stages, scan: ScanId) -> (String, Value) {
    let row = format!("select jsonb_build_array(kind, drift)::text from drift where scan_id = '{scan}'");
    let text = eventually("a drift row", || async { stages.texts(&row).await.pop() }).await;
    serde_json::from_str(&text).unwrap()
}

/// Sends every event of a kind about a host again, under ids that no window knows.
pub(crate) async fn again(stages: &Stages, kind: Kind, host: HostId) -> usize {
    let sender = stages.world.bus(User::Admin).await;
    let events = stages.events(kind, host).await;
    for event in &events {
        let headers = event.headers.iter().filter(|(name, _)| name != "Nats-Msg-Id").cloned().collect();
        let message_id = format!("again.{}", event.sequence);
        let (subject, payload) = (event.subject.clone(), event.payload.clone());
        sender.publish(&Outgoing { subject, message_id, headers, payload }).await.unwrap();
    }
    events.len()
}

/// Waits until a stage has decided about everything that was sent to it.
pub(crate) async fn settled(stages: &Stages, consumer: &str) {
    stages.relayed().await;
    eventually("everything decided", || async {
        let info = stages.admin.consumer_info("OW_EVENTS", consumer).await.ok()?;
        (info.pending == 0 && info.unacked == 0).then_some(())
    })
    .await;
    stages.relayed().await;
}

// @spec drift-detector
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn a_fall_of_ten_points_is_one_major_drift() {
    proves("AC-10");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let host = stages.host("web", 22).await;
    stages.scanned(host, &outcomes(10, 1)).await;
    let fallen = stages.scanned(host, &outcomes(10, 2)).await;
    let (kind, drift) = detected(&stages, fallen).await;
    assert_eq!((kind.as_str(), &drift["has_prior_baseline"]), ("major_worsening", &true.into()), "{drift}");
    settled(&stages, "drift").await;
    let events = stages.events(Kind::DriftDetected, host).await;
    assert_eq!(events.len(), 1);
    let told: Value = serde_json::from_slice(&events[0].payload).unwrap();
    assert_eq!(
        (told["prior_score"].as_f64(), told["current_score"].as_f64()),
        (Some(90.0), Some(80.0)),
        "{told}"
    );
    assert_eq!(told["score_delta"].as_f64(), Some(-10.0), "{told}");
    // Audit and event say the same numbers.
    let audited = "select count(*) from audit_event where action = 'compliance.drift.detected'
        and detail->>'scan_id' = (select scan_id::text from drift where kind = 'major_worsening')
        and (detail->>'score_delta')::numeric = -10";
    assert_eq!(stages.number(audited).await, 1);

    assert_eq!(again(&stages, Kind::ScanCompleted, host).await, 2);
    settled(&stages, "drift").await;
    assert_eq!(stages.number("select count(*) from drift").await, 2);
    assert_eq!(stages.audited("compliance.drift.detected").await, 1);
    assert_eq!(stages.events(Kind::DriftDetected, host).await.len(), 1);
}

// @spec drift-detector
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn a_first_scan_is_stable_and_silent() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift]).await;
    let host = stages.host("web", 22).await;
    let scan = stages.scanned(host, &outcomes(10, 10)).await;
    let (kind, drift) = detected(&stages, scan).await;
    assert_eq!((kind.as_str(), &drift["has_prior_baseline"]), ("stable", &false.into()), "{drift}");
    settled(&stages, "drift").await;
    assert_eq!(stages.events(Kind::DriftDetected, host).await.len(), 0);
    assert_eq!(stages.audited("compliance.drift.detected").await, 0);
}
