//! Chosen stages inside the test's own process, wired as the program wires them, on a database and a bus of their own.
//!
//! For what [`crate::Stack`] cannot show: one stage without the others, two of one stage, messages made by hand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use openwatch_app::config::Settings;
use openwatch_app::keydir::KeyDir;
use openwatch_app::run::Stage;
use openwatch_app::run::process::Process;
use openwatch_app::run::stages::Wiring;
use openwatch_app::run::up::note_publication;
use openwatch_bus::message::event::Kind;
use openwatch_bus::message::result::{Part, encode_final, message_id};
use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC, job};
use openwatch_bus::stream::Stored;
use openwatch_bus::{Bus, Outgoing, User, subject};
use openwatch_model::credential::{AuthMethod, Secret, SudoMode};
use openwatch_model::host::{HostKeyMode, Platform};
use openwatch_model::scan::{Job, Lane, Measurement, ScanResult, Selection, Verdict};
use openwatch_model::{CredentialId, HostId, Outcome, ScanId, Timestamp};
use openwatch_pipeline::policy::{Source, accept};
use openwatch_rules::{CorpusFile, ENGINE_VERSION};
use openwatch_store::credential::{self, NewCredential};
use openwatch_store::host::{self, NewHost};
use openwatch_store::scan::{self, Issued, NewScan, Queued};
use openwatch_store::{Role, Store};
use openwatch_trust::policy::{sign, signature_path};
use openwatch_trust::{Signed, VaultKeys};
use sqlx::AssertSqlSafe;
use tempfile::TempDir;
use uuid::Uuid;

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
        let key = keys.policy_key().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        std::fs::write(&file, policy).expect("write the policy");
        std::fs::write(signature_path(&file), sign(policy.as_bytes(), &key).expect("a policy to sign"))
            .expect("write its signature");
        let signers = keys.signers().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let store = world.store(Role::Scheduler).await;
        accept(&store, &file, &signers, Source::Boot).await.expect("the policy comes into force");
        let settings = Settings {
            keys: Some(path),
            policy: Some(file),
            database_url: Some(world.database.url().to_owned().into()),
            nats_servers: vec![world.nats.url().to_owned()],
            slots: 4,
            lanes: 2,
            worker: "w0".to_owned(),
            ..Settings::default()
        };
        let admin = world.bus(User::Admin).await;
        let stages = Self { world, admin, keys, settings, dir };
        // What the scheduler has to say about its policy; it may never run here.
        stages.meddle("delete from outbox").await;
        stages
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
        // As the program does at its start. Another test may have been quicker; one provider serves all.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut process = Process::new();
        let settings = Settings { nats_servers: vec![nats.to_owned()], ..self.settings.clone() };
        let mut wiring = Wiring { process: &mut process, settings: &settings, keys: &self.keys };
        for stage in stages {
            let wired = match stage {
                Stage::Scheduler => wiring.scheduler().await,
                Stage::Vault => wiring.vault().await,
                Stage::Executor => wiring.executor().await,
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
        note_publication(&store, &self.admin, &self.keys, &files)
            .await
            .unwrap_or_else(|failure| panic!("{:#}", failure.error));
    }

    /// Registers a host on this machine.
    ///
    /// # Panics
    /// When the name is taken.
    pub async fn host(&self, name: &str, port: u16) -> HostId {
        let new = NewHost {
            name: name.to_owned(),
            address: "127.0.0.1".to_owned(),
            port,
            username: Some("root".to_owned()),
            sudo: SudoMode::None,
            credential: None,
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
        let id = CredentialId(Uuid::new_v4());
        let mut secret = Secret::default();
        secret.private_key = Some(sshd.private_key().to_owned());
        let api_keys = self.keys.api().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let new = NewCredential {
            id,
            name: "key".to_owned(),
            username: sshd.user().to_owned(),
            auth_method: AuthMethod::SshKey,
            is_default: true,
            sealed: api_keys.seal_credential(&secret, id).expect("a key to seal to"),
        };
        let api = self.world.store(Role::Api).await;
        let mut tx = api.begin().await.expect("the database answers");
        credential::insert(&mut tx, &new, "tester").await.expect("the credential is new");
        tx.commit().await.expect("the database answers");
        self.host(name, sshd.port()).await
    }

    /// Asks for a full scan and notes its signed job, as the scheduler would; the job is not sent. `change` says what is
    /// unusual about it.
    ///
    /// # Panics
    /// When the host has a scan under way.
    pub async fn job(&self, host: HostId, change: impl FnOnce(&mut Job)) -> (Job, Outgoing) {
        let scan = ScanId(Uuid::new_v4());
        let api = self.world.store(Role::Api).await;
        let mut tx = api.begin().await.expect("the database answers");
        let selection = Selection::full();
        let new = NewScan { scan, host, selection, actor: "tester", policy_version: None, correlation: None };
        let Queued::New { number } = scan::queue(&mut tx, &new).await.expect("the database answers") else {
            panic!("the host has an open scan")
        };
        let known = host::get(&mut tx, host).await.expect("the database answers").expect("the host is there");
        tx.commit().await.expect("the database answers");
        let mut job = Job {
            scan,
            attempt: 1,
            host,
            host_number: number,
            selection: new.selection,
            policy_version: "1.0.0".to_owned(),
            enqueued_at_ns: i64::try_from(Timestamp::now_utc().unix_timestamp_nanos()).expect("this century"),
            lane: Lane::Manual,
            actor: "tester".to_owned(),
            address: known.address,
            port: known.port,
            user: "root".to_owned(),
            sudo: SudoMode::None,
            timeout: Duration::from_secs(60),
            host_key_mode: HostKeyMode::Tofu,
            known_keys: Vec::new(),
            corpus: "c0".to_owned(),
            variables: [].into(),
        };
        change(&mut job);
        let payload = job::encode(&job);
        let keys = self.keys.scheduler().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let signed = keys.sign_job(job.lane.as_str(), &payload);
        let issued = Issued {
            scan,
            attempt: 1,
            tag: *signed.tag.as_bytes(),
            key_id: signed.kid.to_string(),
            timeout_sec: 60,
            policy_version: job.policy_version.clone(),
            corpus: job.corpus.clone(),
        };
        let scheduler = self.world.store(Role::Scheduler).await;
        let mut tx = scheduler.begin().await.expect("the database answers");
        let noted = scan::issue(&mut tx, &[issued]).await.expect("the database answers");
        assert_eq!(noted, [scan]);
        tx.commit().await.expect("the database answers");
        let subject = subject::job(job.lane, host);
        let message_id = job::message_id(scan, 1);
        (job, Outgoing { subject, message_id, headers: headers(&signed, "queue"), payload })
    }

    /// The final message that a worker with this attempt's key sends.
    #[must_use]
    pub fn result(&self, job: &Job, outcomes: &[Outcome]) -> Outgoing {
        let result = measured(job, outcomes);
        let payload = encode_final(&result);
        let subject = subject::result(Part::Final, job.host, job.scan);
        let key = self.vault_keys().result_key(job.scan, job.attempt);
        let signed = key.sign(Part::Final.as_str(), &subject, &payload);
        let message_id = message_id(job.scan, job.attempt, 1, Part::Final);
        Outgoing { subject, message_id, headers: headers(&signed, "attempt"), payload }
    }

    /// Sends as a worker.
    ///
    /// # Panics
    /// When the bus refuses.
    pub async fn send(&self, message: &Outgoing) -> u64 {
        let worker = self.world.bus(User::Executor).await;
        worker.publish(message).await.expect("the bus takes it").sequence
    }

    /// A scan with these outcomes, applied by a writer that runs.
    pub async fn scanned(&self, host: HostId, outcomes: &[Outcome]) -> ScanId {
        let (job, _) = self.job(host, |_| ()).await;
        self.send(&self.result(&job, outcomes)).await;
        self.ended(job.scan).await;
        job.scan
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

/// The headers of a signed message.
#[must_use]
pub fn headers(signed: &Signed, kind: &str) -> Vec<(String, String)> {
    [(KEY_ID, signed.kid.to_string()), (MAC, signed.tag.to_string()), (KEY_KIND, kind.to_owned())]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
}

/// What a worker saw.
#[must_use]
pub fn measured(job: &Job, outcomes: &[Outcome]) -> ScanResult {
    let measurement = Measurement {
        platform: Platform::default(),
        capabilities: [].into(),
        outcomes: outcomes.to_vec(),
        timings: Vec::new(),
        lost_checks: 0,
        planned_checks: u32::try_from(outcomes.len()).expect("not that many"),
        fallback: None,
        executions: 1,
    };
    ScanResult {
        scan: job.scan,
        attempt: job.attempt,
        host: job.host,
        host_number: job.host_number,
        worker: "w1".to_owned(),
        started_at: Timestamp::now_utc(),
        finished_at: Timestamp::now_utc(),
        engine: ENGINE_VERSION.to_owned(),
        corpus: job.corpus.clone(),
        learned_key: None,
        verdict: Verdict::Completed(measurement),
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
