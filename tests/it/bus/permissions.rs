//! Each permission of each identity, tried on the real `nats/permissions.conf`: the allowed work, the denied do not.

use std::collections::BTreeSet;

use async_nats::{Event, ServerError};
use openwatch_bus::User;
use tokio::sync::mpsc;

use super::*;

/// Every subject that somebody may publish, once, and many that nobody but the admin may.
const PROBES: &[&str] = &[
    "ow.v1.job.manual.h",
    "ow.v1.job.scheduled.h",
    "ow.v1.result.started.h.s",
    "ow.v1.result.final.h.s",
    "ow.v1.result.rejected.h.s",
    "ow.v1.vault.release",
    "ow.v1.audit.x",
    "ow.v1.evt.scan_started.h",
    "ow.v1.evt.scan_completed.h",
    "ow.v1.evt.scan_failed.h",
    "ow.v1.evt.finding_changed.h",
    "ow.v1.evt.job_rejected.h",
    "ow.v1.evt.schedule_updated.h",
    "ow.v1.evt.drift_detected.h",
    "ow.v1.evt.host_connectivity.h",
    "ow.v1.evt.prober_connectivity.-",
    "ow.v1.evt.host_key_changed.h",
    "ow.v1.evt.alert_opened.h",
    "ow.v1.evt.alert_updated.h",
    "ow.v1.evt.alert_resolved.h",
    "ow.v1.evt.policy_rejected.-",
    "ow.v1.evt.policy_accepted.-",
    "ow.v1.notify.ops",
    "ow.v1.dlq.scheduler",
    "ow.v1.dlq.writer",
    "ow.v1.dlq.writer.blob",
    "ow.v1.dlq.drift",
    "ow.v1.dlq.alerts",
    "ow.v1.dlq.caretaker",
    "$O.ow-results.C.n",
    "$O.ow-results.M.n",
    "$O.ow-corpora.C.n",
    "$O.ow-corpora.M.n",
    "OUTSIDE.API.STREAM.INFO.OW_EVENTS_PUBLIC",
    "OUTSIDE.API.STREAM.DELETE.OW_EVENTS_PUBLIC",
    "OUTSIDE.API.CONSUMER.CREATE.OW_EVENTS_PUBLIC.x",
    "INSIDE.API.CONSUMER.CREATE.OW_EVENTS",
    "INSIDE.API.CONSUMER.CREATE.OW_EVENTS.x",
    "ow.mirror.x",
    "$JS.API.INFO",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.INFO.OW_JOBS",
    "$JS.API.STREAM.INFO.OW_EVENTS_PUBLIC",
    "$JS.API.STREAM.INFO.OW_AUDIT",
    "$JS.API.STREAM.INFO.OBJ_ow-corpora",
    "$JS.API.STREAM.CREATE.OW_PROBE",
    "$JS.API.STREAM.UPDATE.OW_PROBE",
    "$JS.API.STREAM.DELETE.OW_PROBE",
    "$JS.API.STREAM.PURGE.OW_PROBE",
    "$JS.API.STREAM.PURGE.OW_EVENTS_PUBLIC",
    "$JS.API.STREAM.PURGE.OBJ_ow-corpora",
    "$JS.API.STREAM.MSG.GET.OW_JOBS",
    "$JS.API.STREAM.MSG.GET.OW_RESULTS",
    "$JS.API.STREAM.MSG.GET.OW_EVENTS",
    "$JS.API.STREAM.MSG.GET.OW_EVENTS_PUBLIC",
    "$JS.API.STREAM.MSG.GET.OW_AUDIT",
    "$JS.API.STREAM.MSG.GET.OW_DLQ",
    "$JS.API.STREAM.MSG.GET.OBJ_ow-results",
    "$JS.API.STREAM.MSG.GET.OBJ_ow-corpora",
    "$JS.API.STREAM.MSG.DELETE.OW_JOBS",
    "$JS.API.STREAM.MSG.DELETE.OW_RESULTS",
    "$JS.API.DIRECT.GET.OW_JOBS",
    "$JS.API.CONSUMER.CREATE.OW_JOBS.x",
    "$JS.API.CONSUMER.CREATE.OW_EVENTS.x",
    "$JS.API.CONSUMER.CREATE.OW_EVENTS_PUBLIC",
    "$JS.API.CONSUMER.CREATE.OW_EVENTS_PUBLIC.x",
    "$JS.API.CONSUMER.CREATE.OW_EVENTS_PUBLIC.x.ow.v1.evt.*.*",
    "$JS.API.CONSUMER.DURABLE.CREATE.OW_EVENTS_PUBLIC.x",
    "$JS.API.CONSUMER.CREATE.OW_AUDIT",
    "$JS.API.CONSUMER.CREATE.OW_AUDIT.x",
    "$JS.API.CONSUMER.DURABLE.CREATE.OW_AUDIT.x",
    "$JS.API.CONSUMER.DELETE.OW_JOBS.x",
    "$JS.API.CONSUMER.DELETE.OW_EVENTS_PUBLIC.x",
    "$JS.API.CONSUMER.DELETE.OW_AUDIT.x",
    "$JS.API.CONSUMER.NAMES.OW_EVENTS_PUBLIC",
    "$JS.API.CONSUMER.LIST.OW_EVENTS_PUBLIC",
    "$JS.API.CONSUMER.NAMES.OW_AUDIT",
    "$JS.API.CONSUMER.LIST.OW_AUDIT",
    "$JS.API.CONSUMER.NAMES.OW_JOBS",
    "$JS.API.CONSUMER.INFO.OW_JOBS.executor-manual",
    "$JS.API.CONSUMER.INFO.OW_JOBS.executor-scheduled",
    "$JS.API.CONSUMER.INFO.OW_RESULTS.writer",
    "$JS.API.CONSUMER.INFO.OW_EVENTS.scheduler",
    "$JS.API.CONSUMER.INFO.OW_EVENTS.drift",
    "$JS.API.CONSUMER.INFO.OW_EVENTS.alerts",
    "$JS.API.CONSUMER.INFO.OW_ADVISORIES.advisories",
    "$JS.API.CONSUMER.INFO.OW_EVENTS_PUBLIC.x",
    "$JS.API.CONSUMER.INFO.OW_AUDIT.x",
    "$JS.API.CONSUMER.MSG.NEXT.OW_JOBS.executor-manual",
    "$JS.API.CONSUMER.MSG.NEXT.OW_JOBS.executor-scheduled",
    "$JS.API.CONSUMER.MSG.NEXT.OW_RESULTS.writer",
    "$JS.API.CONSUMER.MSG.NEXT.OW_EVENTS.scheduler",
    "$JS.API.CONSUMER.MSG.NEXT.OW_EVENTS.drift",
    "$JS.API.CONSUMER.MSG.NEXT.OW_EVENTS.alerts",
    "$JS.API.CONSUMER.MSG.NEXT.OW_ADVISORIES.advisories",
    "$JS.API.CONSUMER.MSG.NEXT.OW_EVENTS_PUBLIC.x",
    "$JS.API.CONSUMER.MSG.NEXT.OW_AUDIT.x",
    "$JS.ACK.OW_JOBS.executor-manual.1.1.1.1.0",
    "$JS.ACK.OW_JOBS.executor-scheduled.1.1.1.1.0",
    "$JS.ACK.OW_RESULTS.writer.1.1.1.1.0",
    "$JS.ACK.OW_EVENTS.scheduler.1.1.1.1.0",
    "$JS.ACK.OW_EVENTS.drift.1.1.1.1.0",
    "$JS.ACK.OW_EVENTS.alerts.1.1.1.1.0",
    "$JS.ACK.OW_ADVISORIES.advisories.1.1.1.1.0",
    "$JS.ACK.OW_EVENTS_PUBLIC.x.1.1.1.1.0",
    "$JS.ACK.OW_AUDIT.x.1.1.1.1.0",
    "$JS.ACK._.hash.OW_JOBS.executor-manual.1.1.1.1.0",
    "$JS.ACK._.hash.OW_JOBS.executor-scheduled.1.1.1.1.0",
    "$JS.ACK._.hash.OW_RESULTS.writer.1.1.1.1.0",
    "$JS.ACK._.hash.OW_EVENTS.scheduler.1.1.1.1.0",
    "$JS.ACK._.hash.OW_EVENTS.drift.1.1.1.1.0",
    "$JS.ACK._.hash.OW_EVENTS.alerts.1.1.1.1.0",
    "$JS.ACK._.hash.OW_ADVISORIES.advisories.1.1.1.1.0",
    "$JS.ACK._.hash.OW_EVENTS_PUBLIC.x.1.1.1.1.0",
    "$JS.ACK._.hash.OW_AUDIT.x.1.1.1.1.0",
    "_INBOX_writer.forged",
    "_INBOX_executor.forged",
    "_INBOX.x",
    "anything.else",
];

/// What each identity may publish, of the probes.
fn may_publish(user: User) -> BTreeSet<&'static str> {
    let ours = |needles: &[&str]| {
        let hits = |probe: &&&str| needles.iter().any(|needle| probe.contains(needle));
        PROBES.iter().filter(hits).copied().collect::<BTreeSet<_>>()
    };
    let consumer = |stream: &str, name: &str| {
        let patterns = ["INFO", "MSG.NEXT"].map(|verb| format!("$JS.API.CONSUMER.{verb}.{stream}.{name}"));
        let acks = ["$JS.ACK.", "$JS.ACK._.hash."].map(|form| format!("{form}{stream}.{name}."));
        let all: Vec<_> = patterns.into_iter().chain(acks).collect();
        ours(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let join = |sets: &[BTreeSet<&'static str>]| sets.iter().flatten().copied().collect::<BTreeSet<_>>();
    match user {
        User::Admin => {
            let all = PROBES.iter().copied();
            all.filter(|probe| {
                ["ow.v1.", "$JS.", "$O.", "OUTSIDE.API."].iter().any(|start| probe.starts_with(start))
            })
            .collect()
        }
        User::Scheduler => join(&[
            ours(&[
                "ow.v1.job.",
                "evt.schedule_updated",
                "evt.policy_rejected",
                "evt.policy_accepted",
                "ow.v1.audit",
                "dlq.scheduler",
            ]),
            ours(&["STREAM.MSG.GET.OW_JOBS"]),
            consumer("OW_EVENTS", "scheduler"),
        ]),
        User::Vault => ours(&["ow.v1.audit", "dlq.vault"]),
        User::Executor => join(&[
            ours(&[
                "ow.v1.result.",
                "ow.v1.vault.release",
                "$O.ow-results.",
                "STREAM.MSG.GET.OBJ_ow-corpora",
            ]),
            consumer("OW_JOBS", "executor-manual"),
            consumer("OW_JOBS", "executor-scheduled"),
        ]),
        User::Writer => join(&[
            ours(&[
                "evt.scan_",
                "evt.finding_changed",
                "evt.job_rejected",
                "evt.host_key_changed",
                "ow.v1.audit",
            ]),
            ours(&["dlq.writer", "STREAM.MSG.GET.OBJ_ow-results"]),
            consumer("OW_RESULTS", "writer"),
        ]),
        User::Drift => {
            join(&[ours(&["evt.drift_detected", "ow.v1.audit", "dlq.drift"]), consumer("OW_EVENTS", "drift")])
        }
        User::Alerts => join(&[
            ours(&["evt.alert_", "ow.v1.notify", "ow.v1.audit", "dlq.alerts"]),
            consumer("OW_EVENTS", "alerts"),
        ]),
        User::Liveness => {
            ours(&["evt.host_connectivity", "evt.prober_connectivity", "ow.v1.audit", "dlq.liveness"])
        }
        User::Api => join(&[
            ours(&[
                "STREAM.INFO.",
                "CONSUMER.INFO.",
                "evt.alert_updated",
                "evt.alert_resolved",
                "ow.v1.audit",
                "dlq.api",
            ]),
            BTreeSet::from(["$JS.API.STREAM.MSG.GET.OW_EVENTS", "$JS.API.STREAM.MSG.GET.OW_DLQ"]),
        ]),
        User::Caretaker => {
            let mut all = join(&[
                ours(&[
                    "STREAM.INFO.",
                    "ow.v1.evt.",
                    "ow.v1.job.",
                    "ow.v1.result.",
                    "ow.v1.audit",
                    "MSG.DELETE.OW_JOBS",
                    "PURGE.OBJ_ow-corpora",
                ]),
                ours(&["dlq.scheduler", "dlq.drift", "dlq.alerts", "dlq.caretaker"]),
                BTreeSet::from([
                    "ow.v1.dlq.writer",
                    "$JS.API.STREAM.MSG.GET.OW_JOBS",
                    "$JS.API.STREAM.MSG.GET.OW_RESULTS",
                    "$JS.API.CONSUMER.INFO.OW_RESULTS.writer",
                ]),
                BTreeSet::from(["$JS.API.STREAM.MSG.GET.OW_EVENTS", "$JS.API.STREAM.MSG.GET.OBJ_ow-corpora"]),
                consumer("OW_ADVISORIES", "advisories"),
            ]);
            // It sends events again; that probe only speaks of them.
            all.retain(|probe| !probe.contains("CONSUMER.CREATE") && !probe.starts_with("OUTSIDE."));
            all
        }
        User::Reader => outside("OW_EVENTS_PUBLIC"),
        User::Auditor => outside("OW_AUDIT"),
    }
}

/// Consumers of one stream, and nothing else.
fn outside(stream: &str) -> BTreeSet<&'static str> {
    let allowed = |probe: &&&str| {
        let about_it = probe.ends_with(stream) || probe.contains(&format!("{stream}."));
        probe.starts_with("$JS.")
            && about_it
            && ["STREAM.INFO", "CONSUMER.", "$JS.ACK."].iter().any(|verb| probe.contains(verb))
    };
    PROBES.iter().filter(allowed).copied().collect()
}

/// A plain client that hears of every violation.
async fn client(nats: &Nats, user: User) -> (async_nats::Client, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let options = async_nats::ConnectOptions::with_nkey(nats.seed(user).to_owned())
        .custom_inbox_prefix(format!("_INBOX_{}", user.as_str()))
        .event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(text)) = event {
                let _ = tell.send(text);
            }
            std::future::ready(())
        });
    (options.connect(nats.url()).await.unwrap(), told)
}

/// Whether the server objected to what was done last. Objections come in order, so one that is sure to come ends the
/// wait, however slow the machine is.
async fn objected(client: &async_nats::Client, told: &mut mpsc::UnboundedReceiver<String>) -> bool {
    const NOBODYS: &str = "nobody.may.publish.here";
    client.publish(NOBODYS, "".into()).await.unwrap();
    client.flush().await.unwrap();
    let mut objected = false;
    loop {
        let text =
            tokio::time::timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap().to_lowercase();
        if text.contains(NOBODYS) {
            return objected;
        }
        objected |= text.contains("permissions");
    }
}

// @spec bus
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn each_identity_publishes_what_it_may_and_nothing_else() {
    proves("AC-03");
    // No streams: an allowed probe reaches nobody, so that trying it does no harm.
    let nats = Nats::start().await;
    let mut checks = tokio::task::JoinSet::new();
    let nats = Arc::new(nats);
    for user in User::ALL {
        let nats = nats.clone();
        checks.spawn(async move {
            let (client, mut told) = client(&nats, user).await;
            let expected = may_publish(user);
            let mut allowed = BTreeSet::new();
            for probe in PROBES {
                client.publish(*probe, "".into()).await.unwrap();
                if !objected(&client, &mut told).await {
                    allowed.insert(*probe);
                }
            }
            let too_much: Vec<_> = allowed.difference(&expected).collect();
            let too_little: Vec<_> = expected.difference(&allowed).collect();
            assert!(
                too_much.is_empty() && too_little.is_empty(),
                "{user:?} may {too_much:?}, may not {too_little:?}"
            );
            assert!(user == User::Admin || allowed.len() < PROBES.len() / 2);
        });
    }
    while let Some(check) = checks.join_next().await {
        check.unwrap();
    }
}

// @spec bus
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn each_identity_hears_its_own_inbox_and_nothing_else() {
    proves("AC-03");
    let nats = Nats::start().await;
    for user in User::ALL {
        let (client, mut told) = client(&nats, user).await;
        let others =
            User::ALL.into_iter().filter(|other| *other != user).map(|o| format!("_INBOX_{}.>", o.as_str()));
        let wide =
            ["_INBOX.>", ">", "ow.v1.>", "ow.v1.job.>", "ow.v1.result.>", "ow.v1.evt.>", "$JS.>", "$O.>"];
        let wide = wide.into_iter().map(str::to_owned).chain(["ow.v1.vault.release".to_owned()]);
        for subject in others.chain(wide) {
            let _heard = client.subscribe(subject.clone()).await.unwrap();
            assert!(objected(&client, &mut told).await, "{user:?} hears {subject}");
        }
        let _own = client.subscribe(client.new_inbox()).await.unwrap();
        assert!(!objected(&client, &mut told).await, "{user:?} does not hear its own inbox");
        let _group = client.queue_subscribe("ow.v1.vault.release", "vault".to_owned()).await.unwrap();
        assert_eq!(objected(&client, &mut told).await, user != User::Vault, "{user:?} in the vault's group");
    }
}

// @spec bus
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn the_vault_may_answer_a_question_and_no_more() {
    proves("AC-03");
    let nats = Nats::start().await;
    let (vault, mut told) = client(&nats, User::Vault).await;
    let mut questions = vault.queue_subscribe("ow.v1.vault.release", "vault".to_owned()).await.unwrap();
    vault.flush().await.unwrap();
    let (executor, _) = client(&nats, User::Executor).await;
    let asking = tokio::spawn(async move { executor.request("ow.v1.vault.release", "?".into()).await });
    let question = futures::StreamExt::next(&mut questions).await.unwrap();
    let reply = question.reply.unwrap();
    vault.publish(reply.clone(), "!".into()).await.unwrap();
    assert_eq!(asking.await.unwrap().unwrap().payload, "!");
    assert!(!objected(&vault, &mut told).await);
    vault.publish(reply, "again".into()).await.unwrap();
    assert!(objected(&vault, &mut told).await, "one answer for one question");
}

#[tokio::test(flavor = "multi_thread")]
async fn outsiders_consume_events_and_auditors_the_audit_stream() {
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    for (user, stream, subject) in [
        (User::Reader, "OW_EVENTS_PUBLIC", "ow.v1.evt.scan_failed.h"),
        (User::Auditor, "OW_AUDIT", "ow.v1.audit.scan_failed"),
    ] {
        admin.publish(&message(subject, "x")).await.unwrap();
        let jetstream = async_nats::jetstream::new(nats.client(user).await);
        let stream = jetstream.get_stream(stream).await.unwrap();
        let config = async_nats::jetstream::consumer::pull::Config {
            durable_name: Some("mine".to_owned()),
            ..async_nats::jetstream::consumer::pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.unwrap();
        let mut batch =
            consumer.fetch().max_messages(1).expires(Duration::from_secs(5)).messages().await.unwrap();
        let message = futures::StreamExt::next(&mut batch).await.unwrap().unwrap();
        assert_eq!(message.payload, "x");
        message.double_ack().await.unwrap();
        stream.delete_consumer("mine").await.unwrap();
        assert!(stream.purge().await.is_err(), "{user:?} must not purge");
        let other = if user == User::Reader { "OW_AUDIT" } else { "OW_EVENTS" };
        assert!(jetstream.get_stream(other).await.is_err(), "{user:?} must not see {other}");
    }
}
