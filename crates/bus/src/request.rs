//! Questions and answers: the raw request every other module builds on, and the serving side.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{Bus, BusError};

/// How long the last questions may take to arrive, and the last answers to leave, when told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// A question that arrived, or an answer.
#[derive(Clone, Debug)]
pub struct Question {
    /// Where it was asked.
    pub subject: String,
    /// Its headers; the last value of each name.
    pub headers: Vec<(String, String)>,
    /// Its bytes.
    pub payload: Bytes,
}

impl Question {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Bus {
    /// Asks, and waits for one answer.
    ///
    /// # Errors
    /// [`BusError::NobodyThere`] when nobody serves the subject, [`BusError::Denied`], [`BusError::TimedOut`].
    pub async fn request(
        &self,
        subject: &str,
        headers: &[(String, String)],
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, BusError> {
        self.ask(subject, header_map(headers), payload, timeout).await.map(|message| message.payload)
    }

    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: Option<HeaderMap>,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<async_nats::Message, BusError> {
        let mut request = Request::new().payload(payload).timeout(None);
        if let Some(headers) = headers {
            request = request.headers(headers);
        }
        // A refusal arrives beside the request, as an event of the connection; without this it would be a timeout.
        let denied = self.denied(subject);
        let sent = self.client.send_request(subject.to_owned(), request);
        let answer = tokio::select! {
            answer = sent => answer,
            () = denied => return Err(BusError::Denied { user: self.user.as_str(), subject: subject.to_owned() }),
            () = tokio::time::sleep(timeout) => {
                let subject = subject.to_owned();
                return Err(if self.connected() {
                    BusError::TimedOut { subject, after: timeout }
                } else {
                    BusError::Disconnected { subject }
                });
            }
        };
        answer.map_err(|error| {
            let subject = subject.to_owned();
            match error.kind() {
                RequestErrorKind::NoResponders => BusError::NobodyThere { subject },
                RequestErrorKind::TimedOut => BusError::TimedOut { subject, after: timeout },
                RequestErrorKind::MaxPayloadExceeded => {
                    let limit = self.client.max_payload();
                    BusError::TooLarge { what: format!("a message to `{subject}`"), bytes: limit + 1, limit }
                }
                RequestErrorKind::InvalidSubject => {
                    BusError::Garbled { subject, reason: "not a subject".into() }
                }
                RequestErrorKind::Other => BusError::Disconnected { subject },
            }
        })
    }
}

/// Answers questions until told to stop; each in a task of its own, at most `slots` at a time. Replicas of one group
/// share the questions. A handler that answers `None` stays silent: the asker's timeout decides.
///
/// # Errors
/// The subscription could not be made. Reconnects are survived.
pub async fn serve<H, F>(
    bus: &Bus,
    subject: &'static str,
    group: &'static str,
    slots: usize,
    handler: H,
    shutdown: CancellationToken,
) -> Result<(), BusError>
where
    H: Fn(Question) -> F + Send + Sync + 'static,
    F: Future<Output = Option<Bytes>> + Send + 'static,
{
    let disconnected = || BusError::Disconnected { subject: subject.to_owned() };
    let mut questions =
        bus.client.queue_subscribe(subject, group.to_owned()).await.map_err(|_| disconnected())?;
    let (handler, slots) = (Arc::new(handler), Arc::new(Semaphore::new(slots.max(1))));
    let mut tasks = JoinSet::new();
    let denied = bus.denied(subject);
    tokio::pin!(denied);
    let mut end_by = None;
    loop {
        let message = tokio::select! {
            () = shutdown.cancelled(), if end_by.is_none() => {
                // No more questions; those already on their way to us are still answered.
                end_by = Some(Instant::now() + DRAIN);
                if questions.drain().await.is_err() {
                    break;
                }
                continue;
            }
            () = sleep_until(end_by.unwrap_or_else(Instant::now)), if end_by.is_some() => break,
            () = &mut denied => return Err(BusError::Denied { user: bus.user.as_str(), subject: subject.to_owned() }),
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(subject, %error, "a question was left unanswered");
                }
                continue;
            }
            message = questions.next() => match message {
                Some(message) => message,
                None if end_by.is_some() => break,
                None => return Err(disconnected()),
            },
        };
        let Some(reply) = message.reply.clone() else { continue };
        let Ok(permit) = slots.clone().acquire_owned().await else { break };
        let (handler, client) = (handler.clone(), bus.client.clone());
        tasks.spawn(async move {
            let answer = handler(question(message)).await;
            if let Some(answer) = answer
                && let Err(error) = client.publish(reply, answer).await
            {
                tracing::warn!(subject, %error, "an answer could not be sent");
            }
            drop(permit);
        });
    }
    while tasks.join_next().await.is_some() {}
    // The last answers, and our leave, are on their way to the server even if the process ends now. A question that
    // the server passes on before it reads our leave is lost: whoever asked asks again.
    let _ = tokio::time::timeout(DRAIN, bus.client.flush()).await;
    Ok(())
}

fn question(message: async_nats::Message) -> Question {
    let headers = message.headers.as_ref().map(header_list).unwrap_or_default();
    Question { subject: message.subject.to_string(), headers, payload: message.payload }
}

/// Headers as pairs; the last value of each name.
pub(crate) fn header_list(map: &HeaderMap) -> Vec<(String, String)> {
    let mut list: Vec<_> = map
        .iter()
        .filter_map(|(name, values)| Some((name.to_string(), values.last()?.as_str().to_owned())))
        .collect();
    list.sort();
    list
}

/// Pairs as headers; characters that would break the protocol are left out of values.
pub(crate) fn header_map(list: &[(String, String)]) -> Option<HeaderMap> {
    if list.is_empty() {
        return None;
    }
    let mut map = HeaderMap::new();
    for (name, value) in list {
        map.insert(name.as_str(), clean(value).as_str());
    }
    Some(map)
}

pub(crate) fn clean(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
