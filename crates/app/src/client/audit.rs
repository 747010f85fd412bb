//! `audit`: who did what.

use openwatch_api::dto::AuditEvent;

use super::{Client, moment, table};
use crate::cli::AuditArgs;
use crate::exit::Failure;

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
        ("since", &args.since.as_ref().map(moment)),
        ("until", &args.until.as_ref().map(moment)),
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
    let events: Vec<AuditEvent> = client.list("/audit", &query, args.limit.unwrap_or(50)).await?;
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
