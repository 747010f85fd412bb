//! `docker compose up`, as far as our file asks for it: order, mounts, users, rights, replicas, health.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use openwatch_app::private::Places;
use openwatch_tests::{Program, Running, openwatch, sshd};

use super::file::{Compose, Condition, Image, Service, checkout};
use super::machine;

/// A service may take so long until it is well.
const START: Duration = Duration::from_secs(60);

/// Containers, and what they are made from.
pub(crate) struct Engine {
    pub(crate) compose: Compose,
    image: Image,
    dir: PathBuf,
    path: String,
    containers: BTreeMap<String, Running>,
    next_address: u8,
}

impl Engine {
    /// Nothing runs yet. `dir` becomes a disk of its own.
    pub(crate) fn new(dir: &Path) -> Self {
        machine::set_up(dir);
        let mut engine = Self {
            compose: Compose::read(),
            image: Image::read(),
            dir: dir.to_owned(),
            path: String::new(),
            containers: BTreeMap::new(),
            next_address: 100,
        };
        engine.install_programs();
        for service in engine.compose.services.values() {
            engine.make_mount_points(service);
        }
        engine.write_hosts();
        engine
    }

    /// Starts every service when those that it depends on are as far as it wants, and waits until all are well.
    pub(crate) async fn up(&mut self) {
        let mut left: Vec<(String, Service)> = self.compose.services.clone().into_iter().collect();
        let mut started = Vec::new();
        while !left.is_empty() {
            let position =
                left.iter().position(|(_, s)| s.depends_on.keys().all(|name| started.contains(name)));
            let (name, service) = left.remove(position.expect("depends_on has no circle"));
            for (other, dependency) in &service.depends_on {
                self.wait_for(other, dependency.condition).await;
            }
            for replica in 1..=service.deploy.replicas {
                self.start(&name, replica);
            }
            started.push(name);
        }
        for (name, service) in self.compose.services.clone() {
            if service.healthcheck.is_some() {
                self.wait_for(&name, Condition::ServiceHealthy).await;
            }
        }
    }

    /// Starts one container of a service.
    pub(crate) fn start(&mut self, name: &str, replica: u32) {
        let service = self.compose.services[name].clone();
        let container = format!("{name}-{replica}");
        let argv = match service.image.as_str() {
            "openwatch" => service.argv(&self.image.entrypoint),
            // The image has an entry point of its own, which is not here.
            _ if service.entrypoint.is_none() && service.image.starts_with("postgres:") => {
                let script = ["sh", "-c", include_str!("postgres.sh"), "postgres.sh"].map(str::to_owned);
                script.into_iter().chain(service.argv(&[])).collect()
            }
            _ => service.argv(&[]),
        };
        let running = self.container(&service, &container, &argv).spawn();
        self.containers.insert(container, running);
    }

    /// `docker compose run --rm`: another command in a container of this service, to its end, which must be good.
    pub(crate) async fn run(&mut self, name: &str, argv: &[&str]) -> String {
        let (code, said) = self.try_run(name, argv).await;
        assert_eq!(code, Some(0), "{argv:?}: {said}");
        said
    }

    /// The same with any end: its code, and what it said.
    pub(crate) async fn try_run(&mut self, name: &str, argv: &[&str]) -> (Option<i32>, String) {
        let service = self.compose.services[name].clone();
        let argv: Vec<_> = argv.iter().map(|word| (*word).to_owned()).collect();
        let (code, stdout, stderr) = self.container(&service, &format!("{name}-run"), &argv).run().await;
        // Whoever succeeds is asked for what it prints, whoever fails for why.
        (code, if code == Some(0) { stdout } else { stdout + &stderr })
    }

    /// `docker compose exec`: another command in a running container.
    pub(crate) async fn exec(&self, container: &str, argv: &[&str]) -> (Option<i32>, String, String) {
        let name = container.rsplit_once('-').expect("a number at its end").0;
        let service = &self.compose.services[name];
        let pid = self.containers[container].process_id().to_string();
        let enter = ["--target", &pid, "--mount", "--uts", "--net", "--root", "--wd", "--"];
        let inner = self.rights(service).into_iter().chain(argv.iter().map(|word| (*word).to_owned()));
        let program = Program::other(sshd::find("nsenter").unwrap(), enter);
        inner.fold(program, |program, word| program.arg(word)).run().await
    }

    /// `kill -9`; nobody starts it again.
    pub(crate) fn kill(&mut self, container: &str) {
        self.containers.remove(container).expect(container).kill();
    }

    /// Containers that ended by themselves, though they should run; with what they said.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let services = &self.compose.services;
        let lasting = |name: &str| services[name.rsplit_once('-').unwrap().0].healthcheck.is_some();
        let running = self.containers.iter_mut().filter(|(name, _)| lasting(name));
        let ended = running.filter_map(|(name, c)| Some((name, c.try_wait()?, c)));
        ended.map(|(name, status, c)| format!("{name} ({status}): {}{}", c.stdout(), c.stderr())).collect()
    }

    /// What a container has said.
    pub(crate) fn logs(&self, container: &str) -> String {
        format!("{}{}", self.containers[container].stdout(), self.containers[container].stderr())
    }

    /// Files of a named volume.
    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.dir.join("volumes").join(name)
    }

    /// Names of the containers of a service.
    pub(crate) fn of(&self, service: &str) -> Vec<String> {
        (1..=self.compose.services[service].deploy.replicas).map(|n| format!("{service}-{n}")).collect()
    }

    pub(crate) async fn wait_for(&mut self, name: &str, condition: Condition) {
        for container in self.of(name) {
            match condition {
                Condition::ServiceStarted => {}
                Condition::ServiceCompletedSuccessfully => {
                    let status = self.containers.get_mut(&container).unwrap().wait().await;
                    assert!(status.success(), "{container}: {}", self.logs(&container));
                }
                Condition::ServiceHealthy => {
                    let argv = self.compose.services[name].health_argv().to_vec();
                    let argv: Vec<_> = argv.iter().map(String::as_str).collect();
                    let since = Instant::now();
                    while self.exec(&container, &argv).await.0 != Some(0) {
                        let status = self.containers.get_mut(&container).unwrap().try_wait();
                        let over = status.is_some() || since.elapsed() > START;
                        assert!(!over, "{container} is not well ({status:?}): {}", self.logs(&container));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    /// A container: namespaces, address, mounts, then rights and the command.
    fn container(&mut self, service: &Service, name: &str, argv: &[String]) -> Program {
        let address = match (service.network_mode.as_deref(), self.addresses().remove(name)) {
            (Some("none"), _) => "none".to_owned(),
            (None, Some(address)) => address,
            (None, None) => {
                self.next_address += 1;
                format!("10.0.0.{}", self.next_address)
            }
            (Some(other), _) => panic!("network_mode {other}?"),
        };
        let mut args: Vec<String> = ["--mount", "--net", "--uts", "sh", "-c"].map(str::to_owned).into();
        args.extend([include_str!("container.sh").to_owned(), "container.sh".to_owned()]);
        args.extend([name.to_owned(), address, self.root().display().to_string()]);
        for config in &service.configs {
            let source = self.dir.join("configs").join(&config.source);
            fs::create_dir_all(source.parent().unwrap()).unwrap();
            fs::write(&source, &self.compose.configs[&config.source].content).unwrap();
            args.extend(bind(&source, &config.target, true));
        }
        for mount in service.mounts() {
            args.extend(bind(&self.source(mount.source), mount.target, mount.read_only));
        }
        args.extend(service.tmpfs.iter().flat_map(|target| ["tmpfs".to_owned(), target.clone()]));
        if service.read_only {
            args.push("read-only".to_owned());
        } else {
            args.extend(["tmpfs", "/tmp"].map(str::to_owned));
        }
        args.push("--".to_owned());
        args.extend(self.rights(service));
        args.extend(argv.iter().cloned());
        Program::other(sshd::find("unshare").unwrap(), args)
    }

    /// Environment, user and capabilities, as a prefix of the command.
    fn rights(&self, service: &Service) -> Vec<String> {
        let mut words = vec!["/usr/bin/env".to_owned(), "-i".to_owned(), format!("PATH={}", self.path)];
        words.extend(service.environment.iter().map(|(name, value)| format!("{name}={value}")));
        words.push("setpriv".to_owned());
        let image_user = if service.image == "openwatch" { self.image.user.as_str() } else { "0:0" };
        let (user, group) = service.user.as_deref().unwrap_or(image_user).split_once(':').expect("UID:GID");
        words.extend([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".to_owned()]);
        if service.cap_drop == ["ALL"] {
            words.extend(["--bounding-set=-all", "--inh-caps=-all"].map(str::to_owned));
        }
        if service.security_opt == ["no-new-privileges:true"] {
            words.push("--no-new-privs".to_owned());
        }
        words
    }

    /// Directory or file outside that a mount shows: a named volume, or something of the checkout.
    fn source(&self, source: &str) -> PathBuf {
        match source.strip_prefix("./") {
            Some(path) => {
                checkout().join(path).canonicalize().unwrap_or_else(|error| panic!("{source}: {error}"))
            }
            None => {
                assert!(self.compose.volumes.contains_key(source), "{source} is no volume");
                let dir = self.volume(source);
                fs::create_dir_all(&dir).unwrap();
                dir
            }
        }
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// What the images have of their own: our program, and the servers that this machine provides.
    fn install_programs(&mut self) {
        let places = Places::from_environment();
        let in_directories = |name: &str, beside: &str| {
            let dir =
                places.directories.iter().find(|dir| dir.join(name).is_file() && dir.join(beside).is_file());
            dir.map(|dir| dir.join(name).canonicalize().unwrap())
        };
        let nats = places.nats_server.clone().or_else(|| in_directories("nats-server", "nats-server"));
        let named = places.postgres_bin.as_ref().map(|dir| dir.join("postgres"));
        let postgres =
            named.or_else(|| in_directories("postgres", "initdb")).expect("PostgreSQL is installed");
        let postgres = postgres.canonicalize().unwrap();
        let programs = [
            ("openwatch", openwatch()),
            ("compose-init", checkout().join("scripts/compose-init")),
            ("nats-server", nats.expect("nats-server is installed")),
        ];
        for (name, program) in programs {
            let target = self.root().join("image").join(name);
            fs::write(&target, "").unwrap();
            mount(&program.canonicalize().unwrap(), &target);
        }
        // A fetched PostgreSQL lies somewhere of its own, with its libraries beside its programs.
        let bin = postgres.parent().unwrap();
        if !bin.starts_with("/usr") {
            let home = bin.parent().unwrap();
            let target = self.root().join(home.strip_prefix("/").unwrap());
            fs::create_dir_all(&target).unwrap();
            mount(home, &target);
        }
        self.path =
            format!("/image:{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", bin.display());
    }

    /// Images are read-only when containers run, so every place to mount on is made before.
    fn make_mount_points(&self, service: &Service) {
        let point = |target: &str| self.root().join(target.trim_start_matches('/'));
        let file = |target: &str| {
            fs::create_dir_all(point(target).parent().unwrap()).unwrap();
            fs::write(point(target), "").unwrap();
        };
        service.configs.iter().for_each(|config| file(&config.target));
        service.tmpfs.iter().for_each(|target| fs::create_dir_all(point(target)).unwrap());
        for mount in service.mounts() {
            match self.source(mount.source).is_file() {
                true => file(mount.target),
                false => fs::create_dir_all(point(mount.target)).unwrap(),
            }
        }
        let run = point("/run");
        fs::set_permissions(run, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Every container's address, by its name.
    fn addresses(&self) -> BTreeMap<String, String> {
        let names = self.compose.services.keys().flat_map(|service| self.of(service));
        names.zip(2_u8..100).map(|(name, last)| (name, format!("10.0.0.{last}"))).collect()
    }

    /// The engine's name server: a service's name is the address of its first container.
    fn write_hosts(&self) {
        let mut text = "127.0.0.1 localhost\n".to_owned();
        for (name, address) in self.addresses() {
            if let Some(service) = name.strip_suffix("-1") {
                text.push_str(&format!("{address} {service}\n"));
            }
        }
        fs::write(self.root().join("etc/hosts"), text).unwrap();
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> [String; 4] {
    let mode = if read_only { "ro" } else { "rw" };
    ["bind".to_owned(), source.display().to_string(), target.to_owned(), mode.to_owned()]
}

fn mount(source: &Path, target: &Path) {
    let status =
        Command::new("mount").arg("--bind").arg(source).arg(target).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "mount {} on {}", source.display(), target.display());
}
