//! The document against the golden messages, and the JSON Schemas against the document.

use std::collections::{BTreeMap, BTreeSet};

use openwatch_bus::message::event::Kind;
use serde_json::Value;

use super::proves;
use super::schemas::{closed, document, errors, messages, specs};

/// Every golden message, by file name.
fn golden() -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(specs().join("messages")).unwrap().map(|file| file.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect()
}

// @spec event-stream
// @ac AC-01
#[test]
fn every_golden_message_is_as_described_and_every_member_is_described() {
    proves("AC-01");
    let (document, mut golden) = (document(), golden());
    let mut problems = Vec::new();
    for message in messages(&document) {
        let schema = message.schema(&document);
        for example in &message.examples {
            let mut it =
                golden.remove(example).unwrap_or_else(|| panic!("{example} is shown twice, or not there"));
            it["headers"]["Nats-Msg-Id"] = it["message_id"].clone();
            for problem in errors(&closed(&schema), &it["payload"]) {
                problems.push(format!("{example}: {problem}"));
            }
            let events = message.headers.as_ref().filter(|_| example.starts_with("event."));
            for problem in events.into_iter().flat_map(|headers| errors(headers, &it["headers"])) {
                problems.push(format!("{example}, headers: {problem}"));
            }
            if example.starts_with("event.") {
                assert_eq!(it["message_id"], it["headers"]["ce-id"], "{example}");
            }
        }
    }
    assert_eq!(problems, Vec::<String>::new());
    assert!(golden.is_empty(), "described nowhere: {:?}", golden.keys());
}

// @spec event-stream
// @ac AC-01
#[test]
fn every_kind_of_event_is_in_the_document_and_no_other() {
    proves("AC-01");
    let document = document();
    let kinds: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str().to_owned()).collect();
    let listed = &document["channels"]["events"]["parameters"]["kind"]["enum"];
    let listed: BTreeSet<_> =
        listed.as_array().unwrap().iter().map(|it| it.as_str().unwrap().to_owned()).collect();
    assert_eq!(listed, kinds);
    let types: BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.ce_type()).collect();
    let all = document["components"]["messages"].as_object().unwrap();
    let named: BTreeSet<_> = all
        .values()
        .filter_map(|it| it["name"].as_str())
        .filter(|name| name.starts_with("openwatch."))
        .map(str::to_owned)
        .collect();
    assert_eq!(named, types);
    let carried = document["channels"]["events"]["messages"].as_object().unwrap();
    assert_eq!(carried.len(), types.len());
}

/// Every `$ref` of the document leads somewhere.
fn dangling(at: &Value, document: &Value, found: &mut Vec<String>) {
    match at {
        Value::Object(map) => {
            if let Some(Value::String(to)) = map.get("$ref") {
                let there = match to.split_once('#') {
                    Some(("", pointer)) => document.pointer(pointer).is_some(),
                    Some((file, pointer)) => std::fs::read_to_string(specs().join(file)).is_ok_and(|text| {
                        serde_json::from_str::<Value>(&text).is_ok_and(|it| it.pointer(pointer).is_some())
                    }),
                    None => false,
                };
                if !there {
                    found.push(to.clone());
                }
            }
            map.values().for_each(|value| dangling(value, document, found));
        }
        Value::Array(all) => all.iter().for_each(|value| dangling(value, document, found)),
        _ => {}
    }
}

/// To renew: `UPDATE_SPECS=1 cargo test -p openwatch-tests --test it -- event_stream::document`.
// @spec event-stream
// @ac AC-02
#[test]
fn each_message_has_a_json_schema_of_its_own() {
    proves("AC-02");
    let document = document();
    let mut found = Vec::new();
    dangling(&document, &document, &mut found);
    assert_eq!(found, Vec::<String>::new(), "references that lead nowhere");
    let mut names = BTreeSet::from(["evidence".to_owned(), "rule".to_owned()]);
    for message in messages(&document) {
        let text = serde_json::to_string_pretty(&message.schema(&document)).unwrap() + "\n";
        let path = specs().join(format!("schemas/{}.json", message.name));
        if std::env::var_os("UPDATE_SPECS").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is not what asyncapi.yaml says; UPDATE_SPECS=1 renews it",
            path.display()
        );
        assert!(names.insert(message.name.clone()), "two messages are called {}", message.name);
    }
    let files = std::fs::read_dir(specs().join("schemas")).unwrap().map(|file| file.unwrap().path());
    let files: BTreeSet<_> =
        files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert_eq!(files, names);
}

// @spec event-stream
// @ac AC-01
#[test]
fn a_message_that_is_not_as_described_is_seen() {
    proves("AC-01");
    let (document, golden) = (document(), golden());
    let all = messages(&document);
    let schema = |name: &str| all.iter().find(|it| it.name == name).unwrap().schema(&document);
    let connectivity = schema("event.host_connectivity.v1");
    let good = golden["event.host_connectivity.v1"]["payload"].clone();
    assert_eq!(errors(&closed(&connectivity), &good), Vec::<String>::new());
    for (member, value) in
        [("status", "away".into()), ("host_id", "web-1".into()), ("transition", "5".into())]
    {
        let mut bad = good.clone();
        bad[member] = value;
        assert_ne!(errors(&connectivity, &bad), Vec::<String>::new(), "{member}");
    }
    let mut more = good;
    more["address"] = "192.0.2.1".into();
    assert_ne!(errors(&closed(&connectivity), &more), Vec::<String>::new());
    let mut alert = golden["event.alert_updated.v1"]["payload"].clone();
    alert["address"] = "192.0.2.1".into();
    assert_ne!(errors(&closed(&schema("event.alert_updated.v1")), &alert), Vec::<String>::new());
}
