//! Worker processes for the tests of this folder, and everything around them.

use std::path::PathBuf;
use std::time::Duration;

use openwatch_app::cli::IssueFor;
use openwatch_app::run::Stage;
use openwatch_app::run::process::Process;
use openwatch_bus::User;
use openwatch_bus::subject::VAULT_RELEASE;
use openwatch_tests::{Program, Running, Stages, eventually};

/// Everything but workers, and the keys that a worker is given.
pub(super) struct Control {
    _process: Process,
    pub(super) keys: PathBuf,
}

pub(super) async fn control(stages: &Stages) -> Control {
    run(stages, &[Stage::Vault, Stage::Writer, Stage::Drift, Stage::Alerts, Stage::Scheduler]).await
}

/// The same without a scheduler: nobody makes jobs but the test.
pub(super) async fn listeners(stages: &Stages) -> Control {
    run(stages, &[Stage::Vault, Stage::Writer, Stage::Drift, Stage::Alerts]).await
}

async fn run(stages: &Stages, which: &[Stage]) -> Control {
    let keys = stages.file("worker-keys");
    stages.keys().issue(IssueFor::Executor, &keys).unwrap();
    let process = stages.run(which).await;
    // A vault that does not listen yet would cost the first job a delivery.
    let worker = stages.world.nats.client(User::Executor).await;
    eventually("a vault that listens", || async {
        let asked = worker.request(VAULT_RELEASE, "".into());
        // Whoever listens says nothing to a question without a signature.
        tokio::time::timeout(Duration::from_millis(300), asked).await.is_err().then_some(())
    })
    .await;
    Control { _process: process, keys }
}

/// A worker that is not started yet.
pub(super) struct Worker(Vec<String>);

pub(super) fn worker(stages: &Stages, control: &Control, name: &str) -> Worker {
    let keys = control.keys.display().to_string();
    Worker(
        ["executor", "--nats-url", stages.nats_url(), "--keys", &keys, "--name", name]
            .map(str::to_owned)
            .into(),
    )
}

impl Worker {
    pub(super) fn slots(mut self, slots: u16) -> Self {
        self.0.extend(["--slots".to_owned(), slots.to_string()]);
        self
    }

    pub(super) fn with_metrics(mut self) -> Self {
        self.0.extend(["--health-listen".to_owned(), "127.0.0.1:0".to_owned()]);
        self
    }

    /// By another way to the bus than the straight one.
    pub(super) fn through(mut self, nats: String) -> Self {
        self.0[2] = nats;
        self
    }

    pub(super) fn args(&self) -> &[String] {
        &self.0
    }

    /// Starts the program and waits until it takes jobs.
    pub(super) async fn start(self) -> Running {
        let mut running = Program::new(self.0).spawn();
        running.line(" running").await;
        running
    }
}

/// Where a worker [`Worker::with_metrics`] shows them.
pub(crate) async fn metrics_address(worker: &mut Running) -> String {
    let line = worker.line("health and metrics").await;
    let port = line.rsplit_once("127.0.0.1:").expect("an address").1;
    let port: String = port.chars().take_while(char::is_ascii_digit).collect();
    format!("http://127.0.0.1:{port}/metrics")
}

/// The Prometheus text at an address.
pub(crate) async fn metrics(address: &str) -> String {
    reqwest::get(address).await.unwrap().text().await.unwrap()
}

/// The value of one series in a Prometheus text.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// How many processes of this machine run exactly this command.
pub(super) fn alive(command: &str) -> usize {
    let wanted = command.split(' ').fold(String::new(), |all, word| all + word + "\0");
    let runs = |entry: std::io::Result<std::fs::DirEntry>| {
        let file = entry.ok()?.path().join("cmdline");
        (std::fs::read_to_string(file).ok()? == wanted).then_some(())
    };
    std::fs::read_dir("/proc").unwrap().filter_map(runs).count()
}
