//! The OpenAPI document against the router and against what is really answered.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(openwatch_api::document()).expect("the document is JSON"));

/// Panics when an answer is not what the document promises for its path, method and status.
pub(crate) fn holds(method: &str, path: &str, status: u16, kind: &str, body: &[u8]) {
    let Some(template) = template(path, method) else { return };
    let operation = &DOCUMENT["paths"][&template][method.to_lowercase()];
    if !kind.contains("json") || status >= 400 {
        return problem(method, path, status, kind, body);
    }
    let kind = kind.split(';').next().unwrap_or_default();
    let promised = &operation["responses"][status.to_string()];
    assert!(!promised.is_null(), "{method} {template} answered {status}, which the document does not have");
    valid(&promised["content"][kind]["schema"], method, path, body);
}

fn problem(method: &str, path: &str, status: u16, kind: &str, body: &[u8]) {
    if status >= 400 && kind == "application/problem+json" {
        valid(&json!({"$ref": "#/components/schemas/Problem"}), method, path, body);
    }
}

fn valid(schema: &Value, method: &str, path: &str, body: &[u8]) {
    assert!(!schema.is_null(), "{method} {path} has no schema");
    let whole = json!({"allOf": [schema], "components": DOCUMENT["components"]});
    let body: Value = serde_json::from_slice(body).unwrap();
    let validator =
        jsonschema::validator_for(&whole).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    let wrong: Vec<_> =
        validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{method} {path} is not as promised: {wrong:?} in {body}");
}

/// The path of the document that a request's path is one of.
fn template(path: &str, method: &str) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &&String| {
        let (given, wanted): (Vec<_>, Vec<_>) = (path.split('/').collect(), template.split('/').collect());
        given.len() == wanted.len()
            && given.iter().zip(&wanted).all(|(given, wanted)| match wanted.split_once('}') {
                Some((_, verb)) if wanted.starts_with('{') => given.ends_with(verb),
                _ => given == wanted,
            })
    };
    let all = DOCUMENT["paths"].as_object()?;
    let mut found: Vec<_> = all.keys().filter(fits).collect();
    found.retain(|template| !all[*template][method.to_lowercase()].is_null());
    // A literal segment is meant before a parameter.
    found.sort_by_key(|template| (template.matches('{').count(), !template.contains("}:")));
    found.first().map(|template| (*template).clone())
}

// @spec api
// @ac AC-07
#[test]
fn the_document_and_the_router_name_the_same_paths_and_methods() {
    println!("@spec api");
    println!("@ac AC-07");
    let source = include_str!("../../../crates/api/src/router.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let mut routed = BTreeSet::new();
    for part in source.split(".route(").skip(1) {
        let path = part.split('"').nth(1).unwrap();
        let methods = part.split(".route(").next().unwrap();
        let v1 = !(path.starts_with("/health") || path == "/metrics" || path == "/openapi.json");
        let path = if v1 { format!("/api/v1{path}") } else { path.to_owned() };
        for method in ["get", "post", "put", "patch", "delete"] {
            if methods.contains(&format!("{method}(")) && path != "/openapi.json" {
                routed.insert((path.clone(), method.to_owned()));
            }
        }
    }
    let mut promised = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            // The router does not split a segment; a verb is the handler's affair.
            let path = match path.split_once("}:") {
                Some((head, _)) => {
                    let parent = head.rsplit_once('/').unwrap().0;
                    format!("{parent}/{{target}}")
                }
                None => path.clone(),
            };
            promised.insert((path, method.clone()));
        }
    }
    let same = |(path, method): (String, String)| {
        let path: Vec<_> = path
            .split('/')
            .map(|part| if part.starts_with('{') { "{}".to_owned() } else { part.to_owned() })
            .collect();
        (path.join("/"), method)
    };
    let routed: BTreeSet<_> = routed.into_iter().map(same).collect();
    let promised: BTreeSet<_> = promised.into_iter().map(same).collect();
    assert_eq!(
        routed.difference(&promised).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "not promised"
    );
    assert_eq!(
        promised.difference(&routed).collect::<Vec<_>>(),
        Vec::<&(String, String)>::new(),
        "not routed"
    );
}
