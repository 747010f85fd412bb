//! The end of a scan moves its host's schedule.

use openwatch_bus::consume::{self, Consumer, Options};
use openwatch_bus::message::event::{Body, Event, ScheduleUpdated as ScheduleUpdatedEvent};
use openwatch_bus::{Bus, Message, Next};
use openwatch_model::audit::ScheduleFacts;
use openwatch_model::scan::Lane;
use openwatch_model::schedule::{Backoff, CAP_MINUTES, DueReason, next_after_failure, next_scan_for};
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::{ScanId, Timestamp};
use openwatch_store::Store;
use openwatch_store::schedule::{self, Reschedule};
use tokio_util::sync::CancellationToken;

use super::STAGE;
use super::due::updated;
use crate::StageError;
use crate::error::{AWAY, next};
use crate::gate::database_gate;
use crate::out::Out;
use crate::policy::PolicyWatch;

/// Moves a host's schedule when one of its scans has ended.
pub(super) async fn run(
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
            Next::Retry { after: AWAY }
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
    let Some((mut tx, prior)) = schedule::hold(store, host).await? else { return Ok(()) };
    let now = tx.now();
    let Some(after) = decide(policy, &event.body, &prior, now).await? else { return Ok(()) };
    let After { scan, number, outcome, interval_minutes, next_at, reason, policy_version } = after;
    let completed_at = outcome.is_some().then_some(now);
    let change = Reschedule {
        host,
        number,
        outcome,
        interval_minutes,
        next_at,
        reason,
        completed_at,
        policy_version: &policy_version,
    };
    let Some(new) = schedule::update_after_scan(&mut tx, &change).await? else { return Ok(()) };
    let mut out = Out::new(STAGE, event.id.to_string()).under(&policy_version).traced(message.trace);
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
    out.audit(&tx, &updated((host, prior, new), "post_scan_update"));
    Ok(out.commit(tx).await?)
}

/// What the end of a scan means for its host's schedule.
struct After {
    scan: ScanId,
    number: i64,
    outcome: Option<(ComplianceState, Score, bool)>,
    interval_minutes: u32,
    next_at: Timestamp,
    reason: DueReason,
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
                reason: match DueReason::parse(&prior.next_reason) {
                    Some(before) if !moves => before,
                    _ => DueReason::Interval,
                },
                policy_version: it.policy_version.clone(),
            })
        }
        Body::ScanFailed(it) if it.trigger == Lane::Scheduled => {
            let backoff =
                Backoff { consecutive_failures: it.consecutive_failures, suppress_until: it.suppress_until };
            let (next_at, reason) = next_after_failure(backoff, now);
            Some(After {
                scan: it.scan_id,
                number: it.host_number,
                outcome: None,
                interval_minutes: u32::try_from(prior.current_interval_minutes).unwrap_or(CAP_MINUTES),
                next_at,
                reason,
                policy_version: it.policy_version.clone(),
            })
        }
        _ => None,
    })
}
