//! One file per resource: take in, ask the store, answer.

pub(crate) mod admin;
pub(crate) mod alert_moves;
pub(crate) mod alerts;
pub(crate) mod ask;
pub(crate) mod audit;
mod channel_targets;
pub(crate) mod channels;
pub(crate) mod credentials;
pub(crate) mod deliveries;
pub(crate) mod drift;
pub(crate) mod events;
pub(crate) mod host_changes;
pub(crate) mod host_edit;
pub(crate) mod host_keys;
pub(crate) mod hosts;
pub(crate) mod keys;
pub(crate) mod policy;
pub(crate) mod scans;
pub(crate) mod schedule;
pub(crate) mod status;
pub(crate) mod tokens;
pub(crate) mod transactions;

use openwatch_model::{HostId, Timestamp};
use openwatch_store::{Cursor, Page as Part, Paged, Tx, host};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use crate::dto::Page;
use crate::error::{Code, Failure};
use crate::extract::limit;

/// At which moment something is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AsOfQuery {
    /// As it was then; now when absent. RFC 3339.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
}

/// Reads cursor and limit.
fn part(cursor: Option<&str>, asked: Option<u32>, max: u32) -> Result<Part, Failure> {
    let bad = |_| {
        Failure::field(Code::CursorInvalid, "cursor", "use the next_cursor of the page before, unchanged")
    };
    let cursor = cursor.map(|text| text.parse::<Cursor>().map_err(bad)).transpose()?;
    Ok(Part { cursor, limit: limit(asked, max)? })
}

/// A page of rows as it goes over the wire.
fn page<T, U>(paged: Paged<T>, view: impl FnMut(T) -> U) -> Page<U> {
    Page {
        items: paged.rows.into_iter().map(view).collect(),
        next_cursor: paged.next.map(|it| it.to_string()),
    }
}

/// Reads one of a closed set of words, each with what it stands for.
fn word<T, const N: usize>(
    pointer: &str,
    text: Option<&str>,
    words: [(&'static str, T); N],
) -> Result<Option<T>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let known = words.each_ref().map(|(word, _)| *word);
    let meant = words.into_iter().find(|(word, _)| *word == text);
    meant.map(|(_, meant)| Some(meant)).ok_or_else(|| {
        let detail = format!("`{}` is none of {}", clip(text), known.join(", "));
        Failure::field(Code::FieldFormat, pointer, detail)
    })
}

/// The host that a name or id means.
async fn known_host(tx: &mut Tx<'_>, named: &str) -> Result<HostId, Failure> {
    host::find(tx, named).await?.ok_or_else(|| no_such_host(named))
}

/// The same where the past is asked for: a removed host has its history.
async fn remembered_host(tx: &mut Tx<'_>, named: &str) -> Result<HostId, Failure> {
    host::find_ever(tx, named).await?.ok_or_else(|| no_such_host(named))
}

fn no_such_host(named: &str) -> Failure {
    let detail = format!(
        "no host has the name or id `{}`; see `openwatch host list` or GET /api/v1/hosts",
        clip(named)
    );
    Failure::new(Code::HostNotFound, detail)
}

/// Words of a client that are told back to it, not without end.
fn clip(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(253).collect()
}

/// The host that a filter of a history names, if it names one.
async fn filter_host(tx: &mut Tx<'_>, named: Option<&str>) -> Result<Option<HostId>, Failure> {
    match named {
        Some(named) => remembered_host(tx, named).await.map(Some),
        None => Ok(None),
    }
}

/// A stretch of time in which something may have happened.
fn stretch(
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    as_of: Option<Timestamp>,
) -> Result<(), Failure> {
    if since.zip(until).is_some_and(|(since, until)| since >= until) {
        return Err(Failure::field(Code::FieldRange, "until", "must be after `since`"));
    }
    if since.zip(as_of).is_some_and(|(since, as_of)| since > as_of) {
        return Err(Failure::field(Code::FieldRange, "since", "must not be after `as_of`"));
    }
    Ok(())
}

/// A moment that has been.
fn past(as_of: Option<Timestamp>, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    match as_of {
        Some(at) if at > now => Err(Failure::field(Code::FieldRange, "as_of", "must not be in the future")),
        as_of => Ok(as_of),
    }
}
