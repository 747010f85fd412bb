//! Messages that commit with the change they tell of, and wait here until the bus has them.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::Timestamp;

use crate::audit::Columns;
use crate::doorbell::Ring;
use crate::{Store, StoreError, Tx};

/// A statement that does something and tells of it, or does neither. It begins with what is done: table expressions, of which
/// `done` has a row when it was. Their parameters count from $21, and follow the rest. Yields whether it was `done`.
macro_rules! telling {
    ($doing:literal, $sender:expr, $log:expr, $messages:expr, $moment:expr, $call:expr $(, $with:expr)* $(,)?) => {{
        let (log, lines): (&$crate::audit::Columns, _) = ($log, $crate::outbox::Lines::of($messages));
        sqlx::query!(
            "with " + $doing + ",
             logged as (
               insert into audit_event (id, action, severity, actor_type, actor_label, host_id, correlation_id,
                 cause, policy_version, detail, redactions, occurred_at)
               select e.id, e.action, e.severity, e.actor_type, e.actor, e.host_id, e.correlation, e.cause, e.policy,
                 e.detail::jsonb, string_to_array(e.redactions, E'\n'), $2
               from unnest($8::uuid[], $9::text[], $10::text[], $11::text[], $12::text[], $13::uuid[], $14::text[],
                 $15::text[], $16::text[], $17::text[], $18::text[])
                 as e (id, action, severity, actor_type, actor, host_id, correlation, cause, policy, detail, redactions)
               where exists (select from done)
             ),
             message as materialized (
               select m.* from unnest($3::text[], $4::text[], $5::jsonb[], $6::bytea[], $7::boolean[])
                 with ordinality as m (message_id, subject, headers, payload, packed, place)
               where exists (select from done)
             ),
             alone as (
               insert into outbox (sender, message_id, subject, headers, payload, packed, created_at)
               select $1, message_id, subject, headers, payload, false, $2 from message where not packed order by place
               on conflict (message_id) where not packed do nothing
             ),
             -- By itself: a row that may conflict is logged with a confirmation.
             together as (
               insert into outbox (sender, payload, packed, created_at)
               select $1, payload, true, $2 from message where packed order by place
             )
             select count(*) > 0 as \"done!\", max(case when $19 then pg_notify($20, $1)::text end) as called from done",
            $sender,
            $moment.now(),
            &lines.ids as &[&str],
            &lines.subjects as &[&str],
            &lines.headers,
            &lines.payloads as &[&[u8]],
            &lines.packed,
            &log.ids,
            &log.codes,
            &log.severities,
            &log.actor_types,
            &log.actors,
            &log.hosts as &[Option<uuid::Uuid>],
            &log.correlations as &[Option<String>],
            &log.causes as &[Option<String>],
            &log.policies as &[Option<String>],
            &log.details,
            &log.redactions as &[Option<String>],
            $call,
            $crate::listen::OUTBOX,
            $($with,)*
        )
    }};
}
pub(crate) use telling;

/// [`telling`] by itself, and rings for it: whether it was done.
macro_rules! do_telling {
    ($doing:literal, $store:expr, $moment:expr, $told:expr $(, $with:expr)* $(,)?) => {{
        let (store, told): (&$crate::Store, &$crate::outbox::Told<'_>) = ($store, $told);
        let rung = store.doorbell().is_answered_by(told.sender);
        let call = !rung && !told.messages.is_empty();
        let statement =
            $crate::outbox::telling!($doing, told.sender, &told.log, &told.messages, $moment, call $(, $with)*);
        let row = statement.fetch_one(store.pool()).await.map_err($crate::StoreError::from);
        if rung && row.as_ref().is_ok_and(|row| row.done) {
            store.doorbell().ring($crate::doorbell::Ring::of(&told.messages));
        }
        row.map(|row| row.done)
    }};
}
pub(crate) use do_telling;

/// A message to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxMessage {
    /// Its id on the bus: what makes sending it twice harmless.
    pub message_id: String,
    /// Subject.
    pub subject: String,
    /// Headers, without the message id.
    pub headers: BTreeMap<String, String>,
    /// Bytes.
    pub payload: Vec<u8>,
    /// The payload is several messages, packed: ids, subjects and headers are in there, and here there are none.
    pub packed: bool,
}

/// What a unit of work tells: rows of the audit log, and messages.
#[derive(Clone, Debug, PartialEq)]
pub struct Told<'a> {
    /// Stage whose relay sends the messages.
    pub sender: &'a str,
    /// For the log.
    pub log: Columns,
    /// For the bus.
    pub messages: Vec<OutboxMessage>,
}

/// Messages, a list for each column.
pub(crate) struct Lines<'a> {
    pub(crate) ids: Vec<&'a str>,
    pub(crate) subjects: Vec<&'a str>,
    pub(crate) headers: Vec<serde_json::Value>,
    pub(crate) payloads: Vec<&'a [u8]>,
    pub(crate) packed: Vec<bool>,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(messages: &'a [OutboxMessage]) -> Self {
        Self {
            ids: messages.iter().map(|m| m.message_id.as_str()).collect(),
            subjects: messages.iter().map(|m| m.subject.as_str()).collect(),
            headers: messages.iter().map(|m| serde_json::json!(m.headers)).collect(),
            payloads: messages.iter().map(|m| m.payload.as_slice()).collect(),
            packed: messages.iter().map(|m| m.packed).collect(),
        }
    }
}

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxRow {
    /// Place in the queue.
    pub id: i64,
    /// The message.
    pub message: OutboxMessage,
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Rows.
    pub rows: u64,
    /// Age of the oldest.
    pub oldest: Duration,
}

/// Puts messages in line. A message id that waits already is the same message again, and is left alone. Called by
/// every stage with tables.
///
/// # Errors
/// The database is away, or a subject is malformed.
pub async fn put(tx: &mut Tx<'_>, sender: &str, messages: &[OutboxMessage]) -> Result<(), StoreError> {
    write(tx, sender, &Columns::default(), messages).await
}

/// Writes rows of the audit log and puts messages in line ([`put`]), in one statement: everything that is done is told
/// both ways. Called by every stage with tables.
///
/// # Errors
/// The database is away, or a subject is malformed.
pub async fn tell(tx: &mut Tx<'_>, told: &Told<'_>) -> Result<(), StoreError> {
    write(tx, told.sender, &told.log, &told.messages).await
}

async fn write(
    tx: &mut Tx<'_>,
    sender: &str,
    log: &Columns,
    messages: &[OutboxMessage],
) -> Result<(), StoreError> {
    if log.ids.is_empty() && messages.is_empty() {
        return Ok(());
    }
    let call = !messages.is_empty() && !tx.rings(sender, Ring::of(messages));
    let moment = **tx;
    telling!("done as (select)", sender, log, messages, moment, call).fetch_one(tx.connection()).await?;
    Ok(())
}

/// Puts what a row still has to say in its place, each message for itself. Called by the relay when the bus took only
/// some of them.
///
/// # Errors
/// The database is away; the row stays as it was.
pub async fn replace(store: &Store, id: i64, sender: &str, rest: &[OutboxMessage]) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    if give_up(&mut tx, sender, id).await? {
        put(&mut tx, sender, rest).await?;
    }
    tx.commit().await
}

/// Forgets one row together with what is told of it. Called by the relay for what the bus refuses for ever.
///
/// # Errors
/// The database is away.
pub async fn give_up(tx: &mut Tx<'_>, sender: &str, id: i64) -> Result<bool, StoreError> {
    let done = sqlx::query!("delete from outbox where sender = $1 and id = $2", sender, id)
        .execute(tx.connection())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// How much waits, by sender. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn depths(tx: &mut Tx<'_>) -> Result<Vec<(String, Depth)>, StoreError> {
    let rows = sqlx::query!(
        r#"select sender, count(*) as "rows!",
             extract(epoch from clock_timestamp() - min(created_at))::float8 as "oldest!"
           from outbox group by sender order by sender"#
    )
    .fetch_all(tx.connection())
    .await?;
    let depth = |rows: i64, oldest: f64| Depth {
        rows: rows.max(0).unsigned_abs(),
        oldest: Duration::from_secs_f64(oldest.max(0.0)),
    };
    Ok(rows.into_iter().map(|r| (r.sender, depth(r.rows, r.oldest))).collect())
}

/// Whether a message of a sender still waits: in a row of its own, or in one of those in which it was put in line together
/// with others at that moment. Called by the rescuer before it gives up on a job.
///
/// # Errors
/// The database is away.
pub async fn waits(
    tx: &mut Tx<'_>,
    sender: &str,
    message_id: &str,
    put_at: Timestamp,
) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from outbox where message_id = $1 and not packed)
             or exists (select from outbox where sender = $2 and packed and created_at = $3) as "waits!""#,
        message_id,
        sender,
        put_at,
    )
    .fetch_one(tx.connection())
    .await?)
}

/// How much waits of a sender, or of all. Called by the relay.
///
/// # Errors
/// The database is away.
pub async fn depth(store: &Store, sender: Option<&str>) -> Result<Depth, StoreError> {
    let row = sqlx::query!(
        r#"select count(*) as "rows!", coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8 as "oldest!"
           from outbox where $1::text is null or sender = $1"#,
        sender
    )
    .fetch_one(store.pool())
    .await?;
    Ok(Depth { rows: row.rows.max(0).unsigned_abs(), oldest: Duration::from_secs_f64(row.oldest.max(0.0)) })
}
