//! When hosts are scanned next, and maintenance by hand. The schedule itself is the scheduler's to write: people leave a
//! wish, which holds at once for everybody who asks, and the scheduler takes it over.

use axum::extract::{Path, State};
use openwatch_model::HostId;
use openwatch_model::next_scan::{Facts, Why, next_scan};
use openwatch_store::schedule::{self, Wish};
use openwatch_store::{Tx, host, policy};

use super::hosts::show_in;
use super::known_host;
use crate::dto::{Host, HostSchedule, MaintenanceWish, Problem, ScheduleCause};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Asking, Shared};

/// What holds before the first policy was accepted.
const NO_POLICY: &[u8] = b"version: 0.0.0\n";

/// Puts a host into maintenance: it is neither scanned by the scheduler nor probed until the time given, or until it is
/// called off. Scans asked for by hand still run.
#[utoipa::path(post, path = "/api/v1/hosts/{host}/maintenance", tag = "hosts", params(("host" = String, Path, description = "name or id")), request_body = MaintenanceWish, responses(
    (status = 200, description = "in maintenance", body = Host),
    (status = 400, description = "the time is past", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn begin(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(body): Json<MaintenanceWish>,
) -> Result<axum::Json<Host>, Failure> {
    let tx = api.begin().await?;
    if body.until.is_some_and(|until| until <= tx.now()) {
        return Err(Failure::field(Code::FieldRange, "/until", "must be in the future"));
    }
    wished(tx, &asking, &named, Wish::Maintenance { until: body.until }).await
}

/// Ends a host's maintenance by hand. Maintenance by policy is the policy's to end.
#[utoipa::path(delete, path = "/api/v1/hosts/{host}/maintenance", tag = "hosts", params(("host" = String, Path, description = "name or id")), responses(
    (status = 200, description = "not in maintenance by hand", body = Host),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn end(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
) -> Result<axum::Json<Host>, Failure> {
    wished(api.begin().await?, &asking, &named, Wish::Normal).await
}

async fn wished(
    mut tx: Tx<'_>,
    asking: &Asking,
    named: &str,
    wish: Wish,
) -> Result<axum::Json<Host>, Failure> {
    let id = known_host(&mut tx, named).await?;
    schedule::ask(&mut tx, id, wish, &asking.caller.name, &asking.correlation).await?;
    let host = show_in(&mut tx, id).await?;
    let host = scheduled(&mut tx, id, host).await?;
    tx.commit().await?;
    Ok(axum::Json(host))
}

/// Adds when a host is scanned next, and why then.
pub(super) async fn scheduled(tx: &mut Tx<'_>, id: HostId, shown: Host) -> Result<Host, Failure> {
    let Some(row) = host::get(tx, id).await? else { return Ok(shown) };
    let (Some(due_at), Some(reason)) = (row.next_scan_at, row.next_reason) else { return Ok(shown) };
    // Its signature is for those who act on it; here it is only told. Without one, nothing holds anybody back.
    let stored = policy::in_force(tx).await?.map_or_else(|| NO_POLICY.to_vec(), |stored| stored.document);
    let Ok((policy, _)) = openwatch_trust::policy::check_document(&stored) else { return Ok(shown) };
    let now = tx.now();
    let waits = due_at <= now && policy.dispatch_per_minute.is_some();
    let ahead = if waits { schedule::ahead(tx, &policy.maintenance, id).await? } else { 0 };
    let facts = Facts {
        name: &row.name,
        state: row.state,
        due_at,
        reason,
        interval_minutes: row.interval_minutes.unwrap_or_default(),
        maintenance: row.maintenance,
        maintenance_until: row.maintenance_until,
        failures: row.failures,
        suppress_until: row.suppress_until,
        open: row.open_scan.map(|(_, state)| state),
        ahead,
    };
    let next = next_scan(&facts, &policy, now);
    let schedule = HostSchedule {
        next_scan_at: next.at,
        why: next.why.iter().map(cause).collect(),
        interval_minutes: facts.interval_minutes,
        maintenance: row.maintenance,
        maintenance_until: row.maintenance_until,
        consecutive_failures: row.failures,
        suppress_until: row.suppress_until,
    };
    Ok(Host { schedule: Some(schedule), ..shown })
}

fn cause(why: &Why) -> ScheduleCause {
    ScheduleCause { code: why.code().to_owned(), text: why.to_string() }
}
