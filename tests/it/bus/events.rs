//! Events as outsiders see them.

use openwatch_bus::User;
use openwatch_bus::message::event::{Body, Event, PolicyRejected};
use openwatch_bus::tail::{EventTail, Followed, Since};
use uuid::Uuid;

use super::*;

fn event(number: u128) -> Event {
    let reason = format!("r{number}");
    let body = PolicyRejected { reason, attempted_version: None, active_version: None };
    let at = time::OffsetDateTime::from_unix_timestamp(1_767_225_600).unwrap();
    Event { id: Uuid::from_u128(number + 1), host: None, at, cause: None, body: body.into() }
}

fn reason(followed: &Followed) -> String {
    match &followed.event.as_ref().unwrap().body {
        Body::PolicyRejected(body) => body.reason.clone(),
        other => panic!("{other:?}"),
    }
}

async fn next(tail: &mut EventTail) -> Followed {
    tokio::time::timeout(Duration::from_secs(30), tail.next()).await.expect("an event comes").unwrap()
}

// @spec event-stream
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn the_reader_follows_events_in_order_across_a_restart() {
    println!("@spec event-stream\n@ac AC-07");
    let nats = Nats::with_topology().await;
    let (scheduler, reader) = (nats.bus(User::Scheduler).await, nats.bus(User::Reader).await);
    let publish = |from: u128, to: u128| {
        let scheduler = scheduler.clone();
        async move {
            for number in from..to {
                let message = event(number).encode(None);
                while let Err(error) = scheduler.publish(&message).await {
                    assert!(error.is_outage(), "{error}");
                }
            }
        }
    };
    publish(0, 250).await;
    let mut tail = EventTail::new(&reader, Since::Sequence(1));
    for number in 0..250 {
        let followed = next(&mut tail).await;
        assert_eq!((followed.sequence, reason(&followed)), (number + 1, format!("r{number}")));
    }
    // A call that is given up loses nothing.
    assert!(tokio::time::timeout(Duration::from_millis(300), tail.next()).await.is_err());
    kill(nats.process_id().expect("it runs"));
    publish(250, 260).await;
    for number in 250..260 {
        assert_eq!(reason(&next(&mut tail).await), format!("r{number}"));
    }
    tail.close().await;

    let mut fresh = EventTail::new(&reader, Since::Now);
    assert!(tokio::time::timeout(Duration::from_millis(800), fresh.next()).await.is_err());
    scheduler.publish(&message("ow.v1.evt.schedule_updated.h", "strange")).await.unwrap();
    publish(260, 261).await;
    let strange = next(&mut fresh).await;
    assert!(strange.event.is_err(), "what cannot be read is shown as such");
    assert_eq!(reason(&next(&mut fresh).await), "r260");
    fresh.close().await;

    let nobody = nats.bus(User::Liveness).await;
    let error = EventTail::new(&nobody, Since::Sequence(1)).next().await.unwrap_err();
    assert!(matches!(error, BusError::Denied { .. }), "{error}");
}

// @spec event-stream
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn the_reader_follows_a_stream_that_was_made_anew_from_its_first_event() {
    println!("@spec event-stream\n@ac AC-07");
    let nats = Nats::with_topology().await;
    let (admin, reader) = (nats.bus(User::Admin).await, nats.bus(User::Reader).await);
    let publish = |numbers: std::ops::Range<u128>| numbers.map(|n| event(n).encode(None)).collect::<Vec<_>>();
    assert!(admin.publish_all(&publish(0..5)).await.iter().all(Result::is_ok));
    let mut tail = EventTail::new(&reader, Since::Sequence(1));
    for number in 0..5 {
        assert_eq!(reason(&next(&mut tail).await), format!("r{number}"));
    }
    let client = nats.client(User::Admin).await;
    for stream in ["OUTSIDE.API.STREAM.DELETE.OW_EVENTS_PUBLIC", "$JS.API.STREAM.DELETE.OW_EVENTS"] {
        let answer = client.request(stream, "".into()).await.unwrap().payload;
        assert!(!String::from_utf8_lossy(&answer).contains("error"), "{answer:?}");
    }
    openwatch_bus::topology::apply(&admin, openwatch_bus::topology::Profile::Small).await.unwrap();
    // Fewer than it has seen.
    assert!(admin.publish_all(&publish(10..12)).await.iter().all(Result::is_ok));
    for number in 10..12 {
        assert_eq!(reason(&next(&mut tail).await), format!("r{number}"));
    }
    tail.close().await;
}
