//! The streams, buckets and consumers, as data: `nats/` of the repository, built into the binary.
//!
//! The files are what the stock client takes (`nats stream add --config`), written for production: three replicas and
//! full sizes. [`Profile`] scales them.

use std::fmt;

use serde_json::{Value, json};

use crate::{Bus, BusError};

/// Who may say and hear what; needs a `users.conf` beside it (see [`crate::user::users_conf`]).
pub const PERMISSIONS_CONF: &str = include_str!("../../../nats/permissions.conf");
/// Configuration of a single server; includes `permissions.conf`.
pub const SERVER_CONF: &str = include_str!("../../../nats/server.conf");

macro_rules! data {
    ($folder:literal: $($name:literal)*) => {
        &[$(($name, include_str!(concat!("../../../nats/", $folder, "/", $name, ".json")))),*]
    };
}

/// Origins before mirrors: this is the order of creation.
const STREAMS: &[(&str, &str)] = data!("streams":
    "OW_JOBS" "OW_RESULTS" "OW_EVENTS" "OW_EVENTS_PUBLIC" "OW_AUDIT" "OW_DLQ" "OW_ADVISORIES"
    "OBJ_ow-results" "OBJ_ow-corpora");

const CONSUMERS: &[(&str, &str)] = data!("consumers":
    "OW_JOBS.executor-manual" "OW_JOBS.executor-scheduled" "OW_RESULTS.writer" "OW_EVENTS.scheduler"
    "OW_EVENTS.drift" "OW_EVENTS.alerts" "OW_ADVISORIES.advisories");

/// Names of all streams, those behind buckets included.
pub fn streams() -> impl Iterator<Item = &'static str> {
    STREAMS.iter().map(|(name, _)| *name)
}

/// How large the installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// One machine: one replica, a sixteenth of the sizes (they are reserved up front).
    Small,
    /// A cluster: as written.
    Production,
}

impl Profile {
    /// Copies of every stream.
    pub fn replicas(self) -> u64 {
        match self {
            Self::Small => 1,
            Self::Production => 3,
        }
    }

    fn scale(self, config: &mut Value) {
        config["num_replicas"] = json!(self.replicas());
        if self == Self::Small {
            let bytes = config["max_bytes"].as_i64().unwrap_or(-1);
            if bytes > 0 {
                config["max_bytes"] = json!(bytes / 16);
            }
        }
    }
}

/// Something that should exist.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The stream, or the stream of the consumer.
    pub stream: String,
    /// The consumer; `None` for a stream.
    pub consumer: Option<String>,
    /// Its configuration, as the server takes it.
    pub config: Value,
}

/// Everything that should exist, in the order of creation.
pub fn wanted(profile: Profile) -> Vec<Wanted> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).expect("a unit test reads every file");
    let streams = STREAMS.iter().map(|(name, text)| {
        let mut config = parse(text);
        profile.scale(&mut config);
        Wanted { stream: (*name).to_owned(), consumer: None, config }
    });
    let consumers = CONSUMERS.iter().filter_map(|(name, text)| {
        let (stream, consumer) = name.split_once('.')?;
        Some(Wanted { stream: stream.to_owned(), consumer: Some(consumer.to_owned()), config: parse(text) })
    });
    streams.chain(consumers).collect()
}

/// How what exists differs from what should.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `stream OW_JOBS` or `consumer OW_JOBS/executor-manual`.
    pub what: String,
    /// The setting; `None` when the whole thing is missing.
    pub field: Option<String>,
    /// As it should be.
    pub wanted: Value,
    /// As it is.
    pub found: Value,
    /// An operator may have tuned this (sizes, replicas, caps); it is shown, not refused.
    pub tunable: bool,
    /// It hears a part of what it should, as one of an earlier version does; [`apply`] adds the rest.
    pub narrow: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.field {
            None => write!(f, "{} is missing", self.what),
            Some(field) => write!(f, "{}: {field} is {}, wanted {}", self.what, self.found, self.wanted),
        }
    }
}

/// What [`apply`] did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Made now.
    pub created: Vec<String>,
    /// There before; hears more now.
    pub widened: Vec<String>,
    /// There before, and as wanted.
    pub unchanged: Vec<String>,
    /// Differences that an operator may want.
    pub tuned: Vec<Difference>,
}

/// Creates what is missing, widens what an earlier version made narrower, and leaves alone what else is there. May run any
/// number of times, and from several processes.
///
/// # Errors
/// [`BusError::Incompatible`] with every difference when something exists in another shape; nothing is created then.
pub async fn apply(bus: &Bus, profile: Profile) -> Result<Report, BusError> {
    let differences = check(bus, profile).await?;
    let clash = |it: &&Difference| it.field.is_some() && !it.tunable && !it.narrow;
    let incompatible: Vec<_> = differences.iter().filter(clash).cloned().collect();
    if !incompatible.is_empty() {
        return Err(BusError::Incompatible(incompatible));
    }
    let mut report = Report::default();
    for wanted in wanted(profile) {
        let what = wanted.what();
        if differences.iter().any(|difference| difference.what == what && difference.field.is_none()) {
            create(bus, &wanted).await?;
            report.created.push(what);
        } else if differences.iter().any(|difference| difference.what == what && difference.narrow) {
            widen(bus, &wanted).await?;
            report.widened.push(what);
        } else {
            report.unchanged.push(what);
        }
    }
    report.tuned = differences.into_iter().filter(|difference| difference.tunable).collect();
    Ok(report)
}

/// Compares what exists with what should. Things that OpenWatch does not know are none of its business.
///
/// # Errors
/// Outages and refusals.
pub async fn check(bus: &Bus, profile: Profile) -> Result<Vec<Difference>, BusError> {
    let mut differences = Vec::new();
    for wanted in wanted(profile) {
        match bus.api::<Value>(&wanted.info(), &Value::Null).await {
            Ok(info) => differences.extend(compare(&wanted, &info["config"])),
            Err(error) if error.is_not_found() => differences.push(Difference {
                what: wanted.what(),
                field: None,
                wanted: wanted.config,
                found: Value::Null,
                tunable: false,
                narrow: false,
            }),
            Err(error) => return Err(error),
        }
    }
    Ok(differences)
}

impl Wanted {
    /// The request that tells how it is.
    fn info(&self) -> String {
        match &self.consumer {
            None => format!("STREAM.INFO.{}", self.stream),
            Some(consumer) => format!("CONSUMER.INFO.{}.{consumer}", self.stream),
        }
    }

    fn what(&self) -> String {
        match &self.consumer {
            None => format!("stream {}", self.stream),
            Some(consumer) => format!("consumer {}/{consumer}", self.stream),
        }
    }
}

async fn create(bus: &Bus, wanted: &Wanted) -> Result<(), BusError> {
    let Wanted { stream, consumer, config } = wanted;
    let (name, body) = match consumer {
        None => (format!("STREAM.CREATE.{stream}"), config.clone()),
        Some(consumer) => (
            format!("CONSUMER.CREATE.{stream}.{consumer}{}", filter_token(config)),
            json!({ "stream_name": stream, "config": config, "action": "create" }),
        ),
    };
    bus.api::<Value>(&name, &body).await.map(drop)
}

/// Has it hear all that it should. Whatever else an operator made of it stays.
async fn widen(bus: &Bus, wanted: &Wanted) -> Result<(), BusError> {
    let Wanted { stream, consumer, config } = wanted;
    let mut found = bus.api::<Value>(&wanted.info(), &Value::Null).await?["config"].take();
    for field in ["subjects", "filter_subjects"] {
        if let Some(all) = config.get(field) {
            found[field] = all.clone();
        }
    }
    let (name, body) = match consumer {
        None => (format!("STREAM.UPDATE.{stream}"), found),
        Some(consumer) => (
            format!("CONSUMER.CREATE.{stream}.{consumer}"),
            json!({ "stream_name": stream, "config": found, "action": "update" }),
        ),
    };
    bus.api::<Value>(&name, &body).await.map(drop)
}

/// A consumer with one filter carries it in the request's subject.
fn filter_token(config: &Value) -> String {
    config["filter_subject"].as_str().map(|filter| format!(".{filter}")).unwrap_or_default()
}

/// Settings that an operator may change without breaking a promise.
const TUNABLE: &[&str] = &["max_bytes", "num_replicas", "max_ack_pending", "max_waiting"];
/// Words for people.
const IGNORED: &[&str] = &["description"];

fn compare(wanted: &Wanted, found: &Value) -> Vec<Difference> {
    let Some(fields) = wanted.config.as_object() else { return Vec::new() };
    let differs = fields.iter().filter(|(field, value)| {
        !IGNORED.contains(&field.as_str()) && !matches(field, value, &found[field.as_str()])
    });
    let difference = |(field, value): (&String, &Value)| Difference {
        what: wanted.what(),
        field: Some(field.clone()),
        wanted: value.clone(),
        found: found[field.as_str()].clone(),
        tunable: TUNABLE.contains(&field.as_str()),
        narrow: field.ends_with("subjects") && is_part(&found[field.as_str()], value),
    };
    let mut list: Vec<_> = differs.map(difference).collect();
    // What we leave out must be off: these would drain or starve a stage, or change who gets what.
    for field in
        ["backoff", "sources", "mirror", "filter_subject", "filter_subjects", "deliver_subject", "republish"]
    {
        let there = &found[field];
        if !fields.contains_key(field) && !is_unset(there) {
            list.push(Difference {
                what: wanted.what(),
                field: Some(field.to_owned()),
                wanted: Value::Null,
                found: there.clone(),
                tunable: false,
                narrow: false,
            });
        }
    }
    list
}

/// All of some subjects are among others. No subject at all is every subject.
fn is_part(some: &Value, others: &Value) -> bool {
    match (some, others) {
        (Value::Array(some), Value::Array(others)) => {
            !some.is_empty() && some.iter().all(|it| others.contains(it))
        }
        _ => false,
    }
}

fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(value) => value.as_i64() == Some(0),
        Value::String(value) => value.is_empty(),
        Value::Array(value) => value.is_empty(),
        Value::Object(_) => false,
    }
}

/// The server leaves out settings that are off and fills in parts of objects.
fn matches(field: &str, wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => {
            wanted.iter().all(|(key, value)| matches(key, value, found.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(wanted), Value::Array(found)) if field.ends_with("subjects") => {
            let sorted = |list: &[Value]| {
                let mut list: Vec<_> = list.iter().map(Value::to_string).collect();
                list.sort();
                list
            };
            sorted(wanted) == sorted(found)
        }
        _ => wanted == found || (is_unset(wanted) && is_unset(found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_built_in_and_names_itself() {
        let folder = |name: &str| {
            let path = format!("{}/../../nats/{name}", env!("CARGO_MANIFEST_DIR"));
            let files =
                std::fs::read_dir(path).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
            let mut files: Vec<_> =
                files.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
            files.sort();
            files
        };
        let names = |data: &[(&str, &str)]| {
            let mut names: Vec<_> = data.iter().map(|(name, _)| (*name).to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(folder("streams"), names(STREAMS));
        assert_eq!(folder("consumers"), names(CONSUMERS));
        for wanted in wanted(Profile::Production) {
            match &wanted.consumer {
                None => assert_eq!(wanted.config["name"], json!(wanted.stream)),
                Some(consumer) => {
                    assert_eq!(wanted.config["durable_name"], json!(consumer));
                    assert!(wanted.config.get("backoff").is_none(), "backoff overrides the ack wait");
                }
            }
        }
    }

    #[test]
    fn the_small_profile_fits_its_server() {
        let reserved = |profile| -> i64 {
            wanted(profile)
                .iter()
                .filter(|w| w.consumer.is_none())
                .map(|w| w.config["max_bytes"].as_i64().unwrap())
                .sum()
        };
        assert!(reserved(Profile::Small) < 6 << 30, "server.conf gives 6 GB");
        assert!(reserved(Profile::Production) < 80 << 30, "cluster-*.conf give 80 GB");
        assert!(
            wanted(Profile::Small)
                .iter()
                .filter(|w| w.consumer.is_none())
                .all(|w| w.config["num_replicas"] == 1)
        );
    }

    #[test]
    fn differences_are_found_and_named() {
        let wanted = Wanted {
            stream: "S".into(),
            consumer: None,
            config: json!({ "name": "S", "subjects": ["a", "b"], "max_bytes": 10, "max_age": 0, "mirror": { "name": "O" } }),
        };
        let same = json!({ "name": "S", "subjects": ["b", "a"], "max_bytes": 10, "mirror": { "name": "O", "x": 1 }, "other": 1 });
        assert_eq!(compare(&wanted, &same), []);
        let other = json!({ "name": "S", "subjects": ["a"], "max_bytes": 11, "mirror": { "name": "P" }, "sources": [{}] });
        let found: Vec<_> =
            compare(&wanted, &other).into_iter().map(|d| (d.field.unwrap(), d.tunable)).collect();
        let expect = [("max_bytes", true), ("mirror", false), ("subjects", false), ("sources", false)];
        assert_eq!(found, expect.map(|(field, tunable)| (field.to_owned(), tunable)));
    }
}
