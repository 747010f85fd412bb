//! Workers that cannot do their work say so at the start.

use openwatch_bus::User;
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Nats, Program, Stages};

use super::crew::{control, worker};
use super::*;

async fn refused(args: &[String], code: i32, words: &[&str]) {
    let (ended, _, stderr) = Program::new(args.to_vec()).run().await;
    assert_eq!(ended, Some(code), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no {word:?} in: {stderr}");
    }
}

// @spec kensa-executor
// @ac AC-27
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_could_do_nothing_does_not_start() {
    proves("AC-27");
    let stages = Stages::under(TOFU).await;
    let control = control(&stages).await;
    let with = |change: &dyn Fn(&std::path::Path)| {
        let keys = tempfile::tempdir().unwrap();
        let copied =
            std::process::Command::new("cp").arg("-a").arg(control.keys.join(".")).arg(keys.path()).status();
        assert!(copied.unwrap().success());
        change(keys.path());
        keys
    };
    let args = |keys: &std::path::Path| -> Vec<String> {
        let keys = keys.display().to_string();
        ["executor", "--nats-url", stages.nats_url(), "--keys", &keys].map(str::to_owned).into()
    };
    let none = with(&|keys| std::fs::remove_file(keys.join("executor.json")).unwrap());
    refused(&args(none.path()), 64, &["executor.json"]).await;
    let seedless = with(&|keys| std::fs::remove_file(keys.join("nats/executor.nk")).unwrap());
    refused(&args(seedless.path()), 64, &["executor.nk"]).await;
    let trustless = with(&|keys| std::fs::remove_file(keys.join("policy/trusted.json")).unwrap());
    refused(&args(trustless.path()), 64, &["trusted.json"]).await;
    let nowhere: Vec<String> =
        ["executor", "--keys", &control.keys.display().to_string()].map(str::to_owned).into();
    refused(&nowhere, 64, &["--nats-url"]).await;
    // A bus that nobody has prepared.
    let bare = Nats::start().await;
    let seeded =
        with(&|keys| std::fs::write(keys.join("nats/executor.nk"), bare.seed(User::Executor)).unwrap());
    let keys = seeded.path().display().to_string();
    let unprepared: Vec<String> =
        ["executor", "--nats-url", bare.url(), "--keys", &keys].map(str::to_owned).into();
    refused(&unprepared, 69, &["executor-manual", "topology apply"]).await;
    // The same keys and the right bus do.
    let mut running = worker(&stages, &control, "w1").start().await;
    running.signal(Signal::TERM);
    assert_eq!(running.wait().await.code(), Some(0));
}
