//! Deliveries: one row per transition and channel; the next try stands in the row, so that a dead channel delays nobody.

use std::time::Duration;

use openwatch_model::{AlertId, ChannelId, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use crate::{StoreError, Tx};

/// A delivery to be tried now.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Id.
    pub id: Uuid,
    /// The alert; absent in a test of the channel.
    pub alert: Option<AlertId>,
    /// Which of its transitions.
    pub transition: i32,
    /// What to deliver.
    pub payload: Value,
    /// This try's number, from 1.
    pub attempt: u32,
    /// Its number since the delivery was last asked for, from 1: what the waits are counted by.
    pub round: u32,
    /// Since when it has been waiting.
    pub created_at: Timestamp,
    /// When this try was claimed.
    pub claimed_at: Timestamp,
}

/// Puts a transition in line for some channels; twice is once. Called by the alerts stage, and by the API when people
/// move an alert.
///
/// # Errors
/// The payload is no JSON object.
pub async fn enqueue(
    tx: &mut Tx<'_>,
    alert: AlertId,
    transition: i32,
    channels: &[ChannelId],
    payload: &Value,
) -> Result<u64, StoreError> {
    if channels.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = channels.iter().map(|_| tx.new_id()).collect();
    let channels: Vec<Uuid> = channels.iter().map(|c| c.0).collect();
    let done = sqlx::query!(
        "insert into alert_delivery (id, alert_id, transition, channel_id, payload, next_try_at, created_at)
         select d.id, $1, $2, d.channel_id, $3, $4, $4 from unnest($5::uuid[], $6::uuid[]) as d (id, channel_id)
         on conflict (alert_id, transition, channel_id) do nothing",
        alert.0,
        transition,
        payload,
        tx.now(),
        &ids,
        &channels,
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected())
}

/// Puts a test in line for one channel. Called by the API.
///
/// # Errors
/// The channel is gone, or the payload is no JSON object.
pub async fn enqueue_test(tx: &mut Tx<'_>, channel: ChannelId, payload: &Value) -> Result<Uuid, StoreError> {
    let id = tx.new_id();
    sqlx::query!(
        "insert into alert_delivery (id, alert_id, transition, channel_id, payload, next_try_at, created_at)
         values ($1, null, 0, $2, $3, $4, $4)",
        id,
        channel.0,
        payload,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(id)
}

/// Claims what is due for one channel, oldest first. Each counts as tried, and is due again after `lease` unless its end
/// is noted: whoever dies while sending loses nothing. Transitions of one alert go in order: a later one waits until the
/// earlier one has ended. Called by the channel's deliverer.
///
/// # Errors
/// The database is away.
pub async fn claim(
    tx: &mut Tx<'_>,
    channel: ChannelId,
    limit: usize,
    lease: Duration,
) -> Result<Vec<Delivery>, StoreError> {
    let rows = sqlx::query!(
        "with due as (
           select id from alert_delivery d
           where channel_id = $1 and state = 'pending' and next_try_at <= $2
             and not exists (select 1 from alert_delivery e
               where e.alert_id = d.alert_id and e.channel_id = d.channel_id and e.transition < d.transition
                 and e.state = 'pending')
           order by next_try_at, id limit $3 for update skip locked
         )
         update alert_delivery d set attempts = attempts + 1, next_try_at = $4
         from due where d.id = due.id
         returning d.id, d.alert_id, d.transition, d.payload, d.attempts, d.attempts_before, d.created_at",
        channel.0,
        tx.now(),
        i64::try_from(limit).unwrap_or(i64::MAX),
        tx.now() + lease,
    )
    .fetch_all(tx.connection())
    .await?;
    let claimed_at = tx.now();
    let mut due: Vec<Delivery> = rows
        .into_iter()
        .map(|r| Delivery {
            id: r.id,
            alert: r.alert_id.map(AlertId),
            transition: r.transition,
            payload: r.payload,
            attempt: crate::host::count(r.attempts),
            round: crate::host::count(r.attempts - r.attempts_before),
            created_at: r.created_at,
            claimed_at,
        })
        .collect();
    due.sort_by_key(|d| (d.created_at, d.id));
    Ok(due)
}

/// How a try ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Try {
    /// It was delivered.
    Delivered,
    /// It was not, and is tried again at that time.
    Again {
        /// When.
        at: Timestamp,
        /// What went wrong; never the address.
        error: String,
    },
    /// It was not, and is given up.
    GivenUp {
        /// What went wrong; never the address.
        error: String,
    },
}

/// What is known of a try besides its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// What the receiver answered: a status of HTTP or a reply code of SMTP.
    pub status: Option<u16>,
    /// How long it took.
    pub took: Duration,
}

/// Notes how a try ended. Called by the channel's deliverer.
///
/// # Errors
/// The database is away; the delivery is tried again after its lease.
pub async fn finish(
    tx: &mut Tx<'_>,
    delivery: &Delivery,
    end: &Try,
    measured: Measured,
) -> Result<(), StoreError> {
    let (state, again, error) = match end {
        Try::Delivered => ("delivered", None, None),
        Try::Again { at, error } => ("pending", Some(*at), Some(error.as_str())),
        Try::GivenUp { error } => ("failed", None, Some(error.as_str())),
    };
    sqlx::query!(
        "update alert_delivery set state = $2, next_try_at = coalesce($3, next_try_at),
           finished_at = case when $2 = 'pending' then null else $4::timestamptz end
         where id = $1 and state = 'pending'",
        delivery.id,
        state,
        again,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    sqlx::query!(
        "insert into alert_delivery_attempt (delivery_id, attempt, delivered, error, status, took_ms, tried_at)
         select $1, $2, $3, left($4, 1024), $5, $6, $7 where exists (select 1 from alert_delivery where id = $1)
         on conflict do nothing",
        delivery.id,
        i32::try_from(delivery.attempt).unwrap_or(i32::MAX),
        *end == Try::Delivered,
        error,
        measured.status.map(i32::from),
        i32::try_from(measured.took.as_millis()).unwrap_or(i32::MAX),
        delivery.claimed_at,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Puts deliveries that were given up, or that wait for their next try, in line again, one or all of a channel, as if they were
/// new: the tries so far stay on record. Neither a test is among them, for another is sent instead, nor one that is being
/// sent. Returns how many. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn replay(tx: &mut Tx<'_>, channel: ChannelId, only: Option<Uuid>) -> Result<u64, StoreError> {
    let done = sqlx::query!(
        "update alert_delivery d set state = 'pending', finished_at = null, next_try_at = $3, attempts_before = attempts
         where channel_id = $1 and alert_id is not null and ($2::uuid is null or id = $2)
           and (state = 'failed' or (state = 'pending' and next_try_at > $3 and exists (
             select 1 from alert_delivery_attempt a where a.delivery_id = d.id and a.attempt = d.attempts)))",
        channel.0,
        only,
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected())
}

/// When the next delivery of a channel will be due, beside those that are; nothing when none will. Called by the channel's
/// deliverer to know how long to sleep.
///
/// # Errors
/// The database is away.
pub async fn next_due(tx: &mut Tx<'_>, channel: ChannelId) -> Result<Option<Timestamp>, StoreError> {
    Ok(sqlx::query_scalar!(
        "select min(next_try_at) from alert_delivery where channel_id = $1 and state = 'pending' and next_try_at > $2",
        channel.0,
        tx.now()
    )
    .fetch_one(tx.connection())
    .await?)
}
