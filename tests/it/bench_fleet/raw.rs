//! What a scan cannot do without, by itself: one login and one execution, its messages, its rows.

use std::sync::Arc;

use openwatch_app::private::Kind;
use openwatch_bus::message::result::{Final, decode_final, encode_final};
use openwatch_bus::{Bus, Outgoing, User};
use openwatch_model::{HostId, ScanId};
use openwatch_tests::stages::{measured, plain};
use russh::ChannelMsg;
use russh::client::{Config, Handler, connect};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::targets::Targets;
use super::{RULES, command, processes};
use crate::trunk::fleet::Fleet;
use crate::writer::outcomes;

/// Scans that each part is the mean of.
const TIMES: usize = 100;

/// Messages per scan and their mean size, by stream.
pub(super) struct Traffic(Vec<(&'static str, f64, f64)>);

const STREAMS: [&str; 4] = ["OW_JOBS", "OW_RESULTS", "OW_EVENTS", "OW_AUDIT"];

impl Traffic {
    /// Since the streams were made.
    pub(super) async fn now(admin: &Bus) -> Self {
        let mut all = Vec::new();
        for stream in STREAMS {
            let info = admin.stream_info(stream).await.unwrap();
            all.push((stream, info.last_sequence as f64, info.bytes as f64));
        }
        Self(all)
    }

    /// What came on top, for each of so many scans.
    pub(super) fn since(self, before: &Self, scans: i64) -> Self {
        let scans = scans as f64;
        let one = |((stream, messages, bytes), (_, earlier, had)): (_, &(_, f64, f64))| {
            let more: f64 = messages - earlier;
            // A work queue holds nothing any more; a job is about this long.
            let size = if stream == "OW_JOBS" { 1500.0 } else { (bytes - had) / more.max(1.0) };
            (stream, more / scans, size)
        };
        Self(self.0.into_iter().zip(&before.0).map(one).collect())
    }
}

/// Processor seconds of these processes and of this one.
fn spent(servers: &[u32]) -> f64 {
    let all = processes();
    let own = std::process::id();
    let counts = |pid: u32, parent: u32| pid == own || servers.contains(&pid) || servers.contains(&parent);
    all.values().filter(|it| counts(it.pid, it.parent)).map(|it| it.seconds).sum()
}

struct Any;

impl Handler for Any {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// One connection, one login, one execution of every command, its output.
async fn session(target: &Targets, script: &str) -> usize {
    let config = Arc::new(Config { nodelay: true, ..Config::default() });
    let mut handle = connect(config, ("127.0.0.1", target.port()), Any).await.unwrap();
    let key =
        PrivateKeyWithHashAlg::new(Arc::new(decode_secret_key(target.private_key(), None).unwrap()), None);
    assert!(handle.authenticate_publickey("root", key).await.unwrap().success());
    let mut channel = handle.channel_open_session().await.unwrap();
    channel.exec(false, "sh").await.unwrap();
    channel.data(script.as_bytes()).await.unwrap();
    channel.eof().await.unwrap();
    let mut bytes = 0;
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::Data { data } = message {
            bytes += data.len();
        }
    }
    handle.disconnect(russh::Disconnect::ByApplication, "", "").await.unwrap();
    bytes
}

/// The same messages, of the same sizes, as often: published with an ack, and each read back once.
async fn messages(bus: &Bus, traffic: &Traffic) {
    for (stream, each, size) in &traffic.0 {
        let total = (each * TIMES as f64).round() as usize;
        let all: Vec<_> = (0..total)
            .map(|n| Outgoing {
                // Never read by a stage: the stages are stopped by now.
                subject: format!("ow.v1.evt.scan_completed.raw-{stream}"),
                message_id: format!("raw-{stream}-{n}"),
                headers: Vec::new(),
                payload: vec![b'x'; *size as usize].into(),
            })
            .collect();
        let mut places = Vec::new();
        match *stream {
            // One at a time, as a worker sends them; the rest goes out in batches.
            "OW_RESULTS" => {
                for message in &all {
                    places.push(bus.publish(message).await.unwrap().sequence);
                }
            }
            _ => {
                for published in bus.publish_all(&all).await {
                    places.push(published.unwrap().sequence);
                }
            }
        }
        for place in places {
            bus.message_at("OW_EVENTS", place).await.unwrap();
        }
    }
}

/// What a scheduled, unchanged scan writes, hand-over by hand-over: the job, its secret, its start, its end, drift, the next
/// time, and what was sent is forgotten. `$told` are a row of the log and one of the outbox.
const ROWS: [&str; 7] = [
    "with h as (update host set last_number = last_number + 1 where id = $1 returning last_number),
     n as (insert into open_scan (host_id, scan_id, unissued) values ($1, $2, false)),
     j as (insert into outbox (sender, message_id, subject, headers, payload, created_at)
       values ('raw', $2::text, 'ow.v1.job.scheduled.x', '{}', decode(repeat('00', 1500), 'hex'), now())),
     q as (insert into audit_event (id, action, severity, actor_type, actor_label, host_id, detail, occurred_at)
       values (gen_random_uuid(), 'scan.queued', 'info', 'system', 'raw', $1, $3, now())),
     $told,
     d as (update host_compliance_schedule set next_scheduled_scan = now() + interval '1 day',
       claim_order = now() + interval '1 day' where host_id = $1)
     insert into scan (id, host_id, number, lane, trigger, actor, framework, policy_version, corpus, queued_at, tag, key_id,
       timeout_sec, issued_at)
     select $2, $1, h.last_number, 'scheduled', 'scheduled', 'scheduler', '*', '1.0.0', 'c0', now(), sha256('t'), 'k', 600, now()
     from h",
    "with $told update scan set grants = grants + 1 where id = $2",
    "with $told update scan set state = 'running', started_at = now(), worker = 'w' where id = $2 and host_id = $1",
    "with l as (
       insert into scan_ledger (scan_id, host_id, number, attempt, outcome, is_full, full_seq, pass, changes, unchanged, digest,
         summary, applied_at)
       select $2, $1, s.number, 1, 'completed', true, 2, 500, 0, true, sha256('d'), '{}', now() from scan s where s.id = $2),
     $told,
     h as (update host_state set full_seq = full_seq + 1, full_at = now() where host_id = $1),
     n as (delete from open_scan where host_id = $1)
     update scan set state = 'completed', finished_at = now() where id = $2",
    "insert into drift (scan_id, host_id, kind, drift, policy_version, detected_at) values ($2, $1, 'stable', '{}', '1.0.0', now())",
    "with $told update host_compliance_schedule set next_scheduled_scan = now() + interval '2 days', updated_at = now()
     where host_id = $1",
    "delete from outbox where sender = 'raw'",
];

/// See [`ROWS`]: a packed row of the outbox is about this long.
const TOLD: &str = "a as (
       insert into audit_event (id, action, severity, actor_type, actor_label, host_id, correlation_id, detail, occurred_at)
       values (gen_random_uuid(), 'scan.completed', 'info', 'system', 'raw', $1, $2::uuid::text, $3, now())),
     o as (insert into outbox (sender, payload, packed, created_at) values ('raw', decode(repeat('00', 500), 'hex'), true, now()))";

async fn rows(db: &mut PgConnection, hosts: &[Uuid]) {
    let detail: serde_json::Value =
        sqlx::query_scalar("select detail from audit_event where action = 'scan.completed' limit 1")
            .fetch_one(&mut *db)
            .await
            .unwrap();
    let statements = ROWS.map(|sql| (sql.replace("$told", TOLD), sql.contains("$told"), sql.contains("$2")));
    for host in hosts.iter().take(TIMES) {
        let scan = Uuid::new_v4();
        for (sql, told, about) in &statements {
            let mut tx = db.begin().await.unwrap();
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql.as_str()));
            if *told || *about {
                query = query.bind(host).bind(scan);
            }
            if *told {
                query = query.bind(&detail);
            }
            query.execute(&mut *tx).await.unwrap();
            tx.commit().await.unwrap();
        }
    }
}

/// Processor seconds per scan, all parts together; prints each. No stage runs any more.
pub(super) async fn sum(fleet: &mut Fleet, target: &Targets, traffic: &Traffic) -> f64 {
    for stage in fleet.names() {
        fleet.take(&stage).kill();
    }
    let servers = |kinds: &[Kind]| kinds.iter().filter_map(|kind| fleet.server(*kind)).collect::<Vec<_>>();
    let (nats, postgres) = (servers(&[Kind::Nats]), servers(&[Kind::Postgres]));
    let mut all = 0.0;
    let mut part = |what: &str, before: f64, after: f64| {
        let each = (after - before) / TIMES as f64;
        println!("  raw: {what:<50} {:>8.2} ms of processor per scan", each * 1e3);
        all += each;
    };
    let script = (0..RULES).map(|n| command(n) + "\n").collect::<String>();
    let before = spent(&[]);
    for _ in 0..TIMES {
        assert!(session(target, &script).await > RULES * 10);
    }
    part("SSH: one login, one execution", before, spent(&[]));

    let job = plain(ScanId(Uuid::new_v4()), HostId(Uuid::new_v4()), 1);
    let result = measured(&job, &outcomes(RULES, 0));
    let before = spent(&[]);
    for _ in 0..TIMES {
        let Ok(Final::Whole(unread)) = decode_final(&encode_final(&result)) else { panic!("it is whole") };
        unread.outcomes().unwrap();
    }
    part("the result: written, packed, unpacked, read", before, spent(&[]));

    let bus = fleet.bus(User::Admin).await;
    let before = spent(&nats);
    messages(&bus, traffic).await;
    part("NATS: the same messages, each read once", before, spent(&nats));

    let mut db = fleet.db().await;
    let hosts: Vec<Uuid> = sqlx::query_scalar("select id from host").fetch_all(&mut db).await.unwrap();
    let before = spent(&postgres);
    rows(&mut db, &hosts).await;
    part("PostgreSQL: the same rows, a commit a hand-over", before, spent(&postgres));
    all
}
