//! Every reason a scan can fail for, reached by a worker, and what follows from it: the table of `model`, walked.

use std::path::PathBuf;

use openwatch_bus::message::event::Kind;
use openwatch_bus::message::result::Part;
use openwatch_bus::{Outgoing, User, subject};
use openwatch_model::HostId;
use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::failure::{Class, FailureReason};
use openwatch_model::host::HostKeyMode;
use openwatch_model::outcome::{Outcome, Status};
use openwatch_model::scan::{Job, Measurement, Selection};
use openwatch_pipeline::measure::Engine;
use openwatch_tests::sshd::{Sshd, TempUser};
use openwatch_tests::stages::TOFU;
use openwatch_tests::{Proxy, Stages};

use super::crew::{Control, alive, control, worker};
use super::*;
use crate::writer::outcome;

/// Who brings a reason about. No arm is missing, or this does not compile: a new reason needs its test.
enum By {
    /// A worker as it is shipped, and a host or a message that is not as it should be.
    Worker,
    /// A worker whose engine breaks.
    Engine(Engine),
    /// A worker that is told to stop, again and again.
    Stopping,
}

fn by(reason: FailureReason) -> By {
    match reason {
        FailureReason::WorkerPanic => By::Engine(|_, _, _, _| panic!("this host breaks the engine")),
        FailureReason::KensaError => By::Engine(|_, _, _, _| Box::pin(async { Ok(said_twice()) })),
        FailureReason::Cancelled => By::Stopping,
        FailureReason::HostKeyUnknown
        | FailureReason::HostKeyMismatch
        | FailureReason::CredentialDecryptionFailed
        | FailureReason::NoCredential
        | FailureReason::AuthFailed
        | FailureReason::SudoFailed
        | FailureReason::ConnectRefused
        | FailureReason::Unreachable
        | FailureReason::NoShell
        | FailureReason::Timeout
        | FailureReason::TransportLost
        | FailureReason::EvidenceOversize
        | FailureReason::CorpusUnavailable
        | FailureReason::HmacRejected
        | FailureReason::Lost
        | FailureReason::InvalidResult => By::Worker,
    }
}

fn said_twice() -> Measurement {
    Measurement {
        platform: Default::default(),
        capabilities: [].into(),
        outcomes: vec![outcome("same", Status::Pass), outcome("same", Status::Fail)],
        timings: Vec::new(),
        lost_checks: 0,
        planned_checks: 2,
        fallback: None,
        executions: 1,
    }
}

/// How far a scan came before it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reached {
    /// Nobody spoke of it.
    Nothing,
    /// The worker reported it before the login.
    Host,
    /// The account was used, or a result says so with the key that comes with its secret.
    Login,
}

fn reached(reason: FailureReason) -> Reached {
    match reason {
        FailureReason::HmacRejected | FailureReason::Lost => Reached::Nothing,
        FailureReason::HostKeyUnknown
        | FailureReason::HostKeyMismatch
        | FailureReason::CredentialDecryptionFailed
        | FailureReason::NoCredential
        | FailureReason::ConnectRefused
        | FailureReason::Unreachable
        | FailureReason::CorpusUnavailable => Reached::Host,
        FailureReason::AuthFailed
        | FailureReason::SudoFailed
        | FailureReason::NoShell
        | FailureReason::Timeout
        | FailureReason::Cancelled
        | FailureReason::TransportLost
        | FailureReason::EvidenceOversize
        | FailureReason::KensaError
        | FailureReason::InvalidResult
        | FailureReason::WorkerPanic => Reached::Login,
    }
}

/// More than a rule may print.
const FLOOD: &str = "head -c 11000000 /dev/zero | tr '\\0' x";

/// An installation with a host that works, and everything that others need to go wrong.
struct Ground {
    stages: Stages,
    sshd: Sshd,
    digest: String,
    /// Never ends by itself, and is like no other process on this machine.
    sleeper: String,
    /// A way to the host that breaks when the marker is there.
    proxy: Proxy,
    marker: PathBuf,
    others: Vec<Sshd>,
    users: Vec<TempUser>,
}

impl Ground {
    async fn new() -> Self {
        let stages = Stages::under(TOFU).await;
        let sshd = Options::new().start();
        let sleeper = format!("sleep 7{:06}", sshd.pid() % 1_000_000);
        let (proxy, marker) = (Proxy::to(sshd.port()).await, sshd.dir().join("begun"));
        // Looks like a command that walks a file system, which may take longer than others.
        let slow = format!("du /dev/null; {sleeper}");
        let cut = format!("touch {}; {slow}", marker.display());
        stages.publish(&[("yes", "true"), ("slow", &slow), ("flood", FLOOD), ("cut", &cut)]).await;
        let digest = stages.texts("select digest from corpus").await.remove(0);
        Self { stages, sshd, digest, sleeper, proxy, marker, others: Vec::new(), users: Vec::new() }
    }

    fn another(&mut self, options: Options) -> u16 {
        let sshd = options.start();
        let port = sshd.port();
        self.others.push(sshd);
        port
    }

    /// A host named after the reason, with what it takes to log in, and a job for it that is not sent.
    async fn host(
        &self,
        reason: FailureReason,
        port: u16,
        secret: Option<&Secret>,
        rule: &str,
        change: impl FnOnce(&mut Job),
    ) -> (HostId, Job, Outgoing) {
        let name = reason.as_str();
        let credential = match secret {
            Some(secret) => Some(self.stages.credential(name, self.sshd.user(), secret, false).await),
            None => None,
        };
        let host = self.stages.host_with(name, port, credential).await;
        let (job, message) = self
            .stages
            .job(host, |job| {
                job.corpus = self.digest.clone();
                job.user = self.sshd.user().to_owned();
                job.selection = Selection { rules: vec![rule.to_owned()], ..Selection::full() };
                change(job);
            })
            .await;
        (host, job, message)
    }

    /// Makes a host, a job or a result that ends for this reason.
    async fn arrange(&mut self, reason: FailureReason) -> Option<Case> {
        let (port, good) = (self.sshd.port(), self.sshd.secret());
        let mut send = Vec::new();
        let (host, job) = match reason {
            FailureReason::HostKeyUnknown => {
                let known = |job: &mut Job| job.host_key_mode = HostKeyMode::RequireKnown;
                let (host, job, message) = self.host(reason, port, Some(&good), "yes", known).await;
                send.push(message);
                (host, job)
            }
            FailureReason::HostKeyMismatch => {
                let other = generate_key(&self.sshd.dir().join("other"), "ed25519");
                let (host, job, message) =
                    self.host(reason, port, Some(&good), "yes", |job| job.known_keys = vec![other]).await;
                send.push(message);
                (host, job)
            }
            FailureReason::CredentialDecryptionFailed => {
                let (host, job, message) = self.host(reason, port, Some(&good), "yes", |_| ()).await;
                self.stages
                    .meddle(&format!(
                        "update credential set sealed = 'nonsense' where name = '{}'",
                        reason.as_str()
                    ))
                    .await;
                send.push(message);
                (host, job)
            }
            FailureReason::NoCredential => {
                let (host, job, message) = self.host(reason, port, None, "yes", |_| ()).await;
                send.push(message);
                (host, job)
            }
            FailureReason::AuthFailed => {
                let file = self.sshd.dir().join("wrong");
                generate_key(&file, "ed25519");
                let mut wrong = Secret::default();
                wrong.private_key = Some(std::fs::read_to_string(&file).unwrap());
                let (host, job, message) = self.host(reason, port, Some(&wrong), "yes", |_| ()).await;
                send.push(message);
                (host, job)
            }
            FailureReason::SudoFailed => {
                let user = TempUser::create()?.sudoers("{} ALL=(ALL) NOPASSWD: /bin/true")?;
                let sshd = Options::new().user(&user).start();
                let (port, secret, name) = (sshd.port(), sshd.secret(), user.name.clone());
                self.others.push(sshd);
                self.users.push(user);
                let sudo = |job: &mut Job| (job.user, job.sudo) = (name, SudoMode::Sudo);
                let (host, job, message) = self.host(reason, port, Some(&secret), "yes", sudo).await;
                send.push(message);
                (host, job)
            }
            FailureReason::ConnectRefused => {
                let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
                let (host, job, message) = self.host(reason, closed, Some(&good), "yes", |_| ()).await;
                send.push(message);
                (host, job)
            }
            FailureReason::Unreachable => {
                let away = |job: &mut Job| job.address = "nobody.invalid".to_owned();
                let (host, job, message) = self.host(reason, port, Some(&good), "yes", away).await;
                send.push(message);
                (host, job)
            }
            FailureReason::NoShell => {
                let port = self.another(Options::new().config("MaxSessions 0"));
                let secret = self.others.last().unwrap().secret();
                let (host, job, message) = self.host(reason, port, Some(&secret), "yes", |_| ()).await;
                send.push(message);
                (host, job)
            }
            FailureReason::Timeout => {
                let short = |job: &mut Job| job.timeout = Duration::from_secs(4);
                let (host, job, message) = self.host(reason, port, Some(&good), "slow", short).await;
                send.push(message);
                (host, job)
            }
            FailureReason::TransportLost => {
                let port = self.proxy.port();
                // What is cut off over there ends by itself soon after the scan's time.
                let short = |job: &mut Job| job.timeout = Duration::from_secs(20);
                let (host, job, message) = self.host(reason, port, Some(&good), "cut", short).await;
                send.push(message);
                (host, job)
            }
            FailureReason::EvidenceOversize => {
                let (host, job, message) = self.host(reason, port, Some(&good), "flood", |_| ()).await;
                send.push(message);
                (host, job)
            }
            FailureReason::CorpusUnavailable => {
                let other = |job: &mut Job| job.corpus = "0".repeat(64);
                let (host, job, message) = self.host(reason, port, Some(&good), "yes", other).await;
                send.push(message);
                (host, job)
            }
            FailureReason::HmacRejected => {
                let (host, job, mut message) = self.host(reason, port, Some(&good), "yes", |_| ()).await;
                message.payload =
                    String::from_utf8_lossy(&message.payload).replace("127.0.0.1", "127.0.0.2").into();
                send.push(message);
                (host, job)
            }
            FailureReason::Lost => {
                // Its last life, and nobody has the job.
                let (host, job, _) = self.host(reason, port, Some(&good), "yes", |_| ()).await;
                self.stages
                    .meddle(&format!(
                        "update scan set rescues = 2, issued_at = now() - interval '1 minute' where id = '{}'",
                        job.scan
                    ))
                    .await;
                (host, job)
            }
            FailureReason::InvalidResult => {
                let (host, job, _) = self.host(reason, port, Some(&good), "yes", |_| ()).await;
                let twice: [Outcome; 2] = [outcome("same", Status::Pass), outcome("same", Status::Fail)];
                self.stages.send(&self.stages.result(&job, &twice)).await;
                (host, job)
            }
            FailureReason::WorkerPanic | FailureReason::KensaError => {
                let (host, job, message) = self.host(reason, port, Some(&good), "yes", |_| ()).await;
                send.push(message);
                (host, job)
            }
            FailureReason::Cancelled => {
                let (host, job, message) = self.host(reason, port, Some(&good), "slow", |_| ()).await;
                send.push(message);
                (host, job)
            }
        };
        Some(Case { reason, host, job, send })
    }

    /// Everything but workers. Hosts that are there by now are not scanned on anybody's own account.
    async fn control(&self) -> Control {
        self.stages
            .meddle("update host_compliance_schedule set next_scheduled_scan = now() + interval '1 day', claim_order = now() + interval '1 day'")
            .await;
        control(&self.stages).await
    }

    async fn send(&self, cases: &[Case]) {
        let scheduler = self.stages.world.bus(User::Scheduler).await;
        for message in cases.iter().flat_map(|case| &case.send) {
            scheduler.publish(message).await.unwrap();
        }
    }

    /// Waits until everything said was heard by everybody.
    async fn quiet(&self) {
        let drained = || async {
            let stages = &self.stages;
            for (stream, consumer) in [
                ("OW_JOBS", "executor-manual"),
                ("OW_RESULTS", "writer"),
                ("OW_EVENTS", "scheduler"),
                ("OW_EVENTS", "alerts"),
            ] {
                let info = stages.admin.consumer_info(stream, consumer).await.ok()?;
                if info.pending + info.unacked > 0 {
                    return None;
                }
            }
            (stages.number("select count(*) from outbox").await == 0).then_some(())
        };
        eventually("silence", drained).await;
    }
}

struct Case {
    reason: FailureReason,
    host: HostId,
    job: Job,
    send: Vec<Outgoing>,
}

impl Case {
    async fn ended(&self, stages: &Stages) {
        let query =
            format!("select concat_ws(' ', state, failure_reason) from scan where id = '{}'", self.job.scan);
        let ended = eventually_within(Duration::from_secs(60), self.reason.as_str(), || async {
            stages
                .texts(&query)
                .await
                .pop()
                .filter(|state| state.starts_with("failed") || state.starts_with("compl"))
        })
        .await;
        let detail = format!("select coalesce(failure_detail, '') from scan where id = '{}'", self.job.scan);
        let detail = stages.texts(&detail).await;
        assert_eq!(ended, format!("failed {}", self.reason.as_str()), "{detail:?}");
    }

    /// Holds what happened against the table.
    async fn follows(&self, stages: &Stages) {
        let (reason, scan, host) = (self.reason, self.job.scan, self.host);
        let (follows, reached) = (reason.consequence(), reached(reason));
        let count = |query: String| async move { stages.number(&query).await };
        let audited = |action: &str| {
            count(format!(
                "select count(*) from audit_event where action = '{action}' and detail->>'scan_id' = '{scan}'"
            ))
        };
        assert_eq!(
            count(format!("select count(*) from scan_ledger where scan_id = '{scan}'")).await,
            1,
            "{reason:?}"
        );
        // Exactly one end, in the audit log and on the stream; a beginning only when the account was about to be used.
        assert_eq!(audited("scan.failed").await, 1, "{reason:?}");
        assert_eq!(stages.events(Kind::ScanFailed, host).await.len(), 1, "{reason:?}");
        assert_eq!(stages.events(Kind::ScanCompleted, host).await.len(), 0, "{reason:?}");
        let begun = i64::from(reached == Reached::Login);
        assert_eq!(audited("scan.started").await, begun, "{reason:?}");
        assert_eq!(stages.events(Kind::ScanStarted, host).await.len() as i64, begun, "{reason:?}");
        // The delivery that spoke is in the message's id.
        if reached != Reached::Nothing {
            let result = subject::result(Part::Final, host, scan);
            let said = stages.admin.last_message(subject::RESULTS, &result).await.unwrap().unwrap();
            let delivery = follows.deliveries;
            assert_eq!(said.header("Nats-Msg-Id"), Some(format!("{scan}.1.{delivery}.final").as_str()));
        }
        let backoff = format!(
            "select coalesce(sum(consecutive_failures), 0)::bigint from host_backoff_state
             where host_id = '{host}' and probe_type = 'scan'"
        );
        assert_eq!(count(backoff).await, i64::from(follows.backoff), "{reason:?}");
        let alerts = format!("select alert_type || ' ' || severity from alert where host_id = '{host}'");
        let expected: Vec<_> =
            follows.alert.iter().map(|alert| format!("{} critical", alert.as_str())).collect();
        assert_eq!(stages.texts(&alerts).await, expected, "{reason:?}");
        if follows.class == Class::Security {
            assert_eq!(expected.len(), 1, "{reason:?}");
        }
    }
}

async fn walk(ground: &Ground, cases: &[Case]) {
    for case in cases {
        case.ended(&ground.stages).await;
    }
    ground.quiet().await;
    for case in cases {
        case.follows(&ground.stages).await;
    }
    let letters = ground.stages.admin.dead_letters(1, 100).await.unwrap();
    let poison = cases.iter().filter(|case| case.reason.consequence().dead_letter).count();
    assert_eq!(letters.len(), poison, "{letters:#?}");
    assert_eq!(ground.stages.admin.stream_info(subject::JOBS).await.unwrap().messages, 0);
    // Nothing of ours goes on over there.
    let gone = || async { (alive(&ground.sleeper) == 0).then_some(()) };
    eventually_within(Duration::from_secs(60), "an end of what ran on the target", gone).await;
}

// @spec kensa-executor
// @ac AC-06
// @ac AC-09
// @ac AC-14
// @ac AC-15
#[tokio::test(flavor = "multi_thread")]
async fn each_reason_has_the_consequences_of_the_table() {
    proves("AC-06");
    proves("AC-09");
    proves("AC-14");
    proves("AC-15");
    let mut ground = Ground::new().await;
    let mut cases = Vec::new();
    for reason in FailureReason::ALL {
        if matches!(by(reason), By::Worker) {
            match ground.arrange(reason).await {
                Some(case) => cases.push(case),
                None => println!("skipped: {}", reason.as_str()),
            }
        }
    }
    let control = ground.control().await;
    let _worker = worker(&ground.stages, &control, "w1").slots(8).start().await;
    ground.send(&cases).await;
    eventually("the command that is cut off", || async { ground.marker.exists().then_some(()) }).await;
    ground.proxy.cut();
    walk(&ground, &cases).await;
    let oversize = "select failure_rule from scan where failure_reason = 'evidence_oversize'";
    assert_eq!(ground.stages.texts(oversize).await, ["flood"]);
}

// @spec kensa-executor
// @ac AC-06
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_breaks_costs_its_own_scan_and_no_other() {
    proves("AC-06");
    for reason in FailureReason::ALL {
        let By::Engine(engine) = by(reason) else { continue };
        let mut ground = Ground::new().await;
        let cases = [ground.arrange(reason).await.unwrap()];
        let _control = ground.control().await;
        let mut worker = ground.stages.worker_with(engine).await;
        ground.send(&cases).await;
        walk(&ground, &cases).await;
        // It is still there for the next.
        let early = tokio::time::timeout(Duration::from_millis(100), worker.failure()).await;
        assert!(early.is_err(), "the worker ended");
    }
}

// @spec kensa-executor
// @ac AC-06
// @ac AC-04
#[tokio::test(flavor = "multi_thread")]
async fn a_scan_whose_workers_are_all_stopped_ends_as_cancelled() {
    proves("AC-06");
    proves("AC-04");
    for reason in FailureReason::ALL.into_iter().filter(|reason| matches!(by(*reason), By::Stopping)) {
        let mut ground = Ground::new().await;
        let cases = [ground.arrange(reason).await.unwrap()];
        let control = ground.control().await;
        ground.send(&cases).await;
        for number in 1..=reason.consequence().deliveries {
            let mut worker = worker(&ground.stages, &control, &format!("w{number}")).start().await;
            eventually("the command on the target", || async { (alive(&ground.sleeper) > 0).then_some(()) })
                .await;
            worker.signal(Signal::TERM);
            worker.line("stopping").await;
            worker.signal(Signal::TERM);
            assert_eq!(worker.wait().await.code(), Some(0), "{}", worker.stderr());
            eventually("the end of it", || async { (alive(&ground.sleeper) == 0).then_some(()) }).await;
        }
        walk(&ground, &cases).await;
    }
}
