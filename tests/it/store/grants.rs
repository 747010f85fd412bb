//! Each stage may do to the database what its hand-overs need, and nothing more.

use openwatch_store::Role;
use sqlx::{AssertSqlSafe, PgConnection};

use super::{Rig, passing};

/// Whether the role is refused for want of a right.
async fn denied(connection: &mut PgConnection, role: Role, statement: &str) -> bool {
    let script = format!("begin; set local role openwatch_{}; {statement}; rollback", role.as_str());
    let outcome = sqlx::raw_sql(AssertSqlSafe(script)).execute(&mut *connection).await;
    sqlx::raw_sql("rollback").execute(connection).await.unwrap();
    match outcome {
        Ok(_) => false,
        Err(error) => {
            let code = error.as_database_error().and_then(|e| e.code()).map(String::from);
            assert_eq!(code.as_deref(), Some("42501"), "{role:?}: {statement}: {error}");
            true
        }
    }
}

#[tokio::test]
async fn nobody_changes_history() {
    let rig = Rig::new().await;
    let host = rig.host("web-1").await;
    rig.scanned(host, &passing(3)).await;
    let mut look = rig.look().await;
    for role in Role::ALL {
        for table in ["transactions", "evidence", "scan_ledger", "drift", "alert_transition", "audit_event"] {
            assert!(
                denied(&mut look, role, &format!("delete from {table}")).await,
                "{role:?} deletes from {table}"
            );
        }
        for change in [
            "update transactions set status = 'pass'",
            "update evidence set body = '{}'",
            "update scan_ledger set pass = 0",
            "update drift set kind = 'stable'",
            "update audit_event set action = 'a.b'",
            "truncate transactions",
            "drop table transactions",
            "delete from host",
            "delete from scan",
        ] {
            assert!(denied(&mut look, role, change).await, "{role:?}: {change}");
        }
    }
}

#[tokio::test]
async fn only_the_scheduler_writes_the_schedule() {
    let rig = Rig::new().await;
    rig.host("web-1").await;
    let mut look = rig.look().await;
    for role in Role::ALL {
        let update =
            denied(&mut look, role, "update host_compliance_schedule set next_scheduled_scan = now()").await;
        assert_eq!(update, role != Role::Scheduler, "{role:?}");
        let insert = "insert into host_compliance_schedule (host_id) select id from host";
        assert!(denied(&mut look, role, insert).await, "{role:?} inserts");
    }
}

#[tokio::test]
async fn only_the_vault_reads_secrets() {
    let rig = Rig::new().await;
    let mut look = rig.look().await;
    for role in Role::ALL {
        for column in ["ciphertext", "sealed", "*"] {
            let refused = denied(&mut look, role, &format!("select {column} from credential")).await;
            assert_eq!(refused, role != Role::Vault, "{role:?} reads {column}");
        }
    }
    for role in [Role::Writer, Role::Drift, Role::Alerts, Role::Liveness, Role::Caretaker] {
        assert!(denied(&mut look, role, "select name from credential").await, "{role:?}");
    }
}

#[tokio::test]
async fn only_the_writer_writes_what_was_found_and_only_the_scheduler_signs() {
    let rig = Rig::new().await;
    let mut look = rig.look().await;
    for role in Role::ALL {
        let others = role != Role::Writer;
        for statement in
            ["update rule_state set status = 'pass'", "insert into transactions select * from transactions"]
        {
            assert_eq!(denied(&mut look, role, statement).await, others, "{role:?}: {statement}");
        }
        let ends = matches!(role, Role::Writer | Role::Caretaker);
        assert_eq!(
            denied(&mut look, role, "insert into scan_ledger select * from scan_ledger").await,
            !ends,
            "{role:?}"
        );
        let signs = denied(&mut look, role, "update scan set timeout_sec = 1").await;
        assert_eq!(signs, role != Role::Scheduler, "{role:?}");
        let tokens = denied(&mut look, role, "select token_hash from api_token").await;
        assert_eq!(tokens, role != Role::Api, "{role:?}");
    }
}

#[tokio::test]
async fn scans_are_opened_by_those_who_ask_and_closed_by_those_who_end_them() {
    let rig = Rig::new().await;
    let mut look = rig.look().await;
    for role in Role::ALL {
        let asks = matches!(role, Role::Scheduler | Role::Api);
        let ends = matches!(role, Role::Writer | Role::Caretaker);
        let may = [
            ("select * from open_scan", asks || ends),
            ("insert into open_scan select * from open_scan", asks),
            ("delete from open_scan", ends),
            ("update open_scan set unissued = true", asks || role == Role::Caretaker),
            ("update open_scan set scan_id = gen_random_uuid()", false),
        ];
        for (statement, may) in may {
            assert_eq!(denied(&mut look, role, statement).await, !may, "{role:?}: {statement}");
        }
    }
}

#[tokio::test]
async fn the_scheduler_reads_what_falls_due_and_no_more() {
    let rig = Rig::new().await;
    rig.host("web-1").await;
    let mut look = rig.look().await;
    for table in [
        "host_label",
        "known_host_key",
        "shown_host_key",
        "host_liveness",
        "host_state",
        "credential",
        "channel",
    ] {
        for what in ["*", "count(*)"] {
            let statement = format!("select {what} from {table}");
            assert!(denied(&mut look, Role::Scheduler, &statement).await, "{statement}");
        }
    }
    for statement in [
        "select address from host",
        "select credential_id from host",
        "select failure_detail from scan",
        "select correlation from scan",
        "select last_error_code from host_backoff_state",
        "select * from scan_ledger",
        "select * from evidence",
        "select * from audit_event",
        "select * from api_token",
    ] {
        assert!(denied(&mut look, Role::Scheduler, statement).await, "{statement}");
    }
}

#[tokio::test]
async fn only_the_scheduler_says_which_policy_is_in_force() {
    let rig = Rig::new().await;
    let mut look = rig.look().await;
    for role in Role::ALL {
        for statement in [
            "update policy_history set superseded_at = null",
            "update policy_history set signature = document",
            "insert into policy_history select * from policy_history",
            "insert into policy_revocation select * from policy_revocation",
        ] {
            assert_eq!(
                denied(&mut look, role, statement).await,
                role != Role::Scheduler,
                "{role:?}: {statement}"
            );
        }
        for change in [
            "update policy_history set document = ''",
            "delete from policy_history",
            "delete from policy_revocation",
        ] {
            assert!(denied(&mut look, role, change).await, "{role:?}: {change}");
        }
    }
}
