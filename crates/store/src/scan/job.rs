//! What a job says, and that it was said: orders for the scheduler to sign, and the note on the scan that it did.

use std::collections::BTreeMap;

use openwatch_model::credential::SudoMode;
use openwatch_model::host::KnownKey;
use openwatch_model::scan::{Jump, Lane, Selection};
use openwatch_model::{HostId, ScanId};
use uuid::Uuid;

use crate::host::port;
use crate::words::{lane, sudo_mode};
use crate::{StoreError, Tx};

/// Everything that a job says, of a scan that has none yet.
#[derive(Clone, Debug, PartialEq)]
pub struct JobOrder {
    /// The scan.
    pub scan: ScanId,
    /// Attempt to issue.
    pub attempt: u32,
    /// Place among the host's scans.
    pub host_number: i64,
    /// What to measure.
    pub selection: Selection,
    /// Lane.
    pub lane: Lane,
    /// Who asked.
    pub actor: String,
    /// Corpus at queueing, where it was known then.
    pub corpus: Option<String>,
    /// Where to.
    pub target: Target,
}

/// What a job says of its host.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The host.
    pub host: HostId,
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

/// The target in a row that has the columns of `job_target`.
macro_rules! target {
    ($row:expr) => {{
        let host = HostId($row.host_id);
        let keys = |keys| {
            serde_json::from_value(keys)
                .map_err(|_| StoreError::unknown_word("list of host keys", &host.to_string()))
        };
        let jump = match ($row.jump_id, $row.jump_address, $row.jump_port) {
            (Some(id), Some(address), Some(number)) => Some(Jump {
                host: HostId(id),
                address,
                port: port(number),
                user: $row.jump_username.unwrap_or_default(),
                known_keys: keys($row.jump_keys)?,
            }),
            _ => None,
        };
        Target {
            host,
            name: $row.name,
            labels: serde_json::from_value($row.labels).unwrap_or_default(),
            address: $row.address,
            port: port($row.port),
            user: $row.username,
            sudo: sudo_mode(&$row.sudo)?,
            known_keys: keys($row.known_keys)?,
            jump,
        }
    }};
}

/// Scans that wait for a job, manual ones first, locked for this scheduler. Called by the scheduler on
/// [`crate::listen::SCAN`].
///
/// # Errors
/// The database is away.
pub async fn unissued(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<JobOrder>, StoreError> {
    let rows = sqlx::query!(
        r#"select s.id, s.attempt, s.number, s.framework, s.rules, s.lane, s.actor, s.corpus,
             t.host_id as "host_id!", t.name as "name!", t.address as "address!", t.port as "port!", t.sudo as "sudo!",
             t.username, t.labels as "labels!", t.known_keys as "known_keys!", t.jump_id, t.jump_address, t.jump_port,
             t.jump_username, t.jump_keys as "jump_keys!"
           from open_scan o
           join scan s on s.id = o.scan_id
           join job_target t on t.host_id = s.host_id
           -- The scan, which is locked, says it as it is now; the other as it was when this began.
           where o.unissued and s.state = 'queued' and s.tag is null
           order by (s.lane = 'manual') desc, s.queued_at
           limit $1
           for update of s skip locked"#,
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(JobOrder {
                scan: ScanId(r.id),
                attempt: crate::host::count(r.attempt),
                host_number: r.number,
                selection: Selection { framework: r.framework, rules: r.rules },
                lane: lane(&r.lane)?,
                actor: r.actor,
                corpus: r.corpus,
                target: target!(r),
            })
        })
        .collect()
}

/// A host with the number of its next scan.
#[derive(Clone, Debug, PartialEq)]
pub struct Numbered {
    /// Place of the scan to come among the host's scans.
    pub number: i64,
    /// What its job says of the host.
    pub target: Target,
}

/// Numbers the next scan of each host. Called by the scheduler for hosts that it claimed, and so has locked.
///
/// # Errors
/// The database is away.
pub async fn number(tx: &mut Tx<'_>, hosts: &[HostId]) -> Result<Vec<Numbered>, StoreError> {
    let hosts: Vec<Uuid> = hosts.iter().map(|host| host.0).collect();
    let rows = sqlx::query!(
        r#"with numbered as (
             update host set last_number = last_number + 1 where id = any($1) returning id, last_number
           )
           select n.last_number, t.host_id as "host_id!", t.name as "name!", t.address as "address!", t.port as "port!",
             t.sudo as "sudo!", t.username, t.labels as "labels!", t.known_keys as "known_keys!", t.jump_id,
             t.jump_address, t.jump_port, t.jump_username, t.jump_keys as "jump_keys!"
           from numbered n join job_target t on t.host_id = n.id"#,
        &hosts,
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter().map(|r| Ok(Numbered { number: r.last_number, target: target!(r) })).collect()
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
        "with noted as (
           update scan s
           set tag = j.tag, key_id = j.key_id, timeout_sec = j.timeout_sec, policy_version = j.policy_version,
               corpus = j.corpus, issued_at = $8
           from unnest($1::uuid[], $2::int[], $3::bytea[], $4::text[], $5::int[], $6::text[], $7::text[])
             as j (id, attempt, tag, key_id, timeout_sec, policy_version, corpus)
           where s.id = j.id and s.attempt = j.attempt and s.state = 'queued' and s.tag is null
           returning s.id, s.host_id
         ),
         issued as (
           update open_scan o set unissued = false from noted n where o.host_id = n.host_id
         )
         select id from noted",
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
