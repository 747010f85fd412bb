//! The one loop: every decision, slots, beat, lanes, stop.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use openwatch_bus::User;
use openwatch_bus::advisory::{Advisory, Ending};
use openwatch_bus::consume::Consumer;
use openwatch_bus::subject;
use openwatch_tests::eventually_within;
use tokio::sync::Notify;

use super::*;

fn options(slots: usize) -> Options {
    Options::new("writer", Consumer::WRITER, slots)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_done_once_and_never_more_at_a_time_than_slots() {
    let nats = Nats::with_topology().await;
    let (admin, writer) = (nats.bus(User::Admin).await, nats.bus(User::Writer).await);
    results(&admin, 50).await;
    let (seen, now, most) = (Seen::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let release = Arc::new(Notify::new());
    let handler = {
        let (seen, now, most, release) = (seen.clone(), now.clone(), most.clone(), release.clone());
        move |message: Message| {
            let (seen, now, most, release) = (seen.clone(), now.clone(), most.clone(), release.clone());
            async move {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                release.notified().await;
                note(&seen, &message).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Next::Done
            }
        }
    };
    let mut options = options(4);
    options.beat = Duration::from_secs(1);
    let pulse = options.pulse.clone();
    let running = Loop::start(&writer, options, handler);
    eventually("four in hand", || async { (now.load(Ordering::SeqCst) == 4).then_some(()) }).await;
    // The server has given us exactly as many as we have slots: nothing ages in a buffer.
    assert_eq!(admin.consumer_info("OW_RESULTS", "writer").await.unwrap().unacked, 4);
    let done = || async {
        release.notify_waiters();
        (seen.lock().await.len() == 50).then_some(())
    };
    eventually("all fifty", done).await;
    settled(&admin, Consumer::WRITER).await;
    assert!(pulse.age() < Duration::from_secs(5));
    running.stop().await.unwrap();
    let mut names: Vec<_> = seen.lock().await.clone();
    names.sort();
    names.dedup();
    assert_eq!((names.len(), most.load(Ordering::SeqCst)), (50, 4));
    assert!(names.iter().all(|(_, deliveries)| *deliveries == 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_comes_back_after_its_delay() {
    let nats = Nats::with_topology().await;
    let writer = nats.bus(User::Writer).await;
    results(&nats.bus(User::Admin).await, 1).await;
    let (seen, since) = (Seen::default(), Instant::now());
    let handler = {
        let seen = seen.clone();
        move |message: Message| {
            let seen = seen.clone();
            async move {
                note(&seen, &message).await;
                if message.deliveries < 3 {
                    Next::Retry { after: Duration::from_millis(700) }
                } else {
                    Next::Done
                }
            }
        }
    };
    let running = Loop::start(&writer, options(2), handler);
    eventually("three deliveries", || async { (seen.lock().await.len() == 3).then_some(()) }).await;
    assert!(since.elapsed() >= Duration::from_millis(1300), "{:?}", since.elapsed());
    settled(&writer, Consumer::WRITER).await;
    running.stop().await.unwrap();
    assert_eq!(seen.lock().await.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [1, 2, 3]);
}

// @spec bus
// @ac AC-02
#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_message_is_a_dead_letter_and_gone_from_its_stream() {
    proves("AC-02");
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    let mut job = message("ow.v1.job.manual.h1", "scan.1");
    job.headers.push(("Ow-Kid".into(), "k1".into()));
    let sequence = admin.publish(&job).await.unwrap().sequence;
    let options = Options::new("executor", Consumer::EXECUTOR_MANUAL, 1);
    let running = Loop::start(&admin, options, |_| async { Next::Reject { reason: "no such\nscan".into() } });
    let gone = || async { (admin.stream_info(subject::JOBS).await.ok()?.messages == 0).then_some(()) };
    eventually("the job is gone", gone).await;
    let letters = admin.dead_letters(1, 10).await.unwrap();
    let letter = &letters[0].letter;
    assert_eq!((letters.len(), letter.stage.as_str(), letter.stream.as_str()), (1, "executor", "OW_JOBS"));
    assert_eq!((letter.sequence, letter.deliveries), (sequence, 1));
    assert_eq!((letter.subject.as_str(), &letter.payload), ("ow.v1.job.manual.h1", &job.payload));
    assert_eq!(letter.reason, "no such scan");
    assert!(letter.headers.contains(&("Ow-Kid".to_owned(), "k1".to_owned())));
    // The server's own advisory says that it was us, so the caretaker files no second letter.
    let caretaker = nats.bus(User::Caretaker).await;
    let advisories = Arc::new(Mutex::new(Vec::new()));
    let noted = advisories.clone();
    let options = Options::new("caretaker", Consumer::ADVISORIES, 1);
    let advising = Loop::start(&caretaker, options, move |message| {
        let noted = noted.clone();
        async move {
            noted.lock().await.push(Advisory::decode(&message).unwrap());
            Next::Done
        }
    });
    eventually("an advisory", || async { (!advisories.lock().await.is_empty()).then_some(()) }).await;
    let advisory = advisories.lock().await[0].clone();
    assert_eq!(
        (advisory.ending, advisory.sequence, advisory.is_filed()),
        (Ending::Terminated, sequence, true)
    );
    running.stop().await.unwrap();
    advising.stop().await.unwrap();

    // Replayed, it is published once however often it is asked for.
    let first = admin.replay(&letters[0]).await.unwrap();
    assert!(!first.duplicate && admin.replay(&letters[0]).await.unwrap().duplicate);
    let again = admin.last_message(subject::JOBS, "ow.v1.job.manual.h1").await.unwrap().unwrap();
    assert_eq!((again.payload.clone(), again.header("Ow-Kid")), (job.payload, Some("k1")));
    assert_eq!(
        admin.last_message(subject::JOBS, "ow.v1.job.manual.h2").await.unwrap().map(|m| m.sequence),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_may_not_file_letters_keeps_its_message() {
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    admin.publish(&message("ow.v1.job.manual.h1", "scan.1")).await.unwrap();
    let options = Options::new("executor", Consumer::EXECUTOR_MANUAL, 1);
    let executor = nats.bus(User::Executor).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let running = Loop::start(&executor, options, move |message| {
        let noted = noted.clone();
        async move {
            note(&noted, &message).await;
            Next::Reject { reason: "no".into() }
        }
    });
    // Nobody confirms that it was given back: when that is lost, the ack wait of half a minute brings it again.
    let again = || async { (seen.lock().await.len() >= 2).then_some(()) };
    eventually_within(Duration::from_secs(75), "it comes again", again).await;
    running.stop().await.unwrap();
    assert_eq!(admin.stream_info(subject::JOBS).await.unwrap().messages, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatal_error_ends_the_loop_and_gives_the_message_back() {
    let nats = Nats::with_topology().await;
    let writer = nats.bus(User::Writer).await;
    results(&nats.bus(User::Admin).await, 1).await;
    let failing =
        Loop::start(&writer, options(1), |_| async { Next::Fatal { error: "out of order".into() } });
    let error =
        tokio::time::timeout(Duration::from_secs(20), failing.task).await.unwrap().unwrap().unwrap_err();
    assert!(error.to_string().contains("writer") && error.to_string().contains("out of order"), "{error}");
    let seen = Seen::default();
    let noted = seen.clone();
    let running = Loop::start(&writer, options(1), move |message| {
        let noted = noted.clone();
        async move {
            note(&noted, &message).await;
            Next::Done
        }
    });
    eventually("the second delivery", || async {
        (*seen.lock().await == [("r0".to_owned(), 2)]).then_some(())
    })
    .await;
    running.stop().await.unwrap();
}

// @spec bus
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn a_panicking_handler_leaves_its_message_to_be_delivered_again() {
    proves("AC-01");
    let nats = Nats::with_topology().await;
    let writer = nats.bus(User::Writer).await;
    results(&nats.bus(User::Admin).await, 3).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let running = Loop::start(&writer, options(2), move |message| {
        let noted = noted.clone();
        async move {
            note(&noted, &message).await;
            assert!(message.deliveries > 1 || message.payload != "r1", "on purpose");
            Next::Done
        }
    });
    eventually("four deliveries", || async { (seen.lock().await.len() == 4).then_some(()) }).await;
    settled(&writer, Consumer::WRITER).await;
    running.stop().await.unwrap();
    assert!(seen.lock().await.contains(&("r1".to_owned(), 2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_beat_keeps_a_long_handler_alive_and_its_silence_does_not() {
    let nats = Nats::with_topology().await;
    set_ack_wait(&nats, Consumer::WRITER, Duration::from_secs(1)).await;
    let (admin, writer) = (nats.bus(User::Admin).await, nats.bus(User::Writer).await);
    for (beat, silent) in [(Duration::from_millis(250), false), (Duration::from_secs(3600), true)] {
        let seen = Seen::default();
        let noted = seen.clone();
        let mut options = options(2);
        options.beat = beat;
        let running = Loop::start(&writer, options, move |message| {
            let noted = noted.clone();
            async move {
                note(&noted, &message).await;
                tokio::time::sleep(Duration::from_millis(2500)).await;
                Next::Done
            }
        });
        let name = format!("b{silent}");
        admin.publish(&message(&format!("ow.v1.result.final.h.{name}"), &name)).await.unwrap();
        eventually("it was seen", || async { (!seen.lock().await.is_empty()).then_some(()) }).await;
        settled(&admin, Consumer::WRITER).await;
        running.stop().await.unwrap();
        // Once its ack wait is over the message waits for the next pull, which may overtake the ack: it comes once more then.
        let most = seen.lock().await.iter().map(|(_, n)| *n).max().unwrap_or_default();
        assert_eq!(most > 1, silent, "beat {beat:?}: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manual_job_never_waits_behind_the_fleet() {
    let nats = Nats::with_topology().await;
    let (admin, executor) = (nats.bus(User::Admin).await, nats.bus(User::Executor).await);
    let scheduled: Vec<_> =
        (0..10).map(|i| message(&format!("ow.v1.job.scheduled.h{i}"), &format!("s{i}"))).collect();
    for answer in admin.publish_all(&scheduled).await {
        answer.unwrap();
    }
    let (seen, release) = (Seen::default(), Arc::new(Notify::new()));
    let handler = {
        let (seen, release) = (seen.clone(), release.clone());
        move |message: Message| {
            let (seen, release) = (seen.clone(), release.clone());
            async move {
                note(&seen, &message).await;
                if message.payload.starts_with(b"s") {
                    release.notified().await;
                }
                Next::Done
            }
        }
    };
    let options = Options::new("executor", Consumer::EXECUTOR_MANUAL, 3).second(Consumer::EXECUTOR_SCHEDULED);
    let running = Loop::start(&executor, options, handler.clone());
    eventually("two scheduled ones in hand", || async { (seen.lock().await.len() == 2).then_some(()) }).await;
    // Two hang; the third slot is the manual lane's, again and again.
    for round in 0..3 {
        admin.publish(&message(&format!("ow.v1.job.manual.h{round}"), &format!("m{round}"))).await.unwrap();
        let handled =
            || async { seen.lock().await.iter().any(|(name, _)| *name == format!("m{round}")).then_some(()) };
        eventually("the manual job", handled).await;
    }
    assert_eq!(seen.lock().await.iter().filter(|(name, _)| name.starts_with('s')).count(), 2);
    let all_done = || async {
        release.notify_waiters();
        (seen.lock().await.len() == 13).then_some(())
    };
    eventually("all thirteen", all_done).await;
    release.notify_waiters();
    let stopping = running.stop();
    tokio::pin!(stopping);
    loop {
        tokio::select! {
            ended = &mut stopping => break ended.unwrap(),
            () = tokio::time::sleep(Duration::from_millis(20)) => release.notify_waiters(),
        }
    }

    // With one slot, the first lane is emptied first.
    seen.lock().await.clear();
    for i in 0..3 {
        admin.publish(&message("ow.v1.job.scheduled.x", &format!("t{i}"))).await.unwrap();
        admin.publish(&message("ow.v1.job.manual.x", &format!("n{i}"))).await.unwrap();
    }
    let options = Options::new("executor", Consumer::EXECUTOR_MANUAL, 1).second(Consumer::EXECUTOR_SCHEDULED);
    let running = Loop::start(&executor, options, handler);
    eventually("all six", || async { (seen.lock().await.len() == 6).then_some(()) }).await;
    running.stop().await.unwrap();
    let order: Vec<_> = seen.lock().await.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(order, ["n0", "n1", "n2", "t0", "t1", "t2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_finishes_what_it_can_and_gives_back_the_rest() {
    let nats = Nats::with_topology().await;
    let (admin, writer) = (nats.bus(User::Admin).await, nats.bus(User::Writer).await);
    results(&admin, 5).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = begun.clone();
    let mut stopping = options(2);
    stopping.grace = Duration::from_secs(2);
    let running = Loop::start(&writer, stopping, move |message| {
        let counted = counted.clone();
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            let takes = if message.payload == "r0" { 1 } else { 3600 };
            tokio::time::sleep(Duration::from_secs(takes)).await;
            Next::Done
        }
    });
    eventually("two in hand", || async { (begun.load(Ordering::SeqCst) == 2).then_some(()) }).await;
    let since = Instant::now();
    running.stop().await.unwrap();
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    // r0 was finished; r1 was given back at once, long before its ack wait of 30 s; the others were never taken.
    assert_eq!(begun.load(Ordering::SeqCst), 2);
    let seen = Seen::default();
    let noted = seen.clone();
    let running = Loop::start(&writer, options(5), move |message| {
        let noted = noted.clone();
        async move {
            note(&noted, &message).await;
            Next::Done
        }
    });
    eventually("the other four", || async { (seen.lock().await.len() == 4).then_some(()) }).await;
    assert!(since.elapsed() < Duration::from_secs(20));
    running.stop().await.unwrap();
    let mut seen = seen.lock().await.clone();
    seen.sort();
    let expect = [("r1", 2), ("r2", 1), ("r3", 1), ("r4", 1)];
    assert_eq!(seen, expect.map(|(name, n)| (name.to_owned(), n)));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pulled_while_the_gate_is_shut() {
    let nats = Nats::with_topology().await;
    let (admin, writer) = (nats.bus(User::Admin).await, nats.bus(User::Writer).await);
    results(&admin, 1).await;
    let (open, opened) = tokio::sync::watch::channel(false);
    let gated = options(2).gate(move || {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|open| *open).await;
        }
    });
    let pulse = gated.pulse.clone();
    let seen = Seen::default();
    let noted = seen.clone();
    let running = Loop::start(&writer, gated, move |message| {
        let noted = noted.clone();
        async move {
            note(&noted, &message).await;
            Next::Done
        }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let info = admin.consumer_info("OW_RESULTS", "writer").await.unwrap();
    assert_eq!((info.waiting, info.unacked, info.pending), (0, 0, 1));
    assert!(pulse.age() < Duration::from_secs(1), "the loop goes round all the same");
    open.send(true).unwrap();
    eventually("it is handled", || async { (seen.lock().await.len() == 1).then_some(()) }).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_not_ours_is_refused_with_its_name() {
    let nats = Nats::with_topology().await;
    let drift = nats.bus(User::Drift).await;
    let running = Loop::start(&drift, options(1), |_| async { Next::Done });
    let error =
        tokio::time::timeout(Duration::from_secs(20), running.task).await.unwrap().unwrap().unwrap_err();
    assert!(
        matches!(&error, BusError::Denied { user: "drift", subject } if subject.contains("OW_RESULTS")),
        "{error}"
    );
}
