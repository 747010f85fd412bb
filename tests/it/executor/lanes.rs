//! What a person asks for goes before what is due.

use openwatch_bus::User;
use openwatch_model::scan::{Job, Lane};
use openwatch_tests::Stages;
use openwatch_tests::stages::TOFU;

use super::crew::{listeners, worker};
use super::*;

// @spec kensa-executor
// @ac AC-31
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_does_not_wait_for_the_fleet() {
    proves("AC-31");
    let stages = Stages::under(TOFU).await;
    let sshd = Options::new().start();
    stages.publish(&[("gate", &super::stops::gate(&sshd))]).await;
    let digest = stages.texts("select digest from corpus").await.remove(0);
    stages.credential("key", sshd.user(), &sshd.secret(), true).await;
    let control = listeners(&stages).await;
    let scheduler = stages.world.bus(User::Scheduler).await;
    let ask = async |name: &str, lane: Lane| {
        let host = stages.host(name, sshd.port()).await;
        let change = |job: &mut Job| {
            (job.corpus, job.user, job.lane) = (digest.clone(), sshd.user().to_owned(), lane);
        };
        let (job, message) = stages.job(host, change).await;
        scheduler.publish(&message).await.unwrap();
        job.scan
    };
    // More than there are slots for, and all of them wait before the first worker comes.
    let mut due = Vec::new();
    for number in 0..4 {
        due.push(ask(&format!("due-{number}"), Lane::Scheduled).await);
    }
    let mut worker = worker(&stages, &control, "w1").slots(2).start().await;
    let running =
        "select h.name from scan s join host h on h.id = s.host_id where s.state = 'running' order by 1";
    let first = eventually("a scheduled scan", || async { stages.texts(running).await.pop() }).await;
    assert!(first.starts_with("due-"), "{first}");
    // One slot is a person's: found at once, though scheduled scans wait and none has ended.
    let asked = ask("asked", Lane::Manual).await;
    eventually("the one asked for", || async {
        let running = stages.texts(running).await;
        running.contains(&"asked".to_owned()).then_some(())
    })
    .await;
    assert_eq!(stages.number("select count(*) from scan where state = 'running'").await, 2);
    assert_eq!(stages.number("select count(*) from scan where state = 'queued'").await, 3);
    super::stops::open(&sshd);
    for scan in due.into_iter().chain([asked]) {
        assert_eq!(stages.ended(scan).await, "completed");
    }
    let order = "select h.name from scan s join host h on h.id = s.host_id order by s.started_at limit 2";
    assert_eq!(stages.texts(order).await[1], "asked", "before all other scheduled ones");
    worker.terminate().await;
}
