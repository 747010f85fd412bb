//! What the founding documents ask of the writer, where the writer's other tests do not come by it.

use std::path::{Path, PathBuf};

use openwatch_bus::message::result::encode_final;
use openwatch_bus::{User, subject};
use openwatch_tests::stages::measured;
use serde_json::{Value, json};

use super::*;

/// How many transactions of the database wrote what a scan left in tables that only its end writes.
async fn transactions_of_the_database(stages: &Stages, scan: ScanId) -> i64 {
    let query = format!(
        "select count(distinct xid) from (
           select xmin::text from scan_ledger where scan_id = '{scan}'
           union all select xmin::text from scan where id = '{scan}'
           union all select xmin::text from host_state where full_scan_id = '{scan}'
           union all select xmin::text from transactions where scan_id = '{scan}'
           union all select xmin::text from rule_state where host_id = (select host_id from scan where id = '{scan}')
             and last_changed_at = (select applied_at from scan_ledger where scan_id = '{scan}')
           union all select xmin::text from audit_event where cause = '{scan}' and action in ('scan.completed', 'finding.persisted')
         ) it (xid)"
    );
    stages.number(&query).await
}

// @spec transaction-log-writer
// @ac AC-01
#[tokio::test(flavor = "multi_thread")]
async fn fifty_rules_cost_one_tx_whatever_became_of_them() {
    proves("AC-01");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    for (what, failing) in [("first seen", 0), ("unchanged", 0), ("changed", 10)] {
        let scan = stages.scanned(host, &outcomes(50, failing)).await;
        assert_eq!(transactions_of_the_database(&stages, scan).await, 1, "{what}");
    }
}

// @spec transaction-log-writer
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_database_refuses_leaves_nothing_of_its_batch() {
    proves("AC-06");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    // The eighth of twenty rows has nothing to refer to.
    stages
        .meddle(
            "create table known_rule as select 'rule-' || lpad(n::text, 4, '0') as id from generate_series(0, 19) n where n <> 7;
             alter table known_rule add primary key (id);
             alter table transactions add constraint known_rule_fkey foreign key (rule_id) references known_rule (id)",
        )
        .await;
    let (job, _) = stages.job(host, |_| ()).await;
    stages.send(&stages.result(&job, &outcomes(20, 2))).await;
    assert_eq!(stages.ended(job.scan).await, "failed");
    for table in ["transactions", "rule_state", "evidence", "rule_revision"] {
        assert_eq!(stages.number(&format!("select count(*) from {table}")).await, 0, "{table}");
    }
    let failed = "select concat_ws(' ', detail->>'reason', detail->>'rule_count_attempted') from audit_event
                  where action = 'writer.apply.failed'";
    assert_eq!(stages.texts(failed).await, ["fk_violation 20"]);
    assert_eq!(stages.audited("finding.persisted").await, 0);
    // Nothing is left over that a later scan would stumble on.
    stages.meddle("alter table transactions drop constraint known_rule_fkey").await;
    let scan = stages.scanned(host, &outcomes(20, 2)).await;
    assert_eq!(transactions(&stages, scan).await, 20);
}

// @spec transaction-log-writer
// @ac AC-07
#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_history_stays() {
    proves("AC-07");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let host = stages.host("web", 22).await;
    let scan = stages.scanned(host, &outcomes(3, 1)).await;
    let referred_to = [
        format!("delete from host where id = '{host}'"),
        format!("delete from scan where id = '{scan}'"),
        "delete from evidence".to_owned(),
        format!("delete from rule_state where host_id = '{host}'; delete from host where id = '{host}'"),
    ];
    for statement in referred_to {
        let mut connection = stages.world.database.connect().await;
        let refused = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.clone())).execute(&mut connection).await;
        let code = refused.err().and_then(|e| Some(e.as_database_error()?.code()?.into_owned()));
        assert_eq!(code.as_deref(), Some("23503"), "{statement}");
    }
}

/// A result around outcomes that no honest worker writes.
fn bent(
    stages: &Stages,
    job: &openwatch_model::scan::Job,
    bend: impl FnOnce(&mut Value),
) -> openwatch_bus::Outgoing {
    let whole = encode_final(&measured(job, &outcomes(4, 1)));
    let mut json: Value = serde_json::from_slice(&zstd::decode_all(&whole[..]).unwrap()).unwrap();
    bend(&mut json);
    stages.signed(job, zstd::encode_all(json.to_string().as_bytes(), 3).unwrap().into())
}

// @spec transaction-log-writer
// @ac AC-08
#[tokio::test(flavor = "multi_thread")]
async fn evidence_is_an_object_of_the_published_shape() {
    proves("AC-08");
    let stages = Stages::under(TOFU).await;
    let _running = stages.run(&[Stage::Writer]).await;
    let wrong = [
        json!([]),
        json!("x"),
        json!(7),
        Value::Null,
        json!({"checks": {}}),
        json!({"checks": [{"exit_code": "0"}]}),
    ];
    for (number, evidence) in wrong.into_iter().enumerate() {
        let host = stages.host(&format!("bent-{number}"), 22).await;
        let (job, _) = stages.job(host, |_| ()).await;
        let message = bent(&stages, &job, |it| {
            it["completed"]["outcomes"][2]["evidence"] = evidence.clone();
        });
        stages.send(&message).await;
        assert_eq!(stages.ended(job.scan).await, "failed", "{evidence}");
        let why = format!("select failure_reason from scan where id = '{}'", job.scan);
        assert_eq!(stages.texts(&why).await, ["invalid_result"], "{evidence}");
        let failed = format!(
            "select detail->>'reason' from audit_event where action = 'writer.apply.failed' and detail->>'scan_id' = '{}'",
            job.scan
        );
        assert_eq!(stages.texts(&failed).await, ["invalid_result"], "{evidence}");
        assert_eq!(stages.admin.dead_letters(1, 100).await.unwrap().len(), number + 1);
    }
    assert_eq!(stages.number("select count(*) from evidence").await, 0);

    let host = stages.host("straight", 22).await;
    let mut odd = outcomes(4, 1);
    odd[0].evidence.checks[0].stdout = "a\0b".to_owned();
    odd[1].evidence.checks.clear();
    stages.scanned(host, &odd).await;
    let schema = std::fs::read_to_string(root().join("specs/schemas/evidence.json")).unwrap();
    let schema = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
    let bodies = stages.texts("select body::text from evidence").await;
    assert_eq!(bodies.len(), 4);
    for body in bodies {
        let body: Value = serde_json::from_str(&body).unwrap();
        assert!(schema.is_valid(&body), "{body}");
    }
}

// @spec transaction-log-writer
// @ac AC-11
#[tokio::test(flavor = "multi_thread")]
async fn fifty_hosts_with_the_same_news_at_once() {
    proves("AC-11");
    let stages = Stages::under(TOFU).await;
    let mut messages = Vec::new();
    for number in 0..50 {
        let host = stages.host(&format!("web-{number}"), 22).await;
        let (job, _) = stages.job(host, |_| ()).await;
        messages.push(stages.result(&job, &outcomes(100, 7)));
    }
    for message in &messages {
        stages.send(message).await;
    }
    let (_one, _two) = (stages.run(&[Stage::Writer]).await, stages.run(&[Stage::Writer]).await);
    openwatch_tests::eventually_within(Duration::from_secs(60), "fifty results applied", || async {
        (stages.number("select count(*) from scan_ledger where outcome = 'completed'").await == 50)
            .then_some(())
    })
    .await;
    assert_eq!(stages.number("select count(*) from transactions").await, 5000);
    assert_eq!(stages.number("select count(*) from evidence").await, 100, "each body once");
    assert_eq!(stages.audited("writer.apply.failed").await, 0);
    // Whoever is chosen to break a circle gives its message back: nothing was delivered twice.
    let client = stages.world.nats.client(User::Admin).await;
    let info = client
        .request(format!("$JS.API.CONSUMER.INFO.{}.writer", subject::RESULTS), "".into())
        .await
        .unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    assert_eq!(info["delivered"]["consumer_seq"], 50, "{info}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Lines of the program's own sources and migrations that say a word.
fn lines_with(words: &[&str]) -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let named = |name: &str| path.file_name().is_some_and(|it| it == name);
            if path.is_dir() && !named("target") && !named("tests") {
                walk(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs" || it == "sql") {
                found.push(path);
            }
        }
    }
    let mut files = Vec::new();
    walk(&root().join("crates"), &mut files);
    walk(&root().join("migrations"), &mut files);
    assert!(files.len() > 300, "{}", files.len());
    let said = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| words.iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{}: {line}", path.display())).collect::<Vec<_>>()
    };
    files.iter().flat_map(said).collect()
}

// @spec transaction-log-writer
// @ac AC-12
// @spec drift-detector
// @ac AC-12
#[tokio::test]
async fn the_prior_row_is_the_baseline() {
    proves("AC-12");
    println!("@spec drift-detector\n@ac AC-12");
    assert_eq!(lines_with(&["scan_baseline", "ScanBaseline"]), Vec::<String>::new());
    let database = openwatch_tests::Database::new().await;
    let named = "select (select count(*) from pg_class where relname like '%baseline%')
        + (select count(*) from pg_type where typname like '%baseline%')
        + (select count(*) from information_schema.columns where column_name like '%baseline%')";
    let found: i64 = sqlx::query_scalar(named).fetch_one(&mut database.connect().await).await.unwrap();
    assert_eq!(found, 0);
}

// @spec transaction-log-writer
// @ac AC-13
#[test]
fn no_statement_is_put_together_at_run_time() {
    proves("AC-13");
    // sqlx takes a text that was made at run time only from whoever vouches for it with the first of these words.
    assert_eq!(lines_with(&["AssertSqlSafe", "QueryBuilder"]), Vec::<String>::new());
    // And what is not a literal of a checked macro only sets a role.
    let unchecked = lines_with(&["sqlx::query(", "sqlx::query_as(", "sqlx::query_scalar(", "sqlx::raw_sql("]);
    assert!(unchecked.iter().all(|line| line.contains("raw_sql(role")), "{unchecked:#?}");
}
