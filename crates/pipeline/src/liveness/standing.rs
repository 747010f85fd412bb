//! Is a silent host down, or are we cut off? Before a host's outage is told, the others are asked: when most of those that
//! answered before are silent too, the network between us and them is gone. That is told once, the outages are held back,
//! and everybody is asked again every half minute until most answer. Whoever does not then is down.

use std::time::Duration;

use openwatch_bus::message::event::ProberConnectivity;
use openwatch_model::audit::ProberStandingChanged;
use openwatch_model::liveness::{Blame, Standing, Witnesses};
use openwatch_model::policy::Policy;
use openwatch_model::{HostId, Timestamp};
use openwatch_store::{Store, StoreError, Tx, standing as rows};

use super::{LEASE, STAGE};
use crate::out::Out;

/// Pause between probes of a host while the network is gone; varied as the interval is.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(30);
/// So far back answers count when it is judged whether the network is back: long enough for everybody to be asked.
const WINDOW: Duration = Duration::from_secs(60);

/// Whether a host that has been silent `since` must not be called unreachable, or not yet.
pub(super) async fn holds(
    tx: &mut Tx<'_>,
    policy: &Policy,
    host: HostId,
    since: Timestamp,
) -> Result<bool, StoreError> {
    let witnesses = rows::witnesses(tx, Some(host), since, &policy.maintenance).await?;
    let waited = Duration::try_from(tx.now() - since).unwrap_or_default();
    match witnesses.blame(policy.isolation_percent, waited) {
        Blame::Host => Ok(false),
        Blame::Unsure(more) => {
            rows::call(tx, more, since, LEASE, &policy.maintenance).await?;
            Ok(true)
        }
        Blame::Network => {
            // Others come to the same end at the same time; the first one tells.
            if rows::lock(tx).await?.isolated_since.is_none() {
                change(tx, Standing::Isolated, witnesses).await?;
            }
            Ok(true)
        }
    }
}

/// Looks whether an isolation is over. Called with every round.
pub(super) async fn review(store: &Store, policy: &Policy) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let isolated = rows::get(&mut tx).await?.isolated_since.is_some();
    metrics::gauge!("openwatch_prober_isolated").set(if isolated { 1.0 } else { 0.0 });
    if !isolated {
        return Ok(());
    }
    let Some(since) = rows::lock(&mut tx).await?.isolated_since else { return Ok(()) };
    let since = since.max(tx.now() - WINDOW);
    let witnesses = rows::witnesses(&mut tx, None, since, &policy.maintenance).await?;
    if witnesses.blame(policy.isolation_percent, Duration::ZERO) != Blame::Host {
        return Ok(());
    }
    change(&mut tx, Standing::Connected, witnesses).await?;
    tx.commit().await
}

async fn change(tx: &mut Tx<'_>, status: Standing, witnesses: Witnesses) -> Result<(), StoreError> {
    let transition = rows::change(tx, status == Standing::Isolated).await?;
    let Witnesses { asked, silent, .. } = witnesses;
    tracing::warn!(asked, silent, standing = status.as_str(), "the probers' network changed");
    metrics::counter!("openwatch_prober_transitions_total", "to" => status.as_str()).increment(1);
    let mut out = Out::new(STAGE, format!("prober.{transition}"));
    out.audit(tx, &ProberStandingChanged { status, asked, silent });
    out.event(tx, None, ProberConnectivity { status, transition, asked, silent });
    out.flush(tx).await
}
