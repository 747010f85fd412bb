//! An event becomes an alert: opened, counted up, or the end of its opposites, with its deliveries, in one `tx`.

use std::collections::BTreeMap;

use openwatch_bus::message::event::{AlertOpened, AlertResolved, AlertUpdated, Body, Event};
use openwatch_bus::{Message, Next};
use openwatch_model::alert::{
    AlertSeverity, AlertState, AlertType, NewAlert, Notification, connectivity_to_alert, drift_to_alert,
    flapping, prober_to_alert,
};
use openwatch_model::audit::{AlertCreated, AlertResolved as AlertResolvedAudit};
use openwatch_model::drift::Thresholds;
use openwatch_model::scan::FailureReason;
use openwatch_model::schedule::BACKOFF_AFTER;
use openwatch_model::{AlertId, HostId, Timestamp};
use openwatch_store::alert::{self, AutoResolved, Opened};
use openwatch_store::{Store, StoreError, Tx, alert_life, channel, delivery, host, inbox};

use super::STAGE;
use crate::StageError;
use crate::error::{AWAY, next};
use crate::out::Out;
use crate::policy::PolicyWatch;

pub(super) async fn handle(store: &Store, policy: &PolicyWatch, message: &Message) -> Next {
    let event = match Event::decode(&message.headers, &message.payload) {
        Ok(event) => event,
        Err(error) => return Next::Reject { reason: error.to_string() },
    };
    match route(store, policy, &event, message).await {
        Ok(()) => Next::Done,
        Err(StageError::Store(error)) => next(error),
        Err(error) => {
            tracing::warn!(%error, "an alert waits");
            Next::Retry { after: AWAY }
        }
    }
}

/// What an event means to people; nothing when it pages nobody.
/// `thresholds` are those of a drift with lost checks.
fn to_alert(event: &Event, thresholds: Thresholds) -> Option<NewAlert> {
    let at = event.at;
    let new = |kind, severity, title: String, body: String| NewAlert {
        kind,
        severity,
        host: event.host,
        title,
        body,
        occurred_at: at,
    };
    match &event.body {
        Body::DriftDetected(it) => drift_to_alert(it.host_id, &it.drift, thresholds, at),
        Body::HostConnectivity(it) => connectivity_to_alert(it.host_id, it.prior, it.status, at),
        Body::ProberConnectivity(it) => Some(prober_to_alert(it.status, it.asked, it.silent, at)),
        // What has an alert of its own, and what ended because workers were stopped, tells nothing new.
        Body::ScanFailed(it)
            if it.reason.consequence().alert.is_none() && it.reason != FailureReason::Cancelled =>
        {
            let failed = it.failed_scans.filter(|failed| *failed >= BACKOFF_AFTER)?;
            Some(new(
                AlertType::ScanFailing,
                AlertSeverity::Medium,
                format!("{failed} scans in a row failed"),
                format!("last reason: {}", it.reason.as_str()),
            ))
        }
        Body::HostKeyChanged(_) => Some(new(
            AlertType::HostKeyChanged,
            AlertSeverity::Critical,
            "host shows another key than the one on record".to_owned(),
            "if the change was meant, put the new key on record with `openwatch host accept-key`".to_owned(),
        )),
        Body::JobRejected(it) => Some(new(
            AlertType::JobTampered,
            AlertSeverity::Critical,
            format!("a scan job was refused: {}", it.failure.as_str()),
            format!("message {} of the job stream, refused by {}", it.stream_sequence, it.worker),
        )),
        Body::PolicyRejected(it) => Some(new(
            AlertType::PolicyRejected,
            AlertSeverity::High,
            format!("a policy was refused: {}", it.reason),
            it.attempted_version.as_ref().map(|v| format!("version {v}")).unwrap_or_default(),
        )),
        _ => None,
    }
}

async fn route(
    store: &Store,
    policy: &PolicyWatch,
    event: &Event,
    message: &Message,
) -> Result<(), StageError> {
    match &event.body {
        Body::ScanCompleted(it) => {
            let ended = AlertType::ENDED_BY_A_SCAN;
            return Ok(end(store, Some(it.host_id), &ended, event, message).await?);
        }
        Body::PolicyAccepted(_) => {
            return Ok(end(store, None, &AlertType::ENDED_BY_A_POLICY, event, message).await?);
        }
        _ => {}
    }
    let thresholds = match &event.body {
        Body::DriftDetected(it) if it.drift.summary.low_confidence => {
            policy.version(&it.policy_version).await?.thresholds
        }
        _ => Thresholds::default(),
    };
    let Some(mut new) = to_alert(event, thresholds) else { return Ok(()) };
    let ttl = policy.in_force().await?.dedup_ttl;
    let mut tx = store.begin().await?;
    if !inbox::first_time(&mut tx, STAGE, &event.id.to_string()).await? {
        return Ok(());
    }
    let mut out = Out::new(STAGE, event.id.to_string()).traced(message.trace);
    // An event older than what was seen of its family neither opens nor resolves anything.
    if alert::advance_cursor(&mut tx, new.host, new.kind.family(), new.occurred_at).await? {
        let resolved = alert::resolve_open(&mut tx, new.host, new.kind.resolves(), new.occurred_at).await?;
        for it in &resolved {
            tell_resolved(&mut tx, &mut out, (new.host, new.occurred_at), it).await?;
        }
        let since = tx.now() - ttl;
        let flaps = flapping(alert::openings_since(&mut tx, &new.dedup_key(), since).await?, ttl);
        let mut tags = tags(&mut tx, &new, event).await?;
        if flaps.marked {
            tags.insert("flapping".to_owned(), "true".to_owned());
            new.title.push_str(", again and again");
        }
        let opened = alert::open(&mut tx, &new, &tags, ttl, flaps.hold).await?;
        tell_opened(&mut tx, &mut out, &new, &tags, opened, flaps.hold.is_some()).await?;
    }
    Ok(out.commit(tx).await?)
}

/// What opens no alert itself may end some: a scan with a result ends what failing scans opened, a good policy that one was
/// refused. Nearly always there is nothing to end, and then nothing is written; doing it twice is once, so no inbox is
/// needed.
async fn end(
    store: &Store,
    host: Option<HostId>,
    ended: &[AlertType],
    event: &Event,
    message: &Message,
) -> Result<(), StoreError> {
    let families: Vec<_> = ended.iter().map(|kind| kind.family()).collect();
    if !alert::has_earlier_cursors(store, host, &families, event.at).await? {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    if !alert::advance_known_cursors(&mut tx, host, &families, event.at).await? {
        return Ok(());
    }
    let mut out = Out::new(STAGE, event.id.to_string()).traced(message.trace);
    for it in &alert::resolve_open(&mut tx, host, ended, event.at).await? {
        tell_resolved(&mut tx, &mut out, (host, event.at), it).await?;
    }
    out.commit(tx).await
}

/// What channels filter on. The names that we give come first: no label can pass for one of them.
async fn tags(
    tx: &mut Tx<'_>,
    new: &NewAlert,
    event: &Event,
) -> Result<BTreeMap<String, String>, StoreError> {
    let mut tags = BTreeMap::new();
    if let Some(id) = new.host {
        tags.insert("host_id".to_owned(), id.to_string());
        if let Some((name, labels)) = host::known_as(tx, id).await? {
            tags.insert("host".to_owned(), name);
            tags.extend(labels.into_iter().map(|(key, value)| (format!("label.{key}"), value)));
        }
    }
    tags.insert("severity".to_owned(), new.severity.as_str().to_owned());
    tags.insert("alert_type".to_owned(), new.kind.as_str().to_owned());
    if let Body::DriftDetected(it) = &event.body {
        tags.insert("scan_id".to_owned(), it.scan_id.to_string());
        tags.extend(it.score_delta.map(|delta| ("score_delta".to_owned(), format!("{delta:.2}"))));
    }
    Ok(tags)
}

async fn tell_opened(
    tx: &mut Tx<'_>,
    out: &mut Out,
    new: &NewAlert,
    tags: &BTreeMap<String, String>,
    opened: Opened,
    withheld: bool,
) -> Result<(), StoreError> {
    match opened {
        Opened::New { id, transition } => {
            metrics::counter!("openwatch_alerts_opened_total", "type" => new.kind.as_str()).increment(1);
            out.audit(
                tx,
                &AlertCreated {
                    alert_id: id,
                    alert_type: new.kind.as_str(),
                    alert_severity: new.severity.as_str(),
                    host_id: new.host,
                },
            );
            let state = AlertState::Active;
            let event = AlertOpened {
                alert_id: id,
                kind: new.kind,
                severity: new.severity,
                host_id: new.host,
                state,
            };
            out.event(tx, new.host, event);
            if withheld {
                metrics::counter!("openwatch_alerts_withheld_total", "type" => new.kind.as_str())
                    .increment(1);
                return Ok(());
            }
            enqueue(tx, new, tags, id, transition, "opened").await
        }
        Opened::Repeated { id, transition, severity, occurrences, notify } => {
            // It stays as grave as it ever was.
            let new = &NewAlert { severity, ..new.clone() };
            let mut tags = tags.clone();
            tags.insert("severity".to_owned(), severity.as_str().to_owned());
            let state = alert_life::get(tx, id).await?.map_or(AlertState::Active, |alert| alert.state);
            metrics::counter!("openwatch_alerts_repeated_total", "type" => new.kind.as_str()).increment(1);
            let event = AlertUpdated {
                alert_id: id,
                kind: new.kind,
                severity: new.severity,
                host_id: new.host,
                state,
                prior_state: state,
                occurrences,
            };
            out.event(tx, new.host, event);
            if notify {
                return enqueue(tx, new, &tags, id, transition, "repeated").await;
            }
            Ok(())
        }
    }
}

pub(super) async fn tell_resolved(
    tx: &mut Tx<'_>,
    out: &mut Out,
    (host, occurred_at): (Option<HostId>, Timestamp),
    it: &AutoResolved,
) -> Result<(), StoreError> {
    let Some(alert) = alert_life::get(tx, it.id).await? else { return Ok(()) };
    let severity = alert.severity;
    out.audit(
        tx,
        &AlertResolvedAudit {
            alert_id: it.id,
            prior_state: it.prior.as_str(),
            new_state: AlertState::Resolved.as_str(),
            reason: Some("auto".to_owned()),
        },
    );
    let event = AlertResolved {
        alert_id: it.id,
        kind: it.kind,
        severity,
        host_id: host,
        state: AlertState::Resolved,
        prior_state: it.prior,
        automatic: true,
    };
    out.event(tx, host, event);
    metrics::counter!("openwatch_alerts_resolved_total", "type" => it.kind.as_str()).increment(1);
    if it.quiet {
        return Ok(());
    }
    let (kind, title, body) = (it.kind, alert.title, alert.body);
    let resolved = NewAlert { kind, severity, host, title, body, occurred_at };
    enqueue(tx, &resolved, &alert.tags, it.id, it.transition, "resolved").await
}

/// Tells the channels of an alert as it stands: it was silenced or kept back until now.
pub(super) async fn tell_again(
    tx: &mut Tx<'_>,
    alert: &alert_life::Alert,
    what: &str,
) -> Result<(), StoreError> {
    let new = NewAlert {
        kind: alert.kind,
        severity: alert.severity,
        host: alert.host,
        title: alert.title.clone(),
        body: alert.body.clone(),
        occurred_at: alert.last_occurred_at,
    };
    enqueue(tx, &new, &alert.tags, alert.id, alert.transition, what).await
}

/// One delivery row for each channel that wants it. Receivers learn ids and words, never addresses or evidence.
async fn enqueue(
    tx: &mut Tx<'_>,
    new: &NewAlert,
    tags: &BTreeMap<String, String>,
    id: AlertId,
    transition: i32,
    what: &str,
) -> Result<(), StoreError> {
    let over = (what == "resolved").then_some(id);
    let channels = channel::matching(tx, new.severity, tags, over).await?;
    let notification = Notification {
        event: format!("alert.{what}"),
        alert_id: Some(id),
        transition,
        kind: Some(new.kind),
        severity: new.severity,
        host_id: new.host,
        host: tags.get("host").cloned(),
        title: new.title.clone(),
        body: new.body.clone(),
        tags: tags.clone(),
        occurred_at: new.occurred_at,
        actor: None,
        reason: None,
    };
    let payload = serde_json::to_value(notification).unwrap_or_default();
    delivery::enqueue(tx, id, transition, &channels, &payload).await.map(drop)
}
