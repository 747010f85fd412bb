//! Chosen stages inside the test's own process, wired as the program wires them, on a database and a bus of their own.
//!
//! For what [`crate::Stack`] cannot show: one stage without the others, two of one stage, messages made by hand.

mod by_hand;
mod channels;

use std::path::{Path, PathBuf};

use openwatch_app::config::Settings;
use openwatch_app::keydir::KeyDir;
use openwatch_app::run::Stage;
use openwatch_app::run::process::Process;
use openwatch_app::run::stages::Wiring;
use openwatch_app::run::up::note_publication;
use openwatch_bus::message::event::Kind;
use openwatch_bus::stream::Stored;
use openwatch_bus::{Bus, User, subject};
use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::{CredentialId, HostId, ScanId};
use openwatch_pipeline::measure::{self, Engine};
use openwatch_pipeline::policy::{Source, accept};
use openwatch_rules::CorpusFile;
use openwatch_store::credential::{self, NewCredential};
use openwatch_store::host::{self, NewHost};
use openwatch_store::{Role, Store};
use openwatch_trust::VaultKeys;
use openwatch_trust::policy::{sign, signature_path};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use uuid::Uuid;

pub use self::by_hand::{headers, measured, plain, signed};
pub use self::channels::WEBHOOK_SECRET;
use crate::sshd::Sshd;
use crate::{World, eventually};

/// Trusts the first key that a host shows.
pub const TOFU: &str = "version: 1.0.0\nhost_key_policy: tofu\n";

/// An installation of which nothing runs yet.
#[derive(Debug)]
pub struct Stages {
    /// Its database and its bus.
    pub world: World,
    /// The bus as administrator, to look around.
    pub admin: Bus,
    keys: KeyDir,
    settings: Settings,
    dir: TempDir,
}

impl Stages {
    /// Makes one with a policy in force.
    ///
    /// # Panics
    /// When a server cannot be had, or the policy is refused.
    pub async fn under(policy: &str) -> Self {
        let world = World::new().await;
        let dir = TempDir::with_prefix("ow-stages-").expect("a temporary directory");
        let path = dir.path().join("keys");
        let keys = KeyDir::init(&path).unwrap_or_else(|failure| panic!("{:#}", failure.error));
        for user in User::ALL {
            let file = path.join("nats").join(format!("{}.nk", user.as_str()));
            std::fs::write(file, world.nats.seed(user)).expect("write a seed");
        }
        let file = dir.path().join("schedules.yaml");
        let settings = Settings {
            keys: Some(path),
            policy: Some(file),
            database_url: Some(world.database.url().to_owned().into()),
            nats_servers: vec![world.nats.url().to_owned()],
            slots: 4,
            probes: 50,
            lanes: 2,
            worker: "w0".to_owned(),
            ..Settings::default()
        };
        let admin = world.bus(User::Admin).await;
        let stages = Self { world, admin, keys, settings, dir };
        stages.policy(policy).await;
        stages
    }

    /// Brings a policy into force.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn policy(&self, policy: &str) {
        let file = self.file("schedules.yaml");
        let key = self.keys.policy_key().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        std::fs::write(&file, policy).expect("write the policy");
        std::fs::write(signature_path(&file), sign(policy.as_bytes(), &key).expect("a policy to sign"))
            .expect("write its signature");
        let store = self.world.store(Role::Scheduler).await;
        accept(&store, &file, &self.keys.signer_watch(), Source::Boot)
            .await
            .expect("the policy comes into force");
        // What the scheduler has to say about it; it may never run here.
        self.meddle("delete from outbox where sender = 'scheduler'").await;
    }

    /// Runs stages until the answer is dropped: as a killed process ends.
    pub async fn run(&self, stages: &[Stage]) -> Process {
        self.run_at(self.world.nats.url(), stages).await
    }

    /// The same with another way to NATS, through a [`crate::Proxy`] say.
    ///
    /// # Panics
    /// When a stage cannot start.
    pub async fn run_at(&self, nats: &str, stages: &[Stage]) -> Process {
        self.wire(nats, stages, measure::engine).await
    }

    /// A worker whose engine is another one, until the answer is dropped.
    pub async fn worker_with(&self, engine: Engine) -> Process {
        self.wire(self.world.nats.url(), &[Stage::Executor], engine).await
    }

    async fn wire(&self, nats: &str, stages: &[Stage], engine: Engine) -> Process {
        // As the program does at its start. Another test may have been quicker; one provider serves all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = Process::new();
        let settings = Settings { nats_servers: vec![nats.to_owned()], ..self.settings.clone() };
        let mut wiring = Wiring { process: &mut process, settings: &settings, keys: &self.keys };
        for stage in stages {
            let wired = match stage {
                Stage::Scheduler => wiring.scheduler().await,
                Stage::Vault => wiring.vault().await,
                Stage::Executor => wiring.executor_with(engine).await,
                Stage::Writer => wiring.writer().await,
                Stage::Drift => wiring.drift().await,
                Stage::Alerts => wiring.alerts().await,
                Stage::Liveness => wiring.liveness().await,
                Stage::Api => panic!("tests of the API have a server of their own"),
            };
            wired.unwrap_or_else(|failure| panic!("{stage:?}: {:#}", failure.error));
        }
        process
    }

    /// Key directory, for processes of their own.
    #[must_use]
    pub fn keys(&self) -> &KeyDir {
        &self.keys
    }

    /// The keys that only the vault has.
    ///
    /// # Panics
    /// Never: they were made with this value.
    #[must_use]
    pub fn vault_keys(&self) -> VaultKeys {
        self.keys.vault().unwrap_or_else(|failure| panic!("{:#}", failure.error))
    }

    /// A place for files, gone with this value.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Publishes a corpus of rules that run one command each: id and command. A rule passes when its command does.
    ///
    /// # Panics
    /// When it cannot be published.
    pub async fn publish(&self, rules: &[(&str, &str)]) {
        let files: Vec<_> = rules.iter().map(|(id, run)| rule(id, run)).collect();
        let store = self.world.store(Role::Api).await;
        let key = self.keys.policy_key().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        note_publication(&store, &self.admin, &key, &files)
            .await
            .unwrap_or_else(|failure| panic!("{:#}", failure.error));
        // What the API would tell of it; it does not run here.
        self.meddle("delete from outbox where sender = 'api'").await;
    }

    /// Registers a host on this machine.
    ///
    /// # Panics
    /// When the name is taken.
    pub async fn host(&self, name: &str, port: u16) -> HostId {
        self.host_with(name, port, None).await
    }

    /// The same with a credential of its own.
    ///
    /// # Panics
    /// When the name is taken.
    pub async fn host_with(&self, name: &str, port: u16, credential: Option<CredentialId>) -> HostId {
        let new = NewHost {
            name: name.to_owned(),
            address: "127.0.0.1".to_owned(),
            port,
            username: Some("root".to_owned()),
            sudo: SudoMode::None,
            credential,
            jump: None,
            labels: [].into(),
        };
        let api = self.world.store(Role::Api).await;
        let mut tx = api.begin().await.expect("the database answers");
        let id = host::add(&mut tx, &new, "tester").await.expect("the host is new");
        tx.commit().await.expect("the database answers");
        id
    }

    /// Registers a target with the default credential, which logs in to it.
    ///
    /// # Panics
    /// When there is a default credential already.
    pub async fn target(&self, name: &str, sshd: &Sshd) -> HostId {
        self.credential("key", sshd.user(), &sshd.secret(), true).await;
        self.host(name, sshd.port()).await
    }

    /// Stores a credential as the API does; the vault takes it in when it runs.
    ///
    /// # Panics
    /// When the name is taken, or there is a default credential already.
    pub async fn credential(
        &self,
        name: &str,
        user: &str,
        secret: &Secret,
        is_default: bool,
    ) -> CredentialId {
        let id = CredentialId(Uuid::new_v4());
        let api_keys = self.keys.api().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let new = NewCredential {
            id,
            name: name.to_owned(),
            username: user.to_owned(),
            auth_method: secret.auth_method().expect("a secret that logs in"),
            key: None,
            is_default,
            sealed: api_keys.seal_credential(secret, id).expect("a key to seal to"),
        };
        let api = self.world.store(Role::Api).await;
        let mut tx = api.begin().await.expect("the database answers");
        credential::insert(&mut tx, &new, "tester").await.expect("the credential is new");
        tx.commit().await.expect("the database answers");
        id
    }

    /// Waits for the ledger row of a scan.
    pub async fn ended(&self, scan: ScanId) -> String {
        let query = format!("select outcome from scan_ledger where scan_id = '{scan}'");
        eventually("the scan's end", || async { self.texts(&query).await.pop() }).await
    }

    /// Events of a kind about a host, oldest first.
    ///
    /// # Panics
    /// When the bus is away.
    pub async fn events(&self, kind: Kind, host: HostId) -> Vec<Stored> {
        let (subject, mut from, mut all) = (subject::event(kind, Some(host)), 1, Vec::new());
        while let Some(stored) =
            self.admin.next_message(subject::EVENTS, from, &subject).await.expect("the bus answers")
        {
            from = stored.sequence + 1;
            all.push(stored);
        }
        all
    }

    /// Waits until everything written was sent.
    pub async fn relayed(&self) {
        let empty = || async { (self.number("select count(*) from outbox").await == 0).then_some(()) };
        eventually("an empty outbox", empty).await;
    }

    /// One number out of the database.
    ///
    /// # Panics
    /// When the query is wrong.
    pub async fn number(&self, query: &str) -> i64 {
        let mut connection = self.world.database.connect().await;
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut connection).await.expect(query)
    }

    /// A column of text out of the database.
    ///
    /// # Panics
    /// When the query is wrong.
    pub async fn texts(&self, query: &str) -> Vec<String> {
        let mut connection = self.world.database.connect().await;
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut connection).await.expect(query)
    }

    /// Changes the database behind everybody's back.
    ///
    /// # Panics
    /// When the statement is wrong.
    pub async fn meddle(&self, statement: &str) {
        let mut connection = self.world.database.connect().await;
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.expect(statement);
    }

    /// Audit rows of a code.
    pub async fn audited(&self, code: &str) -> i64 {
        self.number(&format!("select count(*) from audit_event where action = '{code}'")).await
    }

    /// A pool as a stage has it.
    pub async fn store(&self, role: Role) -> Store {
        self.world.store(role).await
    }

    /// Address of the bus.
    #[must_use]
    pub fn nats_url(&self) -> &str {
        self.world.nats.url()
    }

    /// Where everything of this installation lies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

fn rule(id: &str, run: &str) -> CorpusFile {
    let run = serde_json::Value::from(run);
    let text = format!(
        "id: {id}\ntitle: {id}\ndescription: a test\nseverity: medium\ncategory: test\nimplementations:\n  \
         - default: true\n    check:\n      method: command\n      run: {run}\n      expected_exit: 0\n"
    );
    CorpusFile { path: format!("{id}.yml"), text }
}
