//! What is told outside a unit of work of a stage: what somebody at a terminal of the server does, and that processes
//! come and go. In the log and on the audit stream like everything else.

use openwatch_bus::message::audit::Records;
use openwatch_model::audit::{Actor, Audit};
use openwatch_store::audit::AuditRow;
use openwatch_store::outbox::OutboxMessage;
use openwatch_store::{Store, StoreError, Tx};

use crate::out::{Out, outbox_message};

/// Whose process relays an operator's words: a command ends long before the bus has them, and the API runs wherever
/// people are.
pub const SENDER: &str = "api";

/// Records what an operator did and what it was about, in the `tx` of the change.
///
/// # Errors
/// The database is away.
pub async fn operator<A: Audit>(tx: &mut Tx<'_>, cause: &str, event: &A) -> Result<(), StoreError> {
    let mut out = Out::new(SENDER, cause).by(Actor::Operator);
    out.audit(tx, event);
    out.flush(tx).await
}

/// Records what a stage's process does, in a `tx` of its own.
///
/// # Errors
/// The database is away.
pub async fn process<A: Audit>(store: &Store, event: &A) -> Result<(), StoreError> {
    let tx = store.begin().await?;
    let mut out = Out::new(store.role().as_str(), "process");
    out.audit(&tx, event);
    out.commit(tx).await
}

/// The message that carries a row of the log to the audit stream.
pub fn message(row: &AuditRow) -> OutboxMessage {
    let row = row.clone();
    let records = Records {
        id: row.id,
        code: row.code,
        severity: row.severity,
        at: row.occurred_at,
        cause: row.cause,
        actor_type: row.actor_type,
        actor: row.actor,
        details: vec![row.detail],
    };
    outbox_message(records.encode(None))
}
