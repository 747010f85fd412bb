//! `docker-compose.yml` and `Dockerfile`, as far as they are used here. An unknown key is an error: this test would
//! otherwise stop proving what the file says without anybody noticing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// The whole file.
#[derive(Debug, Deserialize)]
pub(crate) struct Compose {
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) configs: BTreeMap<String, Config>,
    /// Named, without settings of their own.
    pub(crate) volumes: BTreeMap<String, Option<()>>,
}

/// A text that is mounted as a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) content: String,
}

/// What runs, how often, and what it may see.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Service {
    pub(crate) image: String,
    pub(crate) build: Option<PathBuf>,
    pub(crate) user: Option<String>,
    pub(crate) entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub(crate) command: Vec<String>,
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    #[serde(default)]
    pub(crate) configs: Vec<ConfigMount>,
    #[serde(default)]
    pub(crate) tmpfs: Vec<String>,
    #[serde(default)]
    pub(crate) read_only: bool,
    #[serde(default)]
    pub(crate) cap_drop: Vec<String>,
    #[serde(default)]
    pub(crate) security_opt: Vec<String>,
    pub(crate) network_mode: Option<String>,
    #[serde(default)]
    pub(crate) depends_on: BTreeMap<String, Dependency>,
    pub(crate) healthcheck: Option<Healthcheck>,
    #[serde(default)]
    pub(crate) deploy: Deploy,
    // For the engine; nothing here depends on them.
    #[serde(rename = "restart")]
    _restart: Option<String>,
    #[serde(rename = "stop_grace_period")]
    _stop_grace_period: Option<String>,
    #[serde(rename = "shm_size")]
    _shm_size: Option<String>,
    #[serde(rename = "logging")]
    _logging: Option<serde_json::Value>,
    #[serde(rename = "ports", default)]
    _ports: Vec<String>,
}

/// A configuration in its place.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConfigMount {
    pub(crate) source: String,
    pub(crate) target: String,
}

/// How far another service must be.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Dependency {
    pub(crate) condition: Condition,
}

/// The states that are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "named as in the file")]
pub(crate) enum Condition {
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

/// The command that says whether a container is well. Its times are the engine's affair.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Healthcheck {
    test: Vec<String>,
}

/// How many of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deploy {
    pub(crate) replicas: u32,
}

impl Default for Deploy {
    fn default() -> Self {
        Self { replicas: 1 }
    }
}

/// One line of `volumes:`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Volume<'a> {
    pub(crate) source: &'a str,
    pub(crate) target: &'a str,
    pub(crate) read_only: bool,
}

impl Compose {
    /// The file of this checkout.
    pub(crate) fn read() -> Self {
        serde_saphyr::from_str(&read("docker-compose.yml")).unwrap()
    }

    /// Services made from our own image that run a stage: the name is the subcommand.
    pub(crate) fn stages(&self) -> Vec<&str> {
        let stage = |service: &Service| {
            service.image == "openwatch" && service.entrypoint.is_none() && !service.command.is_empty()
        };
        self.services.iter().filter(|(_, s)| stage(s)).map(|(name, _)| name.as_str()).collect()
    }
}

impl Service {
    /// What is mounted where.
    pub(crate) fn mounts(&self) -> impl Iterator<Item = Volume<'_>> {
        self.volumes.iter().map(|line| {
            let mut parts = line.split(':');
            let (source, target) = (parts.next().unwrap(), parts.next().unwrap());
            let read_only = match parts.next() {
                None => false,
                Some("ro") => true,
                Some(other) => panic!("{line}: {other}?"),
            };
            Volume { source, target, read_only }
        })
    }

    /// The arguments as the program gets them: `$$` is the file's way to write a dollar.
    pub(crate) fn argv(&self, image_entrypoint: &[String]) -> Vec<String> {
        let entrypoint = self.entrypoint.as_deref().unwrap_or(image_entrypoint);
        entrypoint.iter().chain(&self.command).map(|word| word.replace("$$", "$")).collect()
    }

    /// The command of its health check.
    pub(crate) fn health_argv(&self) -> &[String] {
        match self.healthcheck.as_ref().expect("a health check").test.split_first() {
            Some((kind, argv)) if kind == "CMD" => argv,
            other => panic!("a health check without CMD: {other:?}"),
        }
    }
}

/// What the image says of its own: user and entry point.
pub(crate) struct Image {
    pub(crate) user: String,
    pub(crate) entrypoint: Vec<String>,
}

impl Image {
    /// Of the last stage in our `Dockerfile`.
    pub(crate) fn read() -> Self {
        let text = read("Dockerfile");
        let last = |instruction: &str| {
            let line = text.lines().rfind(|line| line.starts_with(instruction)).expect(instruction);
            line[instruction.len()..].trim().to_owned()
        };
        let entrypoint = serde_json::from_str(&last("ENTRYPOINT")).expect("words in JSON");
        Self { user: last("USER"), entrypoint }
    }
}

/// The checkout.
pub(crate) fn checkout() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The text of one of its files.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(checkout().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
