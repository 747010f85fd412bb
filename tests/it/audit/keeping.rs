//! What is kept: a line for every table and stream, sweeps that run, and what becomes of what cannot be sent.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;

use openwatch_app::run::Stage;
use openwatch_bus::User;
use openwatch_bus::subject::BUCKET_CORPORA;
use openwatch_model::retention::{Kept, RETENTION, Store};
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Database, Stages, eventually};
use sqlx::Row as _;

use super::proves;
use super::registry::checkout;

// @spec audit
// @ac AC-07
#[tokio::test]
async fn every_table_and_stream_has_its_line_and_no_line_is_left_over() {
    proves("AC-07");
    let database = Database::new().await;
    let query = "select table_name::text from information_schema.tables
                 where table_schema = 'public' and table_type = 'BASE TABLE'";
    let rows = sqlx::query(query).fetch_all(&mut database.connect().await).await.unwrap();
    let tables: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let listed =
        |store| RETENTION.iter().filter(|it| it.store == store).map(|it| it.name.to_owned()).collect();
    assert_eq!(tables, listed(Store::Table));

    let mut streams = BTreeSet::new();
    for entry in fs::read_dir(checkout().join("nats/streams")).unwrap() {
        let path = entry.unwrap().path();
        let config: serde_json::Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let name = config["name"].as_str().unwrap().to_owned();
        let line =
            RETENTION.iter().find(|it| it.name == name).unwrap_or_else(|| panic!("{name} has no line"));
        let Kept::Hours(hours, _) = line.kept else { panic!("{name}: a stream keeps for some hours") };
        assert_eq!(config["max_age"].as_u64(), Some(u64::from(hours) * 3_600_000_000_000), "{name}");
        streams.insert(name);
    }
    assert_eq!(streams, listed(Store::Stream));
}

/// To renew: `UPDATE_SPECS=1 cargo test -p openwatch-tests --test it -- audit::keeping`.
#[test]
fn the_printed_list_is_current() {
    let mut text = String::from(
        "# What is kept, and how long\n\nWritten from `crates/model/src/retention.rs`. Settings are those of the process that runs \
         the scheduler; `openwatch config check` tells what they are.\n\n| what | kept | removed by | why |\n|---|---|---|---|\n",
    );
    for it in RETENTION {
        let kept = match it.kept {
            Kept::Always => "always".to_owned(),
            Kept::With(what) => format!("with {what}"),
            Kept::Until(what) => format!("until {what}"),
            Kept::Hours(0, _) => "as long as it is needed".to_owned(),
            Kept::Hours(hours, setting) => {
                let days = format!("{} days", hours / 24);
                setting.map_or(days.clone(), |setting| format!("{days} (`{setting}`)"))
            }
        };
        let _ = writeln!(text, "| `{}` | {kept} | {} | {} |", it.name, it.swept_by, it.why);
    }
    let path = checkout().join("docs/RETENTION.md");
    if std::env::var_os("UPDATE_SPECS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap_or_default() == text, "docs/RETENTION.md is not current");
}

// @spec audit
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn the_caretaker_sweeps_what_has_had_its_day_and_nothing_else() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    stages
        .meddle(
            "insert into inbox (consumer, message_id, received_at)
               values ('x', 'old', now() - interval '36 days'), ('x', 'new', now() - interval '34 days');
             insert into idempotency_key (actor, key, request_hash, created_at, expires_at)
               values ('x', 'old', sha256('a'), now() - interval '2 days', now() - interval '1 hour'),
                      ('x', 'new', sha256('a'), now(), now() + interval '1 day');",
        )
        .await;
    // Deliveries that ended, long ago and of late, and one that waits; a try of each.
    stages
        .meddle(
            "insert into channel (id, name, kind, created_by) values ('00000000-0000-0000-0000-000000000001', 'out', 'stdout', 'x');
             insert into alert_delivery (id, transition, channel_id, payload, state, next_try_at, created_at, finished_at)
               select gen_random_uuid(), n, '00000000-0000-0000-0000-000000000001', '{}',
                 case when age is null then 'pending' else 'delivered' end, now() + interval '1 day', now(), now() - age
               from (values (1, interval '91 days'), (2, interval '89 days'), (3, null)) as d (n, age);
             insert into alert_delivery_attempt (delivery_id, attempt, delivered, tried_at)
               select id, 1, false, now() from alert_delivery;",
        )
        .await;
    // Corpora: one that nothing names, one that an open scan names, and one of yesterday, which a newer one has replaced.
    let mut digests = Vec::new();
    for (rule, age) in [("unnamed", 8), ("named", 8), ("young", 1), ("newest", 0)] {
        stages.publish(&[(rule, "true")]).await;
        let digest =
            stages.texts("select digest from corpus order by published_at desc limit 1").await.remove(0);
        stages
            .meddle(&format!(
                "update corpus set published_at = now() - interval '{age} days' where digest = '{digest}'"
            ))
            .await;
        digests.push(digest);
    }
    let host = stages.host("web", 9).await;
    stages.job(host, |job| job.corpus.clone_from(&digests[1])).await;
    let gone = digests.remove(0);
    digests.sort();

    let _process = stages.run(&[Stage::Scheduler]).await;
    let left = "select message_id from inbox where consumer = 'x' union all select key from idempotency_key";
    eventually("the sweep", || async { (stages.texts(left).await == ["new", "new"]).then_some(()) }).await;
    let deliveries = "select d.transition || ' ' || count(a.*) from alert_delivery d
                      left join alert_delivery_attempt a on a.delivery_id = d.id group by d.id order by 1";
    assert_eq!(stages.texts(deliveries).await, ["2 1", "3 1"]);
    assert_eq!(stages.number("select count(*) from alert_delivery_attempt").await, 2);
    let kept = "select digest from corpus order by 1";
    eventually("corpora", || async { (stages.texts(kept).await == digests).then_some(()) }).await;
    let mut bundles = stages.admin.list_objects(BUCKET_CORPORA).await.unwrap();
    bundles.sort();
    assert_eq!(bundles, digests, "without {gone}");
}

// @spec audit
// @ac AC-09
#[tokio::test(flavor = "multi_thread")]
async fn what_the_bus_refuses_for_ever_becomes_a_dead_letter_and_holds_nothing_up() {
    proves("AC-09");
    let stages = Stages::under(TOFU).await;
    // Larger than the stream takes, before one that is fine.
    stages
        .meddle(
            "insert into outbox (sender, message_id, subject, headers, payload, created_at) values
               ('writer', 'large', 'ow.v1.evt.scan_failed.x', '{}', decode(repeat('00', 200000), 'hex'), now()),
               ('writer', 'fine', 'ow.v1.evt.scan_failed.x', '{}', 'x', now())",
        )
        .await;
    let _process = stages.run(&[Stage::Writer]).await;
    stages.relayed().await;
    let bus = stages.world.bus(User::Admin).await;
    let letters = bus.dead_letters(1, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let letter = &letters[0].letter;
    assert_eq!(
        (letter.stage.as_str(), letter.stream.as_str(), letter.payload.len()),
        ("writer", "outbox", 200_000)
    );
    assert_eq!(stages.audited("message.dead_lettered").await, 1);
    let sent = bus.next_message("OW_EVENTS", 1, "ow.v1.evt.scan_failed.x").await.unwrap().unwrap();
    assert_eq!(sent.header("Nats-Msg-Id"), Some("fine"));
}

// @spec audit
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_stalls_is_on_record_once() {
    proves("AC-10");
    let stages = Stages::under(TOFU).await;
    // Nobody may publish there, so it waits for somebody to mend the permissions.
    stages
        .meddle(
            "insert into outbox (sender, message_id, subject, headers, payload, created_at)
               values ('writer', 'stuck', 'ow.v1.job.manual.x', '{}', 'x', now() - interval '5 minutes')",
        )
        .await;
    let _process = stages.run(&[Stage::Writer]).await;
    eventually("a row about it", || async {
        (stages.audited("outbox.relay.stalled").await == 1).then_some(())
    })
    .await;
}
