//! How long everything is kept: one line for every table, stream and bucket. A test fails for one without.

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// A table of the database.
    Table,
    /// A stream, or the stream behind a bucket.
    Stream,
}

/// For how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// For as long as the installation lives.
    Always,
    /// As long as what it belongs to: the row it refers to, or the state that it is.
    With(&'static str),
    /// Until it has been dealt with.
    Until(&'static str),
    /// So many hours; a setting may say otherwise where one is named.
    Hours(u32, Option<&'static str>),
}

/// One line of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Name of the table or stream.
    pub name: &'static str,
    /// Which of the two.
    pub store: Store,
    /// For how long.
    pub kept: Kept,
    /// Who removes it.
    pub swept_by: &'static str,
    /// Why so.
    pub why: &'static str,
}

/// Hours in a day.
const DAY: u32 = 24;
/// Ids of messages heard: longer than any stream keeps a message.
pub const INBOX_HOURS: u32 = 35 * DAY;
/// The longest that a message of a stage's input is kept, and so the least for [`INBOX_HOURS`].
pub const INBOX_LEAST_HOURS: u32 = 31 * DAY;
/// Deliveries that ended.
pub const DELIVERY_HOURS: u32 = 90 * DAY;
/// A corpus that nothing names.
pub const CORPUS_HOURS: u32 = 7 * DAY;
/// The least for [`CORPUS_HOURS`]: longer than any job lives.
pub const CORPUS_LEAST_HOURS: u32 = 2 * DAY;
/// Answers under an idempotency key.
pub const IDEMPOTENCY_HOURS: u32 = DAY;

const fn table(name: &'static str, kept: Kept, swept_by: &'static str, why: &'static str) -> Retention {
    Retention { name, store: Store::Table, kept, swept_by, why }
}

const fn stream(name: &'static str, hours: u32, why: &'static str) -> Retention {
    Retention { name, store: Store::Stream, kept: Kept::Hours(hours, None), swept_by: "NATS", why }
}

const HISTORY: &str = "history: what was true at any time is told from it";
const STATE: &str = "the present state of a host";

/// Everything there is, by kind and name.
pub const RETENTION: &[Retention] = &[
    table("_sqlx_migrations", Kept::Always, "nobody", "which schema this is"),
    table("alert", Kept::Always, "nobody", HISTORY),
    table("alert_cursor", Kept::With("its host"), "nobody", "keeps late events from opening old alerts"),
    table(
        "alert_delivery",
        Kept::Hours(DELIVERY_HOURS, Some("retention.deliveries_days")),
        "caretaker",
        "who was told, for as long as somebody may ask",
    ),
    table("alert_delivery_attempt", Kept::With("its delivery"), "caretaker", "goes with its delivery"),
    table("alert_transition", Kept::Always, "nobody", HISTORY),
    table("api_token", Kept::Always, "nobody", "a name in the log belongs to one token for ever"),
    table("audit_event", Kept::Always, "nobody", "nobody but the owner of the database may remove a row"),
    table("channel", Kept::Until("somebody removes it"), "api", "where alerts go"),
    table(
        "corpus",
        Kept::Hours(CORPUS_HOURS, Some("retention.corpora_days")),
        "caretaker",
        "from its publication; never the newest, nor one that an open scan or the policy names; its bundle goes first",
    ),
    table("counter", Kept::Always, "nobody", "what all schedulers did so far: one row for each counter"),
    table("credential", Kept::Until("somebody removes it"), "api", "how to log in"),
    table("drift", Kept::Always, "nobody", HISTORY),
    table("evidence", Kept::Always, "nobody", HISTORY),
    table("host", Kept::Always, "nobody", "a removed host is only marked: its history names it"),
    table("host_backoff_state", Kept::With("its host"), "nobody", STATE),
    table("host_compliance_schedule", Kept::With("its host"), "nobody", STATE),
    table("host_label", Kept::With("its host"), "api", STATE),
    table("host_liveness", Kept::With("its host"), "nobody", STATE),
    table("host_state", Kept::With("its host"), "nobody", STATE),
    table(
        "idempotency_key",
        Kept::Hours(IDEMPOTENCY_HOURS, None),
        "caretaker",
        "who asks again does so within a day",
    ),
    table(
        "inbox",
        Kept::Hours(INBOX_HOURS, Some("retention.inbox_days")),
        "caretaker",
        "longer than any stream keeps a message that could be heard again",
    ),
    table(
        "key_holder",
        Kept::Until("the same process says something newer"),
        "each process",
        "who holds which key",
    ),
    table("key_rotation", Kept::Always, "nobody", "which key credentials are encrypted with, and which were"),
    table("known_host_key", Kept::Until("another key is accepted"), "api", "what hosts are held to"),
    table(
        "maintenance_request",
        Kept::Until("the scheduler has taken it over"),
        "scheduler",
        "what people asked for",
    ),
    table(
        "open_scan",
        Kept::Until("its scan ends"),
        "writer",
        "which scans are under way, one for each host",
    ),
    table("outbox", Kept::Until("the bus has it, or refuses it for ever"), "relay", "refused: a dead letter"),
    table("policy_history", Kept::Always, "nobody", "which policy a scan ran under"),
    table("policy_revocation", Kept::Always, "nobody", "a key that was revoked stays revoked"),
    table("prober_standing", Kept::Always, "nobody", "whether the probers' own network is there: one row"),
    table("rule_gap", Kept::With("its rule's state"), "nobody", HISTORY),
    table("rule_revision", Kept::With("its rule's state"), "nobody", HISTORY),
    table(
        "rule_state",
        Kept::With("its host"),
        "nobody",
        "a rule that drops out of the corpus stays as it was",
    ),
    table("scan", Kept::Always, "nobody", HISTORY),
    table("scan_ledger", Kept::Always, "nobody", HISTORY),
    table(
        "shown_host_key",
        Kept::Until("the host shows another or it is accepted"),
        "writer",
        "what people may accept",
    ),
    table("transactions", Kept::Always, "nobody", HISTORY),
    stream("OBJ_ow-corpora", 0, "swept with the rows of `corpus`, by the caretaker"),
    stream("OBJ_ow-results", 3 * DAY, "longer than the message that names them"),
    stream("OW_ADVISORIES", 30 * DAY, "what the server gave up on; copied to the dead letters at once"),
    stream("OW_AUDIT", 365 * DAY, "a copy: the table is the log"),
    stream("OW_DLQ", 90 * DAY, "time to look, replay or drop"),
    stream("OW_EVENTS", 30 * DAY, "consumers that were away catch up"),
    stream("OW_EVENTS_PUBLIC", 30 * DAY, "outside consumers that were away catch up"),
    stream("OW_JOBS", 0, "a work queue: gone when done; a job older than a day is refused"),
    stream("OW_RESULTS", 2 * DAY, "the writer may be away that long"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_listed_once_in_order() {
        let names: Vec<_> = RETENTION.iter().map(|it| (it.store == Store::Stream, it.name)).collect();
        assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
