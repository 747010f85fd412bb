//! The audit log, through the program: the registry, what the command line leaves in it, and how it is read.

mod keeping;
pub(crate) mod registry;

use std::time::Duration;

use openwatch_bus::message::audit::Records;
use openwatch_bus::{Bus, User, subject};
use openwatch_store::Role;
use openwatch_tests::{Program, Stack, Stages, eventually, eventually_within};
use reqwest::Method;
use serde_json::json;
use sqlx::Executor as _;

use crate::api::{Served, told};

pub(crate) fn proves(ac: &str) {
    println!("@spec audit");
    println!("@ac {ac}");
}

/// Everything on the audit stream, oldest first.
pub(crate) async fn stream(bus: &Bus) -> Vec<Records> {
    let (mut from, mut all) = (1, Vec::new());
    while let Some(stored) = bus.next_message(subject::AUDIT, from, "ow.v1.audit.>").await.unwrap() {
        from = stored.sequence + 1;
        all.push(Records::decode(&stored.payload).unwrap());
    }
    all
}

// @spec audit
// @ac AC-02
#[tokio::test]
async fn what_the_command_line_does_by_itself_reaches_log_and_stream_once() {
    proves("AC-02");
    let mut stack = Stack::start().await;
    let private = openwatch_tests::eventually("the client's file", || async { Some(stack.client()) }).await;
    let seed = std::fs::read_to_string(stack.data_dir().join("keys/nats/admin.nk")).unwrap();
    let options = openwatch_bus::BusOptions::new([private.nats_url], User::Admin).seed(seed.into());
    let bus = Bus::connect(options).await.unwrap();
    let codes = ["system.migration.applied", "corpus.published", "auth.api_key.created", "system.startup"];
    eventually_within(Duration::from_secs(30), "every row on the stream", || async {
        let sent = stream(&bus).await;
        let count =
            |code: &str| sent.iter().filter(|r| r.code == code).map(|r| r.details.len()).sum::<usize>();
        let mut all = true;
        for code in codes {
            let rows = stack.json(&["audit", "--code", code]).await;
            let rows = rows.as_array()?.len();
            assert!(count(code) <= rows, "{code} is on the stream more often than in the log");
            all &= rows > 0 && count(code) == rows;
        }
        all.then_some(())
    })
    .await;
    // An orderly end is on record too; the next start sends what the last could not.
    stack.up().terminate().await;
    stack.restart().await;
    let stopped = stack.json(&["audit", "--code", "system.shutdown"]).await;
    assert_eq!(stopped.as_array().unwrap().len(), 8, "one for each role: {stopped}");
}

// @spec audit
// @ac AC-03
#[tokio::test]
async fn the_log_is_read_by_what_it_says_and_by_whom() {
    proves("AC-03");
    let api = Served::new().await;
    let host = api.host("web-1").await;
    api.host("web-2").await;
    assert_eq!(api.delete("/hosts/web-2").await.status, 204);
    let codes = |query: &str| {
        let path = format!("/audit?{query}");
        async {
            let page = api.get(&{ path }).await;
            assert_eq!(page.status, 200, "{page:?}");
            let rows = page.body["items"].as_array().unwrap().clone();
            rows.iter().map(|row| row["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(codes("code=host").await, ["host.deleted", "host.created", "host.created"]);
    assert_eq!(codes("code=host.deleted&actor=the-admin").await, ["host.deleted"]);
    assert_eq!(codes(&format!("code=host&host={host}")).await, ["host.created"]);
    assert_eq!(codes("actor=somebody").await, Vec::<String>::new());
    assert_eq!(codes("code=host&severity=error").await, Vec::<String>::new());
    for (query, pointer) in [
        ("code=no.such.code", "code"),
        ("code=nothing", "code"),
        ("since=2026-01-02T00:00:00Z&until=2026-01-02T00:00:00Z", "until"),
    ] {
        let refused = api.get(&format!("/audit?{query}")).await;
        assert_eq!(
            (refused.code(), &refused.body["errors"][0]["pointer"]),
            ("audit.query_invalid", &json!(pointer))
        );
    }
    assert_eq!(api.get("/audit?severity=loud").await.code(), "validation.field_format");
    assert_eq!(api.get("/audit?limit=201").await.code(), "pagination.limit_exceeded");

    // Five rows of one moment, as their ids tell too, on pages of two: each exactly once; since counts, until does not.
    let rows = "insert into audit_event (id, action, severity, actor_type, actor_label, detail, occurred_at)
        select ('019b76da-a800-7000-8000-' || lpad(n::text, 12, '0'))::uuid, 'scan.queued', 'info', 'system', 'same', '{}',
          '2026-01-01T00:00:00Z' from generate_series(1, 5) n";
    api.database.connect().await.execute(rows).await.unwrap();
    let (mut seen, mut cursor) = (std::collections::BTreeSet::new(), String::new());
    loop {
        let page = api.get(&format!("/audit?actor=same&limit=2{cursor}")).await;
        let items = page.body["items"].as_array().unwrap();
        items.iter().for_each(|row| assert!(seen.insert(row["id"].to_string()), "twice"));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 5);
    let moment = "2026-01-01T00:00:00Z";
    assert_eq!(codes(&format!("actor=same&since={moment}")).await.len(), 5);
    assert_eq!(codes(&format!("actor=same&until={moment}")).await.len(), 0);
}

// @spec audit
// @ac AC-04
#[tokio::test]
async fn a_table_runs_no_formula_and_says_when_it_was_cut() {
    proves("AC-04");
    let api = Served::new().await;
    let rows = "insert into audit_event (id, action, severity, actor_type, actor_label, detail, occurred_at)
        select gen_random_uuid(), 'scan.queued', 'info', 'system', '=cmd()', '{\"a\": \"x,y\"}', now() from generate_series(1, 10001)";
    api.database.connect().await.execute(rows).await.unwrap();
    let export = |query: &str| {
        told(
            api.request(Method::GET, &format!("/api/v1/audit/export{query}"))
                .bearer_auth(api.token("operator")),
        )
    };
    let all = export("?code=scan").await;
    assert_eq!((all.status, all.headers["content-type"].to_str().unwrap()), (200, "text/csv; charset=utf-8"));
    assert_eq!(all.headers["openwatch-truncated"], "true");
    let text = all.body.as_str().unwrap();
    assert_eq!(text.lines().count(), 10_001, "a heading and ten thousand rows");
    let row = text.lines().nth(1).unwrap();
    assert!(row.contains(",system,'=cmd(),") && row.ends_with(r#""{""a"":""x,y""}""#), "{row}");
    let few = export("?code=scan&limit=10001").await;
    assert_eq!(few.code(), "pagination.limit_exceeded");
    let none = export("?actor=nobody").await;
    assert_eq!((none.status, &none.headers["openwatch-truncated"]), (200, &"false".parse().unwrap()));

    // And on the command line.
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, api.token("operator")).unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let audit = |more: &[&str]| {
        let program = Program::new(["audit", "--url", &api.url, "--token-file"]).arg(&token);
        more.iter().fold(program, |program, arg| program.arg(arg))
    };
    let (code, stdout, stderr) = audit(&["--csv", "--limit", "7", "--code", "scan"]).run().await;
    assert_eq!((code, stdout.lines().count()), (Some(0), 8), "{stderr}");
    assert!(stderr.contains("more"), "{stderr}");
    let (code, stdout, stderr) = audit(&["--json", "--limit", "450", "--code", "scan.queued"]).run().await;
    let rows: Vec<serde_json::Value> = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, rows.len()), (Some(0), 450), "{stderr}");
    let (code, _, stderr) = audit(&["--code", "no.such"]).run().await;
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("docs/AUDIT.md"), "{stderr}");
}

// @spec audit
// @ac AC-05
#[tokio::test]
async fn no_role_changes_the_log() {
    proves("AC-05");
    let api = Served::new().await;
    api.host("web-1").await;
    let mut database = api.database.connect().await;
    for role in Role::ALL {
        for statement in
            ["update audit_event set action = 'a.b'", "delete from audit_event", "truncate audit_event"]
        {
            let text = format!("set role openwatch_{}; {statement}", role.as_str());
            let refused = database.execute(sqlx::raw_sql(sqlx::AssertSqlSafe(text))).await.unwrap_err();
            let code =
                refused.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
            assert_eq!(code.as_deref(), Some("42501"), "{role:?}: {statement}: {refused}");
            database.execute("reset role").await.unwrap();
        }
    }
}

// @spec audit
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_result_is_told_once_however_often_it_is_delivered() {
    proves("AC-06");
    let stages = Stages::under(openwatch_tests::stages::TOFU).await;
    let host = stages.host("web", 22).await;
    let (job, _) = stages.job(host, |_| ()).await;
    let mut message = stages.result(&job, &[]);
    message.payload = b"{\"version\":1}".as_slice().into();
    // The same words in two places of the stream, and each delivered to a writer that forgot the first time.
    stages.send(&message).await;
    let writer = stages.run(&[openwatch_app::run::Stage::Writer]).await;
    let letters = || async { stages.audited("message.dead_lettered").await };
    eventually("a dead letter", || async { (letters().await == 1).then_some(()) }).await;
    drop(writer);
    // Its consumer made anew: everything is delivered again.
    let nats = &stages.world.nats;
    let context = async_nats::jetstream::new(nats.client(User::Admin).await);
    let stream = context.get_stream("OW_RESULTS").await.unwrap();
    stream.delete_consumer("writer").await.unwrap();
    openwatch_bus::topology::apply(&stages.admin, openwatch_bus::Profile::Small).await.unwrap();
    let _writer = stages.run(&[openwatch_app::run::Stage::Writer]).await;
    let acked = || async {
        let info = stages.admin.consumer_info("OW_RESULTS", "writer").await.unwrap();
        (info.ack_floor >= 1).then_some(())
    };
    eventually("the second delivery to end", acked).await;
    stages.relayed().await;
    assert_eq!(letters().await, 1);
    assert_eq!(stages.admin.dead_letters(1, 10).await.unwrap().len(), 1);
}
