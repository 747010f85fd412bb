//! For whoever looks after the installation: numbers and dead letters.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_bus::consume::Consumer;
use openwatch_bus::dead_letter::Filed;
use openwatch_bus::subject;
use openwatch_model::audit::{Audit, MessageDropped, MessageReplayed};
use openwatch_store::Tx;
use openwatch_store::outbox::{self, OutboxMessage};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::dto::{
    ConsumerView, DeadLetterView, MetricsSnapshot, OutboxView, Page, Problem, Replayed, StreamView,
};
use crate::error::{Code, Failure};
use crate::extract::{Query, limit};
use crate::snapshot;
use crate::state::{Api, Asking, Shared};
use crate::trail;

/// Letters on a page.
const LIMIT: u32 = 200;
/// Who publishes what is sent again: it may write to every stream that letters come from.
const REPLAYER: &str = "caretaker";

/// What this process counts, how much waits to be sent, and how full streams and how late consumers are.
#[utoipa::path(get, path = "/api/v1/admin/metrics", tag = "admin", responses(
    (status = 200, description = "now", body = MetricsSnapshot),
    (status = 503, description = "the database or NATS does not answer", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn metrics(State(api): Shared) -> Result<axum::Json<MetricsSnapshot>, Failure> {
    let mut streams = Vec::new();
    for name in openwatch_bus::topology::streams() {
        let info = api.bus.stream_info(name).await?;
        streams.push(StreamView {
            name: name.to_owned(),
            messages: info.messages,
            bytes: info.bytes,
            max_bytes: info.max_bytes,
        });
    }
    let mut consumers = Vec::new();
    for Consumer { stream, name } in Consumer::ALL {
        let info = api.bus.consumer_info(stream, name).await?;
        consumers.push(ConsumerView {
            stream: stream.to_owned(),
            name: name.to_owned(),
            pending: info.pending,
            unacked: info.unacked,
            redelivered: info.redelivered,
            waiting: info.waiting,
        });
    }
    let outbox = outbox::depths(&mut api.begin_read().await?).await?;
    let outbox = outbox.into_iter().map(|(sender, depth)| OutboxView {
        sender,
        rows: depth.rows,
        oldest_seconds: depth.oldest.as_secs(),
    });
    let text = api.metrics.as_ref().map(metrics_exporter_prometheus::PrometheusHandle::render);
    Ok(axum::Json(MetricsSnapshot {
        metrics: snapshot::read(&text.unwrap_or_default()),
        outbox: outbox.collect(),
        streams,
        consumers,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LettersQuery {
    /// From the page before.
    cursor: Option<u64>,
    /// Most rows, 1 to 200.
    limit: Option<u32>,
}

/// Messages that could not be processed, oldest first, with the reason. Not what is in them.
#[utoipa::path(get, path = "/api/v1/admin/dead-letters", tag = "admin", params(LettersQuery), responses(
    (status = 200, description = "letters", body = Page<DeadLetterView>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn letters(
    State(api): Shared,
    Query(asked): Query<LettersQuery>,
) -> Result<axum::Json<Page<DeadLetterView>>, Failure> {
    let limit = limit(asked.limit, LIMIT)? as usize;
    let mut found = api.bus.dead_letters(asked.cursor.unwrap_or(1), limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|last| (last.sequence + 1).to_string());
    Ok(axum::Json(Page { items: found.into_iter().map(view).collect(), next_cursor }))
}

/// What is asked of one letter.
#[utoipa::path(post, path = "/api/v1/admin/dead-letters/{sequence}:replay", tag = "admin",
    params(("sequence" = u64, Path, description = "the letter")), responses(
    (status = 202, description = "it will be published once more, once; the letter stays", body = Replayed),
    (status = 404, description = "dead_letter.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "dead_letter.clipped: it was too large to keep whole", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn replay(api: &Api, asking: &Asking, sequence: u64) -> Result<(), Failure> {
    let filed = letter(api, sequence).await?;
    let again = filed.again().map_err(|error| Failure::new(Code::DeadLetterClipped, error.to_string()))?;
    let (letter, of) = (filed.sequence, filed.letter);
    let event = MessageReplayed { letter, stream: of.stream, subject: of.subject, stage: of.stage };
    let mut tx = api.begin().await?;
    record(&mut tx, asking, &event).await?;
    let openwatch_bus::Outgoing { subject, message_id, headers, payload } = again;
    let headers = headers.into_iter().collect();
    let message = OutboxMessage { message_id, subject, headers, payload: payload.to_vec(), packed: false };
    outbox::put(&mut tx, REPLAYER, &[message]).await?;
    Ok(tx.commit().await?)
}

/// Throws a letter away.
#[utoipa::path(post, path = "/api/v1/admin/dead-letters/{sequence}:drop", tag = "admin",
    params(("sequence" = u64, Path, description = "the letter")), responses(
    (status = 202, description = "gone", body = Replayed),
    (status = 404, description = "dead_letter.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn discard(api: &Api, asking: &Asking, sequence: u64) -> Result<(), Failure> {
    let filed = letter(api, sequence).await?;
    let (letter, of) = (filed.sequence, filed.letter);
    let event = MessageDropped { letter, stream: of.stream, subject: of.subject, stage: of.stage };
    // On record first: a letter that is there after a crash can be dropped again.
    let mut tx = api.begin().await?;
    record(&mut tx, asking, &event).await?;
    tx.commit().await?;
    api.bus.delete_message(subject::DLQ, sequence).await?;
    Ok(())
}

/// `{sequence}:replay` and `{sequence}:drop`: the router does not split a segment.
pub(crate) async fn act(
    State(api): Shared,
    asking: Asking,
    Path(target): Path<String>,
) -> Result<(StatusCode, axum::Json<Replayed>), Failure> {
    let unknown = || Failure::new(Code::NotFound, "write SEQUENCE:replay or SEQUENCE:drop");
    let (sequence, verb) = target.split_once(':').ok_or_else(unknown)?;
    let sequence = sequence
        .parse()
        .map_err(|_| Failure::field(Code::FieldFormat, "sequence", "must be the number of a letter"))?;
    match verb {
        "replay" => replay(&api, &asking, sequence).await?,
        "drop" => discard(&api, &asking, sequence).await?,
        _ => return Err(unknown()),
    }
    Ok((StatusCode::ACCEPTED, axum::Json(Replayed { sequence })))
}

async fn letter(api: &Api, sequence: u64) -> Result<Filed, Failure> {
    let found = api.bus.dead_letters(sequence, 1).await?.into_iter().find(|filed| filed.sequence == sequence);
    found.ok_or_else(|| {
        Failure::new(
            Code::DeadLetterNotFound,
            "see `openwatch dead-letters list` or GET /api/v1/admin/dead-letters",
        )
    })
}

async fn record<A: Audit>(tx: &mut Tx<'_>, asking: &Asking, event: &A) -> Result<(), Failure> {
    Ok(trail::record(tx, asking, event).await?)
}

fn view(filed: Filed) -> DeadLetterView {
    let it = filed.letter;
    DeadLetterView {
        sequence: filed.sequence,
        filed_at: filed.at,
        stage: it.stage,
        stream: it.stream,
        stream_sequence: it.sequence,
        subject: it.subject,
        deliveries: it.deliveries,
        reason: it.reason,
        bytes: it.clipped_from.unwrap_or(it.payload.len()) as u64,
        whole: it.clipped_from.is_none(),
    }
}
