//! One process for each stage, each with its own keys, against servers of the test's own.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use openwatch_app::private::{DataDir, Durability, Kind, NatsOptions, Places, Private, PrivateOptions};
use openwatch_bus::{Bus, BusOptions, User};
use openwatch_tests::sshd::Sshd;
use openwatch_tests::{Program, Running, eventually, openwatch};
use openwatch_trust::nats_user::NatsUser;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::rest::Rest;
use super::tables;

/// Everything that runs.
pub(crate) const ALL: [&str; 8] =
    ["api", "vault", "writer", "drift", "alerts", "liveness", "scheduler", "executor"];

/// An installation by hand.
pub(crate) struct Fleet {
    // Dropped in this order: stages, servers, files.
    stages: BTreeMap<String, Running>,
    private: Private,
    dir: TempDir,
    port: u16,
}

impl Fleet {
    /// Does what the manual says, up to the point where stages can be started. No stage runs.
    pub(crate) async fn prepare(rules: &Path) -> Self {
        Self::prepare_as(rules, Durability::ProcessCrash).await
    }

    /// The same with servers that survive as much as this: measuring needs what people run.
    pub(crate) async fn prepare_as(rules: &Path, durability: Durability) -> Self {
        let dir = tempfile::Builder::new().prefix("ow-fleet-").tempdir().unwrap();
        // Servers may run as another user, who must get through.
        set_mode(dir.path(), 0o711);
        let master = dir.path().join("master");
        ran(Program::new(["keys", "init", "--dir"]).arg(&master)).await;
        let private = servers(&dir.path().join("servers"), &master, durability).await;
        let secret = dir.path().join("database.url");
        std::fs::write(&secret, private.postgres_url().unwrap().expose()).unwrap();
        set_mode(&secret, 0o600);
        // A port that was free a moment ago, the same for every life of the API.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let it = Self { stages: BTreeMap::new(), private, dir, port };

        ran(it.tool(&["migrate"])).await;
        ran(it.tool(&["topology", "apply", "--keys"]).arg(&master)).await;
        let (_, policy, _) = ran(Program::new(["policy", "show"])).await;
        std::fs::write(it.policy(), policy).unwrap();
        it.sign_policy().await;
        ran(it.tool(&["rules", "publish", "--keys"]).arg(&master).arg(rules)).await;
        for what in ["scheduler", "executor", "writer", "vault", "api", "alerts", "stages"] {
            ran(Program::new(["keys", "issue", what, "--dir"]).arg(&master).arg("--out").arg(it.keys(what)))
                .await;
        }
        ran(it.tool(&["keys", "issue", "token", "--dir"]).arg(&master).arg("--out").arg(it.token())).await;
        it
    }

    /// The same, with every stage running; the executors are `executor-1` and so on.
    pub(crate) async fn start(rules: &Path, executors: usize) -> Self {
        let mut it = Self::prepare(rules).await;
        for stage in ALL.into_iter().filter(|stage| *stage != "executor") {
            it.spawn(stage);
        }
        for number in 1..=executors {
            it.spawn(&format!("executor-{number}"));
        }
        it.all_running().await;
        it
    }

    /// Starts a stage, or a stage with a number behind it.
    pub(crate) fn spawn(&mut self, name: &str) {
        let running = self.program(name).spawn();
        self.stages.insert(name.to_owned(), running);
    }

    /// The same with more in its environment.
    pub(crate) fn spawn_with(&mut self, name: &str, more: &[(&str, &str)]) {
        let program = more.iter().fold(self.program(name), |program, (name, value)| program.env(name, value));
        self.stages.insert(name.to_owned(), program.spawn());
    }

    /// The same with more arguments.
    pub(crate) fn spawn_more(&mut self, name: &str, more: &[&str]) {
        let program = more.iter().fold(self.program(name), |program, arg| program.arg(*arg));
        self.stages.insert(name.to_owned(), program.spawn());
    }

    /// Port of the API.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How a stage is started.
    pub(crate) fn program(&self, name: &str) -> Program {
        let stage = name.split('-').next().unwrap();
        let keys = match stage {
            "drift" | "liveness" => "stages",
            other => other,
        };
        // A worker is told of NATS and of nothing else.
        let program = match stage {
            "executor" => {
                Program::new(["executor", "--name", name]).env("OPENWATCH_NATS_URL", self.nats_url())
            }
            stage => self.tool(&[stage]),
        };
        let program = program.arg("--keys").arg(self.keys(keys));
        match stage {
            "api" => program.arg("--listen").arg(format!("127.0.0.1:{}", self.port)),
            "scheduler" => program.arg("--policy").arg(self.policy()),
            _ => program,
        }
    }

    /// Waits until every stage says that it runs.
    pub(crate) async fn all_running(&mut self) {
        for running in self.stages.values_mut() {
            running.line("running stage=").await;
        }
    }

    /// A stage that was started.
    pub(crate) fn stage(&mut self, name: &str) -> &mut Running {
        self.stages.get_mut(name).expect("the stage was started")
    }

    /// Takes a stage out, to kill it or to see it end.
    pub(crate) fn take(&mut self, name: &str) -> Running {
        self.stages.remove(name).expect("the stage was started")
    }

    /// Stages that have ended by themselves, taken out; shows their last words.
    pub(crate) fn ended(&mut self) -> Vec<String> {
        let ended: Vec<_> =
            self.stages.iter_mut().filter_map(|(name, it)| Some((name.clone(), it.try_wait()?))).collect();
        for (name, status) in &ended {
            let running = self.take(name);
            let last = running.stderr().lines().last().unwrap_or_default().to_owned();
            assert!(!running.stderr().contains("panicked"), "{name}: {}", running.stderr());
            println!("{name} ended by itself: {status}: {last}");
        }
        ended.into_iter().map(|(name, _)| name).collect()
    }

    /// Names of the stages that run.
    pub(crate) fn names(&self) -> Vec<String> {
        self.stages.keys().cloned().collect()
    }

    /// A command that is told where the servers are.
    pub(crate) fn tool(&self, args: &[&str]) -> Program {
        Program::new(args.iter().copied())
            .env("OPENWATCH_DATABASE_URL_FILE", self.dir.path().join("database.url"))
            .env("OPENWATCH_NATS_URL", self.nats_url())
    }

    /// A command of a client.
    pub(crate) fn client(&self, args: &[&str]) -> Program {
        let url = format!("http://127.0.0.1:{}", self.port);
        Program::new(args.iter().copied()).arg("--url").arg(url).arg("--token-file").arg(self.token())
    }

    /// A command of a client, with `--json`, that must succeed.
    pub(crate) async fn json(&self, args: &[&str]) -> serde_json::Value {
        let (_, stdout, _) = ran(self.client(args).arg("--json")).await;
        serde_json::from_str(&stdout).unwrap()
    }

    /// REST with the administrator's token.
    pub(crate) fn rest(&self) -> Rest {
        let token = std::fs::read_to_string(self.token()).unwrap();
        Rest::new(&format!("http://127.0.0.1:{}", self.port), &token)
    }

    /// Stores the target's key as the default credential, and registers so many hosts `host-0`, all of them this target.
    pub(crate) async fn add_hosts(&self, count: usize, sshd: &Sshd) {
        self.add_key(sshd.user(), sshd.private_key()).await;
        let rest = self.rest();
        for number in 0..count {
            let host = serde_json::json!({ "name": format!("host-{number}"), "address": "127.0.0.1", "port": sshd.port() });
            rest.post("/hosts", host).await;
        }
    }

    /// Stores a private key as the default credential.
    pub(crate) async fn add_key(&self, user: &str, private_key: &str) {
        let key = self.dir.path().join("target.key");
        std::fs::write(&key, private_key).unwrap();
        let key = key.display().to_string();
        // The API may be a moment away.
        let rest = self.rest();
        eventually("the API", || async { rest.ask(reqwest::Method::GET, "/hosts", None, None).await }).await;
        self.json(&["credential", "add", "key", "--user", user, "--key-file", &key, "--default"]).await;
    }

    /// A connection that may do everything.
    pub(crate) async fn db(&self) -> PgConnection {
        PgConnection::connect(self.database_url()).await.unwrap()
    }

    pub(crate) fn database_url(&self) -> &str {
        self.private.postgres_url().unwrap().expose()
    }

    pub(crate) fn nats_url(&self) -> &str {
        self.private.nats_url().unwrap()
    }

    /// The bus as anybody.
    pub(crate) async fn bus(&self, user: User) -> Bus {
        Bus::connect(self.bus_options(user)).await.unwrap()
    }

    /// A stock client of anybody's.
    pub(crate) async fn client_of(&self, user: User) -> async_nats::Client {
        let seed = NatsUser::load(&self.keys(&format!("master/nats/{}.nk", user.as_str()))).unwrap();
        let options = async_nats::ConnectOptions::with_nkey(seed.seed().to_owned());
        // Nobody may hear the inboxes of others, so each has a prefix of its own.
        let options = options.custom_inbox_prefix(format!("_INBOX_{}", user.as_str()));
        options.connect(self.nats_url()).await.unwrap()
    }

    /// How anybody connects.
    pub(crate) fn bus_options(&self, user: User) -> BusOptions {
        tables::bus_options(self.nats_url(), &self.keys("master"), user)
    }

    /// Process id of a server.
    pub(crate) fn server(&self, kind: Kind) -> Option<u32> {
        self.private.process_id(kind)
    }

    /// Kills a server; it comes back by itself.
    pub(crate) fn kill_server(&self, kind: Kind) {
        if let Some(pid) = self.private.process_id(kind) {
            super::kill(pid);
        }
    }

    /// Key directory of a kind of process; `master` has them all.
    pub(crate) fn keys(&self, what: &str) -> PathBuf {
        self.dir.path().join(what)
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.dir.path().join("schedules.yaml")
    }

    /// Signs what stands in the policy file.
    pub(crate) async fn sign_policy(&self) {
        let key = self.keys("master").join("policy/policy.key");
        ran(Program::new(["policy", "sign"]).arg(self.policy()).arg("--key").arg(key)).await;
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.dir.path().join("admin.token")
    }
}

/// Runs a command that must succeed.
pub(crate) async fn ran(program: Program) -> (Option<i32>, String, String) {
    let (code, stdout, stderr) = program.run().await;
    assert_eq!(code, Some(0), "{program:?}: {stdout}{stderr}");
    (code, stdout, stderr)
}

async fn servers(dir: &Path, keys: &Path, durability: Durability) -> Private {
    let users_conf = std::fs::read_to_string(keys.join("nats/users.conf")).unwrap();
    let options = PrivateOptions {
        postgres_port: Some(0),
        nats: Some(NatsOptions { port: 0, users_conf }),
        durability,
        places: Places::from_environment(),
        reexec: Some(openwatch()),
    };
    Private::start(DataDir::open(dir).unwrap(), options).await.unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
