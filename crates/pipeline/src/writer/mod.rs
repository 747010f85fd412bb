//! Turns results into the transaction log: verify, then apply in one `tx`, then ack.

mod apply;
mod keys;
mod refuse;

use std::sync::Arc;

use bytes::Bytes;
use openwatch_bus::consume::{self, Consumer, Options, Pulse};
use openwatch_bus::dead_letter::DeadLetter;
use openwatch_bus::message::event::ScanStarted as ScanStartedEvent;
use openwatch_bus::message::result::{BLOB_MOST, Final, Part, Started, Unread, decode_final, decode_whole};
use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC};
use openwatch_bus::{Bus, BusError, DecodeError, Message, Next, subject};
use openwatch_model::audit::{Actor, ScanStarted};
use openwatch_model::scan::Verdict;
use openwatch_model::{HostId, ScanId};
use openwatch_store::{Store, StoreError, scan};
use openwatch_trust::{MacError, Signed, WriterKeys};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::error::{AWAY, next};
use crate::gate::database_gate;
use crate::keys::Held;
use crate::out::Out;
use crate::policy::PolicyWatch;

pub(crate) const STAGE: &str = "writer";
/// Results applied side by side: two cores are full with as many.
const SLOTS: usize = 4;

/// What the writer may touch.
pub struct Writer {
    /// Database, as `writer`.
    pub store: Store,
    /// Bus, as `writer`.
    pub bus: Bus,
    /// Verify every result.
    pub keys: Held<WriterKeys>,
    /// The policy in force and its predecessors.
    pub policy: PolicyWatch,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

/// Why a result message is not applied. The message becomes a dead letter with these words.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("its subject names no part, host and scan")]
    Subject,
    #[error("its signature is missing or does not match: {0}")]
    Signature(#[from] MacError),
    #[error("it holds outcomes but is not signed with the key of its attempt")]
    NotTheAttempt,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] DecodeError),
    #[error("its subject and its content speak of different scans")]
    Contradiction,
    #[error("the stored result that it names is missing or is another one")]
    Blob,
}

/// Failures on the way.
enum Trouble {
    Store(StoreError),
    Bus(BusError),
    Refused(Refusal),
    /// Signed with the key of this attempt, and yet not to be read: nobody will say anything better about it.
    Unreadable {
        about: (HostId, ScanId),
        attempt: u32,
        refusal: Refusal,
    },
    Stage(StageError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl<R: Into<Refusal>> From<R> for Trouble {
    fn from(refusal: R) -> Self {
        Self::Refused(refusal.into())
    }
}

impl Writer {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        self.policy.wait(&self.pulse, &shutdown).await?;
        let mut options = Options::new(STAGE, Consumer::WRITER, SLOTS).gate(database_gate(&self.store));
        options.pulse = self.pulse.clone();
        let bus = self.bus.clone();
        let writer = Arc::new(self);
        let handle = move |message: Message| {
            let writer = writer.clone();
            async move { writer.handle(message).await }
        };
        Ok(consume::run(&bus, options, handle, shutdown).await?)
    }

    async fn handle(&self, message: Message) -> Next {
        match self.take(&message).await {
            Ok(()) => Next::Done,
            Err(Trouble::Refused(refusal)) => refuse::dead_letter(self, &message, &refusal.to_string()).await,
            Err(Trouble::Unreadable { about, attempt, refusal }) => {
                match refuse::unreadable(self, &message, about, attempt, &refusal.to_string()).await {
                    Ok(()) => Next::Done,
                    Err(error) => next(error),
                }
            }
            Err(Trouble::Store(error)) => next(error),
            Err(Trouble::Bus(error)) => {
                tracing::warn!(%error, "a result waits for the bus");
                Next::Retry { after: AWAY }
            }
            Err(Trouble::Stage(error)) => {
                tracing::warn!(%error, "a result waits");
                Next::Retry { after: AWAY }
            }
        }
    }

    async fn take(&self, message: &Message) -> Result<(), Trouble> {
        let (part, host, scan) = subject::parse_result(&message.subject).ok_or(Refusal::Subject)?;
        match part {
            Part::Started => self.started(message, host, scan).await,
            Part::Rejected => {
                self.verify_worker(part, message)?;
                refuse::job(self, message).await
            }
            Part::Final => {
                let (unread, proven) = self.read_final(message, (host, scan)).await?;
                apply::result(self, message, unread, proven).await
            }
        }
    }

    fn verify_worker(&self, part: Part, message: &Message) -> Result<(), MacError> {
        let signed = Signed::from_headers(message.header(KEY_ID), message.header(MAC))?;
        self.keys.borrow().verify_worker(part.as_str(), &message.subject, &message.payload, &signed)
    }

    /// Outcomes count only under the key of their attempt; a failure also under the worker's. Whether it was the key of
    /// the attempt.
    async fn read_final(
        &self,
        message: &Message,
        about: (HostId, ScanId),
    ) -> Result<(Unread, bool), Trouble> {
        let part = Part::Final;
        let mut attempt = None;
        if message.header(KEY_KIND) == Some("attempt") {
            let claimed = claimed_attempt(message, about.1).ok_or(Refusal::NotTheAttempt)?;
            let signed = Signed::from_headers(message.header(KEY_ID), message.header(MAC))?;
            let (subject, payload) = (&message.subject, &message.payload);
            self.keys.borrow().verify_attempt(
                (about.1, claimed),
                part.as_str(),
                subject,
                payload,
                &signed,
            )?;
            attempt = Some(claimed);
        } else {
            self.verify_worker(part, message)?;
        }
        match (self.read_believed(message, about, attempt).await, attempt) {
            // What the bucket lost, another attempt may find: the rescuer sees to that.
            (Err(Trouble::Refused(Refusal::Blob)), _) => Err(Refusal::Blob.into()),
            (Err(Trouble::Refused(refusal)), Some(attempt)) => {
                Err(Trouble::Unreadable { about, attempt, refusal })
            }
            (read, attempt) => Ok((read?, attempt.is_some())),
        }
    }

    /// Reads a result whose signature is good, and sees that it speaks of what it was signed for.
    async fn read_believed(
        &self,
        message: &Message,
        about: (HostId, ScanId),
        attempt: Option<u32>,
    ) -> Result<Unread, Trouble> {
        let unread = match decode_final(&message.payload)? {
            Final::Whole(unread) => *unread,
            Final::Stored(blob) => {
                let bytes =
                    self.bus.get_object(&blob.bucket, &blob.name, BLOB_MOST).await.map_err(Trouble::Bus)?;
                let bytes: Bytes = bytes.filter(|bytes| blob.is_of(bytes)).ok_or(Refusal::Blob)?;
                decode_whole(&bytes)?
            }
        };
        let result = unread.head();
        match (&result.verdict, attempt) {
            (Verdict::Completed(_), None) => Err(Refusal::NotTheAttempt.into()),
            (_, Some(attempt)) if attempt != result.attempt => Err(Refusal::Contradiction.into()),
            _ if (result.host, result.scan) != about => Err(Refusal::Contradiction.into()),
            _ => Ok(unread),
        }
    }

    async fn started(&self, message: &Message, host: HostId, scan: ScanId) -> Result<(), Trouble> {
        self.verify_worker(Part::Started, message)?;
        let it = Started::decode(&message.payload)?;
        if (it.host, it.scan) != (host, scan) {
            return Err(Refusal::Contradiction.into());
        }
        self.begin(message, host, scan, it.attempt, &it.worker).await?;
        Ok(())
    }

    /// Says that an attempt has begun, unless that is on record or nobody waits for it any longer.
    async fn begin(
        &self,
        message: &Message,
        host: HostId,
        scan: ScanId,
        attempt: u32,
        worker: &str,
    ) -> Result<(), StoreError> {
        while let Some((moment, begun)) = scan::queued(&self.store, scan, host, attempt).await? {
            let mut out = Out::new(STAGE, scan.to_string())
                .by(Actor::Worker(worker.to_owned()))
                .under(&begun.policy_version)
                .traced(message.trace);
            out.audit(
                &moment,
                &ScanStarted {
                    host_id: begun.host,
                    scan_id: scan,
                    framework_id: begun.selection.framework.clone(),
                    policy_version: begun.policy_version.clone(),
                    worker: worker.to_owned(),
                },
            );
            out.event(
                &moment,
                Some(begun.host),
                ScanStartedEvent {
                    scan_id: scan,
                    host_id: begun.host,
                    attempt,
                    trigger: begun.lane,
                    framework_id: begun.selection.framework,
                    policy_version: begun.policy_version,
                    worker: worker.to_owned(),
                },
            );
            let told = out.told(&moment);
            if scan::mark_running(&self.store, moment, scan, attempt, worker, &told).await? {
                break;
            }
        }
        Ok(())
    }
}

/// The attempt in `<scan>.<attempt>.<delivery>.<part>`. A claim: the signature made with that attempt's key proves it.
fn claimed_attempt(message: &Message, scan: ScanId) -> Option<u32> {
    let rest = message.message_id()?.strip_prefix(&format!("{scan}."))?;
    rest.split('.').next()?.parse().ok()
}

/// The dead letter of a message in hand, for the outbox.
fn letter(message: &Message, reason: &str) -> openwatch_bus::Outgoing {
    DeadLetter::of(STAGE, message, reason).encode()
}
