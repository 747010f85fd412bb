//! JSON Schemas out of `specs/asyncapi.yaml`: one for each message.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A directory of the checkout.
pub(crate) fn specs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("specs")
}

/// The AsyncAPI document.
pub(crate) fn document() -> Value {
    let text = std::fs::read_to_string(specs().join("asyncapi.yaml")).unwrap();
    serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("specs/asyncapi.yaml: {error}"))
}

/// One described message.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// Name of its schema: `event.scan_completed.v1`, `job`.
    pub(crate) name: String,
    /// For people.
    title: String,
    /// Golden examples, by file name.
    pub(crate) examples: Vec<String>,
    payload: Value,
    /// Schema of its headers, where it has any of its own.
    pub(crate) headers: Option<Value>,
}

/// Every message of the document that has a body of ours.
pub(crate) fn messages(document: &Value) -> Vec<Described> {
    let all = document["components"]["messages"].as_object().expect("components.messages");
    all.iter().filter(|(key, _)| *key != "deadLetter").map(|(key, it)| described(document, key, it)).collect()
}

fn described(document: &Value, key: &str, it: &Value) -> Described {
    let examples: Vec<String> = it["examples"]
        .as_array()
        .unwrap_or_else(|| panic!("{key} has no examples"))
        .iter()
        .map(|example| {
            let reference = example["payload"]["$ref"].as_str().unwrap_or_default();
            let file = reference.strip_prefix("messages/").and_then(|r| r.strip_suffix(".json#/payload"));
            file.unwrap_or_else(|| panic!("{key}: {reference} is no golden message")).to_owned()
        })
        .collect();
    let words: Vec<_> = examples[0].split('.').collect();
    let version = it["name"].as_str().and_then(|name| name.rsplit('.').next());
    let name = match (words[0], version) {
        ("event", Some(version)) => format!("event.{}.{version}", words[1]),
        ("job" | "audit", _) => words[0].to_owned(),
        _ => format!("{}.{}", words[0], words[1]),
    };
    let headers = it["traits"][0]["$ref"]
        .as_str()
        .and_then(|reference| document.pointer(reference.strip_prefix('#')?)?.get("headers").cloned());
    Described {
        name,
        title: it["title"].as_str().unwrap_or_default().to_owned(),
        examples,
        payload: it["payload"].clone(),
        headers,
    }
}

impl Described {
    /// A JSON Schema that stands alone.
    pub(crate) fn schema(&self, document: &Value) -> Value {
        let all = document["components"]["schemas"].as_object().expect("components.schemas");
        let payload = local(&self.payload);
        let (mut wanted, mut definitions) = (references(&payload), BTreeMap::new());
        while let Some(name) = wanted.pop_first() {
            let definition =
                local(all.get(&name).unwrap_or_else(|| panic!("{}: no schema {name}", self.name)));
            wanted.extend(references(&definition).into_iter().filter(|it| !definitions.contains_key(it)));
            definitions.insert(name, definition);
        }
        let mut schema = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": format!("urn:openwatch:schema:{}", self.name),
            "title": self.title,
        });
        let map = schema.as_object_mut().expect("an object");
        map.extend(payload.as_object().cloned().unwrap_or_default());
        if !definitions.is_empty() {
            map.insert("$defs".to_owned(), json!(definitions));
        }
        schema
    }
}

/// With references to definitions of its own.
fn local(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let entry = |(key, value): (&String, &Value)| match (key.as_str(), value) {
                ("$ref", Value::String(to)) => {
                    (key.clone(), to.replace("#/components/schemas/", "#/$defs/").into())
                }
                _ => (key.clone(), local(value)),
            };
            Value::Object(map.iter().map(entry).collect())
        }
        Value::Array(all) => Value::Array(all.iter().map(local).collect()),
        other => other.clone(),
    }
}

fn references(schema: &Value) -> BTreeSet<String> {
    match schema {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match (key.as_str(), value) {
                ("$ref", Value::String(to)) => {
                    to.strip_prefix("#/$defs/").map(str::to_owned).into_iter().collect()
                }
                _ => references(value),
            })
            .collect(),
        Value::Array(all) => all.iter().flat_map(references).collect(),
        _ => BTreeSet::new(),
    }
}

/// The same schema, but with nothing allowed that it does not describe.
pub(crate) fn closed(schema: &Value) -> Value {
    let mut parts = BTreeSet::new();
    collect_parts(schema, &mut parts);
    close(schema, false, &parts)
}

/// Definitions that are one part of something larger.
fn collect_parts(schema: &Value, parts: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            for part in map.get("allOf").and_then(Value::as_array).into_iter().flatten() {
                parts.extend(
                    part["$ref"].as_str().and_then(|to| to.strip_prefix("#/$defs/")).map(str::to_owned),
                );
            }
            map.values().for_each(|value| collect_parts(value, parts));
        }
        Value::Array(all) => all.iter().for_each(|value| collect_parts(value, parts)),
        _ => {}
    }
}

fn close(schema: &Value, is_part: bool, parts: &BTreeSet<String>) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    let mut out = Map::new();
    for (key, value) in map {
        let closed = match (key.as_str(), value) {
            ("allOf", Value::Array(all)) => all.iter().map(|it| close(it, true, parts)).collect(),
            ("oneOf" | "anyOf", Value::Array(all)) => all.iter().map(|it| close(it, true, parts)).collect(),
            ("properties", Value::Object(all)) => {
                Value::Object(all.iter().map(|(k, v)| (k.clone(), close(v, false, parts))).collect())
            }
            ("$defs", Value::Object(all)) => {
                let it = |(k, v): (&String, &Value)| (k.clone(), close(v, parts.contains(k), parts));
                Value::Object(all.iter().map(it).collect())
            }
            ("items" | "additionalProperties", value) => close(value, false, parts),
            (_, value) => value.clone(),
        };
        out.insert(key.clone(), closed);
    }
    let describes = ["properties", "allOf", "oneOf"].iter().any(|key| map.contains_key(*key));
    if describes && !is_part && !map.contains_key("additionalProperties") {
        out.insert("unevaluatedProperties".to_owned(), false.into());
    }
    Value::Object(out)
}

/// Everything that speaks against a value.
pub(crate) fn errors(schema: &Value, value: &Value) -> Vec<String> {
    let validator = jsonschema::options().should_validate_formats(true).build(schema).expect("a JSON Schema");
    validator.iter_errors(value).map(|error| format!("{error} at {}", error.instance_path())).collect()
}
