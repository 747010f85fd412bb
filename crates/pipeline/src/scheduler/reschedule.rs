//! The end of a scan moves its host's schedule.

use openwatch_bus::consume::{self, Consumer, Options};
use openwatch_bus::message::event::{Body, Event, ScheduleUpdated as ScheduleUpdatedEvent};
use openwatch_bus::{Bus, Message, Next};
use openwatch_model::audit::ScheduleFacts;
use openwatch_model::scan::Lane;
use openwatch_model::schedule::{Backoff, DueReason, next_after_failure, next_scan_for};
use openwatch_model::score::ComplianceState;
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
    let (Some(host), Some(end)) = (event.host, End::of(&event.body)) else { return Ok(()) };
    while let Some((moment, seen, prior)) = schedule::look(store, host, end.number).await? {
        let Some(new) = decide(policy, &event.body, &prior, moment.now()).await? else { return Ok(()) };
        let mut out = Out::new(STAGE, event.id.to_string()).under(end.policy_version).traced(message.trace);
        out.event(
            &moment,
            Some(host),
            ScheduleUpdatedEvent {
                host_id: host,
                scan_id: Some(end.scan),
                change_kind: "post_scan_update".to_owned(),
                compliance_state: ComplianceState::parse(&new.compliance_state).unwrap_or_default(),
                compliance_score: new.compliance_score,
                interval_minutes: u32::try_from(new.current_interval_minutes).unwrap_or_default(),
                next_scan_at: new.next_scheduled_scan,
                policy_version: end.policy_version.to_owned(),
            },
        );
        out.audit(&moment, &updated((host, prior, new.clone()), "post_scan_update"));
        let completed_at = end.completed.then_some(moment.now());
        let change = Reschedule { host, number: end.number, seen, new, completed_at };
        if schedule::update_after_scan(store, moment, &change, &out.told(&moment)).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// The end of a scan that may move its host's schedule: a filtered or superseded one does not, nor the failure of one that was
/// asked for by hand.
struct End<'a> {
    scan: ScanId,
    number: i64,
    completed: bool,
    policy_version: &'a str,
}

impl<'a> End<'a> {
    fn of(body: &'a Body) -> Option<Self> {
        let (scan, number, completed, policy_version) = match body {
            Body::ScanCompleted(it) if it.full && !it.superseded => {
                (it.scan_id, it.host_number, true, &it.policy_version)
            }
            Body::ScanFailed(it) if it.trigger == Lane::Scheduled => {
                (it.scan_id, it.host_number, false, &it.policy_version)
            }
            _ => return None,
        };
        Some(Self { scan, number, completed, policy_version })
    }
}

/// What the end of a scan makes of its host's row. Nothing when the scan was asked for by hand, unless the policy says that
/// such a scan counts. A host that never had a state takes it from any full scan, but keeps its due time.
async fn decide(
    policy: &PolicyWatch,
    body: &Body,
    prior: &ScheduleFacts,
    now: Timestamp,
) -> Result<Option<ScheduleFacts>, StageError> {
    let before = ComplianceState::parse(&prior.compliance_state).unwrap_or_default();
    let prior = prior.clone();
    Ok(match body {
        Body::ScanCompleted(it) => {
            let policy = policy.version(&it.policy_version).await?;
            let moves = it.trigger == Lane::Scheduled || policy.manual_scan_refreshes_schedule;
            if !moves && before != ComplianceState::Unknown {
                return Ok(None);
            }
            let score = it.summary.after;
            let state = policy.bands.classify(score, it.critical_failing, before);
            let (next_at, reason) = if moves {
                let due = next_scan_for(state, Some(now), &policy.ladder).unwrap_or(now);
                (due, DueReason::Interval.as_str().to_owned())
            } else {
                (prior.next_scheduled_scan, prior.next_reason)
            };
            Some(ScheduleFacts {
                compliance_state: state.as_str().to_owned(),
                compliance_score: score.percent(),
                has_critical_findings: it.critical_failing,
                current_interval_minutes: i32::try_from(policy.ladder.minutes(state)).unwrap_or(i32::MAX),
                next_scheduled_scan: next_at,
                next_reason: reason,
                policy_version_at_last_scan: Some(it.policy_version.clone()),
                ..prior
            })
        }
        Body::ScanFailed(it) => {
            let backoff =
                Backoff { consecutive_failures: it.consecutive_failures, suppress_until: it.suppress_until };
            let (next_at, reason) = next_after_failure(backoff, now);
            Some(ScheduleFacts {
                next_scheduled_scan: next_at,
                next_reason: reason.as_str().to_owned(),
                policy_version_at_last_scan: Some(it.policy_version.clone()),
                ..prior
            })
        }
        _ => None,
    })
}
