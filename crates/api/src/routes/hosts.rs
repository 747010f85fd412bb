//! Hosts and what is known of them.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use openwatch_model::score::{ComplianceState, Score};
use openwatch_model::{HostId, Timestamp};
use openwatch_store::host::{Filter, HostSummary};
use openwatch_store::read::{self, HostAt, RuleRow};
use openwatch_store::{Tx, host};
use serde::Deserialize;
use time::OffsetDateTime;
use utoipa::IntoParams;

use super::schedule::scheduled;
use super::{AsOfQuery, known_host, past, remembered_host, word};
use crate::dto::{Host, HostCompliance, HostLiveness, HostRule, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::{Query, limit};
use crate::state::Shared;

/// Hosts on a page.
const LIMIT: u32 = 1000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct HostsQuery {
    /// Only hosts in this compliance state.
    state: Option<String>,
    /// Only hosts with this label, written `key=value`.
    label: Option<String>,
    /// From the page before.
    cursor: Option<String>,
    /// Most rows, 1 to 1000.
    limit: Option<u32>,
    /// As they were then; now when absent. RFC 3339.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
}

/// Hosts by name, each with its compliance and whether it answers.
#[utoipa::path(get, path = "/api/v1/hosts", tag = "hosts", params(HostsQuery), responses(
    (status = 200, description = "hosts", body = Page<Host>),
    (status = 400, description = "a parameter is wrong", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn list(
    State(api): Shared,
    Query(asked): Query<HostsQuery>,
) -> Result<axum::Json<Page<Host>>, Failure> {
    let limit = limit(asked.limit, LIMIT)?;
    let labels = asked.label.map(|text| {
        let wrong = || Failure::field(Code::FieldFormat, "label", "must be key=value");
        text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(wrong)
    });
    let filter = Filter {
        state: word("state", asked.state.as_deref(), ComplianceState::ALL.map(|it| (it.as_str(), it)))?,
        labels: labels.transpose()?.into_iter().collect(),
        after_name: asked.cursor.as_deref().map(name_of_cursor).transpose()?,
        ..Filter::default()
    };
    let mut tx = api.begin_read().await?;
    let mut rows: Vec<Host> = match past(asked.as_of, tx.now())? {
        None => host::list(&mut tx, &filter, limit + 1).await?.into_iter().map(view).collect(),
        Some(at) => all_as_they_were(&mut tx, at, &filter, limit + 1).await?,
    };
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let next_cursor = rows.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(&last.name));
    Ok(axum::Json(Page { items: rows, next_cursor }))
}

/// A page of hosts at a moment, removed ones included if they were there then: two statements, however many hosts.
async fn all_as_they_were(
    tx: &mut Tx<'_>,
    at: Timestamp,
    filter: &Filter,
    limit: u32,
) -> Result<Vec<Host>, Failure> {
    let then = read::hosts_at(tx, at, filter, limit).await?;
    let ids = then.iter().map(|it| it.host).collect();
    let named = Filter { ids: Some(ids), removed: true, ..Filter::default() };
    let mut now: BTreeMap<_, _> =
        host::list(tx, &named, limit).await?.into_iter().map(|row| (row.id, view(row))).collect();
    Ok(then.into_iter().filter_map(|then| Some(changed_back(now.remove(&then.host)?, &then))).collect())
}

fn name_of_cursor(cursor: &str) -> Result<String, Failure> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    let bad =
        || Failure::field(Code::CursorInvalid, "cursor", "use the next_cursor of the page before, unchanged");
    bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(bad)
}

/// One host with its compliance and whether it answers.
#[utoipa::path(get, path = "/api/v1/hosts/{host}", tag = "hosts", params(("host" = String, Path, description = "name or id"), AsOfQuery), responses(
    (status = 200, description = "the host", body = Host),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(
    State(api): Shared,
    Path(named): Path<String>,
    Query(asked): Query<AsOfQuery>,
) -> Result<axum::Json<Host>, Failure> {
    let mut tx = api.begin_read().await?;
    match past(asked.as_of, tx.now())? {
        None => {
            let id = known_host(&mut tx, &named).await?;
            let host = show_in(&mut tx, id).await?;
            Ok(axum::Json(scheduled(&mut tx, id, host).await?))
        }
        Some(at) => Ok(axum::Json(as_it_was(&mut tx, &named, at).await?)),
    }
}

/// What is not remembered (whether it answered, when it was due) is left out.
async fn as_it_was(tx: &mut Tx<'_>, named: &str, at: Timestamp) -> Result<Host, Failure> {
    let id = remembered_host(tx, named).await?;
    let filter = Filter { id: Some(id), removed: true, ..Filter::default() };
    let there = all_as_they_were(tx, at, &filter, 1).await?.pop();
    there.ok_or_else(|| Failure::new(Code::HostNotFound, "it was not registered at that moment"))
}

fn changed_back(now: Host, then: &HostAt) -> Host {
    let compliance = HostCompliance {
        state: then.state,
        score: Score::of(then.counts).percent(),
        critical_failing: then.critical_failing > 0,
        counts: then.verified.map(|_| then.counts.into()),
        last_scanned_at: then.verified.map(|(_, at)| at),
        unchanged: then.unchanged,
        next_scan_at: None,
    };
    Host { compliance, liveness: None, schedule: None, ..now }
}

/// What to say about a host's rules.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RulesQuery {
    /// As it was then; now when absent. RFC 3339.
    #[serde(default, with = "time::serde::rfc3339::option")]
    as_of: Option<OffsetDateTime>,
    /// Only this rule.
    rule: Option<String>,
    /// With the evidence of that moment.
    #[serde(default)]
    evidence: bool,
}

/// What each rule says about a host, now or as it was. All rules are on one page.
#[utoipa::path(get, path = "/api/v1/hosts/{host}/rules", tag = "hosts", params(("host" = String, Path, description = "name or id"), RulesQuery), responses(
    (status = 200, description = "rules", body = Page<HostRule>),
    (status = 404, description = "host.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn rules(
    State(api): Shared,
    Path(named): Path<String>,
    Query(asked): Query<RulesQuery>,
) -> Result<axum::Json<Page<HostRule>>, Failure> {
    let mut tx = api.begin_read().await?;
    let as_of = past(asked.as_of, tx.now())?;
    let id = match as_of {
        None => known_host(&mut tx, &named).await?,
        Some(_) => remembered_host(&mut tx, &named).await?,
    };
    let mut rows = read::rules(&mut tx, id, as_of).await?;
    rows.retain(|row| asked.rule.as_ref().is_none_or(|rule| *rule == row.rule));
    let evidence = if asked.evidence { read::evidence(&mut tx, &rows).await? } else { Vec::new() };
    let mut items: Vec<_> = rows.into_iter().map(rule).collect();
    for (item, seen) in items.iter_mut().zip(evidence) {
        (item.evidence, item.evidence_sha256) = (Some(seen.body), Some(seen.hash));
    }
    Ok(axum::Json(Page { items, next_cursor: None }))
}

fn rule(row: RuleRow) -> HostRule {
    HostRule {
        rule_id: row.rule,
        status: row.status,
        severity: row.severity,
        skip_reason: row.skip_reason,
        framework_refs: row.framework_refs,
        in_corpus: row.in_corpus,
        first_seen_at: Some(row.first_seen_at),
        last_changed_at: Some(row.last_changed_at),
        last_checked_at: row.last_checked_at,
        check_count: row.check_count.and_then(|count| i64::try_from(count).ok()),
        evidence: None,
        evidence_sha256: None,
    }
}

pub(super) async fn show_in(tx: &mut Tx<'_>, id: HostId) -> Result<Host, Failure> {
    let row = host::get(tx, id).await?;
    row.map(view).ok_or_else(|| Failure::new(Code::HostNotFound, "it was removed just now"))
}

fn view(row: HostSummary) -> Host {
    let scanned = row.verified.is_some();
    let liveness = row.last_probe_at.map(|at| HostLiveness {
        reachability: row.reachability,
        last_probed_at: Some(at),
        response_time_ms: row.response_ms,
        since: row.reachability_since,
        missed: row.probe_failures,
        error: row.probe_error,
    });
    Host {
        id: row.id.0,
        name: row.name,
        address: row.address,
        port: row.port,
        user: row.username,
        sudo: row.sudo,
        credential: row.credential.map(|(_, name)| name),
        jump: row.jump.map(|(_, name)| name),
        labels: row.labels,
        platform: Some(row.platform.name).filter(|name| !name.is_empty()),
        created_at: row.created_at,
        compliance: HostCompliance {
            state: row.state,
            score: Score::of(row.counts).percent(),
            critical_failing: row.critical_failing > 0,
            counts: scanned.then(|| row.counts.into()),
            last_scanned_at: row.verified.map(|(_, at)| at),
            unchanged: row.unchanged,
            next_scan_at: row.next_scan_at,
        },
        schedule: None,
        liveness,
    }
}
