//! A worker: takes signed jobs, measures hosts, sends results. Knows NATS and SSH; no database, no disk.
//!
//! The order is the security: the tag before anything else, the host key before the secret, the secret last.

mod attempt;
mod send;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openwatch_bus::consume::{self, Consumer, Options, Pulse};
use openwatch_bus::message::result::Rejected;
use openwatch_bus::message::{KEY_ID, MAC, job};
use openwatch_bus::{Bus, DecodeError, Message, Next, subject};
use openwatch_model::scan::{Job, Rejection, check_fresh};
use openwatch_model::{HostId, Timestamp};
use openwatch_trust::{ExecutorKeys, Signed, Tag};
use tokio_util::sync::CancellationToken;

use crate::corpus::Corpora;
use crate::keys::Held;
use crate::measure::Engine;
use crate::{SignerWatch, StageError};

pub(crate) const STAGE: &str = "executor";
/// How long a job waits when its host is being measured by this very worker.
const BUSY: Duration = Duration::from_secs(5);
/// How far a worker's clock may be off (design 3.3): further, and it could not judge the age of a job.
const CLOCK_LIMIT: Duration = Duration::from_secs(300);

/// Told to stop, how long scans in hand may go on before they are broken off: the grace of the loop, less what it takes to
/// clear a target and to say what became of the scan.
const FINISH: Duration = Duration::from_secs(17);

/// What a worker may touch.
pub struct Executor {
    /// Bus, as `executor`.
    pub bus: Bus,
    /// Verify jobs, sign what is no verdict, ask the vault.
    pub keys: Held<ExecutorKeys>,
    /// Whose corpora count.
    pub signers: SignerWatch,
    /// Name in results.
    pub name: String,
    /// Scans at a time.
    pub slots: usize,
    /// Shells per scan.
    pub lanes: u8,
    /// What measures. Tests put a broken one here; everybody else [`crate::measure::engine`].
    pub engine: Engine,
    /// Cancelled when scans in hand shall be broken off at once instead of finished.
    pub hurry: CancellationToken,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

/// What all attempts of a worker share.
struct Worker {
    bus: Bus,
    keys: Held<ExecutorKeys>,
    corpora: Corpora,
    name: String,
    lanes: u8,
    engine: Engine,
    /// Breaks off what is in hand.
    hurry: CancellationToken,
    /// Hosts in hand: the same host twice at once would only measure the measuring.
    busy: Mutex<BTreeSet<HostId>>,
}

impl Executor {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// A clock that is too far off, or what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        check_bus(&self.bus).await?;
        let worker = Arc::new(Worker {
            corpora: Corpora::new(self.bus.clone(), self.signers),
            bus: self.bus.clone(),
            keys: self.keys,
            name: self.name,
            lanes: self.lanes,
            engine: self.engine,
            hurry: self.hurry.clone(),
            busy: Mutex::default(),
        });
        metrics::gauge!("openwatch_executor_slots").set(self.slots as f64);
        metrics::gauge!("openwatch_results_held").set(0.0);
        let mut options = Options::new(STAGE, Consumer::EXECUTOR_MANUAL, self.slots)
            .second(Consumer::EXECUTOR_SCHEDULED)
            .confirmed();
        options.pulse = self.pulse;
        let handle = move |message: Message| {
            let worker = worker.clone();
            async move { worker.handle(message).await }
        };
        let running = consume::run(&self.bus, options, handle, shutdown.clone());
        let breaking_off = async {
            shutdown.cancelled().await;
            let _ = tokio::time::timeout(FINISH, self.hurry.cancelled()).await;
            self.hurry.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = running => Ok(ended?),
            () = breaking_off => Ok(()),
        }
    }
}

/// What a worker cannot do without: both lanes, and a clock that can judge the age of a job.
async fn check_bus(bus: &Bus) -> Result<(), StageError> {
    for Consumer { stream, name: consumer } in [Consumer::EXECUTOR_MANUAL, Consumer::EXECUTOR_SCHEDULED] {
        let info = match bus.consumer_info(stream, consumer).await {
            Err(error) if error.is_not_found() => return Err(StageError::Unprepared { stream, consumer }),
            info => info?,
        };
        let Some(server) = info.server_time else { continue };
        let off = Timestamp::now_utc() - server;
        if off.unsigned_abs() > CLOCK_LIMIT {
            return Err(StageError::ClockOff {
                off_sec: off.whole_seconds(),
                limit_sec: CLOCK_LIMIT.as_secs() as i64,
            });
        }
    }
    Ok(())
}

impl Worker {
    async fn handle(&self, message: Message) -> Next {
        let (job, tag) = match self.verify(&message) {
            Ok(verified) => verified,
            Err(rejection) => return self.reject(&message, rejection).await,
        };
        let Some(_guard) = Guard::take(&self.busy, job.host) else { return Next::Retry { after: BUSY } };
        attempt::run(self, &message, &job, tag).await
    }

    /// Before anything else: the tag over the exact bytes and the lane, then the payload, then its age.
    fn verify(&self, message: &Message) -> Result<(Job, Tag), Rejection> {
        let (lane, host) = subject::parse_job(&message.subject).ok_or(Rejection::Malformed)?;
        let signed =
            Signed::from_headers(message.header(KEY_ID), message.header(MAC)).map_err(Rejection::from)?;
        self.keys.borrow().verify_job(lane.as_str(), &message.payload, &signed).map_err(Rejection::from)?;
        let job = job::decode(&message.payload).map_err(|error| match error {
            DecodeError::UnknownVersion { .. } => Rejection::UnsupportedVersion,
            _ => Rejection::Malformed,
        })?;
        if job.host != host || job.lane != lane {
            return Err(Rejection::Malformed);
        }
        let now_ns = i64::try_from(Timestamp::now_utc().unix_timestamp_nanos()).unwrap_or(i64::MAX);
        check_fresh(job.enqueued_at_ns, now_ns)?;
        Ok((job, signed.tag))
    }

    /// Tells the writer, who owns the audit and the dead letter; then the job is done with.
    async fn reject(&self, message: &Message, failure: Rejection) -> Next {
        tracing::error!(
            subject = message.subject,
            sequence = message.sequence,
            failure = failure.as_str(),
            "job refused"
        );
        metrics::counter!("openwatch_jobs_rejected_total", "failure" => failure.as_str()).increment(1);
        let rejected = Rejected {
            subject: message.subject.clone(),
            sequence: message.sequence,
            stored_at: Some(message.published),
            failure,
            message_id: message.message_id().map(str::to_owned),
            tag: message.header(MAC).map(str::to_owned),
            excerpt: message.payload.to_vec(),
            size: message.payload.len() as u64,
            worker: self.name.clone(),
            at: Timestamp::now_utc(),
        };
        match send::rejected(self, message, &rejected).await {
            Ok(()) => Next::Done,
            Err(error) => {
                tracing::warn!(%error, "a refused job could not be reported; it is delivered again");
                Next::Retry { after: crate::error::AWAY }
            }
        }
    }
}

/// A host in hand; given back on drop.
struct Guard<'a> {
    busy: &'a Mutex<BTreeSet<HostId>>,
    host: HostId,
}

impl<'a> Guard<'a> {
    fn take(busy: &'a Mutex<BTreeSet<HostId>>, host: HostId) -> Option<Self> {
        let taken = busy.lock().unwrap_or_else(PoisonError::into_inner).insert(host);
        taken.then_some(Self { busy, host })
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.host);
    }
}
