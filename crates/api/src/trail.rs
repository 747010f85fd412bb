//! What people do here, told to the audit log, the audit stream and whoever listens: all in the transaction of the
//! change that it speaks of.

use openwatch_bus::Outgoing;
use openwatch_bus::message::audit::Records;
use openwatch_bus::message::event::{Body, Event};
use openwatch_bus::trace::Traceparent;
use openwatch_model::HostId;
use openwatch_model::audit::Audit;
use openwatch_store::audit::{self, AuditRow};
use openwatch_store::outbox::{self, OutboxMessage, Told};
use openwatch_store::{StoreError, Tx};

use crate::state::Asking;

/// Whose messages these are; the process that serves the API relays them.
pub const SENDER: &str = "api";

/// Records an audit event.
pub(crate) async fn record<A: Audit>(tx: &mut Tx<'_>, asking: &Asking, event: &A) -> Result<(), StoreError> {
    let row = audit::row(tx, &asking.actor(), event, &asking.context());
    let message = message(records(row.clone()).encode(Some(Traceparent::new_root())));
    outbox::tell(tx, &Told { sender: SENDER, log: audit::Columns::of([row]), messages: vec![message] }).await
}

/// Tells that something happened.
pub(crate) async fn tell(
    tx: &mut Tx<'_>,
    asking: &Asking,
    host: Option<HostId>,
    body: impl Into<Body>,
) -> Result<(), StoreError> {
    let cause = Some(asking.correlation.clone());
    let event = Event { id: tx.new_id(), host, at: tx.now(), cause, body: body.into() };
    outbox::put(tx, SENDER, &[message(event.encode(Some(Traceparent::new_root())))]).await
}

fn message(of: Outgoing) -> OutboxMessage {
    let Outgoing { subject, message_id, headers, payload } = of;
    let headers = headers.into_iter().collect();
    OutboxMessage { message_id, subject, headers, payload: payload.to_vec(), packed: false }
}

fn records(row: AuditRow) -> Records {
    Records {
        id: row.id,
        code: row.code,
        severity: row.severity,
        at: row.occurred_at,
        cause: row.cause.or(row.correlation),
        actor_type: row.actor_type,
        actor: row.actor,
        details: vec![row.detail],
    }
}
