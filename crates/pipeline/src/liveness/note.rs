//! A probe's answer becomes state, transition, audit and event, in one `tx` under the host's row.

use std::time::Duration;

use openwatch_bus::message::event::HostConnectivity;
use openwatch_model::audit::ConnectivityChecked;
use openwatch_model::liveness::{Liveness, ProbeOutcome, Reachability, jittered, observe};
use openwatch_model::policy::Policy;
use openwatch_store::liveness::{self as rows, Target};
use openwatch_store::standing as standing_rows;
use openwatch_store::{Store, StoreError, Tx};

use super::{PROBE_LIMIT, STAGE, standing};
use crate::out::Out;

pub(super) async fn note(
    store: &Store,
    policy: &Policy,
    target: &Target,
    outcome: ProbeOutcome,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let Some(known) = rows::lock(&mut tx, target).await? else {
        metrics::counter!("openwatch_probes_late_total").increment(1);
        return Ok(());
    };
    let network = standing_rows::get(&mut tx).await?;
    // Silence from before the network came back says nothing about the host.
    let failing_since = known.failing_since.filter(|at| Some(*at) >= network.connected_at);
    let failures = failing_since.map_or(0, |_| known.state.consecutive_failures);
    let prior = Liveness { consecutive_failures: failures, ..known.state };

    let (mut next, mut moved) = observe(prior, outcome, policy.liveness_threshold);
    let mut network_gone = network.isolated_since.is_some();
    if moved && next.status == Reachability::Unreachable {
        let since = failing_since.unwrap_or(tx.now());
        let held = network_gone || standing::holds(&mut tx, policy, target.host, since).await?;
        if held {
            metrics::counter!("openwatch_liveness_held_total").increment(1);
            (next.status, moved) = (prior.status, false);
            network_gone |= standing_rows::get(&mut tx).await?.isolated_since.is_some();
        }
    }
    let pause = pause(policy, target, outcome, next.status, network_gone);
    let again = tx.now() + pause;
    let transition = rows::save(&mut tx, target.host, next, moved, outcome, again).await?;
    if moved {
        metrics::counter!("openwatch_liveness_transitions_total", "to" => next.status.as_str()).increment(1);
        tell(&mut tx, target, (prior.status, next.status), transition, outcome).await?;
    }
    tx.commit().await
}

/// How long until the host is asked again.
fn pause(
    policy: &Policy,
    target: &Target,
    outcome: ProbeOutcome,
    status: Reachability,
    network_gone: bool,
) -> Duration {
    let undecided = status != Reachability::Unreachable;
    match outcome {
        // Everybody is asked now and then, to notice when the network is back.
        _ if network_gone && undecided => jittered(target.host, standing::ASK_AGAIN),
        // A doubtful host is asked again soon: an outage is decided in seconds, not in two intervals.
        Err(_) if undecided => PROBE_LIMIT,
        _ => jittered(target.host, policy.liveness_interval),
    }
}

async fn tell(
    tx: &mut Tx<'_>,
    target: &Target,
    (prior, status): (Reachability, Reachability),
    transition: i64,
    outcome: ProbeOutcome,
) -> Result<(), StoreError> {
    let response_time_ms = outcome.ok().map(|took| took.as_secs_f64() * 1000.0);
    let host_id = target.host;
    let ssh_accessible = outcome.is_ok();
    let mut out = Out::new(STAGE, format!("{host_id}.{transition}"));
    let audit = ConnectivityChecked { host_id, ssh_accessible, response_time_ms, new_status: status };
    out.audit(tx, &audit);
    let error = outcome.err();
    out.event(
        tx,
        Some(host_id),
        HostConnectivity { host_id, prior, status, transition, response_time_ms, error },
    );
    out.flush(tx).await
}
