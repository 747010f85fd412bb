//! What a scan cannot do without, by itself: one login and one execution, its messages, its rows. Once one after the other,
//! and once side by side, as many at once as the stages do: what an operation costs depends on what else a machine does.

use std::sync::Arc;

use openwatch_app::private::Kind;
use openwatch_bus::message::result::{Final, decode_final, encode_final};
use openwatch_bus::{Bus, Outgoing, User};
use openwatch_model::scan::ScanResult;
use openwatch_model::{HostId, ScanId};
use openwatch_tests::stages::{measured, plain};
use russh::ChannelMsg;
use russh::client::{Config, Handler, connect};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key};
use sqlx::{Connection as _, PgConnection, SqlSafeStr as _};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::targets::Targets;
use super::{RULES, command, processes, settle};
use crate::trunk::fleet::Fleet;
use crate::writer::outcomes;

/// Scans that the parts are the mean of, at most: one for each host.
const TIMES: usize = 400;
/// The parts of it.
const PARTS: [Part; 3] = [Part::Sessions, Part::Messages, Part::Rows];

#[derive(Clone, Copy)]
enum Part {
    /// A login, an execution, and its result: written, packed, unpacked, read.
    Sessions,
    Messages,
    Rows,
}

impl Part {
    /// How many the stages do at once: about as many sessions as a busy machine gets to, and the slots of the writer.
    fn at_once(self) -> usize {
        match self {
            Self::Sessions => 16,
            Self::Messages | Self::Rows => 4,
        }
    }
}

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

/// Whose processor time counts: a server's children are its own; those of this process are the servers and the targets.
enum Whose {
    This,
    Server(Option<u32>),
}

/// Processor seconds.
fn spent(whose: &Whose) -> f64 {
    let counts = |pid: u32, parent: u32| match whose {
        Whose::This => pid == std::process::id(),
        Whose::Server(root) => *root == Some(pid) || *root == Some(parent),
    };
    processes().values().filter(|it| counts(it.pid, it.parent)).map(|it| it.seconds).sum()
}

struct Any;

impl Handler for Any {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        Ok(true)
    }
}

/// One connection, one login, one execution of every command, its output.
async fn session(port: u16, key: &str, script: &str) -> usize {
    let config = Arc::new(Config { nodelay: true, ..Config::default() });
    let mut handle = connect(config, ("127.0.0.1", port), Any).await.unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(decode_secret_key(key, None).unwrap()), None);
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

/// How many of so many a lane takes.
fn share(many: usize, lane: usize, lanes: usize) -> usize {
    (many + lanes - 1 - lane) / lanes
}

/// The messages of so many scans, of the same sizes, as often: published with an ack, and each read back once.
async fn messages(bus: &Bus, traffic: &Traffic, name: &str, scans: usize) {
    for (stream, each, size) in &traffic.0 {
        let total = (each * scans as f64).round() as usize;
        let all: Vec<_> = (0..total)
            .map(|n| Outgoing {
                // Never read by a stage: the stages are stopped by now.
                subject: format!("ow.v1.evt.scan_completed.raw-{stream}"),
                message_id: format!("raw-{stream}-{name}-{n}"),
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

/// The job of a scheduled scan. Jobs are made by the hundred, in one transaction. `$told` are a row of the log and one of the
/// outbox.
const JOB: &str = "with h as (update host set last_number = last_number + 1 where id = $1 returning last_number),
     n as (insert into open_scan (host_id, scan_id, unissued) values ($1, $2, false)),
     j as (insert into outbox (sender, message_id, subject, headers, payload, created_at)
       values ($sender, $2::text, 'ow.v1.job.scheduled.x', '{}', decode(repeat('00', 1500), 'hex'), now())),
     q as (insert into audit_event (id, action, severity, actor_type, actor_label, host_id, detail, occurred_at)
       values (gen_random_uuid(), 'scan.queued', 'info', 'system', 'raw', $1, $3, now())),
     $told,
     d as (update host_compliance_schedule set next_scheduled_scan = now() + interval '1 day',
       claim_order = now() + interval '1 day' where host_id = $1)
     insert into scan (id, host_id, number, lane, trigger, actor, framework, policy_version, corpus, queued_at, tag, key_id,
       timeout_sec, issued_at)
     select $2, $1, h.last_number, 'scheduled', 'scheduled', 'scheduler', '*', '1.0.0', 'c0', now(), sha256('t'), 'k', 600, now()
     from h";

/// What else an unchanged scan writes, a commit for each hand-over: its secret, its start, its end, drift, the next time.
const ROWS: [&str; 5] = [
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
];

/// What the relays do of it, without waiting for the disk.
const TAKE: &str = "select id, payload from outbox where sender = $1 order by id limit 1000";
const FORGET: &str = "delete from outbox where sender = $1 and id = any($2)";

/// See [`ROWS`]: a packed row of the outbox is about this long.
const TOLD: &str = "a as (
       insert into audit_event (id, action, severity, actor_type, actor_label, host_id, correlation_id, detail, occurred_at)
       values (gen_random_uuid(), 'scan.completed', 'info', 'system', 'raw', $1, $2::uuid::text, $3, now())),
     o as (insert into outbox (sender, payload, packed, created_at) values ($sender, decode(repeat('00', 500), 'hex'), true, now()))";

/// The rows of a share of the hosts, of a sender of their own.
async fn rows(mut db: PgConnection, mut relay: PgConnection, sender: String, hosts: Vec<Uuid>) {
    let detail: serde_json::Value =
        sqlx::query_scalar("select detail from audit_event where action = 'scan.completed' limit 1")
            .fetch_one(&mut db)
            .await
            .unwrap();
    // As the stages do: everything is looked up by key.
    sqlx::raw_sql("set enable_seqscan = off").execute(&mut db).await.unwrap();
    sqlx::raw_sql("set enable_seqscan = off; set synchronous_commit = off")
        .execute(&mut relay)
        .await
        .unwrap();
    let told = |sql: &str| {
        let sql = sql.replace("$told", TOLD).replace("$sender", &format!("'{sender}'"));
        sqlx::AssertSqlSafe(sql).into_sql_str()
    };
    let scans: Vec<(Uuid, Uuid)> = hosts.into_iter().map(|host| (host, Uuid::new_v4())).collect();
    let (job, statements) = (told(JOB), ROWS.map(|sql| (told(sql), sql.contains("$told"))));
    for some in scans.chunks(100) {
        let mut tx = db.begin().await.unwrap();
        for (host, scan) in some {
            sqlx::query(job.clone()).bind(host).bind(scan).bind(&detail).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
        for (host, scan) in some {
            for (sql, told) in &statements {
                let mut query = sqlx::query(sql.clone()).bind(host).bind(scan);
                if *told {
                    query = query.bind(&detail);
                }
                query.execute(&mut db).await.unwrap();
            }
            let rows: Vec<(i64, Vec<u8>)> =
                sqlx::query_as(TAKE).bind(&sender).fetch_all(&mut relay).await.unwrap();
            let ids: Vec<i64> = rows.into_iter().map(|(id, _)| id).collect();
            sqlx::query(FORGET).bind(&sender).bind(ids).execute(&mut relay).await.unwrap();
        }
    }
}

/// All that it takes.
struct Raw {
    port: u16,
    key: Arc<str>,
    script: Arc<str>,
    result: Arc<ScanResult>,
    bus: Bus,
    traffic: Arc<Traffic>,
    hosts: Vec<Uuid>,
}

impl Raw {
    /// Begins a part, so many at once.
    async fn begin(&self, part: Part, lanes: usize, fleet: &Fleet, all: &mut JoinSet<()>) {
        let times = self.hosts.len();
        for lane in 0..lanes {
            let mine = share(times, lane, lanes);
            match part {
                Part::Sessions => {
                    let (port, key) = (self.port, self.key.clone());
                    let (script, result) = (self.script.clone(), self.result.clone());
                    all.spawn(async move {
                        for _ in 0..mine {
                            assert!(session(port, &key, &script).await > RULES * 10);
                            let Ok(Final::Whole(unread)) = decode_final(&encode_final(&result)) else {
                                panic!("it is whole")
                            };
                            unread.outcomes().unwrap();
                        }
                    });
                }
                Part::Messages => {
                    let (bus, traffic) = (self.bus.clone(), self.traffic.clone());
                    all.spawn(
                        async move { messages(&bus, &traffic, &format!("{lanes}-{lane}"), mine).await },
                    );
                }
                Part::Rows => {
                    let hosts = self.hosts.iter().copied().skip(lane).step_by(lanes).collect();
                    let sender = format!("raw-{lanes}-{lane}");
                    all.spawn(rows(fleet.db().await, fleet.db().await, sender, hosts));
                }
            }
        }
    }
}

/// Processor seconds per scan: of its parts one after the other, and side by side. Prints each. No stage runs any more.
pub(super) async fn sums(fleet: &mut Fleet, target: &Targets, traffic: Traffic) -> [f64; 2] {
    for stage in fleet.names() {
        fleet.take(&stage).kill();
    }
    let processes = [
        ("SSH, results, clients of both", Whose::This),
        ("NATS", Whose::Server(fleet.server(Kind::Nats))),
        ("PostgreSQL", Whose::Server(fleet.server(Kind::Postgres))),
    ];
    let mut db = fleet.db().await;
    let hosts = sqlx::query_scalar("select id from host limit $1").bind(TIMES as i64);
    let job = plain(ScanId(Uuid::new_v4()), HostId(Uuid::new_v4()), 1);
    let raw = Raw {
        port: target.port(),
        key: target.private_key().into(),
        script: (0..RULES).map(|n| command(n) + "\n").collect::<String>().into(),
        result: Arc::new(measured(&job, &outcomes(RULES, 0))),
        bus: fleet.bus(User::Admin).await,
        traffic: Arc::new(traffic),
        hosts: hosts.fetch_all(&mut db).await.unwrap(),
    };
    for (stream, each, size) in &raw.traffic.0 {
        println!("  {stream:<14} {each:>8.2} messages per scan of {size:.0} bytes");
    }
    let mut sums = [0.0; 2];
    for (together, sum) in [false, true].into_iter().zip(&mut sums) {
        settle(&mut db).await;
        let before: Vec<f64> = processes.iter().map(|(_, whose)| spent(whose)).collect();
        let mut all = JoinSet::new();
        for part in PARTS {
            raw.begin(part, if together { part.at_once() } else { 1 }, fleet, &mut all).await;
            while !together && let Some(ended) = all.join_next().await {
                ended.unwrap();
            }
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
        }
        for ((what, whose), before) in processes.iter().zip(before) {
            let each = (spent(whose) - before) / raw.hosts.len() as f64;
            let how = if together { "side by side" } else { "one after the other" };
            println!("  raw, {how}: {what:<30} {:>8.2} ms of processor per scan", each * 1e3);
            *sum += each;
        }
    }
    sums
}
