//! `audit`: who did what.

use openwatch_api::dto::{AuditEvent, Page};

use super::{Client, moment, table};
use crate::cli::AuditArgs;
use crate::exit::Failure;

/// Rows that the API gives at once.
const PAGE: u32 = 200;

/// Lists the audit log, or writes it as a table.
///
/// # Errors
/// As the API's answer.
pub async fn run(args: AuditArgs) -> Result<(), Failure> {
    let client = Client::new(&args.client)?;
    let mut query = Vec::new();
    for (name, value) in [
        ("code", &args.code),
        ("severity", &args.severity),
        ("actor", &args.actor),
        ("host", &args.host),
        ("cause", &args.cause),
        ("since", &args.since.as_deref().map(moment)),
        ("until", &args.until.as_deref().map(moment)),
    ] {
        query.extend(value.iter().map(|value| (name, value.clone())));
    }
    if args.csv {
        query.extend(args.limit.iter().map(|limit| ("limit", limit.to_string())));
        let (text, truncated) = client.csv("/audit/export", &query).await?;
        table::line(text.trim_end());
        if truncated {
            eprintln!("openwatch: there is more than was written; narrow it with --since and --until");
        }
        return Ok(());
    }
    let events = pages(&client, query, args.limit.unwrap_or(50)).await?;
    if client.json {
        return table::json(&events);
    }
    let mut rows = table::new(&["when", "code", "severity", "by", "about", "detail"]);
    for it in &events {
        let about = it.resource_type.as_deref().zip(it.resource_id.as_deref());
        rows.add_row([
            table::moment(it.occurred_at),
            it.code.clone(),
            it.severity.clone(),
            it.actor.clone(),
            about.map_or_else(String::new, |(kind, id)| format!("{kind} {id}")),
            it.detail.to_string(),
        ]);
    }
    table::print(&rows, "no such events");
    Ok(())
}

async fn pages(
    client: &Client,
    query: Vec<(&'static str, String)>,
    wanted: u32,
) -> Result<Vec<AuditEvent>, Failure> {
    let mut events = Vec::new();
    let mut cursor = None;
    loop {
        let left = wanted.saturating_sub(u32::try_from(events.len()).unwrap_or(u32::MAX));
        let mut query = query.clone();
        query.push(("limit", left.min(PAGE).to_string()));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        let page: Page<AuditEvent> = client.get("/audit", &query).await?;
        events.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() || u32::try_from(events.len()).is_ok_and(|found| found >= wanted) {
            return Ok(events);
        }
    }
}
