//! What one unit of work sends on: events and audit rows that commit with its changes.

use std::collections::BTreeMap;

use openwatch_bus::Outgoing;
use openwatch_bus::message::audit::{CHUNK, Records};
use openwatch_bus::message::event::{Body, Event};
use openwatch_bus::pack::{self, Unpackable};
use openwatch_bus::trace::Traceparent;
use openwatch_model::audit::{Actor, Audit};
use openwatch_model::{HostId, Timestamp};
use openwatch_store::audit::{AuditRow, Columns, Context};
use openwatch_store::outbox::{self, OutboxMessage, Told};
use openwatch_store::{Moment, StoreError, Tx, audit};
use serde_json::Value;
use uuid::Uuid;

/// Collects what a unit of work sends on; [`Out::commit`] writes it to the outbox and commits.
pub(crate) struct Out {
    sender: &'static str,
    actor: Actor,
    context: Context,
    trace: Traceparent,
    /// What somebody may ask for by its id before it is sent.
    messages: Vec<Outgoing>,
    /// What is asked for by the moment it was put in line.
    batch: Vec<Outgoing>,
    /// Events and records: nobody does.
    told: Vec<Outgoing>,
    audit: BTreeMap<&'static str, Vec<AuditRow>>,
}

impl Out {
    /// For a stage, about a cause (a scan or message id). What a scan causes belongs to its trace, the rest begins one.
    pub(crate) fn new(sender: &'static str, cause: impl Into<String>) -> Self {
        let cause = cause.into();
        let trace = cause.parse().map_or_else(|_| Traceparent::new_root(), Traceparent::of);
        let context = Context { cause: Some(cause), ..Context::default() };
        Self {
            sender,
            actor: Actor::Stage(sender),
            context,
            trace,
            messages: Vec::new(),
            batch: Vec::new(),
            told: Vec::new(),
            audit: BTreeMap::new(),
        }
    }

    /// Says who really acted, when it was not the stage.
    pub(crate) fn by(mut self, actor: Actor) -> Self {
        self.actor = actor;
        self
    }

    /// Continues a trace.
    pub(crate) fn traced(mut self, trace: Traceparent) -> Self {
        self.trace = trace;
        self
    }

    /// Under this policy.
    pub(crate) fn under(mut self, policy_version: &str) -> Self {
        self.context.policy_version = Some(policy_version.to_owned());
        self
    }

    /// Sends a message, in a row of its own.
    pub(crate) fn send(&mut self, message: Outgoing) {
        self.messages.push(message);
    }

    /// Sends messages of which a whole fleet's come at once, in as few rows as may be.
    pub(crate) fn send_all(&mut self, messages: Vec<Outgoing>) {
        self.batch.extend(messages);
    }

    /// Sends an event, dated as the unit of work. Returns its id.
    pub(crate) fn event(&mut self, moment: &Moment, host: Option<HostId>, body: impl Into<Body>) -> Uuid {
        self.event_at(moment, host, body, moment.now())
    }

    /// Sends an event dated by what it speaks of, so that order does not depend on when a stage got round to it.
    pub(crate) fn event_at(
        &mut self,
        moment: &Moment,
        host: Option<HostId>,
        body: impl Into<Body>,
        at: Timestamp,
    ) -> Uuid {
        let id = moment.new_id();
        let event = Event { id, host, at, cause: self.context.cause.clone(), body: body.into() };
        self.told.push(event.encode(Some(self.trace.child())));
        id
    }

    /// Puts an event into the audit log, and sends it to the audit stream.
    pub(crate) fn audit<A: Audit>(&mut self, moment: &Moment, event: &A) {
        self.audit_many(moment, std::slice::from_ref(event));
    }

    /// Many events of one code: a first scan has a finding per rule.
    pub(crate) fn audit_many<A: Audit>(&mut self, moment: &Moment, events: &[A]) {
        if !events.is_empty() {
            let rows = events.iter().map(|event| audit::row(moment, &self.actor, event, &self.context));
            self.audit.entry(A::CODE).or_default().extend(rows);
        }
    }

    /// All of it, to be written with something else.
    pub(crate) fn told(mut self, moment: &Moment) -> Told<'static> {
        for (code, rows) in &self.audit {
            for chunk in rows.chunks(CHUNK) {
                self.told.push(records(moment, code, chunk).encode(Some(self.trace.child())));
            }
        }
        let mut messages: Vec<_> = self.messages.into_iter().map(outbox_message).collect();
        messages.extend(together(self.batch));
        messages.extend(together(self.told));
        Told { sender: self.sender, log: Columns::of(self.audit.into_values().flatten()), messages }
    }

    /// Writes all of it: the log, and the outbox.
    pub(crate) async fn flush(self, tx: &mut Tx<'_>) -> Result<(), StoreError> {
        let told = self.told(tx);
        outbox::tell(tx, &told).await
    }

    /// [`Out::flush`], then commits.
    pub(crate) async fn commit(self, mut tx: Tx<'_>) -> Result<(), StoreError> {
        self.flush(&mut tx).await?;
        tx.commit().await
    }
}

/// Rows of one code share severity, actor and cause: they come from one `tx` of one stage.
fn records<'a>(moment: &Moment, code: &str, rows: &'a [AuditRow]) -> Records<&'a Value> {
    let first = rows.first();
    let of = |pick: fn(&AuditRow) -> String| first.map(pick).unwrap_or_default();
    Records {
        id: moment.new_id(),
        code: code.to_owned(),
        severity: of(|row| row.severity.clone()),
        at: moment.now(),
        cause: first.and_then(|row| row.cause.clone()),
        actor_type: of(|row| row.actor_type.clone()),
        actor: of(|row| row.actor.clone()),
        details: rows.iter().map(|row| &row.detail).collect(),
    }
}

/// Bytes that share a row, before they are packed: the relay takes many rows at once.
const TOGETHER: usize = 16 << 10;

/// What one unit of work tells, in as few rows as may be.
fn together(told: Vec<Outgoing>) -> Vec<OutboxMessage> {
    let mut rows: Vec<Vec<Outgoing>> = Vec::new();
    let mut bytes = 0;
    for message in told {
        bytes += message.payload.len();
        match rows.last_mut() {
            Some(row) if bytes <= TOGETHER => row.push(message),
            _ => {
                bytes = message.payload.len();
                rows.push(vec![message]);
            }
        }
    }
    rows.iter().map(|row| packed(row)).collect()
}

fn packed(several: &[Outgoing]) -> OutboxMessage {
    OutboxMessage {
        message_id: String::new(),
        subject: String::new(),
        headers: BTreeMap::new(),
        payload: pack::pack(several),
        packed: true,
    }
}

/// A message as a row of its own.
pub(crate) fn outbox_message(message: Outgoing) -> OutboxMessage {
    OutboxMessage {
        message_id: message.message_id,
        subject: message.subject,
        headers: message.headers.into_iter().collect(),
        payload: message.payload.into(),
        packed: false,
    }
}

/// What a row holds; the row as it is when that cannot be read.
pub(crate) fn messages_of(row: OutboxMessage) -> Result<Vec<Outgoing>, Box<(Outgoing, Unpackable)>> {
    let unpacked = row.packed.then(|| pack::unpack(&row.payload));
    let plain = Outgoing {
        message_id: row.message_id,
        subject: row.subject,
        headers: row.headers.into_iter().collect(),
        payload: row.payload.into(),
    };
    match unpacked {
        None => Ok(vec![plain]),
        Some(Ok(several)) => Ok(several),
        Some(Err(error)) => Err(Box::new((plain, error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_messages_share_a_row_and_large_ones_have_their_own() {
        let of = |n: usize, bytes: usize| Outgoing {
            subject: "ow.v1.evt.x".to_owned(),
            message_id: n.to_string(),
            headers: Vec::new(),
            payload: vec![b'x'; bytes].into(),
        };
        let told: Vec<_> =
            [1, 9, TOGETHER, TOGETHER + 1, 7, 7].into_iter().enumerate().map(|(n, b)| of(n, b)).collect();
        let rows = together(told.clone());
        let sent: Vec<_> = rows.into_iter().map(|row| messages_of(row).unwrap()).collect();
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
        assert_eq!(sent.concat(), told);
        assert_eq!(together(Vec::new()), []);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_given_back_whole() {
        let row = OutboxMessage {
            message_id: "m".to_owned(),
            subject: "ow.v1.evt.x".to_owned(),
            headers: BTreeMap::new(),
            payload: b"\x09later".to_vec(),
            packed: true,
        };
        let (message, error) = *messages_of(row).unwrap_err();
        assert_eq!((message.message_id.as_str(), &message.payload[..]), ("m", &b"\x09later"[..]));
        assert!(matches!(error, Unpackable::Form(9)));
    }
}
