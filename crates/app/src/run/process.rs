//! A running process: stages, what outlives them, signals, and the orderly end.

use std::ops::ControlFlow;
use std::time::Duration;

use openwatch_api::{ApiConfig, Beat, Health, TlsFiles};
use openwatch_bus::consume::Pulse;
use openwatch_model::audit::{SystemStarted, SystemStopped};
use openwatch_pipeline::trail;
use openwatch_store::Store;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connect::store_failure;
use crate::exit::{Failure, INTERNAL, INTERRUPTED, UNAVAILABLE};

/// A loop that did not go round for this long is dead.
const LOOP_LIMIT: Duration = Duration::from_secs(60);
/// How long stages may take to finish what is in hand: the grace of their loops, and some more.
const STAGE_GRACE: Duration = Duration::from_secs(40);
/// How long breaking off may take, when asked twice to stop: clearing away on the targets, and giving the jobs back.
const HURRY: Duration = openwatch_remote::CLEARING.saturating_add(Duration::from_secs(2));
/// After the stages, how long relays and servers may take to finish.
const LATE_GRACE: Duration = Duration::from_secs(10);

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The wishes to stop that a process hears: Ctrl-C, and what a service manager sends. Made before anything else, so that
/// no moment is without.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn listen() -> Result<Self, Failure> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one; the exit code that it asks for.
    pub async fn asked(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.terminate.recv() => 0,
        }
    }

    /// Runs something unless asked to stop first: then it is dropped, with all that it had begun.
    ///
    /// # Errors
    /// Of what was run.
    pub async fn unless_asked<T>(
        &mut self,
        run: impl Future<Output = Result<T, Failure>>,
    ) -> Result<ControlFlow<u8, T>, Failure> {
        tokio::select! {
            biased;
            code = self.asked() => Ok(ControlFlow::Break(code)),
            done = run => done.map(ControlFlow::Continue),
        }
    }
}

/// Tasks of one process. The first to end ends all.
pub struct Process {
    /// Stages: told to stop first, they finish what is in hand.
    pub shutdown: CancellationToken,
    /// Cancelled when what is in hand shall be broken off instead of finished: somebody asked twice.
    pub hurry: CancellationToken,
    /// Relays and HTTP: told to stop when the stages are done, so that their last words still go out.
    pub late: CancellationToken,
    /// Health of the process.
    pub health: Health,
    stages: JoinSet<(&'static str, Result<(), Failure>)>,
    others: JoinSet<(&'static str, Result<(), Failure>)>,
    pulses: Vec<(Pulse, Beat)>,
    stores: Vec<Store>,
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

impl Process {
    /// Nothing runs yet.
    pub fn new() -> Self {
        Self {
            shutdown: CancellationToken::new(),
            hurry: CancellationToken::new(),
            late: CancellationToken::new(),
            health: Health::new(),
            stages: JoinSet::new(),
            others: JoinSet::new(),
            pulses: Vec::new(),
            stores: Vec::new(),
        }
    }

    /// Puts on record that a stage began its work with this database, and in the end that it stopped in order.
    ///
    /// # Errors
    /// The database is away.
    pub async fn told_in(&mut self, store: &Store) -> Result<(), Failure> {
        let event = SystemStarted { process: store.role().as_str().to_owned(), version: VERSION };
        trail::process(store, &event).await.map_err(store_failure)?;
        self.stores.push(store.clone());
        Ok(())
    }

    /// A pulse whose silence makes this process not live.
    pub fn pulse(&mut self, name: &str) -> Pulse {
        let pulse = Pulse::new();
        self.pulses.push((pulse.clone(), self.health.watch(name, LOOP_LIMIT)));
        pulse
    }

    /// Runs a stage.
    pub fn stage<E: Into<Failure> + 'static>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.stages.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Runs something that outlives the stages.
    pub fn other<E: Into<Failure> + 'static>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.others.spawn(async move { (name, task.await.map_err(Into::into)) });
    }

    /// Serves health and metrics of this process, when an address was given.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub fn serve_health(
        &mut self,
        listen: Option<&str>,
        metrics: metrics_exporter_prometheus::PrometheusHandle,
    ) -> Result<(), Failure> {
        let Some(listen) = listen else { return Ok(()) };
        let config = api_config(listen)?;
        let (health, late) = (self.health.clone(), self.late.clone());
        self.other("health", async move {
            let bound = |address| tracing::info!(%address, "health and metrics");
            openwatch_api::run_health(health, Some(metrics), config, bound, late).await.map_err(api_failure)
        });
        Ok(())
    }

    /// Waits for the first task to end, which was too early: why it did.
    pub async fn failure(&mut self) -> Failure {
        let ended = tokio::select! {
            Some(ended) = self.stages.join_next(), if !self.stages.is_empty() => ended,
            Some(ended) = self.others.join_next(), if !self.others.is_empty() => ended,
            else => return Failure::new(INTERNAL, anyhow::anyhow!("nothing was started")),
        };
        first(ended)
            .err()
            .unwrap_or_else(|| Failure::new(INTERNAL, anyhow::anyhow!("a part ended too early")))
    }

    /// Waits for a signal, or for the first task to end; then stops everything in order. The exit code.
    ///
    /// # Errors
    /// Of the task that ended first.
    pub async fn wait(mut self, stop: &mut Stop) -> Result<u8, Failure> {
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let ended = loop {
            tokio::select! {
                code = stop.asked() => break Ok(code),
                Some(ended) = self.stages.join_next(), if !self.stages.is_empty() => break first(ended),
                Some(ended) = self.others.join_next(), if !self.others.is_empty() => break first(ended),
                _ = tick.tick() => {
                    for (pulse, beat) in &self.pulses {
                        if pulse.age() < LOOP_LIMIT / 2 {
                            beat.tick();
                        }
                    }
                }
            }
        };
        tracing::info!("stopping");
        self.shutdown.cancel();
        let orderly = async {
            let stages = async {
                while let Some(done) = self.stages.join_next().await {
                    told(done);
                }
            };
            if tokio::time::timeout(STAGE_GRACE, stages).await.is_err() {
                tracing::warn!(
                    "not every stage ended within the grace period; what was in hand is given back"
                );
            }
            // Before the relays stop: they send this too.
            for store in &self.stores {
                let process = store.role().as_str();
                let event = SystemStopped { process: process.to_owned(), version: VERSION };
                if let Err(error) = trail::process(store, &event).await {
                    tracing::warn!(process, %error, "the orderly end is not on record");
                }
            }
            self.late.cancel();
            let others = async {
                while let Some(done) = self.others.join_next().await {
                    told(done);
                }
            };
            if tokio::time::timeout(LATE_GRACE, others).await.is_err() {
                tracing::warn!("not everything ended within the grace period");
            }
        };
        let hurry = self.hurry.clone();
        let asked_twice = async {
            // Whoever asks twice means it. What was in hand is cleared away and given back; a third time, not even that.
            stop.asked().await;
            tracing::warn!("stopping at once; what was in hand is given back");
            hurry.cancel();
            let _ = tokio::time::timeout(HURRY, stop.asked()).await;
        };
        tokio::select! {
            () = orderly => {}
            () = asked_twice => {}
        }
        ended
    }
}

type Ended = Result<(&'static str, Result<(), Failure>), tokio::task::JoinError>;

fn first(ended: Ended) -> Result<u8, Failure> {
    match ended {
        Ok((name, Ok(()))) => Err(Failure::new(INTERNAL, anyhow::anyhow!("{name} ended by itself"))),
        Ok((name, Err(failure))) => {
            Err(Failure::new(failure.code, failure.error.context(format!("{name} ended"))))
        }
        Err(error) => {
            Err(Failure::new(INTERNAL, anyhow::anyhow!("a part of the process ended in a panic: {error}")))
        }
    }
}

fn told(ended: Ended) {
    match ended {
        Ok((_, Ok(()))) => {}
        Ok((name, Err(failure))) => {
            tracing::warn!(name, error = format!("{:#}", failure.error), "ended with an error")
        }
        Err(error) => tracing::error!(%error, "ended in a panic"),
    }
}

/// A listening address, checked; plain HTTP on loopback only.
///
/// # Errors
/// 64 when it is none.
pub fn api_config(listen: &str) -> Result<ApiConfig, Failure> {
    let listen = listen.parse().map_err(|_| {
        Failure::usage(format!("`{listen}` is not an address and a port such as 127.0.0.1:8080"))
    })?;
    Ok(ApiConfig { listen, tls: None, plain_beyond_loopback: false })
}

/// The same with the TLS files of the configuration.
///
/// # Errors
/// 64 when the address is none.
pub fn rest_config(settings: &crate::config::Settings) -> Result<ApiConfig, Failure> {
    let mut config = api_config(settings.api_listen.as_deref().unwrap_or(super::DEFAULT_LISTEN))?;
    config.tls = settings.api_tls.clone().map(|(certificate, key)| TlsFiles {
        certificate,
        key,
        client_ca: settings.api_client_ca.clone(),
    });
    config.plain_beyond_loopback = settings.api_plain_beyond_loopback;
    Ok(config)
}

/// An error of the API with its exit code.
pub fn api_failure(error: openwatch_api::ApiError) -> Failure {
    let code = match &error {
        openwatch_api::ApiError::Listen { .. } => UNAVAILABLE,
        openwatch_api::ApiError::Serve(_) => INTERNAL,
        _ => crate::exit::USAGE,
    };
    Failure::new(code, anyhow::Error::new(error).context("failed to serve the API"))
}
