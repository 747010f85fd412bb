//! Hosts: what is scanned.

use std::collections::BTreeMap;

use openwatch_model::credential::SudoMode;
use openwatch_model::host::Platform;
use openwatch_model::liveness::{ProbeError, Reachability};
use openwatch_model::outcome::Counts;
use openwatch_model::scan::ScanState;
use openwatch_model::schedule::DueReason;
use openwatch_model::score::ComplianceState;
use openwatch_model::{CredentialId, HostId, ScanId, Timestamp};
use uuid::Uuid;

use crate::words::{compliance_state, scan_state, sudo_mode};
use crate::{StoreError, Tx};

/// A host to be registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewHost {
    /// Name, unique among hosts that are not removed.
    pub name: String,
    /// Name, IPv4 or IPv6 address to dial.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user; wins over the credential's.
    pub username: Option<String>,
    /// How to become root.
    pub sudo: SudoMode,
    /// Its own credential; absent means the default one.
    pub credential: Option<CredentialId>,
    /// The host that it is reached through; absent means that it is dialled directly.
    pub jump: Option<HostId>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A host with what is known of it, in one row.
#[derive(Clone, Debug, PartialEq)]
pub struct HostSummary {
    /// Id.
    pub id: HostId,
    /// Name.
    pub name: String,
    /// Address to dial.
    pub address: String,
    /// SSH port.
    pub port: u16,
    /// Login user of its own.
    pub username: Option<String>,
    /// How to become root.
    pub sudo: SudoMode,
    /// Its own credential and that one's name.
    pub credential: Option<(CredentialId, String)>,
    /// The host that it is reached through and that one's name.
    pub jump: Option<(HostId, String)>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// As the newest full scan left it.
    pub state: ComplianceState,
    /// Rules of the newest full scan by status.
    pub counts: Counts,
    /// Critical rules that fail.
    pub critical_failing: u32,
    /// Newest full scan applied: everything shown was true then.
    pub verified: Option<(ScanId, Timestamp)>,
    /// That scan found nothing new.
    pub unchanged: bool,
    /// Operating system, once scanned.
    pub platform: Platform,
    /// Whether it answers.
    pub reachability: Reachability,
    /// Last probe.
    pub last_probe_at: Option<Timestamp>,
    /// How long that took.
    pub response_ms: Option<f64>,
    /// Since when it answers, or does not.
    pub reachability_since: Option<Timestamp>,
    /// Probes in a row that found no SSH.
    pub probe_failures: u32,
    /// Why the last of them did not.
    pub probe_error: Option<ProbeError>,
    /// Next scheduled scan.
    pub next_scan_at: Option<Timestamp>,
    /// Minutes between scheduled scans.
    pub interval_minutes: Option<u32>,
    /// Why it is due then.
    pub next_reason: Option<DueReason>,
    /// Kept from scheduled scans by hand.
    pub maintenance: bool,
    /// Until then, or until called off.
    pub maintenance_until: Option<Timestamp>,
    /// Failures in a row, and no scheduled scan before.
    pub failures: u32,
    /// See `failures`.
    pub suppress_until: Option<Timestamp>,
    /// Scan under way.
    pub open_scan: Option<(ScanId, ScanState)>,
}

/// Which hosts to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this one.
    pub id: Option<HostId>,
    /// Only this name.
    pub name: Option<String>,
    /// Only with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Only in this state.
    pub state: Option<ComplianceState>,
    /// Only names after this one: the last of the page before.
    pub after_name: Option<String>,
    /// Only these, in one statement for a whole page.
    pub ids: Option<Vec<HostId>>,
    /// Also those that were removed.
    pub removed: bool,
}

/// Registers a host. Its schedule row (due now), liveness row and state row appear with it. Called by the API, once
/// per line of an import.
///
/// # Errors
/// `Conflict` on `host_name` when the name is taken; `Refused` when the credential does not exist, when the jump host
/// is itself behind one or was removed (`host_jump_fkey`), or when a field is malformed.
pub async fn add(tx: &mut Tx<'_>, host: &NewHost, actor: &str) -> Result<HostId, StoreError> {
    let id = HostId(Uuid::new_v4());
    sqlx::query!(
        "insert into host (id, name, address, port, username, sudo, credential_id, created_by, created_at, jump_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        id.0,
        host.name,
        host.address,
        i32::from(host.port),
        host.username,
        host.sudo.as_str(),
        host.credential.map(|c| c.0),
        actor,
        tx.now(),
        host.jump.map(|h| h.0),
    )
    .execute(tx.connection())
    .await?;
    set_labels(tx, id, &host.labels).await?;
    Ok(id)
}

/// Replaces a host's labels. Called by the API.
///
/// # Errors
/// A label is malformed.
pub async fn set_labels(
    tx: &mut Tx<'_>,
    host: HostId,
    labels: &BTreeMap<String, String>,
) -> Result<(), StoreError> {
    let keys: Vec<String> = labels.keys().cloned().collect();
    let values: Vec<String> = labels.values().cloned().collect();
    sqlx::query!("delete from host_label where host_id = $1 and key <> all($2)", host.0, &keys)
        .execute(tx.connection())
        .await?;
    sqlx::query!(
        "insert into host_label (host_id, key, value)
         select $1, l.key, l.value from unnest($2::text[], $3::text[]) as l (key, value)
         on conflict (host_id, key) do update set value = excluded.value",
        host.0,
        &keys,
        &values,
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// Gives a host its own credential, or takes it away. Called by the API.
///
/// # Errors
/// `Refused` when the credential does not exist.
pub async fn set_credential(
    tx: &mut Tx<'_>,
    host: HostId,
    credential: Option<CredentialId>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update host set credential_id = $2 where id = $1 and deleted_at is null",
        host.0,
        credential.map(|c| c.0)
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Has a host reached through another one, or directly again. What probes found the other way says nothing any more: its
/// liveness is unknown, and a probe in hand is not noted. Called by the API.
///
/// # Errors
/// `Refused` on `host_jump_fkey` when that one is itself behind a jump host, or when others are reached through this one.
pub async fn set_jump(tx: &mut Tx<'_>, host: HostId, jump: Option<HostId>) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "with moved as (
           update host_liveness l
           set reachability_status = 'unknown', consecutive_failures = 0, failing_since = null, last_probe_at = null,
             last_response_ms = null, last_error_type = null, last_state_change_at = null, next_probe_at = $3, updated_at = $3
           from host h
           where h.id = $1 and l.host_id = h.id and h.deleted_at is null and h.jump_id is distinct from $2
         )
         update host set jump_id = $2 where id = $1 and deleted_at is null",
        host.0,
        jump.map(|h| h.0),
        tx.now(),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What may change of a host.
#[derive(Clone, Debug, Default)]
pub struct HostChange {
    /// New login user.
    pub username: Option<String>,
    /// New way to become root.
    pub sudo: Option<SudoMode>,
}

/// Changes how a host is reached; what is absent stays. `false` when there is no such host. Called by the API.
///
/// # Errors
/// A field is malformed.
pub async fn change(tx: &mut Tx<'_>, host: HostId, change: &HostChange) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update host set username = coalesce($2, username), sudo = coalesce($3, sudo) where id = $1 and deleted_at is null",
        host.0,
        change.username,
        change.sudo.map(SudoMode::as_str),
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a host: no scan, probe or alert from now on; its history stays and its credential link goes. Returns its
/// name, or nothing when there is no such host. Called by the API.
///
/// # Errors
/// `Refused` on `host_jump_fkey` while other hosts are reached through it.
pub async fn remove(tx: &mut Tx<'_>, host: HostId) -> Result<Option<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        "update host set deleted_at = $2, credential_id = null, jump_id = null where id = $1 and deleted_at is null returning name",
        host.0,
        tx.now()
    )
    .fetch_optional(tx.connection())
    .await?)
}

/// A host's id by name, or by its id as text. Called by the API for every path that names a host.
///
/// # Errors
/// The database is away.
pub async fn find(tx: &mut Tx<'_>, name_or_id: &str) -> Result<Option<HostId>, StoreError> {
    let id = name_or_id.parse::<Uuid>().ok();
    let found = sqlx::query_scalar!(
        "select id from host where deleted_at is null and (name = $1 or id = $2) order by id = $2 desc nulls last limit 1",
        name_or_id,
        id
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(found.map(HostId))
}

/// The same for looking back: of a name that no host has now, the host that had it last. Called by the API where history
/// is asked for.
///
/// # Errors
/// The database is away.
pub async fn find_ever(tx: &mut Tx<'_>, name_or_id: &str) -> Result<Option<HostId>, StoreError> {
    let id = name_or_id.parse::<Uuid>().ok();
    let found = sqlx::query_scalar!(
        "select id from host where name = $1 or id = $2
         order by id = $2 desc nulls last, deleted_at desc nulls first limit 1",
        name_or_id,
        id
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(found.map(HostId))
}

/// A host's name and labels, removed or not. Called by the alerts stage: channels filter by them.
///
/// # Errors
/// The database is away.
pub async fn known_as(
    tx: &mut Tx<'_>,
    host: HostId,
) -> Result<Option<(String, BTreeMap<String, String>)>, StoreError> {
    let row = sqlx::query!(
        r#"select h.name, (select coalesce(jsonb_object_agg(l.key, l.value), '{}') from host_label l
             where l.host_id = h.id) as "labels!" from host h where h.id = $1"#,
        host.0
    )
    .fetch_optional(tx.connection())
    .await?;
    Ok(row.map(|r| (r.name, serde_json::from_value(r.labels).unwrap_or_default())))
}

/// One host with everything known of it. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn get(tx: &mut Tx<'_>, host: HostId) -> Result<Option<HostSummary>, StoreError> {
    let filter = Filter { id: Some(host), ..Filter::default() };
    Ok(list(tx, &filter, 1).await?.pop())
}

/// Hosts by name, each with everything known of it, in one statement. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>, filter: &Filter, limit: u32) -> Result<Vec<HostSummary>, StoreError> {
    let rows = sqlx::query!(
        r#"select h.id, h.name, h.address, h.port, h.username, h.sudo, h.credential_id, h.created_at,
             c.name as "credential_name?", h.jump_id, j.name as "jump_name?",
             (select coalesce(jsonb_object_agg(l.key, l.value), '{}') from host_label l where l.host_id = h.id) as "labels!",
             hs.compliance_state, hs.pass, hs.fail, hs.skipped, hs.error, hs.critical_failing, hs.full_scan_id, hs.full_at,
             coalesce(v.unchanged, false) as "unchanged!", hs.platform, l.reachability_status as "reachability?",
             l.last_probe_at as "last_probe_at?", l.last_response_ms as "last_response_ms?",
             l.last_state_change_at as "reachability_since?", l.consecutive_failures as "probe_failures?",
             l.last_error_type as "probe_error?", s.next_scheduled_scan as "next_scheduled_scan?",
             s.current_interval_minutes as "interval?", s.next_reason as "next_reason?", m.maintenance as "maintenance?",
             m.until as "maintenance_until?",
             b.consecutive_failures as "failures?", b.suppress_until as "suppress_until?",
             o.id as "open_scan?", o.state as "open_state?"
           from host h
           join host_state hs on hs.host_id = h.id
           left join scan_ledger v on v.scan_id = hs.full_scan_id
           left join credential c on c.id = h.credential_id
           left join host j on j.id = h.jump_id
           left join host_compliance_schedule s on s.host_id = h.id
           left join host_maintenance m on m.host_id = h.id
           left join host_liveness l on l.host_id = h.id
           left join host_backoff_state b on b.host_id = h.id and b.probe_type = 'scan'
           left join open_scan n on n.host_id = h.id
           left join scan o on o.id = n.scan_id
           where (h.deleted_at is null or $7)
             and ($8::uuid[] is null or h.id = any($8))
             and ($1::uuid is null or h.id = $1)
             and ($2::text is null or h.name = $2)
             and ($3::text is null or hs.compliance_state = $3)
             and ($4::text is null or h.name > $4)
             -- Every wanted pair is among the host's labels.
             and not exists (
               select from jsonb_each_text($5::jsonb) wanted
               where not exists (
                 select from host_label l where l.host_id = h.id and l.key = wanted.key and l.value = wanted.value))
           order by h.name
           limit $6"#,
        filter.id.map(|h| h.0),
        filter.name,
        filter.state.map(ComplianceState::as_str),
        filter.after_name,
        serde_json::json!(filter.labels),
        i64::from(limit),
        filter.removed,
        filter.ids.as_ref().map(|ids| ids.iter().map(|id| id.0).collect::<Vec<_>>()) as Option<Vec<Uuid>>,
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(HostSummary {
                id: HostId(r.id),
                name: r.name,
                address: r.address,
                port: port(r.port),
                username: r.username,
                sudo: sudo_mode(&r.sudo)?,
                credential: r.credential_id.map(CredentialId).zip(r.credential_name),
                jump: r.jump_id.map(HostId).zip(r.jump_name),
                labels: serde_json::from_value(r.labels).unwrap_or_default(),
                created_at: r.created_at,
                state: compliance_state(&r.compliance_state)?,
                counts: counts(r.pass, r.fail, r.skipped, r.error),
                critical_failing: count(r.critical_failing),
                verified: r.full_scan_id.map(ScanId).zip(r.full_at),
                unchanged: r.unchanged,
                platform: serde_json::from_value(r.platform).unwrap_or_default(),
                reachability: Reachability::parse(r.reachability.as_deref().unwrap_or_default()),
                last_probe_at: r.last_probe_at,
                response_ms: r.last_response_ms,
                reachability_since: r.reachability_since,
                probe_failures: r.probe_failures.map_or(0, count),
                probe_error: r.probe_error.as_deref().and_then(ProbeError::parse),
                next_scan_at: r.next_scheduled_scan,
                interval_minutes: r.interval.map(count),
                next_reason: r.next_reason.as_deref().and_then(DueReason::parse),
                maintenance: r.maintenance.unwrap_or(false),
                maintenance_until: r.maintenance_until.filter(|_| r.maintenance == Some(true)),
                failures: r.failures.map_or(0, count),
                suppress_until: r.suppress_until,
                open_scan: match (r.open_scan, r.open_state) {
                    (Some(id), Some(state)) => Some((ScanId(id), scan_state(&state)?)),
                    _ => None,
                },
            })
        })
        .collect()
}

/// A CHECK keeps the column between 1 and 65535.
pub(crate) fn port(column: i32) -> u16 {
    u16::try_from(column).unwrap_or(22)
}

/// A CHECK keeps such columns from being negative.
pub(crate) fn count(column: i32) -> u32 {
    u32::try_from(column).unwrap_or(0)
}

pub(crate) fn counts(pass: i32, fail: i32, skipped: i32, error: i32) -> Counts {
    Counts { pass: count(pass), fail: count(fail), skipped: count(skipped), error: count(error) }
}
