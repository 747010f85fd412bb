//! Scans from being asked for to being given out as jobs. How they end is in [`crate::end`].

use std::collections::BTreeMap;

use openwatch_model::credential::SudoMode;
use openwatch_model::host::KnownKey;
use openwatch_model::scan::{Jump, Lane, ScanState, Selection};
use openwatch_model::{HostId, ScanId, Timestamp};
use uuid::Uuid;

use crate::host::port;
use crate::words::{lane, scan_state, sudo_mode};
use crate::{StoreError, Tx};

/// A scan asked for by a person.
#[derive(Clone, Debug)]
pub struct NewScan<'a> {
    /// Id made by the server, a UUIDv4.
    pub scan: ScanId,
    /// The host.
    pub host: HostId,
    /// What to measure.
    pub selection: Selection,
    /// Name of the token that asked.
    pub actor: &'a str,
    /// Policy in force; the scheduler fills it in when it is absent.
    pub policy_version: Option<&'a str>,
    /// Follows the request through every stage.
    pub correlation: Option<&'a str>,
}

/// What became of the wish for a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It is queued.
    New {
        /// Its place among the host's scans.
        number: i64,
    },
    /// The host has a scan under way already.
    AlreadyOpen {
        /// That scan.
        scan: ScanId,
        /// How far it is.
        state: ScanState,
        /// Its lane.
        lane: Lane,
        /// When it was asked for.
        queued_at: Timestamp,
    },
    /// There is no such host.
    NoHost,
}

/// Queues a scan on the manual lane, unless the host has one open: the unique index decides, so of two who ask at once
/// one gets the other's scan (API-06). Called by the API.
///
/// # Errors
/// The database is away.
pub async fn queue(tx: &mut Tx<'_>, new: &NewScan<'_>) -> Result<Queued, StoreError> {
    let number = sqlx::query_scalar!(
        "update host set last_number = last_number + 1 where id = $1 and deleted_at is null returning last_number",
        new.host.0
    )
    .fetch_optional(tx.connection())
    .await?;
    let Some(number) = number else { return Ok(Queued::NoHost) };
    let done = sqlx::query!(
        "insert into scan (id, host_id, number, lane, trigger, actor, correlation, framework, rules, policy_version, queued_at)
         values ($1, $2, $3, 'manual', 'manual', $4, $5, $6, $7, $8, $9)
         on conflict (host_id) where state in ('queued', 'running') do nothing",
        new.scan.0,
        new.host.0,
        number,
        new.actor,
        new.correlation,
        new.selection.framework,
        &new.selection.rules,
        new.policy_version,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    if done.rows_affected() == 1 {
        return Ok(Queued::New { number });
    }
    let open = sqlx::query!(
        "select id, state, lane, queued_at from scan where host_id = $1 and state in ('queued', 'running')",
        new.host.0
    )
    .fetch_optional(tx.connection())
    .await?;
    match open {
        Some(open) => Ok(Queued::AlreadyOpen {
            scan: ScanId(open.id),
            state: scan_state(&open.state)?,
            lane: lane(&open.lane)?,
            queued_at: open.queued_at,
        }),
        // It ended between the two statements.
        None => Err(StoreError::Conflict { constraint: "scan_one_open_per_host".into() }),
    }
}

/// Moves a queued scan to the manual lane. If its job is out on the scheduled lane, that one goes stale and the next
/// attempt is issued on the manual lane. `false` when it was there already or has begun. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn promote(tx: &mut Tx<'_>, scan: ScanId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update scan set lane = 'manual', attempt = case when tag is null then attempt else attempt + 1 end,
           tag = null, key_id = null, issued_at = null
         where id = $1 and state = 'queued' and lane = 'scheduled'",
        scan.0
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Everything that a job says, of a scan that has none yet.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOrder {
    /// The scan.
    pub scan: ScanId,
    /// Attempt to issue.
    pub attempt: u32,
    /// The host.
    pub host: HostId,
    /// Place among the host's scans.
    pub host_number: i64,
    /// What to measure.
    pub selection: Selection,
    /// Lane.
    pub lane: Lane,
    /// Who asked.
    pub actor: String,
    /// See [`NewScan`].
    pub correlation: Option<String>,
    /// Policy at queueing, where it was known then.
    pub policy_version: Option<String>,
    /// Corpus at queueing, where it was known then.
    pub corpus: Option<String>,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// Name of the host: policies speak of hosts by name.
    pub name: String,
    /// Labels of the host.
    pub labels: BTreeMap<String, String>,
    /// Address to dial.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user: the host's, else its credential's; absent when it has neither.
    pub user: Option<String>,
    /// How to become root.
    pub sudo: SudoMode,
    /// Keys on record.
    pub known_keys: Vec<KnownKey>,
    /// The host to go through.
    pub jump: Option<Jump>,
}

/// Scans that wait for a job, manual ones first, locked for this scheduler. Called by the scheduler after dispatching
/// and on [`crate::listen::SCAN`].
///
/// # Errors
/// The database is away.
pub async fn unissued(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<JobOrder>, StoreError> {
    let rows = sqlx::query!(
        r#"select s.id, s.attempt, s.host_id, s.number, s.framework, s.rules, s.lane, s.actor, s.correlation,
             s.policy_version, s.corpus, s.queued_at, h.name, h.address, h.port, h.sudo,
             coalesce(h.username, c.username) as "user?",
             (select coalesce(jsonb_object_agg(l.key, l.value), '{}') from host_label l where l.host_id = h.id) as "labels!",
             (select coalesce(jsonb_agg(jsonb_build_object('algorithm', k.algorithm, 'key', k.public_key) order by k.algorithm), '[]')
              from known_host_key k
              where k.address = lower(h.address) and k.port = h.port and k.revoked_at is null) as "known_keys!",
             j.id as "jump_id?", j.address as "jump_address?", j.port as "jump_port?",
             coalesce(j.username, jc.username) as "jump_user?",
             (select coalesce(jsonb_agg(jsonb_build_object('algorithm', k.algorithm, 'key', k.public_key) order by k.algorithm), '[]')
              from known_host_key k
              where k.address = lower(j.address) and k.port = j.port and k.revoked_at is null) as "jump_keys!"
           from scan s
           join host h on h.id = s.host_id
           left join credential c on c.id = h.credential_id or (h.credential_id is null and c.is_default)
           left join host j on j.id = h.jump_id
           left join credential jc on jc.id = j.credential_id or (j.credential_id is null and jc.is_default)
           where s.state = 'queued' and s.tag is null
           order by (s.lane = 'manual') desc, s.queued_at
           limit $1
           for update of s skip locked"#,
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            let keys = |keys| {
                serde_json::from_value(keys)
                    .map_err(|_| StoreError::unknown_word("list of host keys", &r.id.to_string()))
            };
            let jump = match (r.jump_id, r.jump_address, r.jump_port) {
                (Some(id), Some(address), Some(number)) => Some(Jump {
                    host: HostId(id),
                    address,
                    port: port(number),
                    user: r.jump_user.unwrap_or_default(),
                    known_keys: keys(r.jump_keys)?,
                }),
                _ => None,
            };
            Ok(JobOrder {
                scan: ScanId(r.id),
                attempt: crate::host::count(r.attempt),
                host: HostId(r.host_id),
                host_number: r.number,
                selection: Selection { framework: r.framework, rules: r.rules },
                lane: lane(&r.lane)?,
                actor: r.actor,
                correlation: r.correlation,
                policy_version: r.policy_version,
                corpus: r.corpus,
                queued_at: r.queued_at,
                name: r.name,
                labels: serde_json::from_value(r.labels).unwrap_or_default(),
                address: r.address,
                port: port(r.port),
                user: r.user,
                sudo: sudo_mode(&r.sudo)?,
                known_keys: keys(r.known_keys)?,
                jump,
            })
        })
        .collect()
}

/// A job that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The scan.
    pub scan: ScanId,
    /// The attempt.
    pub attempt: u32,
    /// MAC of the job.
    pub tag: [u8; 32],
    /// Id of the key that made it.
    pub key_id: String,
    /// Whole-scan limit in seconds.
    pub timeout_sec: u32,
    /// Policy in the job.
    pub policy_version: String,
    /// Corpus in the job.
    pub corpus: String,
}

/// Notes signed jobs on their scans; the jobs themselves go to the outbox in the same transaction. Returns the scans
/// noted: one that ended or was promoted meanwhile is not among them, and its job must not be sent. Called by the scheduler.
///
/// # Errors
/// The database is away.
pub async fn issue(tx: &mut Tx<'_>, jobs: &[Issued]) -> Result<Vec<ScanId>, StoreError> {
    let scans: Vec<Uuid> = jobs.iter().map(|j| j.scan.0).collect();
    let attempts: Vec<i32> = jobs.iter().map(|j| i32::try_from(j.attempt).unwrap_or(i32::MAX)).collect();
    let tags: Vec<Vec<u8>> = jobs.iter().map(|j| j.tag.to_vec()).collect();
    let keys: Vec<String> = jobs.iter().map(|j| j.key_id.clone()).collect();
    let timeouts: Vec<i32> = jobs.iter().map(|j| i32::try_from(j.timeout_sec).unwrap_or(i32::MAX)).collect();
    let policies: Vec<String> = jobs.iter().map(|j| j.policy_version.clone()).collect();
    let corpora: Vec<String> = jobs.iter().map(|j| j.corpus.clone()).collect();
    let done = sqlx::query_scalar!(
        "update scan s
         set tag = j.tag, key_id = j.key_id, timeout_sec = j.timeout_sec, policy_version = j.policy_version,
             corpus = j.corpus, issued_at = $8
         from unnest($1::uuid[], $2::int[], $3::bytea[], $4::text[], $5::int[], $6::text[], $7::text[])
           as j (id, attempt, tag, key_id, timeout_sec, policy_version, corpus)
         where s.id = j.id and s.attempt = j.attempt and s.state = 'queued' and s.tag is null
         returning s.id",
        &scans,
        &attempts,
        &tags,
        &keys,
        &timeouts,
        &policies,
        &corpora,
        tx.now(),
    )
    .fetch_all(tx.connection())
    .await?;
    Ok(done.into_iter().map(ScanId).collect())
}

/// A scan that a worker has begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Started {
    /// Its host.
    pub host: HostId,
    /// What is measured.
    pub selection: Selection,
    /// Lane.
    pub lane: Lane,
    /// Policy of its job.
    pub policy_version: String,
    /// See [`NewScan`].
    pub correlation: Option<String>,
}

/// Marks a scan as running. Nothing when it runs or has ended already, or the attempt is not its current one. Called by
/// the writer on the result part `started`.
///
/// # Errors
/// The database is away.
pub async fn mark_running(
    tx: &mut Tx<'_>,
    scan: ScanId,
    host: HostId,
    attempt: u32,
    worker: &str,
) -> Result<Option<Started>, StoreError> {
    let row = sqlx::query!(
        "update scan set state = 'running', started_at = $5, worker = $4
         where id = $1 and host_id = $2 and attempt = $3 and state = 'queued' and tag is not null
         returning framework, rules, lane, policy_version, correlation",
        scan.0,
        host.0,
        i32::try_from(attempt).unwrap_or(i32::MAX),
        worker,
        tx.now(),
    )
    .fetch_optional(tx.connection())
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Started {
        host,
        selection: Selection { framework: row.framework, rules: row.rules },
        lane: lane(&row.lane)?,
        policy_version: row.policy_version.unwrap_or_default(),
        correlation: row.correlation,
    }))
}
