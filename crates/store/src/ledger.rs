//! What became of deliveries: every try of every one, for those who ask why nothing came.

use openwatch_model::{AlertId, ChannelId, Timestamp};
use uuid::Uuid;

use crate::page::{Page, Paged};
use crate::{StoreError, Tx};

/// One delivery and all its tries.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivered {
    /// Id.
    pub id: Uuid,
    /// Name of the channel.
    pub channel: String,
    /// The alert; absent in a test of the channel.
    pub alert: Option<AlertId>,
    /// Which of its transitions.
    pub transition: i32,
    /// What was to be told, such as `alert.opened`.
    pub event: String,
    /// `pending`, `delivered` or `failed`.
    pub state: String,
    /// Since when it has been there.
    pub created_at: Timestamp,
    /// When it is tried next, while it waits.
    pub next_try_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Its tries, oldest first. A try that was cut off has no line, only a number that is missing.
    pub tries: Vec<Tried>,
}

/// One try.
#[derive(Clone, Debug, PartialEq)]
pub struct Tried {
    /// Its number, from 1.
    pub attempt: u32,
    /// Whether it arrived.
    pub delivered: bool,
    /// What the receiver answered.
    pub status: Option<u16>,
    /// What went wrong; never an address.
    pub error: Option<String>,
    /// How long it took; absent for tries of long ago.
    pub took_ms: Option<u32>,
    /// When.
    pub at: Timestamp,
}

/// Which deliveries to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this one.
    pub id: Option<Uuid>,
    /// Only through this channel.
    pub channel: Option<ChannelId>,
    /// Only of this alert.
    pub alert: Option<AlertId>,
    /// Only in this state.
    pub state: Option<String>,
}

/// Deliveries with their tries, newest first. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, filter: &Filter, page: &Page) -> Result<Paged<Delivered>, StoreError> {
    let (after, after_id) = page.after();
    let rows = sqlx::query!(
        r#"select d.id, c.name as channel, d.alert_id, d.transition, coalesce(d.payload->>'event', '') as "event!", d.state,
             d.created_at, d.next_try_at, d.finished_at
           from alert_delivery d join channel c on c.id = d.channel_id
           where ($1::uuid is null or d.id = $1) and ($2::uuid is null or d.channel_id = $2)
             and ($3::uuid is null or d.alert_id = $3) and ($4::text is null or d.state = $4)
             and ($5::timestamptz is null or (d.created_at, d.id) < ($5, $6))
           order by d.created_at desc, d.id desc limit $7"#,
        filter.id,
        filter.channel.map(|id| id.0),
        filter.alert.map(|id| id.0),
        filter.state,
        after,
        after_id,
        page.fetch(),
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows.into_iter().map(|r| Delivered {
        id: r.id,
        channel: r.channel,
        alert: r.alert_id.map(AlertId),
        transition: r.transition,
        event: r.event,
        next_try_at: (r.state == "pending").then_some(r.next_try_at),
        state: r.state,
        created_at: r.created_at,
        finished_at: r.finished_at,
        tries: Vec::new(),
    });
    let mut paged = page.cut(rows.collect(), |row: &Delivered| (row.created_at, row.id));
    let ids: Vec<Uuid> = paged.rows.iter().map(|row| row.id).collect();
    let tries = sqlx::query!(
        "select delivery_id, attempt, delivered, status, error, took_ms, tried_at from alert_delivery_attempt
         where delivery_id = any($1) order by delivery_id, attempt",
        &ids
    )
    .fetch_all(tx.connection())
    .await?;
    for it in tries {
        let Some(row) = paged.rows.iter_mut().find(|row| row.id == it.delivery_id) else { continue };
        row.tries.push(Tried {
            attempt: crate::host::count(it.attempt),
            delivered: it.delivered,
            status: it.status.and_then(|status| u16::try_from(status).ok()),
            error: it.error,
            took_ms: it.took_ms.map(crate::host::count),
            at: it.tried_at,
        });
    }
    Ok(paged)
}
