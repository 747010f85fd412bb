//! Wiring: each stage gets exactly what it may touch, and nothing else.

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use openwatch_api::{ApiConfig, ApiDeps};
use openwatch_bus::{Bus, User};
use openwatch_model::credential::KeyFacts;
use openwatch_pipeline::alerts::Alerts;
use openwatch_pipeline::caretakers::{Caretakers, relay};
use openwatch_pipeline::drift::Drift;
use openwatch_pipeline::executor::Executor;
use openwatch_pipeline::keys::{Held, report, report_to_vault};
use openwatch_pipeline::liveness::Liveness;
use openwatch_pipeline::measure::{self, Engine};
use openwatch_pipeline::policy::PolicyWatch;
use openwatch_pipeline::rotation::Keeper;
use openwatch_pipeline::scheduler::Scheduler;
use openwatch_pipeline::vault::Vault;
use openwatch_pipeline::writer::Writer;
use openwatch_pipeline::{SignerWatch, StageError};
use openwatch_store::{Role, Store};
use openwatch_trust::dek_files::DEK_FILES;
use openwatch_trust::keyring::KeyNames;
use tokio::sync::Notify;

use super::connect;
use super::fresh::keep_fresh;
use super::process::{Process, api_failure};
use crate::config::Settings;
use crate::exit::Failure;
use crate::keydir::KeyDir;

impl From<StageError> for Failure {
    fn from(error: StageError) -> Self {
        connect::stage_failure(error)
    }
}

/// One process under construction.
pub struct Wiring<'a> {
    /// The process.
    pub process: &'a mut Process,
    /// Settings.
    pub settings: &'a Settings,
    /// Key directory.
    pub keys: &'a KeyDir,
}

impl Wiring<'_> {
    /// Database and bus of a stage, watched by readiness, with its outbox relayed.
    async fn connect(&mut self, role: Role, user: User, connections: u32) -> Result<(Store, Bus), Failure> {
        let store = connect::store(self.settings, role, connections).await?;
        let bus = connect::bus(self.settings, self.keys, user).await?;
        self.watch_store(role.as_str(), &store);
        self.watch_bus(&bus);
        self.process.told_in(&store).await?;
        let (relayed, relaying, late) = (store.clone(), bus.clone(), self.process.late.clone());
        let sender = role.as_str();
        self.process.other("relay", relay::run(relayed, relaying, sender, late));
        Ok((store, bus))
    }

    fn watch_store(&self, name: &str, store: &Store) {
        let store = store.clone();
        self.process.health.require(&format!("database as {name}"), move || {
            let store = store.clone();
            async move { store.ping().await.map_err(|e| e.to_string()) }
        });
    }

    fn watch_bus(&self, bus: &Bus) {
        let watched = bus.clone();
        self.process.health.require(&format!("nats as {}", bus.user().as_str()), move || {
            let bus = watched.clone();
            async move { bus.ping().await.map_err(|e| e.to_string()) }
        });
    }

    fn policy(&self, store: &Store, signers: &SignerWatch) -> PolicyWatch {
        let policy = PolicyWatch::new(store.clone(), signers.clone());
        let watched = policy.clone();
        self.process.health.require("policy", move || {
            let policy = watched.clone();
            async move { policy.in_force().await.map(drop).map_err(|e| e.to_string()) }
        });
        policy
    }

    /// Whose signatures count; unusable key files end the process here.
    fn signers(&self) -> Result<SignerWatch, Failure> {
        let watch = self.keys.signer_watch();
        watch.current().map_err(Failure::usage)?;
        Ok(watch)
    }

    /// Scheduler, and the caretakers beside it.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn scheduler(&mut self) -> Result<(), Failure> {
        // Read by the scheduler itself, which can audit what it refuses.
        let signers = self.keys.signer_watch();
        let keys = self.fresh(&["scheduler.json"], KeyDir::scheduler)?;
        let (store, bus) = self.connect(Role::Scheduler, User::Scheduler, 8).await?;
        self.report("scheduler", &store, &keys);
        let reload = Arc::new(Notify::new());
        on_hangup(reload.clone())?;
        let scheduler = Scheduler {
            store: store.clone(),
            bus,
            keys,
            signers: signers.clone(),
            policy_file: self.settings.policy.clone(),
            pulse: self.process.pulse("scheduler"),
            reload,
        };
        self.process.stage("scheduler", scheduler.run(self.process.shutdown.clone()));
        let policy = self.policy(&store, &signers);
        let (store, bus) = self.connect(Role::Caretaker, User::Caretaker, 4).await?;
        let patience = self.settings.patience();
        let caretakers = Caretakers { store, bus, policy, patience, pulse: self.process.pulse("caretakers") };
        self.process.stage("caretakers", caretakers.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// Vault.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn vault(&mut self) -> Result<(), Failure> {
        let keys = self.fresh(&DEK_FILES, KeyDir::vault)?;
        let (store, bus) = self.connect(Role::Vault, User::Vault, 6).await?;
        self.report("vault", &store, &keys);
        let vault = Vault { store, bus, keys, pulse: self.process.pulse("vault") };
        self.process.stage("vault", vault.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// Drives rotations of the data-encryption key, where this key directory serves all processes.
    ///
    /// # Errors
    /// The database is away.
    pub async fn keeper(&mut self) -> Result<(), Failure> {
        let store = connect::store(self.settings, Role::Vault, 2).await?;
        let keys = self.keys.clone();
        let reissue = Box::new(move || keys.reissue().map_err(|failure| format!("{:#}", failure.error)));
        let keeper = Keeper { store, files: self.keys.deks(), reissue };
        self.process.other("key keeper", keeper.run(self.process.late.clone()));
        Ok(())
    }

    fn fresh<K: Send + Sync + 'static>(
        &mut self,
        files: &[&str],
        load: fn(&KeyDir) -> Result<K, Failure>,
    ) -> Result<Held<K>, Failure> {
        keep_fresh(self.process, self.keys, files, load)
    }

    /// Says in the database which keys this process holds.
    fn report<K: KeyNames + Send + Sync + 'static>(
        &mut self,
        role: &'static str,
        store: &Store,
        keys: &Held<K>,
    ) {
        // Not by its number: after a crash the same process must not be waited for under its old name, and two that read
        // one key directory hold the same.
        let process = format!("{} {}", self.settings.worker, self.keys.path().display());
        let process = process.chars().take(128).collect();
        let reporting = report(store.clone(), role, process, keys.clone(), self.process.late.clone());
        self.process.other("keys held", reporting);
    }

    /// Executor: no database.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn executor(&mut self) -> Result<(), Failure> {
        self.executor_with(measure::engine).await
    }

    /// The same with another engine, which is for tests.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn executor_with(&mut self, engine: Engine) -> Result<(), Failure> {
        let keys = self.fresh(&["executor.json"], KeyDir::executor)?;
        let signers = self.signers()?;
        let bus = connect::bus(self.settings, self.keys, User::Executor).await?;
        self.watch_bus(&bus);
        let (late, name) = (self.process.late.clone(), self.settings.worker.clone());
        self.process.other("keys held", report_to_vault(bus.clone(), name, keys.clone(), late));
        let executor = Executor {
            bus,
            keys,
            signers,
            name: self.settings.worker.clone(),
            slots: usize::from(self.settings.slots),
            lanes: self.settings.lanes,
            engine,
            hurry: self.process.hurry.clone(),
            pulse: self.process.pulse("executor"),
        };
        self.process.stage("executor", executor.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// Writer.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn writer(&mut self) -> Result<(), Failure> {
        let keys = self.fresh(&["writer.json"], KeyDir::writer)?;
        let signers = self.signers()?;
        let (store, bus) = self.connect(Role::Writer, User::Writer, 8).await?;
        self.report("writer", &store, &keys);
        let policy = self.policy(&store, &signers);
        let writer = Writer { store, bus, keys, policy, pulse: self.process.pulse("writer") };
        self.process.stage("writer", writer.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// Drift.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn drift(&mut self) -> Result<(), Failure> {
        let signers = self.signers()?;
        let (store, bus) = self.connect(Role::Drift, User::Drift, 4).await?;
        let policy = self.policy(&store, &signers);
        let drift = Drift { store, bus, policy, pulse: self.process.pulse("drift") };
        self.process.stage("drift", drift.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// Alerts.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn alerts(&mut self) -> Result<(), Failure> {
        let keys = self.fresh(&["alerts.json"], KeyDir::alerts)?;
        let signers = self.signers()?;
        let (store, bus) = self.connect(Role::Alerts, User::Alerts, 10).await?;
        self.report("alerts", &store, &keys);
        let policy = self.policy(&store, &signers);
        let alerts = Alerts { store, bus, keys, policy, pulse: self.process.pulse("alerts") };
        self.process.stage("alerts", alerts.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// Liveness.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn liveness(&mut self) -> Result<(), Failure> {
        let signers = self.signers()?;
        let (store, _bus) = self.connect(Role::Liveness, User::Liveness, 8).await?;
        let policy = self.policy(&store, &signers);
        let parallel = usize::from(self.settings.probes);
        let liveness = Liveness { store, policy, parallel, pulse: self.process.pulse("liveness") };
        self.process.stage("liveness", liveness.run(self.process.shutdown.clone()));
        Ok(())
    }

    /// API. `bound` is told the address.
    ///
    /// # Errors
    /// What it needs is missing or away.
    pub async fn api(
        &mut self,
        config: ApiConfig,
        metrics: PrometheusHandle,
        bound: impl FnOnce(std::net::SocketAddr) + Send + 'static,
    ) -> Result<(), Failure> {
        let keys = self.fresh(&["api.json"], KeyDir::api)?;
        let (store, bus) = self.connect(Role::Api, User::Api, 10).await?;
        self.report("api", &store, &keys);
        let deps = ApiDeps {
            store,
            bus,
            keys,
            health: self.process.health.clone(),
            metrics: Some(metrics),
            inspect_key,
        };
        let late = self.process.late.clone();
        self.process.other("api", async move {
            openwatch_api::run(deps, config, bound, late).await.map_err(api_failure)
        });
        Ok(())
    }
}

/// What the API is told of a private key: it knows no SSH itself.
pub fn inspect_key(text: &str, passphrase: Option<&str>) -> Result<KeyFacts, String> {
    openwatch_remote::inspect_key(text, passphrase).map_err(|error| format!("cannot {error}"))
}

/// SIGHUP re-reads the policy file.
fn on_hangup(reload: Arc<Notify>) -> Result<(), Failure> {
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            reload.notify_one();
        }
    });
    Ok(())
}
