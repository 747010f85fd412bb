//! The audit log: written in the transaction of the change it speaks of, never changed afterwards.

mod clean;

use std::time::Duration;

use openwatch_model::Timestamp;
use openwatch_model::audit::{Actor, Audit};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::page::{Page, Paged};
use crate::{Moment, StoreError, Tx};

/// What an event belongs to, beside its detail.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Follows one request or scan through every stage.
    pub correlation: Option<String>,
    /// The message or scan that caused it.
    pub cause: Option<String>,
    /// Policy in force.
    pub policy_version: Option<String>,
}

/// A row of the log, as it was written: the stage sends the rows of one cause on to the audit stream.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditRow {
    /// Id; ordered by time.
    pub id: Uuid,
    /// Dotted code.
    pub code: String,
    /// Severity.
    pub severity: String,
    /// Kind of actor: system, worker, user, operator.
    pub actor_type: String,
    /// Its name.
    pub actor: String,
    /// See [`Context`].
    pub correlation: Option<String>,
    /// See [`Context`].
    pub cause: Option<String>,
    /// See [`Context`].
    pub policy_version: Option<String>,
    /// The event's own fields.
    pub detail: Value,
    /// Paths in the detail where something was blanked.
    pub redactions: Vec<String>,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub occurred_at: Timestamp,
}

/// The row of an event, yet to be written: [`crate::outbox::tell`] does that together with the message that carries it.
/// Called by every stage.
pub fn row<A: Audit>(moment: &Moment, actor: &Actor, event: &A, context: &Context) -> AuditRow {
    let mut detail = serde_json::to_value(event).unwrap_or(Value::Null);
    if !detail.is_object() {
        detail = Value::Object(serde_json::Map::new());
    }
    let redactions = clean::clean(&mut detail);
    AuditRow {
        id: moment.new_id(),
        code: A::CODE.to_owned(),
        severity: A::SEVERITY.as_str().to_owned(),
        actor_type: actor.kind().to_owned(),
        actor: actor.label().to_owned(),
        correlation: context.correlation.clone(),
        cause: context.cause.clone(),
        policy_version: context.policy_version.clone(),
        detail,
        redactions,
        occurred_at: moment.now(),
    }
}

impl AuditRow {
    /// Kind and id of the narrowest thing it names, where its detail tells one.
    pub fn resource(&self) -> Option<(&'static str, &str)> {
        resource(&self.detail)
    }
}

fn resource(detail: &Value) -> Option<(&'static str, &str)> {
    [
        ("alert", "alert_id"),
        ("credential", "credential_id"),
        ("scan", "scan_id"),
        ("scan", "job_id"),
        ("host", "host_id"),
    ]
    .into_iter()
    .find_map(|(kind, field)| Some((kind, detail.get(field)?.as_str()?)))
}

/// Rows of the log as a statement takes them, a list for each column.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    pub(crate) ids: Vec<Uuid>,
    pub(crate) codes: Vec<String>,
    pub(crate) severities: Vec<String>,
    pub(crate) actor_types: Vec<String>,
    pub(crate) actors: Vec<String>,
    pub(crate) hosts: Vec<Option<Uuid>>,
    pub(crate) correlations: Vec<Option<String>>,
    pub(crate) causes: Vec<Option<String>>,
    pub(crate) policies: Vec<Option<String>>,
    pub(crate) details: Vec<String>,
    /// Arrays of arrays must be of one length in PostgreSQL, so paths travel in one text; none of them holds a line end.
    pub(crate) redactions: Vec<Option<String>>,
}

impl Columns {
    /// Of these rows. Called by every stage, by the writer beside what the server does.
    pub fn of(rows: impl IntoIterator<Item = AuditRow>) -> Self {
        let mut all = Self::default();
        for row in rows {
            let host = host_of(&row.detail);
            all.ids.push(row.id);
            all.codes.push(row.code);
            all.severities.push(row.severity);
            all.actor_types.push(row.actor_type);
            all.actors.push(row.actor);
            all.hosts.push(host);
            all.correlations.push(row.correlation);
            all.causes.push(row.cause);
            all.policies.push(row.policy_version);
            all.details.push(stored(row.detail, host));
            all.redactions.push((!row.redactions.is_empty()).then(|| row.redactions.join("\n")));
        }
        all
    }
}

const HOST: &str = "host_id";

fn host_of(detail: &Value) -> Option<Uuid> {
    detail.get(HOST)?.as_str()?.parse().ok()
}

/// A detail as a row has it: what its host is, the row says in a column of its own.
fn stored(mut detail: Value, host: Option<Uuid>) -> String {
    if let (Value::Object(fields), Some(_)) = (&mut detail, host) {
        fields.remove(HOST);
    }
    detail.to_string()
}

/// The detail as it was told. Rows of older builds have all of it.
fn told(mut stored: Value, host: Option<Uuid>) -> Value {
    if let (Value::Object(fields), Some(host)) = (&mut stored, host) {
        fields.entry(HOST).or_insert_with(|| Value::String(host.to_string()));
    }
    stored
}

/// No id of that millisecond or a later one is less.
fn first_id(at: Timestamp) -> Uuid {
    let millis = u64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

/// Whether the log names a migration already.
pub(crate) async fn migration_is_recorded(tx: &mut Tx<'_>, version: i64) -> Result<bool, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from audit_event
             where action = 'system.migration.applied' and (detail->>'version')::bigint = $1) as "there!""#,
        version
    )
    .fetch_one(tx.connection())
    .await?)
}

/// Which rows of the log to read.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this code, or this category when it has no dot.
    pub code: Option<String>,
    /// Only this severity.
    pub severity: Option<String>,
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only about this host.
    pub host: Option<openwatch_model::HostId>,
    /// Only from this cause.
    pub cause: Option<String>,
    /// Only of this request.
    pub correlation: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

/// Reads the log, newest first: in the order of ids, which is that of time but within a millisecond. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, filter: &Filter, page: &Page) -> Result<Paged<AuditRow>, StoreError> {
    let (code, category) = match &filter.code {
        Some(code) if !code.contains('.') => (None, Some(code)),
        code => (code.as_ref(), None),
    };
    let rows = sqlx::query!(
        "select id, action, severity, actor_type, actor_label, host_id, correlation_id, cause,
           policy_version, detail, redactions, occurred_at
         from audit_event
         where ($1::text is null or action = $1)
           and ($2::uuid is null or host_id = $2)
           -- The hash has an index.
           and ($3::text is null or (hashtextextended(cause, 0) = hashtextextended($3, 0) and cause = $3))
           and ($4::timestamptz is null or (occurred_at >= $4 and id >= $6))
           and ($5::timestamptz is null or (occurred_at < $5 and id < $13))
           and ($7::uuid is null or id < $7)
           and ($9::text is null or split_part(action, '.', 1) = $9)
           and ($10::text is null or severity = $10)
           and ($11::text is null or actor_label = $11)
           and ($12::text is null or correlation_id = $12)
         order by id desc
         limit $8",
        code,
        filter.host.map(|h| h.0),
        filter.cause,
        filter.since,
        filter.until,
        filter.since.map(first_id),
        page.cursor.map(|cursor| cursor.id),
        page.fetch(),
        category,
        filter.severity,
        filter.actor,
        filter.correlation,
        filter.until.map(|until| first_id(until + Duration::from_millis(1))),
    )
    .fetch_all(tx.connection())
    .await?;
    let rows = rows.into_iter().map(|r| AuditRow {
        id: r.id,
        code: r.action,
        severity: r.severity,
        actor_type: r.actor_type,
        actor: r.actor_label,
        correlation: r.correlation_id,
        cause: r.cause,
        policy_version: r.policy_version,
        detail: told(r.detail, r.host_id),
        redactions: r.redactions.unwrap_or_default(),
        occurred_at: r.occurred_at,
    });
    Ok(page.cut(rows.collect(), |row| (row.occurred_at, row.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_apart_by_time() {
        let at = time::macros::datetime!(2026-01-15 12:00:00.123456 UTC);
        let id = |at: Timestamp, rest: u8| {
            let millis = (at.unix_timestamp_nanos() / 1_000_000) as u64;
            uuid::Builder::from_unix_timestamp_millis(millis, &[rest; 10]).into_uuid()
        };
        assert!(first_id(at) <= id(at, 0) && first_id(at) <= id(at, 0xff));
        assert!(first_id(at + Duration::from_millis(1)) > id(at, 0xff));
        assert!(first_id(at) > id(at - Duration::from_millis(1), 0xff));
    }

    #[test]
    fn a_host_is_stored_once_and_told_as_before() {
        let host = Uuid::from_u128(7);
        let detail = serde_json::json!({"host_id": host, "rule_id": "r"});
        let as_stored = |it: &Value| serde_json::from_str::<Value>(&stored(it.clone(), host_of(it))).unwrap();
        assert_eq!(as_stored(&detail), serde_json::json!({"rule_id": "r"}));
        assert_eq!(told(as_stored(&detail), host_of(&detail)), detail);
        assert_eq!(told(detail.clone(), host_of(&detail)), detail, "as older builds stored it");
        for other in [serde_json::json!({"host_id": null}), serde_json::json!({"n": 1})] {
            assert_eq!(told(as_stored(&other), host_of(&other)), other);
        }
    }

    #[test]
    fn the_narrowest_resource_is_named() {
        let detail = serde_json::json!({"host_id": "h", "scan_id": "s"});
        assert_eq!(resource(&detail), Some(("scan", "s")));
    }
}
