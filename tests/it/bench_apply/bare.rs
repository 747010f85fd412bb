//! The denominators: the same rows in one statement that knows everything beforehand, and the same batch row by row.

use std::time::Instant;

use openwatch_model::HostId;
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{Bench, Cost, outcomes};

/// Everything that the writer wrote of a host's first scan, in one statement.
const BARE: &str = "
  with e as (
    insert into evidence (hash, body, bytes)
    select x.hash, x.body::jsonb, x.bytes from unnest($5::bytea[], $6::text[], $7::int[]) as x (hash, body, bytes)
  ), l as (
    insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, fail, critical_failing,
      compliance_state, changes, digest, summary, timings, worker, applied_at)
    select $1, $2, 1, 1, 'completed', true, 1, d.pass, d.fail, d.critical_failing, d.compliance_state, d.changes, d.digest,
      d.summary, d.timings, d.worker, now() from scan_ledger d where d.host_id = $3 and d.number = 1
  ), r as (
    insert into rule_state (host_id, rule_id, status, severity, framework_refs, evidence_hash, digest, first_seen_at,
      last_changed_at, first_seq, present_since)
    select $2, x.rule, x.status, x.severity, x.refs::jsonb, x.hash, x.hash, now(), now(), 1, 1
    from unnest($8::text[], $9::text[], $10::text[], $11::text[], $5::bytea[]) as x (rule, status, severity, refs, hash)
  ), t as (
    insert into transactions (id, host_id, rule_id, scan_id, host_number, change_kind, status, severity, framework_refs,
      evidence_hash, occurred_at)
    select x.id, $2, x.rule, $1, 1, 'first_seen', x.status, x.severity, x.refs::jsonb, x.hash, now()
    from unnest($12::uuid[], $8::text[], $9::text[], $10::text[], $11::text[], $5::bytea[]) as x (id, rule, status, severity, refs, hash)
  ), a as (
    insert into audit_event (id, action, severity, actor_type, actor_label, host_id, cause,
      policy_version, detail, redactions, occurred_at)
    select x.id, 'finding.persisted', 'info', 'worker', 'w1', $2, $1::text, $4, x.detail::jsonb, null, now()
    from unnest($12::uuid[], $13::text[]) as x (id, detail)
  ), o as (
    insert into outbox (sender, payload, packed, created_at)
    select 'writer', x.payload, true, now() from unnest($14::bytea[]) as x (payload)
  ), s as (
    update scan set state = 'completed', finished_at = now() where id = $1
  ), n as (
    delete from open_scan where host_id = $2
  )
  update host_state h set full_seq = 1, applied_number = 1, full_number = 1, full_scan_id = $1, full_at = now(), pass = d.pass,
    fail = d.fail, compliance_state = d.compliance_state, platform = d.platform, capabilities = d.capabilities
  from host_state d where h.host_id = $2 and d.host_id = $3";

/// What the writer wrote of the donor's first scan, as it wrote it.
struct Donor {
    rules: Vec<(String, String, Option<String>, String, String, i32)>,
    details: Vec<String>,
    outbox: Vec<Vec<u8>>,
}

async fn donor(db: &mut PgConnection, host: HostId) -> Donor {
    let rules = sqlx::query_as(
        "select t.rule_id, t.status, t.severity, t.framework_refs::text, e.body::text, e.bytes
         from transactions t join evidence e on e.hash = t.evidence_hash where t.host_id = $1 and t.host_number = 1 order by 1",
    );
    let details = "select detail::text from audit_event where action = 'finding.persisted' and host_id = $1
                   and cause = (select scan_id::text from scan_ledger where host_id = $1 and number = 1)";
    let outbox = "select payload from outbox where created_at = (
                  select applied_at from scan_ledger where host_id = $1 and number = 1)";
    Donor {
        rules: rules.bind(host.0).fetch_all(&mut *db).await.unwrap(),
        details: sqlx::query_scalar(details).bind(host.0).fetch_all(&mut *db).await.unwrap(),
        outbox: sqlx::query_scalar(outbox).bind(host.0).fetch_all(&mut *db).await.unwrap(),
    }
}

/// The same rows for another host: texts and hashes are made before the clock runs.
pub(super) async fn first_seen(bench: &mut Bench, from: HostId, name: &str) -> Cost {
    let it = donor(&mut bench.db, from).await;
    assert_eq!((it.rules.len(), it.details.len()), (super::RULES, super::RULES));
    assert!(it.outbox.len() > 2, "{}", it.outbox.len());
    let other = format!("bare-{name}");
    let host = bench.host(&other).await;
    bench.message(host, &[]).await;
    let scan: Uuid = sqlx::query_scalar("select id from scan where host_id = $1")
        .bind(host.0)
        .fetch_one(&mut bench.db)
        .await
        .unwrap();
    let bodies: Vec<String> = it.rules.iter().map(|r| r.4.replace(name, &other)).collect();
    let hashes: Vec<Vec<u8>> = bodies.iter().map(|body| Sha256::digest(body).to_vec()).collect();
    let ids = |many: usize| (0..many).map(|_| Uuid::now_v7()).collect::<Vec<_>>();
    let query = sqlx::query(BARE)
        .bind(scan)
        .bind(host.0)
        .bind(from.0)
        .bind(bench.version.clone())
        .bind(hashes)
        .bind(bodies)
        .bind(it.rules.iter().map(|r| r.5).collect::<Vec<_>>())
        .bind(it.rules.iter().map(|r| r.0.clone()).collect::<Vec<_>>())
        .bind(it.rules.iter().map(|r| r.1.clone()).collect::<Vec<_>>())
        .bind(it.rules.iter().map(|r| r.2.clone()).collect::<Vec<_>>())
        .bind(it.rules.iter().map(|r| r.3.clone()).collect::<Vec<_>>())
        .bind(ids(it.rules.len()))
        .bind(it.details.clone())
        .bind(it.outbox.clone());
    let from = bench.place().await;
    let since = Instant::now();
    query.execute(&mut bench.db).await.unwrap();
    let took = since.elapsed();
    let to = bench.place().await;
    let (records, images) = bench.written(&from, &to).await;
    Cost { took, records, images }
}

/// Tables of who writes rule by rule.
pub(super) const NAIVE: &str = "
  create table naive_state (
    host_id uuid not null, rule_id text not null, current_status text not null, severity text, last_checked_at timestamptz not null,
    check_count integer not null default 1, last_scan_id uuid not null, evidence jsonb not null, framework_refs jsonb not null,
    first_seen_at timestamptz not null, last_changed_at timestamptz not null, primary key (host_id, rule_id));
  create index naive_state_status on naive_state (host_id, current_status);
  create table naive_transactions (
    id uuid primary key, host_id uuid not null, rule_id text not null, scan_id uuid not null, status text not null, severity text,
    change_kind text not null, evidence jsonb not null, framework_refs jsonb not null, occurred_at timestamptz not null,
    unique (scan_id, rule_id));
  create index naive_transactions_rule on naive_transactions (host_id, rule_id, occurred_at desc);
  create index naive_transactions_scan on naive_transactions (scan_id)";

const UPSERT: &str = "
  insert into naive_state (host_id, rule_id, current_status, severity, last_checked_at, last_scan_id, evidence, framework_refs,
    first_seen_at, last_changed_at)
  values ($1, $2, $3, $4, now(), $5, $6::jsonb, $7::jsonb, now(), now())
  on conflict (host_id, rule_id) do update set
    last_changed_at = case when naive_state.current_status = excluded.current_status then naive_state.last_changed_at else now() end,
    current_status = excluded.current_status, severity = excluded.severity, last_checked_at = now(),
    check_count = naive_state.check_count + 1, last_scan_id = excluded.last_scan_id, evidence = excluded.evidence,
    framework_refs = excluded.framework_refs";

/// Reads, writes and notes each rule by itself, all in one transaction: first seen, unchanged, 1 % changed.
pub(super) async fn row_by_row(bench: &mut Bench, name: &str) -> [Cost; 3] {
    let (host, mut costs) = (Uuid::new_v4(), Vec::new());
    for failing in [100, 100, 110] {
        let all = outcomes(name, 0..failing, "now");
        let texts: Vec<_> = all
            .iter()
            .map(|o| {
                (
                    serde_json::to_string(&o.evidence).unwrap(),
                    serde_json::to_string(&o.framework_refs).unwrap(),
                )
            })
            .collect();
        let (from, scan) = (bench.place().await, Uuid::new_v4());
        let since = Instant::now();
        let mut tx = bench.db.begin().await.unwrap();
        for (outcome, (evidence, refs)) in all.iter().zip(&texts) {
            let prior: Option<String> = sqlx::query_scalar(
                "select current_status from naive_state where host_id = $1 and rule_id = $2",
            )
            .bind(host)
            .bind(&outcome.rule)
            .fetch_optional(&mut *tx)
            .await
            .unwrap();
            let (status, severity) = (outcome.status.as_str(), outcome.severity.map(|s| s.as_str()));
            let upsert = sqlx::query(UPSERT).bind(host).bind(&outcome.rule).bind(status).bind(severity);
            upsert.bind(scan).bind(evidence).bind(refs).execute(&mut *tx).await.unwrap();
            if prior.as_deref() != Some(status) {
                sqlx::query("insert into naive_transactions values ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9::jsonb, now())")
                        .bind(Uuid::now_v7())
                        .bind(host)
                        .bind(&outcome.rule)
                        .bind(scan)
                        .bind(status)
                        .bind(severity)
                        .bind(if prior.is_some() { "state_changed" } else { "first_seen" })
                        .bind(evidence)
                        .bind(refs)
                        .execute(&mut *tx)
                        .await
                        .unwrap();
            }
        }
        tx.commit().await.unwrap();
        let took = since.elapsed();
        let to = bench.place().await;
        let (records, images) = bench.written(&from, &to).await;
        costs.push(Cost { took, records, images });
    }
    [costs[0], costs[1], costs[2]]
}
