//! The state of the fleet on one page.

use axum::extract::State;
use openwatch_model::alert::AlertSeverity;
use openwatch_model::score::{ComplianceState, Score};
use openwatch_store::read::{self, Fleet};
use openwatch_store::standing::{self, ProberStanding};

use super::{AsOfQuery, past};
use crate::dto::{OldestHost, Problem, QueueDepth, SeverityCount, StateCount, StatusReport};
use crate::error::Failure;
use crate::extract::Query;
use crate::state::Shared;

/// The fleet, now or as it was.
#[utoipa::path(get, path = "/api/v1/status", tag = "status", params(AsOfQuery), responses(
    (status = 200, description = "the fleet", body = StatusReport),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(
    State(api): Shared,
    Query(asked): Query<AsOfQuery>,
) -> Result<axum::Json<StatusReport>, Failure> {
    let mut tx = api.begin_read().await?;
    let now = tx.now();
    let as_of = past(asked.as_of, now)?;
    let fleet = read::fleet(&mut tx, as_of).await?;
    let standing = match as_of {
        None => standing::get(&mut tx).await?,
        Some(_) => ProberStanding::default(),
    };
    let (by_state, open_alerts) = (by_state(&fleet), open_alerts(&fleet));
    let unknown = fleet.by_state.get(&ComplianceState::Unknown).copied().unwrap_or_default();
    Ok(axum::Json(StatusReport {
        as_of: as_of.unwrap_or(now),
        hosts: fleet.hosts(),
        hosts_scored: fleet.hosts() - unknown,
        by_state,
        unreachable: fleet.reachability.map(|(_, down, _)| down),
        probers_isolated_since: standing.isolated_since,
        score: Score::of(fleet.rules).percent(),
        open_alerts,
        oldest_unscanned: fleet.oldest.map(|it| OldestHost {
            id: it.host.0,
            name: it.name,
            last_scanned_at: it.verified_at,
        }),
        queue: fleet.open_scans.map(|(queued, running)| QueueDepth { queued, running }),
    }))
}

fn by_state(fleet: &Fleet) -> Vec<StateCount> {
    let count = |state| fleet.by_state.get(&state).copied().unwrap_or_default();
    ComplianceState::ALL.into_iter().map(|state| StateCount { state, hosts: count(state) }).collect()
}

fn open_alerts(fleet: &Fleet) -> Vec<SeverityCount> {
    let count = |severity| fleet.open_alerts.get(&severity).copied().unwrap_or_default();
    let worst_first = AlertSeverity::ALL.into_iter().rev();
    worst_first.map(|severity| SeverityCount { severity, alerts: count(severity) }).collect()
}
