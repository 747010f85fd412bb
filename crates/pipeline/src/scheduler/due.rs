//! Hosts fall due: claimed, queued and moved on in one `tx`.

use std::time::Duration;

use openwatch_model::audit::{ScanQueued, ScheduleUpdated, TickDispatched};
use openwatch_model::policy::Policy;
use openwatch_model::schedule::next_scan_for;
use openwatch_model::score::ComplianceState;
use openwatch_model::{HostId, ScanId};
use openwatch_store::schedule::{self, Dispatch, DueCounts};
use openwatch_store::{Store, Tx};
use tokio::time::Instant;
use uuid::Uuid;

use super::issue::corpus_for;
use super::{BATCH, STAGE};
use crate::StageError;
use crate::out::Out;

/// Dispatches within the last minute, for the policy's rate limit.
#[derive(Default)]
pub(super) struct RateWindow {
    begun: Option<Instant>,
    used: u32,
}

impl RateWindow {
    fn room(&mut self, limit: Option<u32>) -> u32 {
        let now = Instant::now();
        if self.begun.is_none_or(|begun| now - begun >= Duration::from_secs(60)) {
            self.begun = Some(now);
            self.used = 0;
        }
        limit.map_or(BATCH, |limit| limit.saturating_sub(self.used).min(BATCH))
    }
}

/// Queues a scan for every due host, [`BATCH`] at a time, until none is due or the rate limit is met (then `true`).
pub(super) async fn fall_due(
    store: &Store,
    policy: &Policy,
    window: &mut RateWindow,
) -> Result<bool, StageError> {
    let mut dispatched = 0u64;
    let mut counts: Option<DueCounts> = None;
    let mut tick = Out::new(STAGE, Uuid::now_v7().to_string()).under(&policy.version);
    loop {
        let mut tx = store.begin().await?;
        if counts.is_none() {
            let cleared = schedule::sweep(&mut tx).await?;
            let audits: Vec<_> =
                cleared.into_iter().map(|moved| updated(moved, "maintenance_cleared")).collect();
            // With this `tx`, which is not always the one that ends the tick.
            let mut out = Out::new(STAGE, Uuid::now_v7().to_string()).under(&policy.version);
            out.audit_many(&mut tx, &audits).await?;
            out.flush(&mut tx).await?;
            counts = Some(schedule::counts(&mut tx, &policy.maintenance).await?);
        }
        let room = window.room(policy.dispatch_per_minute);
        let claimed = match room {
            0 => Vec::new(),
            _ => schedule::claim_due(&mut tx, &policy.maintenance, room).await?,
        };
        if claimed.is_empty() {
            let counts = counts.unwrap_or_default();
            tick.audit(&mut tx, &tick_audit(counts, dispatched)).await?;
            tick.commit(tx).await?;
            tick_metrics(counts, dispatched);
            return Ok(room == 0);
        }
        let hosts: Vec<_> =
            claimed.iter().map(|due| plan_dispatch(&tx, due.host, due.state, policy)).collect();
        let newest = corpus_for(&mut tx, policy).await?;
        let queued = schedule::dispatch(&mut tx, &hosts, &policy.version, newest.as_deref()).await?;
        let mut out = Out::new(STAGE, Uuid::now_v7().to_string()).under(&policy.version);
        let scans: Vec<_> = queued
            .iter()
            .map(|d| ScanQueued { scan_id: d.scan, host_id: d.host, trigger: "scheduled".to_owned() })
            .collect();
        out.audit_many(&mut tx, &scans).await?;
        let moves: Vec<_> = queued
            .iter()
            .map(|d| updated((d.host, d.prior.clone(), d.new.clone()), "next_scan_advanced"))
            .collect();
        out.audit_many(&mut tx, &moves).await?;
        out.commit(tx).await?;
        window.used += queued.len() as u32;
        dispatched += queued.len() as u64;
        if queued.is_empty() {
            // All of them were asked for by hand in this very moment; the next tick sees them.
            let mut tx = store.begin().await?;
            tick.audit(&mut tx, &tick_audit(counts.unwrap_or_default(), dispatched)).await?;
            tick.commit(tx).await?;
            return Ok(false);
        }
    }
}

fn plan_dispatch(tx: &Tx<'_>, host: HostId, state: ComplianceState, policy: &Policy) -> Dispatch {
    let now = tx.now();
    Dispatch {
        host,
        scan: ScanId(Uuid::new_v4()),
        next_at: next_scan_for(state, Some(now), &policy.ladder).unwrap_or(now),
        interval_minutes: policy.ladder.minutes(state),
    }
}

pub(super) fn updated(moved: schedule::Moved, change_kind: &'static str) -> ScheduleUpdated {
    let (host_id, prior, new) = moved;
    ScheduleUpdated { host_id, change_kind, prior, new }
}

fn tick_audit(counts: DueCounts, dispatched_count: u64) -> TickDispatched {
    TickDispatched {
        due_count: counts.due,
        dispatched_count,
        skipped_maintenance_count: counts.maintenance,
        skipped_backoff_count: counts.backoff,
    }
}

fn tick_metrics(counts: DueCounts, dispatched: u64) {
    metrics::gauge!("openwatch_scheduler_due").set(counts.due as f64);
    metrics::counter!("openwatch_scheduler_dispatched_total").increment(dispatched);
    metrics::counter!("openwatch_scheduler_skipped_total", "cause" => "maintenance")
        .increment(counts.maintenance);
    metrics::counter!("openwatch_scheduler_skipped_total", "cause" => "backoff").increment(counts.backoff);
}
