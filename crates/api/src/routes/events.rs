//! Events as they happen, over server-sent events: what the public stream carries, for whoever has no NATS client.
//!
//! Each follower has a place of its own in the stream and asks for what comes next when it has room: a slow one is late
//! and holds up nobody, and what it has not read waits in the stream, not here.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use futures::Stream;
use openwatch_bus::message::event::Kind;
use openwatch_bus::stream::Stored;
use openwatch_bus::{BusError, subject};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::{clip, filter_host};
use crate::dto::Problem;
use crate::error::{Code, Failure};
use crate::extract::Query;
use crate::state::{Api, Shared};

/// Followers at once.
pub(crate) const FOLLOWERS: usize = 100;
/// How often the end of the stream is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Pause while NATS is away.
const AWAY: Duration = Duration::from_secs(2);
/// Says that somebody is still there when nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// An answer lasts so long at most; the client comes back with its place, and proves anew who it is.
const LONGEST: Duration = Duration::from_secs(15 * 60);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only these kinds, comma separated, such as `scan.completed,drift.detected`.
    topics: Option<String>,
    /// Only about this host: name or id.
    host: Option<String>,
    /// Begin after this place. The header `Last-Event-ID` wins; without both, only what happens from now on.
    since: Option<u64>,
}

/// Events as they happen. Each has its place in the stream as `id`, its kind as `event`, and JSON as `data`; a `gap` event
/// says that some are not kept any more, or, where its `anew` is true, that the stream was made anew and its places begin anew. Comes to an end after 15 minutes at most: come back with `Last-Event-ID`.
#[utoipa::path(get, path = "/api/v1/events", tag = "events",
    params(EventsQuery, ("Last-Event-ID" = Option<u64>, Header, description = "place of the last event that was read")),
    responses(
        (status = 200, description = "events", body = String, content_type = "text/event-stream"),
        (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "too many follow, or NATS does not answer", body = Problem, content_type = "application/problem+json"),
    ))]
pub(crate) async fn follow(
    State(api): Shared,
    headers: HeaderMap,
    Query(asked): Query<EventsQuery>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let topics = asked.topics.as_deref().map(topics).transpose()?;
    let host = filter_host(&mut api.begin_read().await?, asked.host.as_deref()).await?;
    let last = match headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default().parse()) {
        Some(Ok(last)) => Some(last),
        Some(Err(_)) => {
            let detail = "must be the id of the last event that was read";
            return Err(Failure::field(Code::FieldFormat, "last-event-id", detail));
        }
        None => asked.since,
    };
    let busy = |_| Failure::new(Code::Unavailable, format!("{FOLLOWERS} clients follow already; try again"));
    let place = api.followers.clone().try_acquire_owned().map_err(busy)?;
    let info = api.bus.stream_info(subject::EVENTS).await?;
    let mut from = last.map_or(info.last_sequence + 1, |last| last.saturating_add(1));
    let mut waiting = VecDeque::new();
    // A place that this stream never had is one of its predecessor: nothing would come until it had as many.
    let anew = from > info.last_sequence + 1;
    if anew || from < info.first_sequence {
        let to = info.first_sequence.saturating_sub(1);
        waiting.push_back(gap(from, to, anew));
    }
    if anew {
        from = info.first_sequence.max(1);
    }
    let kind = match &topics {
        // One kind is a filter of the server's; of several, what is not wanted is left out here.
        Some(topics) if topics.len() == 1 => topics.iter().next().copied().unwrap_or("*"),
        _ => "*",
    };
    let host = host.map_or_else(|| "*".to_owned(), |host| host.to_string());
    let follower = Follower {
        filter: format!("ow.v1.evt.{kind}.{host}"),
        from,
        waiting,
        topics,
        stop: api.stop.clone(),
        end: Instant::now() + LONGEST,
        api,
        _place: place,
    };
    let events = futures::stream::unfold(follower, |mut follower| async {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE).text("still here")))
}

/// The subject tokens of kinds by their dotted names.
fn topics(text: &str) -> Result<BTreeSet<&'static str>, Failure> {
    let kind = |name: &str| Kind::ALL.iter().find(|kind| kind.dotted() == name).map(|kind| kind.as_str());
    let unknown = |name: &str| {
        let all: Vec<_> = Kind::ALL.iter().map(|kind| kind.dotted()).collect();
        let detail = format!("`{}` is no kind of event; there are {}", clip(name), all.join(", "));
        Failure::field(Code::FieldFormat, "topics", detail)
    };
    text.split(',').map(str::trim).map(|name| kind(name).ok_or_else(|| unknown(name))).collect()
}

struct Follower {
    api: Arc<Api>,
    filter: String,
    topics: Option<BTreeSet<&'static str>>,
    from: u64,
    waiting: VecDeque<Event>,
    stop: CancellationToken,
    end: Instant,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; `None` ends the answer.
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.waiting.pop_front() {
            return Some(event);
        }
        loop {
            let pause = match self.api.bus.next_message(subject::EVENTS, self.from, &self.filter).await {
                Ok(Some(stored)) => {
                    self.from = stored.sequence + 1;
                    if self.wanted(&stored) {
                        return Some(told(&stored));
                    }
                    Duration::ZERO
                }
                Ok(None) => LOOK,
                Err(error) if error.is_outage() => AWAY,
                Err(error) => {
                    tracing::error!(%error, "events cannot be followed");
                    return None;
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.end) => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn wanted(&self, stored: &Stored) -> bool {
        let kind = stored.subject.split('.').nth(3).unwrap_or_default();
        self.topics.as_ref().is_none_or(|topics| topics.contains(kind))
    }
}

fn told(stored: &Stored) -> Event {
    let header = |name: &str| stored.header(name).unwrap_or_default();
    let body: Value = serde_json::from_slice(&stored.payload).unwrap_or_default();
    let kind = header("ce-type");
    let event = json!({
        "sequence": stored.sequence, "id": header("ce-id"), "type": kind, "time": header("ce-time"),
        "subject": header("ce-subject"), "data": body,
    });
    let name = kind.strip_prefix("openwatch.").unwrap_or(kind);
    Event::default().id(stored.sequence.to_string()).event(name).data(event.to_string())
}

/// What comes next is after `to`; what was asked for begins with `from`.
fn gap(from: u64, to: u64, anew: bool) -> Event {
    let mut gap = json!({ "from": from, "to": to });
    if anew {
        gap["anew"] = true.into();
    }
    Event::default().id(to.to_string()).event("gap").data(gap.to_string())
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        if error.is_outage() {
            tracing::warn!(%error, "NATS did not answer a request");
            return Self::new(Code::Unavailable, "NATS does not answer; try again");
        }
        tracing::error!(%error, "NATS refused a request");
        Self::new(Code::Internal, "look for the correlation id in the server's log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_kinds_by_their_public_names() {
        let found = topics("scan.completed, drift.detected").unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), ["drift_detected", "scan_completed"]);
        let refused = topics("scan.completed,nope").unwrap_err();
        assert!(refused.detail.contains("`nope`") && refused.detail.contains("scan.failed"));
    }
}
