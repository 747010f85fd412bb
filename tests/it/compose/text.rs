//! What can be said of the files without running them for long: they are accepted by the programs that read them, and
//! whatever they name exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use openwatch_app::private::Places;
use openwatch_tests::Program;

use super::file::{Compose, Condition, Service, checkout, read};

const CONTROL: [&str; 6] = ["alerts", "drift", "liveness", "scheduler", "vault", "writer"];

#[tokio::test]
async fn nats_accepts_its_files_with_the_users_that_keys_init_makes() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let (code, _, stderr) = Program::new(["keys", "init", "--dir"]).arg(&keys).run().await;
    assert_eq!(code, Some(0), "{stderr}");
    let places = Places::from_environment();
    let found = places.directories.iter().map(|dir| dir.join("nats-server")).find(|file| file.is_file());
    let nats = places.nats_server.or(found).expect("nats-server is installed (`make setup`)");
    fs::copy(keys.join("nats/users.conf"), dir.path().join("users.conf")).unwrap();
    certificate(&keys, &dir.path().join("tls")).await;
    let files = fs::read_dir(checkout().join("nats")).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "conf")).collect();
    let copy = |file: &PathBuf| {
        let beside = dir.path().join(file.file_name().unwrap());
        fs::copy(file, &beside).unwrap();
        beside
    };
    for file in files.iter().map(copy).collect::<Vec<_>>() {
        let mut check = Command::new(&nats);
        check.current_dir(dir.path()).arg("-t").arg("-c").arg(&file).stdin(Stdio::null());
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn every_command_and_setting_is_one_that_the_program_knows() {
    let compose = Compose::read();
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    certificate(&keys, &dir.path().join("tls")).await;
    let url = dir.path().join("database.url");
    let ca = dir.path().join("tls/ca.crt");
    let text =
        format!("postgres://login_x@postgres/openwatch?sslmode=verify-full&sslrootcert={}", ca.display());
    fs::write(&url, text).unwrap();
    fs::set_permissions(&url, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let ours = |service: &Service| service.image == "openwatch";
    let settings = compose.services.values().filter(|s| ours(s)).flat_map(|s| &s.configs);
    let settings: BTreeSet<_> = settings.map(|config| config.source.as_str()).collect();
    assert_eq!(settings.into_iter().collect::<Vec<_>>(), ["stage", "worker"]);
    for name in ["stage", "worker"] {
        let config = &compose.configs[name];
        // The places exist in containers only.
        let path = dir.path().join(name);
        fs::write(&path, config.content.replace("/secrets", &dir.path().display().to_string())).unwrap();
        let (code, stdout, stderr) = Program::new(["config", "check", "--config"]).arg(path).run().await;
        assert_eq!(code, Some(0), "{name}: {stdout}{stderr}");
    }
    for name in compose.stages() {
        let program = Program::new(compose.services[name].command.clone()).arg("--help");
        let (code, _, stderr) = program.run().await;
        assert_eq!(code, Some(0), "{name}: {stderr}");
    }
}

async fn certificate(keys: &Path, out: &Path) {
    let issue = Program::new(["keys", "issue", "certificate", "--dir"]).arg(keys).arg("--out").arg(out);
    let (code, _, stderr) = issue.arg("--host").arg("localhost").run().await;
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn whatever_the_file_names_exists_and_nothing_is_left_over() {
    let compose = Compose::read();
    let (mut volumes, mut configs) = (BTreeSet::new(), BTreeSet::new());
    for (name, service) in &compose.services {
        for mount in service.mounts() {
            match mount.source.strip_prefix("./") {
                Some(path) => assert!(checkout().join(path).exists(), "{name}: {path} is missing"),
                None => drop(volumes.insert(mount.source.to_owned())),
            }
        }
        configs.extend(service.configs.iter().map(|config| config.source.clone()));
        for (other, dependency) in &service.depends_on {
            let other =
                compose.services.get(other).unwrap_or_else(|| panic!("{name}: {other} is no service"));
            let healthy = dependency.condition == Condition::ServiceHealthy;
            assert!(!healthy || other.healthcheck.is_some(), "{name} waits for the health of what has none");
        }
        if let Some(build) = &service.build {
            assert!(checkout().join(build).join("Dockerfile").is_file());
        }
    }
    assert!(volumes.iter().eq(compose.volumes.keys()), "{volumes:?} are used");
    assert!(configs.iter().eq(compose.configs.keys()), "{configs:?} are used");
    let script = read("scripts/compose-init");
    for job in ["keys", "schema", "logins", "contents"] {
        assert!(compose.services[job].argv(&[]).ends_with(&[job.to_owned()]));
        assert!(script.contains(&format!("\n{job}() {{\n")), "compose-init has no {job}");
    }
    for line in read("Dockerfile").lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let source = line.split(' ').next().unwrap();
        assert!(source.starts_with("--from=") || checkout().join(source).exists(), "{source} is missing");
    }
    for stage in CONTROL {
        assert_eq!(compose.services[stage].deploy.replicas, 2, "two of each control stage: {stage}");
    }
    assert_eq!(compose.services.keys().filter(|name| name.starts_with("nats-")).count(), 3);
}
