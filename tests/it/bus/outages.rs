//! What the loop and the publisher do while the world breaks.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use openwatch_bus::consume::Consumer;
use openwatch_bus::{BusOptions, User};
use openwatch_tests::{Lossy, eventually_within};

use super::*;

fn collector(
    seen: &Seen,
) -> impl Fn(Message) -> futures::future::BoxFuture<'static, Next> + Send + Sync + 'static {
    let seen = seen.clone();
    move |message| {
        let seen = seen.clone();
        Box::pin(async move {
            note(&seen, &message).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            Next::Done
        })
    }
}

async fn names(seen: &Seen) -> BTreeSet<String> {
    seen.lock().await.iter().map(|(name, _)| name.clone()).collect()
}

/// Publishes one by one, repeating what was not acknowledged, as a relay does.
async fn publish_through(bus: &Bus, count: usize) {
    for i in 0..count {
        let message = message(&format!("ow.v1.result.final.h.o{i}"), &format!("o{i}"));
        while let Err(error) = bus.publish(&message).await {
            assert!(error.is_outage(), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_and_the_loop_goes_on() {
    let nats = Nats::with_topology().await;
    set_ack_wait(&nats, Consumer::WRITER, Duration::from_secs(3)).await;
    let (admin, writer) = (nats.bus(User::Admin).await, nats.bus(User::Writer).await);
    let seen = Seen::default();
    let running = Loop::start(&writer, Options::new("writer", Consumer::WRITER, 8), collector(&seen));
    let publisher = {
        let admin = admin.clone();
        tokio::spawn(async move { publish_through(&admin, 300).await })
    };
    for round in 1..=2 {
        eventually("some are through", || async { (seen.lock().await.len() > 40 * round).then_some(()) })
            .await;
        kill(nats.process_id().expect("it runs"));
    }
    publisher.await.unwrap();
    eventually("all were handled", || async { (names(&seen).await.len() == 300).then_some(()) }).await;
    settled(&admin, Consumer::WRITER).await;
    running.stop().await.unwrap();
    assert_eq!(admin.stream_info("OW_RESULTS").await.unwrap().messages, 300, "stored once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_is_mended_and_a_silent_one_is_noticed() {
    let nats = Nats::with_topology().await;
    set_ack_wait(&nats, Consumer::WRITER, Duration::from_secs(3)).await;
    let proxy = Proxy::to(nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let options = BusOptions::new([url], User::Writer).seed(nats.seed(User::Writer).to_owned().into());
    let (admin, writer) = (nats.bus(User::Admin).await, Bus::connect(options).await.unwrap());
    let seen = Seen::default();
    let running = Loop::start(&writer, Options::new("writer", Consumer::WRITER, 4), collector(&seen));
    results(&admin, 100).await;
    eventually("some are through", || async { (seen.lock().await.len() > 20).then_some(()) }).await;
    proxy.cut();
    eventually("it is noticed", || async { (!writer.connected()).then_some(()) }).await;
    let denied = writer.publish(&message("ow.v1.audit.x", "a1")).await.unwrap_err();
    assert!(denied.is_outage(), "{denied}");
    proxy.restore();
    eventually("all were handled", || async { (names(&seen).await.len() == 100).then_some(()) }).await;
    settled(&admin, Consumer::WRITER).await;

    // A cut in the middle of a message.
    proxy.cut_after(300);
    let more: Vec<_> =
        (0..20).map(|i| message(&format!("ow.v1.result.final.h.p{i}"), &format!("p{i}"))).collect();
    admin.publish_all(&more).await;
    eventually("it is noticed again", || async { (!writer.connected()).then_some(()) }).await;
    proxy.restore();
    eventually("all were handled", || async { (names(&seen).await.len() == 120).then_some(()) }).await;
    settled(&admin, Consumer::WRITER).await;
    running.stop().await.unwrap();
}

// @spec bus
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_dies_leaves_its_message_to_another() {
    proves("AC-01");
    let nats = Nats::with_topology().await;
    set_ack_wait(&nats, Consumer::WRITER, Duration::from_secs(2)).await;
    let admin = nats.bus(User::Admin).await;
    results(&admin, 1).await;
    let proxy = Proxy::to(nats.port()).await;
    let url = format!("nats://127.0.0.1:{}", proxy.port());
    let options = BusOptions::new([url], User::Writer).seed(nats.seed(User::Writer).to_owned().into());
    let dying = Bus::connect(options).await.unwrap();
    let seen = Seen::default();
    let noted = seen.clone();
    let first = Loop::start(&dying, Options::new("writer", Consumer::WRITER, 1), move |message| {
        let noted = noted.clone();
        async move {
            note(&noted, &message).await;
            std::future::pending().await
        }
    });
    eventually("it has it", || async { (seen.lock().await.len() == 1).then_some(()) }).await;
    // Nothing more is heard of that process: no ack, no goodbye.
    proxy.silence();
    let second = nats.bus(User::Writer).await;
    let running = Loop::start(&second, Options::new("writer", Consumer::WRITER, 1), collector(&seen));
    let again = || async { seen.lock().await.contains(&("r0".to_owned(), 2)).then_some(()) };
    eventually("another has it", again).await;
    settled(&admin, Consumer::WRITER).await;
    running.stop().await.unwrap();
    first.task.abort();
}

/// A writer's connection on which the first message that `is` picks is lost, and how many such it said.
async fn losing_one(
    nats: &Nats,
    is: impl Fn(&str, &[u8]) -> bool + Send + Sync + 'static,
) -> (Lossy, Arc<AtomicUsize>, Bus) {
    let said = Arc::new(AtomicUsize::new(0));
    let count = said.clone();
    let wire = Lossy::to(nats.port(), move |subject, payload| {
        is(subject, payload) && count.fetch_add(1, Ordering::SeqCst) == 0
    })
    .await;
    let options = BusOptions::new([wire.url()], User::Writer).seed(nats.seed(User::Writer).to_owned().into());
    (wire, said, Bus::connect(options).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ack_brings_its_message_again_unless_it_is_confirmed() {
    for confirmed in [false, true] {
        let nats = Nats::with_topology().await;
        if !confirmed {
            set_ack_wait(&nats, Consumer::WRITER, Duration::from_secs(2)).await;
        }
        let admin = nats.bus(User::Admin).await;
        let (_wire, said, writer) = losing_one(&nats, |_, payload| payload == b"+ACK").await;
        let (seen, mut options) = (Seen::default(), Options::new("writer", Consumer::WRITER, 1));
        options.confirm = confirmed;
        let running = Loop::start(&writer, options, collector(&seen));
        results(&admin, 1).await;
        // Lost once; said again, either for the same delivery or for the next.
        let twice = || async { (said.load(Ordering::SeqCst) >= 2).then_some(()) };
        eventually_within(Duration::from_secs(30), "a second ack", twice).await;
        settled(&admin, Consumer::WRITER).await;
        running.stop().await.unwrap();
        let deliveries: Vec<_> = seen.lock().await.iter().map(|(_, nth)| *nth).collect();
        // On a machine that stands still for two seconds, the second ack is late as well.
        let right = if confirmed { deliveries == [1] } else { deliveries.starts_with(&[1, 2]) };
        assert!(right, "confirmed: {confirmed}, deliveries: {deliveries:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_is_always_busy_notices_a_forgotten_pull() {
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    // The first pull takes both slots; the second, which is lost, would fill the one that comes free first.
    let pulls = AtomicUsize::new(0);
    let second = move |subject: &str, _: &[u8]| {
        subject.starts_with("$JS.API.CONSUMER.MSG.NEXT.") && pulls.fetch_add(1, Ordering::SeqCst) == 1
    };
    let (_wire, said, writer) = losing_one(&nats, second).await;
    let (now, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (in_hand, over) = (now.clone(), done.clone());
    results(&admin, 2000).await;
    let running = Loop::start(&writer, Options::new("writer", Consumer::WRITER, 2), move |_| {
        let (in_hand, over) = (in_hand.clone(), over.clone());
        async move {
            in_hand.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(50)).await;
            in_hand.fetch_sub(1, Ordering::SeqCst);
            over.fetch_add(1, Ordering::SeqCst);
            Next::Done
        }
    });
    let one_left =
        || async { (said.load(Ordering::SeqCst) == 1 && done.load(Ordering::SeqCst) > 10).then_some(()) };
    eventually("a pull is lost", one_left).await;
    let both = || async { (now.load(Ordering::SeqCst) == 2).then_some(()) };
    eventually_within(Duration::from_secs(40), "both slots are used again", both).await;
    assert!(admin.consumer_info("OW_RESULTS", "writer").await.unwrap().pending > 0, "never a quiet moment");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_connecting_fails_in_time_and_says_so() {
    let mut options = BusOptions::new(["nats://127.0.0.1:1"], User::Api);
    options.start_timeout = Duration::from_millis(600);
    let error = Bus::connect(options).await.unwrap_err();
    assert!(error.is_outage() && error.to_string().contains("127.0.0.1:1"), "{error}");

    let nats = Nats::start().await;
    let stranger = openwatch_bus::user::new_key().unwrap();
    let options = BusOptions::new([nats.url()], User::Api).seed(stranger.seed);
    let error = Bus::connect(options).await.unwrap_err();
    assert!(matches!(error, BusError::LoginRefused { user: "api", .. }) && !error.is_outage(), "{error}");
    let options = BusOptions::new([nats.url()], User::Api).seed("rubbish".to_owned().into());
    assert!(matches!(Bus::connect(options).await, Err(BusError::LoginRefused { .. })));
}
