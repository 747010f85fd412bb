//! Jobs and results made by hand, signed with the keys of the installation.

use std::time::Duration;

use bytes::Bytes;
use openwatch_bus::message::result::{Part, Started, encode_final, message_id};
use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC, job};
use openwatch_bus::{Outgoing, User, subject};
use openwatch_model::credential::SudoMode;
use openwatch_model::host::{HostKeyMode, Platform};
use openwatch_model::scan::{Job, Lane, Measurement, ScanResult, Selection, Verdict};
use openwatch_model::{HostId, Outcome, ScanId, Timestamp};
use openwatch_rules::ENGINE_VERSION;
use openwatch_store::scan::{self, Issued, NewScan, Queued};
use openwatch_store::{Role, host};
use openwatch_trust::{Signed, VaultKeys};
use uuid::Uuid;

use super::Stages;
use crate::eventually;

impl Stages {
    /// Asks for a full scan and notes its signed job, as the scheduler would; the job is not sent. `change` says what is
    /// unusual about it.
    ///
    /// # Panics
    /// When the host has a scan under way.
    pub async fn job(&self, host: HostId, change: impl FnOnce(&mut Job)) -> (Job, Outgoing) {
        self.job_of(host, Selection::full(), change).await
    }

    /// The same for a selection.
    ///
    /// # Panics
    /// When the host has a scan under way.
    pub async fn job_of(
        &self,
        host: HostId,
        selection: Selection,
        change: impl FnOnce(&mut Job),
    ) -> (Job, Outgoing) {
        let scan = ScanId(Uuid::new_v4());
        let api = self.world.store(Role::Api).await;
        let mut tx = api.begin().await.expect("the database answers");
        let new = NewScan { scan, host, selection, actor: "tester", policy_version: None, correlation: None };
        let Queued::New { number } = scan::queue(&mut tx, &new).await.expect("the database answers") else {
            panic!("the host has an open scan")
        };
        let known = host::get(&mut tx, host).await.expect("the database answers").expect("the host is there");
        tx.commit().await.expect("the database answers");
        let mut job = Job {
            selection: new.selection,
            address: known.address,
            port: known.port,
            ..plain(scan, host, number)
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
        self.signed(job, encode_final(&measured(job, outcomes)))
    }

    /// The same around any bytes.
    #[must_use]
    pub fn signed(&self, job: &Job, payload: Bytes) -> Outgoing {
        signed(&self.vault_keys(), job, payload)
    }

    /// Sends as a worker.
    ///
    /// # Panics
    /// When the bus refuses.
    pub async fn send(&self, message: &Outgoing) -> u64 {
        let worker = self.world.bus(User::Executor).await;
        worker.publish(message).await.expect("the bus takes it").sequence
    }

    /// Says as a worker that the scan begins, and waits until a writer that runs has that on record.
    pub async fn begun(&self, job: &Job) {
        let started = Started {
            scan: job.scan,
            attempt: job.attempt,
            host: job.host,
            worker: "w1".to_owned(),
            at: Timestamp::now_utc(),
        };
        let (subject, payload) = (subject::result(Part::Started, job.host, job.scan), started.encode());
        let keys = self.keys.executor().unwrap_or_else(|failure| panic!("{:#}", failure.error));
        let signed = keys.sign_result(Part::Started.as_str(), &subject, &payload);
        let message_id = message_id(job.scan, job.attempt, 1, Part::Started);
        self.send(&Outgoing { subject, message_id, headers: headers(&signed, "executor"), payload }).await;
        let running = format!("select count(*) from scan where id = '{}' and state = 'running'", job.scan);
        eventually("the beginning", || async { (self.number(&running).await == 1).then_some(()) }).await;
    }

    /// A scan with these outcomes, begun and applied by a writer that runs.
    pub async fn scanned(&self, host: HostId, outcomes: &[Outcome]) -> ScanId {
        self.scanned_of(host, Selection::full(), outcomes).await
    }

    /// The same of a selection.
    pub async fn scanned_of(&self, host: HostId, selection: Selection, outcomes: &[Outcome]) -> ScanId {
        self.scanned_losing(host, selection, outcomes, 0).await
    }

    /// The same with so many checks lost on the way.
    pub async fn scanned_losing(
        &self,
        host: HostId,
        selection: Selection,
        outcomes: &[Outcome],
        lost_checks: u32,
    ) -> ScanId {
        let (job, _) = self.job_of(host, selection, |_| ()).await;
        self.begun(&job).await;
        let mut result = measured(&job, outcomes);
        if let Verdict::Completed(it) = &mut result.verdict {
            it.lost_checks = lost_checks;
        }
        self.send(&self.signed(&job, encode_final(&result))).await;
        self.ended(job.scan).await;
        job.scan
    }
}

/// A full scan's first job, with nothing unusual about it.
#[must_use]
pub fn plain(scan: ScanId, host: HostId, number: i64) -> Job {
    Job {
        scan,
        attempt: 1,
        host,
        host_number: number,
        selection: Selection::full(),
        policy_version: "1.0.0".to_owned(),
        enqueued_at_ns: i64::try_from(Timestamp::now_utc().unix_timestamp_nanos()).unwrap_or_default(),
        lane: Lane::Manual,
        actor: "tester".to_owned(),
        address: "127.0.0.1".to_owned(),
        port: 22,
        user: "root".to_owned(),
        sudo: SudoMode::None,
        timeout: Duration::from_secs(60),
        host_key_mode: HostKeyMode::Tofu,
        known_keys: Vec::new(),
        jump: None,
        corpus: "c0".to_owned(),
        variables: [].into(),
    }
}

/// A final message with these bytes, signed with the key of the job's attempt.
#[must_use]
pub fn signed(keys: &VaultKeys, job: &Job, payload: Bytes) -> Outgoing {
    let subject = subject::result(Part::Final, job.host, job.scan);
    let key = keys.result_key(job.scan, job.attempt);
    let signed = key.sign(Part::Final.as_str(), &subject, &payload);
    let message_id = message_id(job.scan, job.attempt, 1, Part::Final);
    Outgoing { subject, message_id, headers: headers(&signed, "attempt"), payload }
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
        learned_jump_key: None,
        shown_key: None,
        verdict: Verdict::Completed(measurement),
    }
}
