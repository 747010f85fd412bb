//! The loop itself: pull, hand out, settle, and mend.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use async_nats::{StatusCode, Subject, Subscriber};
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::pull::{HEARTBEAT, Pulls, Request};
use super::settle::{Settled, Settling, nak, work};
use super::{Consumer, Message, Next, Options};
use crate::{Bus, BusError};

/// Pause after the server refused a pull: no consumer yet, no leader, too many waiting.
const PAUSE: Duration = Duration::from_secs(1);
/// How often silent pulls are looked for, and how long a quiet loop's pulse may rest.
const ROUND: Duration = Duration::from_millis(500);
/// How long the last deliveries may take to arrive once we stopped listening.
const DRAIN: Duration = Duration::from_secs(1);

pub(super) struct Worker<H> {
    bus: Bus,
    options: Options,
    handler: H,
    lanes: Vec<Consumer>,
    /// One for each open pull: a delivery keeps its own subject, so only the subscription tells whose it is.
    inboxes: Vec<(u64, Subscriber)>,
    pulls: Pulls,
    tasks: JoinSet<Settled>,
    in_hand: HashMap<Id, InHand>,
    pause_until: Instant,
    gate: Option<BoxFuture<'static, ()>>,
    gate_passed: bool,
}

struct InHand {
    lane: usize,
    reply: Subject,
    deliveries: u64,
    since: Instant,
}

impl<H, F> Worker<H>
where
    H: Fn(Message) -> F + Send + Sync + 'static,
    F: Future<Output = Next> + Send + 'static,
{
    pub(super) fn new(bus: &Bus, options: Options, handler: H) -> Self {
        let lanes: Vec<_> = std::iter::once(options.first).chain(options.second).collect();
        Self {
            bus: bus.clone(),
            handler,
            pulls: Pulls::new(options.slots.max(1), lanes.len()),
            lanes,
            inboxes: Vec::new(),
            tasks: JoinSet::new(),
            in_hand: HashMap::new(),
            pause_until: Instant::now(),
            gate: None,
            gate_passed: options.gate.is_none(),
            options,
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), BusError> {
        let mut generation = self.bus.generation();
        generation.mark_unchanged();
        let denied = self.lanes.iter().map(|lane| {
            let (denied, lane) = (self.bus.denied(&pull_subject(*lane)), *lane);
            Box::pin(async move {
                denied.await;
                pull_subject(lane)
            })
        });
        let mut denied = futures::future::select_all(denied.collect::<Vec<_>>());
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ended = loop {
            self.options.pulse.tick();
            self.inboxes.retain(|(id, _)| self.pulls.is_open(*id));
            self.pull().await;
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                // Before the others: a loop that is always busy must notice a forgotten pull too.
                _ = rounds.tick() => self.look_for_silence().await,
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    if let Err(error) = self.finished(ended).await {
                        break Err(error);
                    }
                }
                Some((id, message)) = next(&mut self.inboxes) => self.incoming(id, message).await,
                Ok(()) = generation.changed() => {
                    tracing::info!(stage = self.options.stage, "connected again: asking for messages anew");
                    self.take_buffered().await;
                    self.pulls.forget();
                }
                (subject, _, _) = &mut denied => {
                    break Err(BusError::Denied { user: self.bus.user.as_str(), subject });
                }
                () = passed(&mut self.gate) => { self.gate = None; self.gate_passed = true; }
            }
        };
        self.stop().await;
        ended
    }

    async fn pull(&mut self) {
        let now = Instant::now();
        if now < self.pause_until || !self.pulls.wants() || !self.bus.connected() {
            return;
        }
        if let Some(gate) = self.options.gate.as_ref().filter(|_| !self.gate_passed) {
            self.gate.get_or_insert_with(|| gate());
            return;
        }
        self.gate_passed = self.options.gate.is_none();
        for request in self.pulls.plan(now) {
            self.send(request).await;
        }
    }

    async fn send(&mut self, request: Request) {
        let consumer = self.lanes[request.lane];
        let mut body = json!({ "batch": request.batch });
        match request.expires {
            Some(expires) => body["expires"] = json!(expires.as_nanos() as u64),
            None => body["no_wait"] = json!(true),
        }
        if request.heartbeat {
            body["idle_heartbeat"] = json!(HEARTBEAT.as_nanos() as u64);
        }
        let subject = pull_subject(consumer);
        let inbox = self.bus.client.new_inbox();
        let sent = match self.bus.client.subscribe(inbox.clone()).await {
            Ok(subscription) => {
                self.inboxes.push((request.id, subscription));
                self.bus.client.publish_with_reply(subject, inbox, body.to_string().into()).await.is_ok()
            }
            Err(_) => false,
        };
        if !sent {
            self.pulls.ended(request.id);
            self.pause_until = Instant::now() + PAUSE;
        }
    }

    async fn incoming(&mut self, id: u64, raw: async_nats::Message) {
        let now = Instant::now();
        match raw.status.filter(|status| *status != StatusCode::OK) {
            Some(status) => self.status(id, status, raw.description.as_deref().unwrap_or_default(), now),
            None => self.hand_out(id, raw, now).await,
        }
    }

    /// What has already arrived is ours to decide, even if its pull is given up.
    async fn take_buffered(&mut self) {
        while let Some(Some((id, raw))) = next(&mut self.inboxes).now_or_never() {
            self.incoming(id, raw).await;
        }
    }

    fn status(&mut self, id: u64, status: StatusCode, description: &str, now: Instant) {
        match status {
            StatusCode::IDLE_HEARTBEAT => self.pulls.heard(id, now),
            // Nothing there, or nothing came in time.
            StatusCode::NOT_FOUND | StatusCode::TIMEOUT => self.pulls.ended(id),
            other => {
                self.pulls.ended(id);
                self.pause_until = now + PAUSE;
                let stage = self.options.stage;
                metrics::counter!("openwatch_pulls_refused_total", "stage" => stage).increment(1);
                tracing::warn!(stage, status = %other, description, "the server refused a pull; trying again");
            }
        }
    }

    async fn hand_out(&mut self, id: u64, raw: async_nats::Message, now: Instant) {
        let Some(message) = Message::read(raw) else {
            tracing::warn!(stage = self.options.stage, "something that is no message arrived on our inbox");
            return;
        };
        let lane =
            self.lanes.iter().position(|consumer| consumer.name == message.consumer).unwrap_or_default();
        if !self.pulls.delivered(id, lane, now) {
            nak(&self.bus.client, &message.reply, None).await;
            return;
        }
        let (stage, reply, deliveries) = (self.options.stage, message.reply.clone(), message.deliveries);
        if deliveries > 1 {
            metrics::counter!("openwatch_redelivered_total", "stage" => stage).increment(1);
        }
        let span = tracing::info_span!(
            "message",
            stage,
            subject = message.subject,
            sequence = message.sequence,
            deliveries,
            trace_id = message.trace.trace_id(),
            span_id = message.trace.span_id(),
        );
        let handler = (self.handler)(message.clone());
        let settling = Settling { stage, beat: self.options.beat, confirm: self.options.confirm };
        let work = work(self.bus.clone(), settling, message, handler);
        let task = self.tasks.spawn(work.instrument(span));
        self.in_hand.insert(task.id(), InHand { lane, reply, deliveries, since: now });
        metrics::gauge!("openwatch_in_hand", "stage" => stage).set(self.in_hand.len() as f64);
    }

    async fn finished(&mut self, ended: Result<(Id, Settled), JoinError>) -> Result<(), BusError> {
        let stage = self.options.stage;
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(held) = self.in_hand.remove(&id) else { return Ok(()) };
        self.pulls.finished(held.lane);
        metrics::gauge!("openwatch_in_hand", "stage" => stage).set(self.in_hand.len() as f64);
        metrics::histogram!("openwatch_message_seconds", "stage" => stage)
            .record(held.since.elapsed().as_secs_f64());
        let (outcome, answer) = match ended {
            Ok((_, Settled::Done)) => ("done", Ok(())),
            Ok((_, Settled::Retried)) => ("retry", Ok(())),
            Ok((_, Settled::Rejected)) => ("reject", Ok(())),
            Ok((_, Settled::Fatal(source))) => ("fatal", Err(BusError::Fatal { stage, source })),
            Err(error) => {
                let panicked = error.is_panic();
                if panicked {
                    tracing::error!(
                        stage,
                        deliveries = held.deliveries,
                        "a handler panicked; its message comes again"
                    );
                }
                // A panic repeats itself: leave it some time. An abort does not.
                let after = panicked.then(|| Duration::from_secs(1 << held.deliveries.min(6)));
                nak(&self.bus.client, &held.reply, after).await;
                ("undecided", Ok(()))
            }
        };
        metrics::counter!("openwatch_messages_total", "stage" => stage, "outcome" => outcome).increment(1);
        answer
    }

    async fn look_for_silence(&mut self) {
        self.take_buffered().await;
        let lost = self.pulls.expire(Instant::now());
        if lost > 0 && self.bus.connected() {
            tracing::warn!(
                stage = self.options.stage,
                lost,
                "the server went silent about our pulls; asking again"
            );
        }
    }

    /// Fetches no more, finishes what is in hand, gives back the rest.
    async fn stop(mut self) {
        let client = self.bus.client.clone();
        let deadline = Instant::now() + self.options.grace;
        for (_, inbox) in &mut self.inboxes {
            if inbox.drain().await.is_err() {
                tracing::debug!(stage = self.options.stage, "the connection was closed before the loop");
            }
        }
        let drained_by = Instant::now() + DRAIN;
        while !(self.tasks.is_empty() && self.inboxes.is_empty()) {
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    // A second fatal error says nothing new.
                    let _ = self.finished(ended).await;
                }
                message = next(&mut self.inboxes), if !self.inboxes.is_empty() => {
                    if let Some(message) = message.and_then(|(_, raw)| Message::read(raw)) {
                        nak(&client, &message.reply, None).await;
                    }
                }
                () = tokio::time::sleep_until(drained_by), if !self.inboxes.is_empty() => self.inboxes.clear(),
                () = tokio::time::sleep_until(deadline) => break,
            }
            self.options.pulse.tick();
        }
        self.tasks.abort_all();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let _ = self.finished(ended).await;
        }
        // What was said last is on its way even if the process ends now; an ack that is lost brings its message again.
        let _ = tokio::time::timeout(Duration::from_secs(2), client.flush()).await;
    }
}

/// The next message of any open pull. Subscriptions that ended are left out; `None` when no pull is open.
async fn next(inboxes: &mut Vec<(u64, Subscriber)>) -> Option<(u64, async_nats::Message)> {
    poll_fn(|cx| {
        let mut at = 0;
        while at < inboxes.len() {
            let (id, inbox) = &mut inboxes[at];
            match inbox.poll_next_unpin(cx) {
                Poll::Ready(Some(message)) => return Poll::Ready(Some((*id, message))),
                Poll::Ready(None) => drop(inboxes.remove(at)),
                Poll::Pending => at += 1,
            }
        }
        if inboxes.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}

fn pull_subject(consumer: Consumer) -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", consumer.stream, consumer.name)
}

async fn passed(gate: &mut Option<BoxFuture<'static, ()>>) {
    match gate {
        Some(gate) => gate.await,
        None => std::future::pending().await,
    }
}
