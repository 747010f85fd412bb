//! The arrows between our crates, read from their manifests: what a crate does not name, it cannot use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Crate, and which of ours it may name. A change here is the change to look at hardest.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("rules", &["model"]),
    ("trust", &["model"]),
    ("remote", &["model"]),
    ("probe", &["model"]),
    ("bus", &["model"]),
    ("store", &["model"]),
    ("pipeline", &["model", "rules", "trust", "remote", "probe", "bus", "store"]),
    ("api", &["model", "trust", "bus", "store"]),
    ("app", &["model", "rules", "trust", "remote", "probe", "bus", "store", "pipeline", "api"]),
    ("tests", &["model", "rules", "trust", "remote", "probe", "bus", "store", "pipeline", "api", "app"]),
];

/// Outside world, and which of ours may name it. `tests` may name everything.
const WORLDS: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("russh", &["remote"]),
    ("async-nats", &["bus"]),
    ("axum", &["api"]),
    ("tower-http", &["api"]),
    ("clap", &["app"]),
    ("reqwest", &["pipeline", "app"]),
    ("lettre", &["pipeline"]),
    ("hpke", &["trust"]),
    ("aes-gcm", &["trust"]),
    ("ed25519-dalek", &["trust"]),
    ("serde-saphyr", &["rules", "trust"]),
];

/// Everything the model may name: words and numbers. No IO, no async, no clock, no randomness.
const MODEL: &[&str] = &["serde", "thiserror", "time", "uuid", "zeroize"];

/// Seed LIV-06: the prober cannot log in anywhere and knows no credential.
const PROBE: &[&str] = &["openwatch-model", "thiserror", "tokio", "tracing"];

/// Folder of each crate of ours, with the names of its dependencies that end up in the program.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let folder = package["name"].as_str().unwrap().strip_prefix("openwatch-").unwrap().to_owned();
            let all = package["dependencies"].as_array().unwrap().iter();
            let shipped = all.filter(|dependency| dependency["kind"] != "dev");
            let names = shipped.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (folder, names.collect())
        })
        .collect()
}

#[test]
fn crates_name_only_those_of_ours_that_the_design_allows() {
    let manifests = manifests();
    let expected: BTreeSet<_> = ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(manifests.keys().cloned().collect::<BTreeSet<_>>(), expected, "a crate came or went");
    for (name, allowed) in ARROWS {
        for dependency in &manifests[*name] {
            let Some(ours) = dependency.strip_prefix("openwatch-") else { continue };
            assert!(allowed.contains(&ours), "{name} must not know {ours}");
        }
    }
}

#[test]
fn each_outside_world_has_one_door() {
    let manifests = manifests();
    for (world, doors) in WORLDS {
        for (name, dependencies) in &manifests {
            let allowed = name == "tests" || doors.contains(&name.as_str());
            assert!(allowed || !dependencies.contains(*world), "{name} must not know {world}");
        }
    }
}

#[test]
fn the_model_and_the_prober_are_as_innocent_as_promised() {
    let manifests = manifests();
    for (name, allowed) in [("model", MODEL), ("probe", PROBE)] {
        for dependency in &manifests[name] {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
}

/// Every source file of the executor, and of what it measures with.
fn executor_sources() -> Vec<(String, String)> {
    let stage = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/pipeline/src/executor");
    let mut files = vec![stage.with_file_name("measure.rs"), stage];
    let mut sources = Vec::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            sources.push((path.display().to_string(), std::fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(sources.len() > 3, "the executor moved");
    sources
}

/// The worker is handed a bus and a way to hosts. Nothing on its path may name the store, a file, or a cipher.
// @spec kensa-executor
// @ac AC-11
#[test]
fn the_executor_names_no_store_no_file_and_no_cipher() {
    println!("@spec kensa-executor\n@ac AC-11");
    for (path, text) in executor_sources() {
        for word in
            ["openwatch_store", "std::fs", "tokio::fs", "File::", "Dek", "VaultKeys", "decrypt_secret", "aes"]
        {
            assert!(!text.contains(word), "{path} names {word}");
        }
    }
}

// @spec kensa-executor
// @ac AC-12
#[test]
fn there_is_one_engine_and_no_trait_of_engines() {
    println!("@spec kensa-executor\n@ac AC-12");
    for (path, text) in executor_sources() {
        let declares =
            text.lines().any(|line| line.trim_start().trim_start_matches("pub ").starts_with("trait "));
        assert!(!declares && !text.contains("dyn Engine"), "{path} declares a trait");
    }
}
