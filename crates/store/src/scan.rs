//! Scans from being asked for to being given out as jobs. How they end is in [`crate::end`].

mod job;

use openwatch_model::scan::{Lane, ScanState, Selection};
use openwatch_model::{HostId, ScanId, Timestamp};

use crate::outbox::{Told, do_telling};
use crate::words::{lane, scan_state};
use crate::{Moment, Store, StoreError, Tx};

pub use job::{Issued, JobOrder, Numbered, Target, issue, number, unissued};

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

/// Queues a scan on the manual lane, unless the host has one open: the key of `open_scan` decides, so of two who ask at
/// once one gets the other's scan (API-06). Called by the API.
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
        "with opened as (
           insert into open_scan (host_id, scan_id, unissued) values ($2, $1, true)
           on conflict (host_id) do nothing returning scan_id
         )
         insert into scan (id, host_id, number, lane, trigger, actor, correlation, framework, rules, policy_version, queued_at)
         select scan_id, $2, $3, 'manual', 'manual', $4, $5, $6, $7, $8, $9 from opened",
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
        "select s.id, s.state, s.lane, s.queued_at from open_scan o join scan s on s.id = o.scan_id where o.host_id = $1",
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
        None => Err(StoreError::Conflict { constraint: "open_scan_pkey".into() }),
    }
}

/// Moves a queued scan to the manual lane. If its job is out on the scheduled lane, that one goes stale and the next
/// attempt is issued on the manual lane. `false` when it was there already or has begun. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn promote(tx: &mut Tx<'_>, scan: ScanId) -> Result<bool, StoreError> {
    let done = sqlx::query_scalar!(
        r#"with promoted as (
             update scan set lane = 'manual', attempt = case when tag is null then attempt else attempt + 1 end,
               tag = null, key_id = null, issued_at = null
             where id = $1 and state = 'queued' and lane = 'scheduled'
             returning host_id
           ),
           waiting as (
             -- Whatever it says: who gives out its job at this moment has changed that since this statement began.
             update open_scan o set unissued = true from promoted p where o.host_id = p.host_id
           )
           select count(*) > 0 as "done!" from promoted"#,
        scan.0
    )
    .fetch_one(tx.connection())
    .await?;
    Ok(done)
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

/// Looks at a scan that waits to be begun, and at the time. Nothing when it runs or has ended already, or the attempt
/// is not its current one. Called by the writer on the result part `started`.
///
/// # Errors
/// The database is away.
pub async fn queued(
    store: &Store,
    scan: ScanId,
    host: HostId,
    attempt: u32,
) -> Result<Option<(Moment, Started)>, StoreError> {
    let row = sqlx::query!(
        r#"select framework, rules, lane, policy_version, correlation, now() as "now!" from scan
           where id = $1 and host_id = $2 and attempt = $3 and state = 'queued' and tag is not null"#,
        scan.0,
        host.0,
        i32::try_from(attempt).unwrap_or(i32::MAX),
    )
    .fetch_optional(store.pool())
    .await?;
    let Some(row) = row else { return Ok(None) };
    let started = Started {
        host,
        selection: Selection { framework: row.framework, rules: row.rules },
        lane: lane(&row.lane)?,
        policy_version: row.policy_version.unwrap_or_default(),
        correlation: row.correlation,
    };
    Ok(Some((Moment::at(row.now), started)))
}

/// Marks a scan as running, and tells of it, if it still is as [`queued`] saw it. Whether it was. Called by the writer after
/// that.
///
/// # Errors
/// The database is away.
pub async fn mark_running(
    store: &Store,
    moment: Moment,
    scan: ScanId,
    attempt: u32,
    worker: &str,
    told: &Told<'_>,
) -> Result<bool, StoreError> {
    do_telling!(
        "done as (
           update scan set state = 'running', started_at = $2, worker = $23
           where id = $21 and attempt = $22 and state = 'queued' and tag is not null
           returning id
         )",
        store,
        moment,
        told,
        scan.0,
        i32::try_from(attempt).unwrap_or(i32::MAX),
        worker,
    )
}
