//! Publishing singly, pipelined and in batches; questions and answers.

use openwatch_bus::{BusOptions, Profile, User, serve, subject};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_is_stored_once() {
    let nats = Nats::with_topology().await;
    let bus = nats.bus(User::Executor).await;
    let it = message("ow.v1.result.final.h.s", "one");
    let first = bus.publish(&it).await.unwrap();
    let second = bus.publish(&it).await.unwrap();
    assert_eq!((first.duplicate, second.duplicate), (false, true));
    assert_eq!((first.sequence, first.stream), (second.sequence, second.stream));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_messages_go_as_batches_and_duplicates_fall_back_to_singles() {
    let nats = Nats::with_topology().await;
    let scheduler = nats.bus(User::Scheduler).await;
    let admin = nats.bus(User::Admin).await;
    let jobs: Vec<_> =
        (0..1500).map(|i| message(&format!("ow.v1.job.scheduled.h{i}"), &format!("s{i}.1"))).collect();
    let first: Vec<_> = scheduler.publish_all(&jobs).await.into_iter().map(Result::unwrap).collect();
    assert!(first.iter().all(|p| !p.duplicate && p.stream == "OW_JOBS"));
    let stored = admin.message_at(subject::JOBS, first[700].sequence).await.unwrap().unwrap();
    assert_eq!(
        (stored.subject.as_str(), stored.header("Nats-Msg-Id")),
        ("ow.v1.job.scheduled.h700", Some("s700.1"))
    );
    // They really were batches: the headers of one are stored with its messages.
    assert_eq!(stored.header("Nats-Batch-Sequence"), Some("701"));
    assert_eq!(admin.stream_info(subject::JOBS).await.unwrap().messages, 1500);

    // The relay died before it deleted its rows: everything again, and something new in between.
    let mut again = jobs.clone();
    again.insert(10, message("ow.v1.job.manual.new", "new.1"));
    let second: Vec<_> = scheduler.publish_all(&again).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(second.iter().filter(|p| !p.duplicate).count(), 1);
    assert!(!second[10].duplicate);
    assert_eq!((second[11].sequence, second[11].duplicate), (first[10].sequence, true));
    assert_eq!(admin.stream_info(subject::JOBS).await.unwrap().messages, 1501);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_replicas_messages_are_pipelined_and_each_has_its_own_answer() {
    let nats = Nats::with_topology().await;
    let mut options = nats.options(User::Admin);
    options.profile = Profile::Production;
    let bus = Bus::connect(options).await.unwrap();
    let mut all: Vec<_> =
        (0..300).map(|i| message(&format!("ow.v1.evt.scan_failed.h{i}"), &format!("e{i}"))).collect();
    // 40 MB in all: more than may be on its way at once.
    for large in &mut all[..50] {
        large.subject = "ow.v1.result.final.h.s".into();
        large.payload = vec![0; 800 * 1024].into();
    }
    all[7].payload = vec![0; 2 << 20].into();
    all[8].subject = "ow.v1.nowhere".into();
    let answers = bus.publish_all(&all).await;
    assert!(matches!(&answers[7], Err(BusError::TooLarge { .. })), "{:?}", answers[7]);
    assert!(
        matches!(&answers[8], Err(error @ BusError::NobodyThere { .. }) if error.is_outage()),
        "{:?}",
        answers[8]
    );
    let good: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().ok()).collect();
    assert_eq!((good.len(), good.iter().filter(|p| p.duplicate).count()), (298, 0));
    let stored = bus.message_at("OW_EVENTS", answers[299].as_ref().unwrap().sequence).await.unwrap().unwrap();
    assert!(stored.header("Nats-Batch-Id").is_none());
    assert_eq!(stored.payload, "e299");
    assert!(bus.publish_all(&[]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_says_so() {
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    let too_long = message("ow.v1.job.manual.h", "big");
    let too_long = Outgoing { payload: vec![0; 600_000].into(), ..too_long };
    let error = admin.publish(&too_long).await.unwrap_err();
    assert!(matches!(&error, BusError::Refused { error: 10054, .. }) && !error.is_outage(), "{error}");
    // What takes no publication is no stream of ours to delete from either.
    let first = admin.publish(&message("ow.v1.job.manual.h", "m")).await.unwrap();
    assert!(admin.delete_message(subject::JOBS, first.sequence).await.unwrap());
    assert!(!admin.delete_message(subject::JOBS, first.sequence).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_by_one_of_the_group() {
    let nats = Nats::with_topology().await;
    let (executor, vault) = (nats.bus(User::Executor).await, nats.bus(User::Vault).await);
    let wait = Duration::from_secs(5);
    let ask = |text: &str| {
        let headers = [("Ow-Kid".to_owned(), text.to_owned())];
        let (executor, payload) = (executor.clone(), text.to_owned().into());
        async move { executor.request(subject::VAULT_RELEASE, &headers, payload, wait).await }
    };
    let nobody = ask("early").await.unwrap_err();
    assert!(matches!(nobody, BusError::NobodyThere { .. }), "{nobody}");

    let stop = CancellationToken::new();
    let mut serving = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let (vault, stop) = (vault.clone(), stop.clone());
        let answer = |question: openwatch_bus::Question| async move {
            let kid = question.header("ow-kid").unwrap_or_default().to_owned();
            (kid != "silent").then(|| [b"re: ", &question.payload[..]].concat().into())
        };
        serving.spawn(async move {
            serve(&vault, subject::VAULT_RELEASE, subject::VAULT_GROUP, 4, answer, stop).await
        });
    }
    eventually("somebody answers", || async { ask("hello").await.ok() }).await;
    for i in 0..20 {
        let text = format!("q{i}");
        assert_eq!(ask(&text).await.unwrap(), format!("re: {text}"));
    }
    let short = Duration::from_millis(300);
    let headers = [("Ow-Kid".to_owned(), "silent".to_owned())];
    let silent = executor.request(subject::VAULT_RELEASE, &headers, "x".into(), short).await.unwrap_err();
    assert!(matches!(silent, BusError::TimedOut { .. }) && silent.is_outage(), "{silent}");
    stop.cancel();
    while let Some(ended) = serving.join_next().await {
        ended.unwrap().unwrap();
    }
    // Their leave is written when they end; the server reads it when it comes to it. A question that overtakes it is
    // lost, and asked again.
    eventually("nobody is left", || async {
        let late = executor.request(subject::VAULT_RELEASE, &[], "late".into(), short).await;
        matches!(late, Err(BusError::NobodyThere { .. })).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_subject_is_told_at_once_and_a_closed_connection_does_not_panic() {
    let nats = Nats::with_topology().await;
    let mut options: BusOptions = nats.options(User::Executor);
    options.ack_timeout = Duration::from_secs(60);
    let executor = Bus::connect(options).await.unwrap();
    let denied = executor.publish(&message("ow.v1.job.manual.h", "x")).await.unwrap_err();
    assert!(matches!(denied, BusError::Denied { user: "executor", .. }) && !denied.is_outage(), "{denied}");
    let api = nats.bus(User::Api).await;
    api.ping().await.unwrap();
    api.close().await;
    let closed = api.publish(&message("ow.v1.audit.x", "x")).await.unwrap_err();
    assert!(closed.is_outage(), "{closed}");
    assert!(api.ping().await.is_err());
}
