//! Hosts fall due: claimed, queued with a signed job, and moved on in one `tx`, a hundred at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use openwatch_bus::Outgoing;
use openwatch_model::audit::{Actor, ScanQueued, ScheduleUpdated, TickDispatched};
use openwatch_model::policy::Policy;
use openwatch_model::scan::{Lane, Selection};
use openwatch_model::schedule::next_scan_for;
use openwatch_model::{HostId, ScanId};
use openwatch_store::counter::{self, Counter};
use openwatch_store::scan::{self, JobOrder, Numbered};
use openwatch_store::schedule::{self, Dispatch, Dispatched, DueCounts, DueHost, Part};
use openwatch_store::{Store, StoreError, Tx};
use uuid::Uuid;

use super::issue::{corpus_for, sign, to_job};
use super::{BATCH, STAGE, Scheduler};
use crate::StageError;
use crate::out::Out;

/// Under a rate limit, how soon the next share of the minute is given out, and how many shares a minute has: the limit is
/// spread over the minute instead of spent in its first second.
const SHARE: Duration = Duration::from_secs(5);
const SHARES: u32 = 12;

/// Batches under way at once, unless a rate limit makes them take turns: while one waits for the disk, the other works,
/// and the disk writes both.
const SIDE_BY_SIDE: [Part; 2] = [Part::EVEN, Part::ODD];

/// One pass over the due rows.
struct Pass<'a> {
    it: &'a Scheduler,
    policy: &'a Policy,
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    dispatched: u64,
    /// Hosts with a fault of their own: left as they are until the next pass.
    broken: BTreeSet<HostId>,
}

/// Queues a scan for every due host until none is due or the rate limit is met: then, how soon to go on.
pub(super) async fn fall_due(it: &Scheduler, policy: &Policy) -> Result<Option<Duration>, StageError> {
    let counts = prepare(&it.store, policy).await?;
    let pass = Pass { it, policy, done: Mutex::default() };
    if policy.dispatch_per_minute.is_none() {
        try_join_all(SIDE_BY_SIDE.map(|part| pass.batches(part))).await?;
    }
    // Under a limit all of it; else what fell due meanwhile.
    let again = pass.batches(Part::ALL).await?;
    pass.end(counts).await?;
    Ok(again)
}

/// What people wished and what time has ended, then a count of what is due and why some of it is left alone.
async fn prepare(store: &Store, policy: &Policy) -> Result<DueCounts, StageError> {
    let mut tx = store.begin().await?;
    for granted in schedule::grant(&mut tx).await? {
        let change = if granted.maintenance { "maintenance_set" } else { "maintenance_cleared" };
        let mut out = Out::new(STAGE, granted.correlation.unwrap_or_else(|| "maintenance".to_owned()))
            .by(Actor::Token(granted.actor))
            .under(&policy.version);
        out.audit(&tx, &updated(granted.moved, change));
        out.flush(&mut tx).await?;
    }
    let cleared = schedule::sweep(&mut tx).await?;
    let cleared: Vec<_> = cleared.into_iter().map(|moved| updated(moved, "maintenance_cleared")).collect();
    let mut out = Out::new(STAGE, "sweep").under(&policy.version);
    out.audit_many(&tx, &cleared);
    let counts = schedule::counts(&mut tx, &policy.maintenance).await?;
    out.commit(tx).await?;
    if let Some(limit) = policy.dispatch_per_minute {
        spread(store, policy, limit, counts.free).await?;
    }
    Ok(counts)
}

/// Lines up hosts that were never scanned, when more are due than the limit lets through (SCH-38).
async fn spread(store: &Store, policy: &Policy, limit: u32, free: u64) -> Result<(), StageError> {
    loop {
        let mut tx = store.begin().await?;
        let window = schedule::window(&mut tx, SHARE).await?;
        if free <= u64::from(limit.saturating_sub(window.minute)) {
            return Ok(());
        }
        let moved = schedule::spread(&mut tx, limit).await?;
        if moved.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = moved.into_iter().map(|moved| updated(moved, "next_scan_advanced")).collect();
        let mut out = Out::new(STAGE, "spread").under(&policy.version);
        out.audit_many(&tx, &rows);
        out.commit(tx).await?;
    }
}

enum Batch {
    Done,
    NoneDue,
    NoRoom,
}

/// Hosts that have a scan now, and the scans' signed jobs.
type Queued = (Vec<Dispatched>, BTreeMap<ScanId, Outgoing>);

/// What a batch comes to.
#[derive(Default)]
struct Claimed {
    plans: Vec<Dispatch>,
    jobs: BTreeMap<ScanId, Outgoing>,
}

impl Pass<'_> {
    async fn batches(&self, part: Part) -> Result<Option<Duration>, StageError> {
        loop {
            match self.batch(part).await? {
                Batch::Done => {}
                Batch::NoneDue => return Ok(None),
                Batch::NoRoom => return Ok(Some(SHARE)),
            }
        }
    }

    /// Up to a hundred hosts in one statement; if that fails, one by one. Without a savepoint around all of them: rows that are
    /// locked outside of one and changed inside cost PostgreSQL a quarter more.
    async fn batch(&self, part: Part) -> Result<Batch, StageError> {
        let mut tx = self.it.store.begin().await?;
        let due = match self.claim(&mut tx, part).await? {
            Ok(due) => due,
            Err(none) => return Ok(none),
        };
        let corpus = corpus_for(&mut tx, self.policy).await?;
        match self.together(&mut tx, due, corpus.as_deref()).await {
            Ok((queued, jobs)) => self.tell(tx, queued, jobs).await,
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "a batch of due hosts is dispatched one by one");
                // Waited for: a claim passes over what is locked, and would find nothing due.
                tx.rollback().await?;
                self.one_by_one(part).await
            }
        }
    }

    /// One failing host must not stop the others (SCH-35): each has a savepoint of its own.
    async fn one_by_one(&self, part: Part) -> Result<Batch, StageError> {
        let mut tx = self.it.store.begin().await?;
        let due = match self.claim(&mut tx, part).await? {
            Ok(due) => due,
            Err(none) => return Ok(none),
        };
        let corpus = corpus_for(&mut tx, self.policy).await?;
        let (mut queued, mut jobs) = Queued::default();
        for due in due {
            let host = due.host;
            let mut alone = tx.savepoint().await?;
            match self.together(&mut alone, vec![due], corpus.as_deref()).await {
                Ok((one, job)) => {
                    alone.commit().await?;
                    queued.extend(one);
                    jobs.extend(job);
                }
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    tracing::error!(host.id = %host, %error, "a due host cannot be dispatched; it stays due");
                    metrics::counter!("openwatch_scheduler_host_errors_total").increment(1);
                    self.done().broken.insert(host);
                }
            }
        }
        self.tell(tx, queued, jobs).await
    }

    async fn together(
        &self,
        tx: &mut Tx<'_>,
        due: Vec<DueHost>,
        corpus: Option<&str>,
    ) -> Result<Queued, StoreError> {
        let Claimed { plans, jobs } = self.prepared(tx, due, corpus).await?;
        let queued = schedule::dispatch(tx, plans, &self.policy.version).await?;
        Ok((queued, jobs))
    }

    /// Numbers the hosts' scans, says when they are due again, and signs their jobs, unless no corpus is published yet.
    async fn prepared(
        &self,
        tx: &mut Tx<'_>,
        due: Vec<DueHost>,
        corpus: Option<&str>,
    ) -> Result<Claimed, StoreError> {
        let hosts: Vec<_> = due.iter().map(|due| due.host).collect();
        let mut due: BTreeMap<_, _> = due.into_iter().map(|due| (due.host, due)).collect();
        let mut claimed = Claimed::default();
        for Numbered { number, target } in scan::number(tx, &hosts).await? {
            let Some(due) = due.remove(&target.host) else { continue };
            let scan = ScanId(Uuid::new_v4());
            let mut job = None;
            if let Some(corpus) = corpus {
                let order = JobOrder {
                    scan,
                    attempt: 1,
                    host_number: number,
                    selection: Selection::full(),
                    lane: Lane::Scheduled,
                    actor: STAGE.to_owned(),
                    corpus: None,
                    target,
                };
                let (note, message) = sign(self.it, &to_job(order, self.policy, corpus, tx.now()));
                claimed.jobs.insert(scan, message);
                job = Some(note);
            }
            // Counted from now and never from the time that was missed: downtime is not made up for in a burst.
            let next_at = next_scan_for(due.state, Some(tx.now()), &self.policy.ladder).unwrap_or(tx.now());
            let interval_minutes = self.policy.ladder.minutes(due.state);
            claimed.plans.push(Dispatch { due, scan, number, job, next_at, interval_minutes });
        }
        Ok(claimed)
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hosts that are due, or why there are none for now.
    async fn claim(&self, tx: &mut Tx<'_>, part: Part) -> Result<Result<Vec<DueHost>, Batch>, StoreError> {
        let room = match self.policy.dispatch_per_minute {
            Some(limit) => {
                let window = schedule::window(tx, SHARE).await?;
                let share = limit.div_ceil(SHARES).saturating_sub(window.share);
                limit.saturating_sub(window.minute).min(share).min(BATCH)
            }
            None => BATCH,
        };
        if room == 0 {
            return Ok(Err(Batch::NoRoom));
        }
        let broken: Vec<_> = self.done().broken.iter().copied().collect();
        let due = schedule::claim_due(tx, &self.policy.maintenance, room, &broken, part).await?;
        Ok(if due.is_empty() { Err(Batch::NoneDue) } else { Ok(due) })
    }

    async fn tell(
        &self,
        tx: Tx<'_>,
        queued: Vec<Dispatched>,
        mut jobs: BTreeMap<ScanId, Outgoing>,
    ) -> Result<Batch, StageError> {
        let mut out = Out::new(STAGE, Uuid::new_v4().to_string()).under(&self.policy.version);
        let scans: Vec<_> = queued
            .iter()
            .map(|d| ScanQueued { scan_id: d.scan, host_id: d.host, trigger: "scheduled".to_owned() })
            .collect();
        out.audit_many(&tx, &scans);
        let many = queued.len() as u64;
        // Of those that were queued only: a host may have got a scan by hand in this very moment.
        let jobs: Vec<_> = queued.iter().filter_map(|d| jobs.remove(&d.scan)).collect();
        let issued = jobs.len() as u64;
        out.send_all(jobs);
        let moves: Vec<_> =
            queued.into_iter().map(|d| updated((d.host, d.prior, d.new), "next_scan_advanced")).collect();
        out.audit_many(&tx, &moves);
        out.commit(tx).await?;
        self.done().dispatched += many;
        metrics::counter!("openwatch_scheduler_dispatched_total").increment(many);
        metrics::counter!("openwatch_jobs_issued_total").increment(issued);
        Ok(Batch::Done)
    }

    async fn end(self, counts: DueCounts) -> Result<(), StageError> {
        let Done { dispatched, broken } = self.done.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut tx = self.it.store.begin().await?;
        let mut out = Out::new(STAGE, Uuid::new_v4().to_string()).under(&self.policy.version);
        let tick = TickDispatched {
            due_count: counts.due,
            dispatched_count: dispatched,
            skipped_maintenance_count: counts.maintenance,
            skipped_backoff_count: counts.backoff,
        };
        out.audit(&tx, &tick);
        let at = tx.now().unix_timestamp() as f64;
        out.flush(&mut tx).await?;
        let moves = [
            (Counter::Ticks, 1),
            (Counter::Due, counts.due),
            (Counter::Dispatched, dispatched),
            (Counter::SkippedMaintenance, counts.maintenance),
            (Counter::SkippedBackoff, counts.backoff),
            (Counter::SkippedOpen, counts.open),
            (Counter::HostErrors, broken.len() as u64),
        ];
        counter::add(&mut tx, &moves).await?;
        tx.commit().await?;
        metrics::gauge!("openwatch_scheduler_last_tick_timestamp_seconds").set(at);
        metrics::gauge!("openwatch_scheduler_due").set(counts.due as f64);
        for (cause, count) in
            [("maintenance", counts.maintenance), ("backoff", counts.backoff), ("open", counts.open)]
        {
            metrics::counter!("openwatch_scheduler_skipped_total", "cause" => cause).increment(count);
        }
        Ok(())
    }
}

pub(super) fn updated(moved: schedule::Moved, change_kind: &'static str) -> ScheduleUpdated {
    let (host_id, prior, new) = moved;
    ScheduleUpdated { host_id, change_kind, prior, new }
}
