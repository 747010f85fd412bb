//! Turns the clock and people's wishes into signed jobs. The only signer of jobs and the only writer of the schedule.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openwatch_bus::consume::{self, Consumer, Options, Pulse};
use openwatch_bus::message::event::{Body, Event, ScheduleUpdated as ScheduleUpdatedEvent};
use openwatch_bus::message::job;
use openwatch_bus::{Bus, Message, Next, Outgoing, subject};
use openwatch_model::audit::{ScanQueued, ScheduleFacts, ScheduleUpdated, TickDispatched};
use openwatch_model::policy::Policy;
use openwatch_model::scan::{Job, Lane};
use openwatch_model::schedule::{Backoff, CAP_MINUTES, next_after_failure, next_scan_for};
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::{ScanId, Timestamp};
use openwatch_store::listen::{self, Wake};
use openwatch_store::scan::{Issued, JobOrder};
use openwatch_store::schedule::{self, Dispatch, DueCounts, Reschedule};
use openwatch_store::{Store, StoreError, Tx, corpus, inbox, scan};
use openwatch_trust::SchedulerKeys;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::next;
use crate::gate::database_gate;
use crate::out::Out;
use crate::policy::{PolicyWatch, Source, accept};
use crate::{Signers, StageError};

const STAGE: &str = "scheduler";
/// Time between passes over the due rows when nobody calls (seed).
const TICK: Duration = Duration::from_secs(60);
/// How soon scans that could not be issued are looked at again.
const ISSUE_AGAIN: Duration = Duration::from_secs(2);
/// Rows claimed at once (seed).
const BATCH: u32 = 100;

/// What the scheduler may touch.
pub struct Scheduler {
    /// Database, as `scheduler`.
    pub store: Store,
    /// Bus, as `scheduler`.
    pub bus: Bus,
    /// Signs jobs.
    pub keys: SchedulerKeys,
    /// Whose policies count.
    pub signers: Arc<Signers>,
    /// The signed policy; absent means that somebody else puts it in force.
    pub policy_file: Option<PathBuf>,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
    /// Told to re-read the policy file.
    pub reload: Arc<tokio::sync::Notify>,
}

impl Scheduler {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Without a usable policy at start; later only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        if let Some(path) = &self.policy_file {
            accept(&self.store, path, &self.signers, Source::Boot).await?;
        }
        let policy = PolicyWatch::new(self.store.clone(), self.signers.clone());
        policy.wait(&shutdown).await?;
        let consuming = reschedule(self.store.clone(), self.bus.clone(), policy.clone(), shutdown.clone());
        let dispatching = dispatch_loop(&self, &policy, &shutdown);
        tokio::try_join!(consuming, dispatching)?;
        Ok(())
    }
}

async fn dispatch_loop(
    it: &Scheduler,
    policy: &PolicyWatch,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    let mut listener = None;
    let mut next_tick = Instant::now();
    let mut window = RateWindow::default();
    while !shutdown.is_cancelled() {
        it.pulse.tick();
        let due = Instant::now() >= next_tick;
        match pass(it, policy, due, &mut window).await {
            Ok(left) => {
                if due {
                    next_tick = Instant::now() + TICK;
                }
                let wait =
                    if left { ISSUE_AGAIN } else { next_tick.saturating_duration_since(Instant::now()) };
                // Health wants a sign of life more often than a tick.
                if wake(&it.store, &mut listener, wait.min(Duration::from_secs(15)), it, shutdown).await {
                    next_tick = Instant::now();
                }
            }
            Err(StageError::Store(error)) if error.is_transient() => {
                tracing::warn!(%error, "dispatching waits for the database");
                listener = None;
                let _ = tokio::time::timeout(ISSUE_AGAIN, shutdown.cancelled()).await;
            }
            // SCH-13: a bad round is told and the loop goes on; the policy was verified before the loop began.
            Err(error) => {
                metrics::counter!("openwatch_scheduler_tick_errors_total").increment(1);
                tracing::error!(%error, "a round of the scheduler failed");
                let _ = tokio::time::timeout(ISSUE_AGAIN, shutdown.cancelled()).await;
            }
        }
    }
    Ok(())
}

/// One round: dispatch what is due when it is time, then issue whatever has no job. Whether something is left over.
async fn pass(
    it: &Scheduler,
    policy: &PolicyWatch,
    due: bool,
    window: &mut RateWindow,
) -> Result<bool, StageError> {
    let policy = policy.in_force().await?;
    let mut left = false;
    if due {
        left = fall_due(&it.store, &policy, window).await?;
    }
    Ok(issue_all(it, &policy).await? || left)
}

/// Waits for a call or the end of `wait`. Whether hosts may have come under schedule.
async fn wake(
    store: &Store,
    listener: &mut Option<openwatch_store::Listener>,
    wait: Duration,
    it: &Scheduler,
    shutdown: &CancellationToken,
) -> bool {
    if listener.is_none() {
        *listener = store.listen(&[listen::SCAN, listen::SCHEDULE, listen::POLICY]).await.ok();
        // Calls made before listening were missed.
        return listener.is_some();
    }
    let Some(calls) = listener.as_mut() else { return false };
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = tokio::time::sleep(wait) => false,
        () = it.reload.notified() => {
            if let Some(path) = &it.policy_file
                && let Err(error) = accept(store, path, &it.signers, Source::Reload).await
            {
                tracing::error!(%error, "the policy stays as it was");
            }
            true
        }
        call = calls.recv() => match call {
            Ok(Wake::Call { channel, .. }) => channel != listen::SCAN,
            Ok(Wake::Missed) => true,
            Err(_) => {
                *listener = None;
                true
            }
        },
    }
}

/// Dispatches within the last minute, for the policy's rate limit.
#[derive(Default)]
struct RateWindow {
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
async fn fall_due(store: &Store, policy: &Policy, window: &mut RateWindow) -> Result<bool, StageError> {
    let mut dispatched = 0u64;
    let mut counts: Option<DueCounts> = None;
    let mut tick = Out::new(STAGE, Uuid::now_v7().to_string()).under(&policy.version);
    loop {
        let mut tx = store.begin().await?;
        if counts.is_none() {
            let cleared = schedule::sweep(&mut tx).await?;
            let audits: Vec<_> =
                cleared.into_iter().map(|moved| updated(moved, "maintenance_cleared")).collect();
            tick.audit_many(&mut tx, &audits).await?;
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

fn plan_dispatch(
    tx: &Tx<'_>,
    host: openwatch_model::HostId,
    state: ComplianceState,
    policy: &Policy,
) -> Dispatch {
    let now = tx.now();
    Dispatch {
        host,
        scan: ScanId(Uuid::new_v4()),
        next_at: next_scan_for(state, Some(now), &policy.ladder).unwrap_or(now),
        interval_minutes: policy.ladder.minutes(state),
    }
}

fn updated(moved: schedule::Moved, change_kind: &'static str) -> ScheduleUpdated {
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

async fn corpus_for(tx: &mut Tx<'_>, policy: &Policy) -> Result<Option<String>, StoreError> {
    match &policy.corpus {
        Some(digest) => Ok(Some(digest.clone())),
        None => Ok(corpus::newest(tx).await?.map(|c| c.digest)),
    }
}

/// Signs a job for every scan without one. Whether some could not be issued yet.
async fn issue_all(it: &Scheduler, policy: &Policy) -> Result<bool, StageError> {
    loop {
        let mut tx = it.store.begin().await?;
        let orders = scan::unissued(&mut tx, BATCH).await?;
        if orders.is_empty() {
            return Ok(false);
        }
        let Some(newest) = corpus_for(&mut tx, policy).await? else {
            tracing::warn!(
                scans = orders.len(),
                "no corpus is published; `openwatch rules publish` makes one known"
            );
            return Ok(true);
        };
        let mut out = Out::new(STAGE, Uuid::now_v7().to_string()).under(&policy.version);
        let mut jobs = BTreeMap::new();
        let mut issued = Vec::new();
        for order in orders {
            let job = to_job(&order, policy, &newest, tx.now());
            let message = sign(&it.keys, &job);
            issued.push(note(&job, &message));
            jobs.insert(job.scan, message.outgoing);
        }
        for scan in scan::issue(&mut tx, &issued).await? {
            if let Some(message) = jobs.remove(&scan) {
                out.send(message);
            }
        }
        out.commit(tx).await?;
        metrics::counter!("openwatch_jobs_issued_total").increment(issued.len() as u64);
    }
}

/// `schedule_to_job`. A host without a credential has no user; the vault will say so.
fn to_job(order: &JobOrder, policy: &Policy, corpus: &str, now: Timestamp) -> Job {
    Job {
        scan: order.scan,
        attempt: order.attempt,
        host: order.host,
        host_number: order.host_number,
        selection: order.selection.clone(),
        policy_version: policy.version.clone(),
        enqueued_at_ns: i64::try_from(now.unix_timestamp_nanos()).unwrap_or(i64::MAX),
        lane: order.lane,
        actor: order.actor.clone(),
        address: order.address.clone(),
        port: order.port,
        user: order.user.clone().unwrap_or_default(),
        sudo: order.sudo,
        timeout: policy.timeout,
        host_key_mode: policy.host_key_mode,
        known_keys: order.known_keys.clone(),
        corpus: order.corpus.clone().unwrap_or_else(|| corpus.to_owned()),
        variables: policy.variables_for(&order.name, &order.labels),
    }
}

struct SignedJob {
    outgoing: Outgoing,
    tag: [u8; 32],
    key_id: String,
}

fn sign(keys: &SchedulerKeys, job: &Job) -> SignedJob {
    let payload = job::encode(job);
    let signed = keys.sign_job(job.lane.as_str(), &payload);
    let headers = vec![
        ("Ow-Kid".to_owned(), signed.kid.to_string()),
        ("Ow-Mac".to_owned(), signed.tag.to_string()),
        ("Ow-Key".to_owned(), "queue".to_owned()),
        ("traceparent".to_owned(), openwatch_bus::trace::Traceparent::new_root().to_string()),
    ];
    SignedJob {
        outgoing: Outgoing {
            subject: subject::job(job.lane, job.host),
            message_id: job::message_id(job.scan, job.attempt),
            headers,
            payload,
        },
        tag: *signed.tag.as_bytes(),
        key_id: signed.kid.to_string(),
    }
}

fn note(job: &Job, signed: &SignedJob) -> Issued {
    Issued {
        scan: job.scan,
        attempt: job.attempt,
        tag: signed.tag,
        key_id: signed.key_id.clone(),
        timeout_sec: job.timeout.as_secs() as u32,
        policy_version: job.policy_version.clone(),
        corpus: job.corpus.clone(),
    }
}

/// Moves a host's schedule when one of its scans has ended.
async fn reschedule(
    store: Store,
    bus: Bus,
    policy: PolicyWatch,
    shutdown: CancellationToken,
) -> Result<(), StageError> {
    let options = Options::new(STAGE, Consumer::SCHEDULER, 8).gate(database_gate(&store));
    let handle = move |message: Message| {
        let (store, policy) = (store.clone(), policy.clone());
        async move { rescheduled(&store, &policy, &message).await }
    };
    Ok(consume::run(&bus, options, handle, shutdown).await?)
}

async fn rescheduled(store: &Store, policy: &PolicyWatch, message: &Message) -> Next {
    let event = match Event::decode(&message.headers, &message.payload) {
        Ok(event) => event,
        Err(error) => return Next::Reject { reason: error.to_string() },
    };
    match apply_end(store, policy, event, message).await {
        Ok(()) => Next::Done,
        Err(StageError::Store(error)) => next(error),
        Err(error) => {
            tracing::warn!(%error, "a schedule waits");
            Next::Retry { after: crate::error::AWAY }
        }
    }
}

async fn apply_end(
    store: &Store,
    policy: &PolicyWatch,
    event: Event,
    message: &Message,
) -> Result<(), StageError> {
    let Some(host) = event.host else { return Ok(()) };
    let mut tx = store.begin().await?;
    if !inbox::first_time(&mut tx, STAGE, &event.id.to_string()).await? {
        return Ok(());
    }
    let now = tx.now();
    let Some(prior) = schedule::lock(&mut tx, host).await? else {
        return Ok(tx.commit().await?);
    };
    let Some(after) = decide(policy, &event.body, &prior, now).await? else {
        return Ok(tx.commit().await?);
    };
    let After { scan, number, outcome, interval_minutes, next_at, policy_version } = after;
    let completed_at = outcome.is_some().then_some(now);
    let change = Reschedule {
        host,
        number,
        outcome,
        interval_minutes,
        next_at,
        completed_at,
        policy_version: &policy_version,
    };
    let moved = schedule::update_after_scan(&mut tx, &change).await?;
    let mut out = Out::new(STAGE, event.id.to_string()).under(&policy_version).traced(message.trace);
    if let Some((prior, new)) = moved {
        out.event(
            &tx,
            Some(host),
            ScheduleUpdatedEvent {
                host_id: host,
                scan_id: Some(scan),
                change_kind: "post_scan_update".to_owned(),
                compliance_state: ComplianceState::parse(&new.compliance_state).unwrap_or_default(),
                compliance_score: new.compliance_score,
                interval_minutes: u32::try_from(new.current_interval_minutes).unwrap_or_default(),
                next_scan_at: new.next_scheduled_scan,
                policy_version: policy_version.clone(),
            },
        );
        out.audit(&mut tx, &updated((host, prior, new), "post_scan_update")).await?;
    }
    Ok(out.commit(tx).await?)
}

/// What the end of a scan means for its host's schedule.
struct After {
    scan: ScanId,
    number: i64,
    outcome: Option<(ComplianceState, Score, bool)>,
    interval_minutes: u32,
    next_at: Timestamp,
    policy_version: String,
}

/// Nothing when the event moves no schedule: filtered, superseded, or asked for by hand (unless the policy says that a
/// scan by hand counts). A host that never had a state takes it from any full scan, but keeps its due time.
async fn decide(
    policy: &PolicyWatch,
    body: &Body,
    prior: &ScheduleFacts,
    now: Timestamp,
) -> Result<Option<After>, StageError> {
    let before = ComplianceState::parse(&prior.compliance_state).unwrap_or_default();
    Ok(match body {
        Body::ScanCompleted(it) if it.full && !it.superseded => {
            let policy = policy.version(&it.policy_version).await?;
            let moves = it.trigger == Lane::Scheduled || policy.manual_scan_refreshes_schedule;
            if !moves && before != ComplianceState::Unknown {
                return Ok(None);
            }
            let score = it.summary.after;
            let state = policy.bands.classify(score, it.critical_failing, before);
            let due = next_scan_for(state, Some(now), &policy.ladder).unwrap_or(now);
            Some(After {
                scan: it.scan_id,
                number: it.host_number,
                outcome: Some((state, score, it.critical_failing)),
                interval_minutes: policy.ladder.minutes(state),
                next_at: if moves { due } else { prior.next_scheduled_scan },
                policy_version: it.policy_version.clone(),
            })
        }
        Body::ScanFailed(it) if it.trigger == Lane::Scheduled => {
            let backoff =
                Backoff { consecutive_failures: it.consecutive_failures, suppress_until: it.suppress_until };
            Some(After {
                scan: it.scan_id,
                number: it.host_number,
                outcome: None,
                interval_minutes: u32::try_from(prior.current_interval_minutes).unwrap_or(CAP_MINUTES),
                next_at: next_after_failure(backoff, now),
                policy_version: it.policy_version.clone(),
            })
        }
        _ => None,
    })
}
