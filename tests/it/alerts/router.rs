//! Routing: which events become alerts, when they end by themselves, and what is told of those that come and go.

use std::time::Duration;

use openwatch_app::run::Stage;
use openwatch_bus::User;
use openwatch_bus::message::event::{
    HostConnectivity, HostKeyChanged, Kind, PolicyRejected, ProberConnectivity, ScanFailed,
};
use openwatch_bus::message::result::encode_final;
use openwatch_bus::stream::Stored;
use openwatch_model::alert::{AlertSeverity, TAGS};
use openwatch_model::channel::Target;
use openwatch_model::liveness::{Reachability, Standing};
use openwatch_model::scan::{Failure, FailureReason, Lane, ScanResult, Verdict};
use openwatch_model::{HostId, ScanId, Severity, Timestamp};
use openwatch_store::{Role, host};
use openwatch_tests::stages::{TOFU, WEBHOOK_SECRET, measured};
use openwatch_tests::{Catcher, Stages, eventually};
use serde_json::Value;
use uuid::Uuid;

use super::{alerts, become_alerts, tell};
use crate::drift::{again, settled};
use crate::writer::{outcome, outcomes};

fn proves(criterion: &str) {
    println!("@spec alert-router\n@ac {criterion}");
}

// @spec alert-router
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn a_drift_opens_one_alert_and_its_repair_resolves_it() {
    proves("AC-01");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    stages.scanned(host, &outcomes(10, 1)).await;
    stages.scanned(host, &outcomes(10, 3)).await;
    become_alerts(&stages, &["drift_major active 1"]).await;
    assert_eq!(again(&stages, Kind::DriftDetected, host).await, 1);
    settled(&stages, "alerts").await;
    assert_eq!(alerts(&stages).await, ["drift_major active 1"]);
    assert_eq!(stages.number("select sum(occurrences)::bigint from alert").await, 1);
    assert_eq!(
        (stages.audited("alert.created").await, stages.events(Kind::AlertOpened, host).await.len()),
        (1, 1)
    );

    stages.scanned(host, &outcomes(10, 0)).await;
    become_alerts(&stages, &["drift_major resolved 2", "drift_improvement active 1"]).await;
    settled(&stages, "alerts").await;
    let auto = "select count(*) from audit_event where action = 'alert.resolved' and actor_label = 'alerts'
        and detail->>'reason' = 'auto' and detail->>'prior_state' = 'active'";
    assert_eq!((stages.number(auto).await, stages.events(Kind::AlertResolved, host).await.len()), (1, 1));
}

// @spec alert-router
// @ac AC-02
#[tokio::test(flavor = "multi_thread")]
async fn what_began_to_fail_decides_how_severe_it_is() {
    proves("AC-02");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    // Of 40 rules: two that fail are a minor fall, eight are a major one.
    for (name, failing, critical) in [("a", 2, false), ("b", 2, true), ("c", 8, false), ("d", 8, true)] {
        let host = stages.host(name, 22).await;
        let scan = |failing: usize| {
            let mut all = outcomes(40, failing);
            all[0].severity = Some(if critical { Severity::Critical } else { Severity::Medium });
            all
        };
        stages.scanned(host, &scan(0)).await;
        stages.scanned(host, &scan(failing)).await;
    }
    settled(&stages, "drift").await;
    settled(&stages, "alerts").await;
    let all = "select concat_ws(' ', h.name, a.alert_type, a.severity) from alert a join host h on h.id = a.host_id order by h.name";
    let expected =
        ["a drift_minor medium", "b drift_minor high", "c drift_major high", "d drift_major critical"];
    let found = stages.texts(all).await;
    assert_eq!(found, expected);
}

fn moved(host: HostId, transition: i64) -> HostConnectivity {
    let (prior, status) = match transition % 2 {
        0 => (Reachability::Reachable, Reachability::Unreachable),
        _ => (Reachability::Unreachable, Reachability::Reachable),
    };
    HostConnectivity { host_id: host, prior, status, transition, response_time_ms: None, error: None }
}

/// Goes down and up by turns, each a second after the other.
async fn moves(stages: &Stages, host: HostId, transitions: std::ops::Range<i64>) {
    let begin = Timestamp::from_unix_timestamp(1_790_000_000).unwrap();
    for transition in transitions {
        tell(stages, Some(host), begin + Duration::from_secs(transition as u64), moved(host, transition))
            .await;
        settled(stages, "alerts").await;
    }
}

// @spec alert-router
// @ac AC-03
#[tokio::test(flavor = "multi_thread")]
async fn down_up_down_within_the_window_leaves_an_open_alert() {
    proves("AC-03");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    moves(&stages, host, 2..5).await;
    let of = |state: &str| {
        format!("select count(*) from alert where alert_type = 'host_unreachable' and state = '{state}'")
    };
    assert_eq!((stages.number(&of("active")).await, stages.number(&of("resolved")).await), (1, 1));
    let recovered = "select state from alert where alert_type = 'host_recovered'";
    assert_eq!(stages.texts(recovered).await, ["resolved"], "good news is over when bad news comes");
}

// @spec alert-router
// @ac AC-04
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_neither_opens_nor_resolves() {
    proves("AC-04");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    let now = Timestamp::from_unix_timestamp(1_790_000_000).unwrap();
    tell(&stages, Some(host), now, moved(host, 2)).await;
    become_alerts(&stages, &["host_unreachable active 1"]).await;
    // A recovery of before, and an outage of before that.
    tell(&stages, Some(host), now - Duration::from_secs(60), moved(host, 1)).await;
    tell(&stages, Some(host), now - Duration::from_secs(120), moved(host, 0)).await;
    settled(&stages, "alerts").await;
    assert_eq!(alerts(&stages).await, ["host_unreachable active 1"]);
    assert_eq!(stages.number("select occurrences::bigint from alert").await, 1);
}

// @spec alert-router
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn failing_scans_are_an_alert_until_one_has_a_result() {
    proves("AC-05");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    let failed = |failures: u32| ScanFailed {
        scan_id: ScanId(Uuid::new_v4()),
        host_id: host,
        attempt: 1,
        host_number: i64::from(failures),
        trigger: Lane::Scheduled,
        framework_id: "*".to_owned(),
        full: true,
        policy_version: "1.0.0".to_owned(),
        reason: FailureReason::Unreachable,
        rule_id: None,
        consecutive_failures: failures,
        failed_scans: Some(failures),
        suppress_until: None,
        finished_at: Timestamp::now_utc(),
    };
    for failures in 1..=4 {
        tell(&stages, Some(host), Timestamp::now_utc(), failed(failures)).await;
    }
    tell(
        &stages,
        Some(host),
        Timestamp::now_utc(),
        HostKeyChanged { host_id: host, scan_id: ScanId(Uuid::new_v4()), host_number: 5 },
    )
    .await;
    settled(&stages, "alerts").await;
    let mut opened = alerts(&stages).await;
    opened.sort();
    assert_eq!(opened, ["host_key_changed active 1", "scan_failing active 1"]);
    stages.scanned(host, &[outcome("rule", openwatch_model::Status::Pass)]).await;
    settled(&stages, "alerts").await;
    let mut ended = alerts(&stages).await;
    ended.sort();
    assert_eq!(ended, ["host_key_changed resolved 2", "scan_failing resolved 2"]);
}

// @spec alert-router
// @ac AC-05
#[tokio::test(flavor = "multi_thread")]
async fn scans_that_fail_for_no_fault_of_the_host_are_told_of_too() {
    proves("AC-05");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer, Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    let fails = async |reason: FailureReason| {
        let (job, _) = stages.job(host, |_| ()).await;
        let failure = Failure::new(reason, "made up");
        let result = ScanResult { verdict: Verdict::Failed(failure), ..measured(&job, &[]) };
        stages.send(&stages.signed(&job, encode_final(&result))).await;
        assert_eq!(stages.ended(job.scan).await, "failed");
        settled(&stages, "alerts").await;
    };
    // The second is not counted: somebody stopped the workers.
    for reason in [FailureReason::NoCredential, FailureReason::Cancelled, FailureReason::NoCredential] {
        fails(reason).await;
    }
    assert_eq!(alerts(&stages).await, [""; 0]);
    fails(FailureReason::CorpusUnavailable).await;
    let open = || async { stages.texts("select concat_ws(', ', title, body, occurrences) from alert").await };
    assert_eq!(open().await, ["3 scans in a row failed, last reason: corpus_unavailable, 1"]);
    fails(FailureReason::NoCredential).await;
    assert_eq!(open().await, ["4 scans in a row failed, last reason: no_credential, 2"]);
    let held_back = "select count(*) from host_backoff_state where consecutive_failures > 0 or suppress_until is not null";
    assert_eq!(stages.number(held_back).await, 0);
    stages.scanned(host, &outcomes(3, 0)).await;
    become_alerts(&stages, &["scan_failing resolved 2"]).await;
    // Counted from the beginning again.
    fails(FailureReason::NoCredential).await;
    assert_eq!(stages.texts("select failed_scans::text from host_backoff_state").await, ["1"]);
    assert_eq!(alerts(&stages).await, ["scan_failing resolved 2"]);
}

// @spec alert-router
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn alerts_of_hosts_that_are_gone_or_probed_no_more_end() {
    proves("AC-10");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    stages.webhook("hook", catcher.url("/hook")).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let (gone, hidden, bastion) =
        (stages.host("gone", 22).await, stages.host("hidden", 22).await, stages.host("bastion", 22).await);
    stages.meddle("update host_liveness set reachability_status = 'unreachable', consecutive_failures = 2, last_probe_at = now()").await;
    let now = Timestamp::now_utc();
    for host in [gone, hidden, bastion] {
        tell(&stages, Some(host), now, moved(host, 2)).await;
        tell(
            &stages,
            Some(host),
            now,
            HostKeyChanged { host_id: host, scan_id: ScanId(Uuid::new_v4()), host_number: 1 },
        )
        .await;
    }
    catcher.at_least(6).await;
    let api = stages.store(Role::Api).await;
    let mut tx = api.begin().await.unwrap();
    host::remove(&mut tx, gone).await.unwrap();
    host::set_jump(&mut tx, hidden, Some(bastion)).await.unwrap();
    // It was reached directly before.
    host::set_jump(&mut tx, bastion, None).await.unwrap();
    tx.commit().await.unwrap();
    let query = "select concat_ws(' ', h.name, a.alert_type, a.state) from alert a join host h on h.id = a.host_id order by 1";
    let wanted = [
        "bastion host_key_changed active",
        "bastion host_unreachable active",
        "gone host_key_changed resolved",
        "gone host_unreachable resolved",
        "hidden host_key_changed active",
        "hidden host_unreachable resolved",
    ];
    let ended = || async { (stages.texts(query).await == wanted).then_some(()) };
    eventually("the end of what nothing else ends", ended).await;
    let told = catcher.at_least(9).await.into_iter().filter(|it| it.json()["event"] == "alert.resolved");
    assert_eq!(told.count(), 3);
    stages.relayed().await;
    assert_eq!(stages.audited("alert.resolved").await, 3);
    let known = "select concat_ws(' ', h.name, l.reachability_status, l.consecutive_failures, l.last_probe_at is null)
                 from host_liveness l join host h on h.id = l.host_id where h.deleted_at is null order by 1";
    assert_eq!(stages.texts(known).await, ["bastion unreachable 2 f", "hidden unknown 0 t"]);
}

// @spec alert-router
// @ac AC-12
#[tokio::test(flavor = "multi_thread")]
async fn old_good_news_ends_unsung() {
    proves("AC-12");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    let hook = Target::Webhook { url: catcher.url("/hook"), secret: WEBHOOK_SECRET.to_owned() };
    stages.channel_with("hook", hook, |it| it.min_severity = AlertSeverity::Info).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let now = Timestamp::now_utc();
    let (old, new) = (stages.host("old", 22).await, stages.host("new", 22).await);
    for host in [old, new] {
        moves(&stages, host, 2..4).await;
        tell(
            &stages,
            Some(host),
            now,
            HostKeyChanged { host_id: host, scan_id: ScanId(Uuid::new_v4()), host_number: 1 },
        )
        .await;
    }
    // A silence is somebody's word for how long; and news may be about no host.
    let quiet = stages.host("quiet", 22).await;
    moves(&stages, quiet, 2..4).await;
    for (transition, status) in [(1, Standing::Isolated), (2, Standing::Connected)] {
        tell(&stages, None, now, ProberConnectivity { status, transition, asked: 20, silent: 0 }).await;
    }
    let query = "select concat_ws(' ', h.name, a.alert_type, a.state) from alert a left join host h on h.id = a.host_id order by 1";
    let wanted = |old: &str, quiet: &str| {
        [
            "new host_key_changed active".to_owned(),
            "new host_recovered active".to_owned(),
            "new host_unreachable resolved".to_owned(),
            "old host_key_changed active".to_owned(),
            format!("old host_recovered {old}"),
            "old host_unreachable resolved".to_owned(),
            format!("prober_connected {old}"),
            "prober_isolated resolved".to_owned(),
            format!("quiet host_recovered {quiet}"),
            "quiet host_unreachable resolved".to_owned(),
        ]
    };
    let are = async |old: &str, quiet| (stages.texts(query).await == wanted(old, quiet)).then_some(());
    eventually("all alerts", async || are("active", "active").await).await;
    // Three begin and one ends on each host, one less where no key changed and of the prober.
    let told = catcher.at_least(14).await.len();
    stages
        .meddle(
            "update alert a set updated_at = now() - case h.name when 'new' then interval '23 hours' else interval '25 hours' end,
               state = case when h.name = 'quiet' and a.state = 'active' then 'silenced' else a.state end,
               silenced_until = case when h.name = 'quiet' and a.state = 'active' then now() + interval '6 days' end
             from alert b left join host h on h.id = b.host_id where b.id = a.id",
        )
        .await;
    eventually("the end of old news", async || are("resolved", "silenced").await).await;
    stages.relayed().await;
    assert_eq!(stages.audited("alert.resolved").await, 6);
    // What is told next is the next thing that happens: the end of the news was told to nobody.
    moves(&stages, new, 4..5).await;
    let after = catcher.at_least(told + 2).await;
    let told: Vec<_> = after[told..].iter().map(|it| it.json()["tags"]["host"].clone()).collect();
    assert_eq!(told, ["new", "new"], "an outage, and the end of good news that it is");
}

// @spec alert-router
// @ac AC-11
#[tokio::test(flavor = "multi_thread")]
async fn a_milder_repeat_leaves_an_alert_as_grave_as_it_was() {
    proves("AC-11");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    let hook = |path: &str| Target::Webhook { url: catcher.url(path), secret: WEBHOOK_SECRET.to_owned() };
    let tag = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    stages.channel_with("grave", hook("/grave"), |it| it.tags = tag("severity", "critical")).await;
    stages.channel_with("prod", hook("/prod"), |it| it.tags = tag("label.env", "prod")).await;
    let _running = stages.run(&[Stage::Writer, Stage::Drift, Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    stages.meddle("insert into host_label (host_id, key, value) select id, 'env', 'prod' from host").await;
    let scan = async |failing: usize| {
        let mut all = outcomes(40, failing);
        all[0].severity = Some(Severity::Critical);
        stages.scanned(host, &all).await;
        settled(&stages, "drift").await;
        settled(&stages, "alerts").await;
    };
    scan(0).await;
    scan(8).await;
    // It falls again, now without a critical rule; and whoever was told under its label is told of its end without it.
    stages.meddle("delete from host_label").await;
    scan(16).await;
    let open = "select concat_ws(' ', alert_type, severity, tags->>'severity', occurrences) from alert";
    assert_eq!(stages.texts(open).await, ["drift_major critical critical 2"]);
    let updated = stages.events(Kind::AlertUpdated, host).await;
    let severity = |it: &Stored| serde_json::from_slice::<Value>(&it.payload).unwrap()["severity"].clone();
    assert_eq!(updated.iter().map(severity).collect::<Vec<_>>(), ["critical"]);
    scan(0).await;
    let told = catcher.at_least(4).await;
    for it in &told {
        let tags = it.json()["tags"].as_object().unwrap().clone();
        let known = |tag: &str| TAGS.contains(&tag) || tag.starts_with("label.");
        assert!(tags.keys().all(|tag| known(tag)), "nobody could listen to all of {tags:?}");
    }
    let mut told: Vec<_> = told
        .into_iter()
        .map(|it| format!("{} {}", it.path, it.json()["event"].as_str().unwrap_or_default()))
        .collect();
    told.sort();
    assert_eq!(
        told,
        ["/grave alert.opened", "/grave alert.resolved", "/prod alert.opened", "/prod alert.resolved"]
    );
}

// @spec alert-router
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_flaps_is_told_as_such_and_then_only_when_it_lasts() {
    proves("AC-06");
    let stages = Stages::under(TOFU).await;
    let catcher = Catcher::start().await;
    stages.webhook("hook", catcher.url("/hook")).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let host = stages.host("web", 22).await;
    // Three outages that end, and a fourth.
    moves(&stages, host, 2..9).await;
    let told = || async {
        let all: Vec<_> = catcher.all().iter().map(|it| it.json()).collect();
        all.iter()
            .map(|it| {
                let tags = it["tags"].as_object().unwrap();
                assert!(tags.keys().all(|tag| TAGS.contains(&tag.as_str())), "{tags:?}");
                format!(
                    "{} {}",
                    it["event"].as_str().unwrap(),
                    tags.get("flapping").is_some_and(|it| it == "true")
                )
            })
            .collect::<Vec<_>>()
    };
    catcher.at_least(6).await;
    let mut first = told().await;
    first.sort();
    let word = |event: &str, flaps: bool| format!("{event} {flaps}");
    assert_eq!(
        first,
        [
            word("alert.opened", false),
            word("alert.opened", false),
            word("alert.opened", true),
            word("alert.resolved", false),
            word("alert.resolved", false),
            word("alert.resolved", true),
        ]
    );
    let open = "select count(*) from alert where alert_type = 'host_unreachable' and state = 'active' and withheld_until > now()";
    assert_eq!(stages.number(open).await, 1, "it is there for whoever looks");
    // It ends and begins again: nobody is told of either.
    moves(&stages, host, 9..11).await;
    assert_eq!(stages.number("select count(*) from alert_delivery").await, 6);
    // It lasts: then it is told, once.
    stages.meddle("update alert set withheld_until = now() where withheld_until is not null").await;
    let seventh = catcher.at_least(7).await.pop().unwrap().json();
    assert_eq!((&seventh["event"], &seventh["type"]), (&"alert.opened".into(), &"host_unreachable".into()));
    settled(&stages, "alerts").await;
    assert_eq!(stages.number("select count(*) from alert_delivery").await, 7);
}

// @spec alert-router
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn what_is_about_no_host_is_routed_as_well_and_poison_is_put_aside() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Alerts]).await;
    let rejected = PolicyRejected {
        reason: "bad_signature".to_owned(),
        attempted_version: Some("2.0.0".to_owned()),
        active_version: Some("1.0.0".to_owned()),
    };
    let mut poison = tell(&stages, None, Timestamp::now_utc(), rejected).await;
    become_alerts(&stages, &["policy_rejected active 1"]).await;
    poison.message_id = "poison".to_owned();
    poison.payload = "{\"reason\": 7}".into();
    stages.world.bus(User::Admin).await.publish(&poison).await.unwrap();
    settled(&stages, "alerts").await;
    let letters = stages.admin.stream_info("OW_DLQ").await.unwrap().messages;
    assert_eq!(letters, 1, "a message that cannot be read is a dead letter");
    assert_eq!(alerts(&stages).await, ["policy_rejected active 1"]);
}
