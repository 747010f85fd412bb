//! Hosts fall due: claimed, queued and moved on in one `tx`, a hundred at a time.

use std::time::Duration;

use openwatch_model::audit::{Actor, ScanQueued, ScheduleUpdated, TickDispatched};
use openwatch_model::policy::Policy;
use openwatch_model::schedule::next_scan_for;
use openwatch_model::{HostId, ScanId};
use openwatch_store::counter::{self, Counter};
use openwatch_store::schedule::{self, Dispatch, Dispatched, DueCounts, DueHost};
use openwatch_store::{Store, StoreError, Tx};
use tokio::sync::Notify;
use uuid::Uuid;

use super::issue::corpus_for;
use super::{BATCH, STAGE};
use crate::StageError;
use crate::out::Out;

/// Under a rate limit, how soon the next share of the minute is given out, and how many shares a minute has: the limit is
/// spread over the minute instead of spent in its first second.
const SHARE: Duration = Duration::from_secs(5);
const SHARES: u32 = 12;

/// One pass over the due rows.
struct Pass<'a> {
    store: &'a Store,
    policy: &'a Policy,
    dispatched: u64,
    /// Hosts with a fault of their own: left as they are until the next pass.
    broken: Vec<HostId>,
}

/// Queues a scan for every due host until none is due or the rate limit is met: then, how soon to go on. `queued` is
/// told after each commit.
pub(super) async fn fall_due(
    store: &Store,
    policy: &Policy,
    queued: &Notify,
) -> Result<Option<Duration>, StageError> {
    let counts = prepare(store, policy).await?;
    let mut pass = Pass { store, policy, dispatched: 0, broken: Vec::new() };
    let again = loop {
        match pass.batch().await? {
            Batch::Done => queued.notify_one(),
            Batch::NoneDue => break None,
            Batch::NoRoom => break Some(SHARE),
        }
    };
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

impl Pass<'_> {
    async fn batch(&mut self) -> Result<Batch, StageError> {
        match self.together().await {
            Err(StageError::Store(error)) if !error.is_transient() => {
                tracing::warn!(%error, "a batch of due hosts is dispatched one by one");
                self.one_by_one().await
            }
            other => other,
        }
    }

    /// One statement for all. If it fails, nothing of it happened.
    async fn together(&mut self) -> Result<Batch, StageError> {
        let mut tx = self.store.begin().await?;
        let Some(claimed) = self.claim(&mut tx).await? else { return Ok(Batch::NoRoom) };
        if claimed.is_empty() {
            return Ok(Batch::NoneDue);
        }
        let corpus = corpus_for(&mut tx, self.policy).await?;
        let plans: Vec<_> = claimed.iter().map(|due| plan(&tx, *due, self.policy)).collect();
        let queued = schedule::dispatch(&mut tx, &plans, &self.policy.version, corpus.as_deref()).await?;
        self.tell(tx, queued).await
    }

    /// One failing host must not stop the others (SCH-35): each has a savepoint of its own.
    async fn one_by_one(&mut self) -> Result<Batch, StageError> {
        let mut tx = self.store.begin().await?;
        let Some(claimed) = self.claim(&mut tx).await? else { return Ok(Batch::NoRoom) };
        if claimed.is_empty() {
            return Ok(Batch::NoneDue);
        }
        let corpus = corpus_for(&mut tx, self.policy).await?;
        let mut queued = Vec::new();
        for due in claimed {
            match alone(&mut tx, due, self.policy, corpus.as_deref()).await {
                Ok(one) => queued.extend(one),
                Err(error) if error.is_transient() => return Err(error.into()),
                Err(error) => {
                    tracing::error!(host.id = %due.host, %error, "a due host cannot be dispatched; it stays due");
                    metrics::counter!("openwatch_scheduler_host_errors_total").increment(1);
                    self.broken.push(due.host);
                }
            }
        }
        self.tell(tx, queued).await
    }

    /// `None` when the limit is met for now.
    async fn claim(&self, tx: &mut Tx<'_>) -> Result<Option<Vec<DueHost>>, StoreError> {
        let room = match self.policy.dispatch_per_minute {
            Some(limit) => {
                let window = schedule::window(tx, SHARE).await?;
                let share = limit.div_ceil(SHARES).saturating_sub(window.share);
                limit.saturating_sub(window.minute).min(share).min(BATCH)
            }
            None => BATCH,
        };
        if room == 0 {
            return Ok(None);
        }
        schedule::claim_due(tx, &self.policy.maintenance, room, &self.broken).await.map(Some)
    }

    async fn tell(&mut self, tx: Tx<'_>, queued: Vec<Dispatched>) -> Result<Batch, StageError> {
        let mut out = Out::new(STAGE, Uuid::new_v4().to_string()).under(&self.policy.version);
        let scans: Vec<_> = queued
            .iter()
            .map(|d| ScanQueued { scan_id: d.scan, host_id: d.host, trigger: "scheduled".to_owned() })
            .collect();
        out.audit_many(&tx, &scans);
        let many = queued.len() as u32;
        let moves: Vec<_> =
            queued.into_iter().map(|d| updated((d.host, d.prior, d.new), "next_scan_advanced")).collect();
        out.audit_many(&tx, &moves);
        out.commit(tx).await?;
        self.dispatched += u64::from(many);
        metrics::counter!("openwatch_scheduler_dispatched_total").increment(u64::from(many));
        Ok(Batch::Done)
    }

    async fn end(self, counts: DueCounts) -> Result<(), StageError> {
        let mut tx = self.store.begin().await?;
        let mut out = Out::new(STAGE, Uuid::new_v4().to_string()).under(&self.policy.version);
        let tick = TickDispatched {
            due_count: counts.due,
            dispatched_count: self.dispatched,
            skipped_maintenance_count: counts.maintenance,
            skipped_backoff_count: counts.backoff,
        };
        out.audit(&tx, &tick);
        let at = tx.now().unix_timestamp() as f64;
        out.flush(&mut tx).await?;
        let moves = [
            (Counter::Ticks, 1),
            (Counter::Due, counts.due),
            (Counter::Dispatched, self.dispatched),
            (Counter::SkippedMaintenance, counts.maintenance),
            (Counter::SkippedBackoff, counts.backoff),
            (Counter::SkippedOpen, counts.open),
            (Counter::HostErrors, self.broken.len() as u64),
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

async fn alone(
    tx: &mut Tx<'_>,
    due: DueHost,
    policy: &Policy,
    corpus: Option<&str>,
) -> Result<Vec<Dispatched>, StoreError> {
    let mut part = tx.savepoint().await?;
    let plan = plan(&part, due, policy);
    let queued = schedule::dispatch(&mut part, &[plan], &policy.version, corpus).await?;
    part.commit().await?;
    Ok(queued)
}

/// Counted from now and never from the time that was missed: downtime is not made up for in a burst.
fn plan(tx: &Tx<'_>, due: DueHost, policy: &Policy) -> Dispatch {
    let now = tx.now();
    Dispatch {
        host: due.host,
        scan: ScanId(Uuid::new_v4()),
        next_at: next_scan_for(due.state, Some(now), &policy.ladder).unwrap_or(now),
        interval_minutes: policy.ladder.minutes(due.state),
    }
}

pub(super) fn updated(moved: schedule::Moved, change_kind: &'static str) -> ScheduleUpdated {
    let (host_id, prior, new) = moved;
    ScheduleUpdated { host_id, change_kind, prior, new }
}
