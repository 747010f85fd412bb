//! What a worker says, signed with the key that it may sign it with, and held in memory until the bus has it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use openwatch_bus::message::result::{
    BlobRef, INLINE_MOST, Part, Rejected, Started, encode_final, encode_stored, message_id,
};
use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC};
use openwatch_bus::subject::{self, BUCKET_RESULTS};
use openwatch_bus::trace::Traceparent;
use openwatch_bus::{BusError, Message, Outgoing};
use openwatch_model::scan::ScanResult;
use openwatch_model::{HostId, ScanId};
use openwatch_trust::{ResultKey, Signed};
use uuid::Uuid;

use super::Worker;

/// How long a result is held and offered again: longer than any restart of the bus. The rescuer may begin another attempt
/// meanwhile; whichever result comes first ends the scan.
const HOLD: Duration = Duration::from_secs(10 * 60);
/// Longest wait between two offers.
const PAUSE_MOST: Duration = Duration::from_secs(5);

/// Says that login is about to happen.
pub(super) async fn started(worker: &Worker, message: &Message, started: &Started) -> Result<(), BusError> {
    let payload = started.encode();
    let subject = subject::result(Part::Started, started.host, started.scan);
    let signed = worker.keys.borrow().sign_result(Part::Started.as_str(), &subject, &payload);
    let id = message_id(started.scan, started.attempt, message.deliveries, Part::Started);
    // Not held: if the bus is away the scan waits, it does not begin unseen.
    worker.bus.publish(&outgoing(subject, id, &signed, "executor", payload, message)).await.map(drop)
}

/// Says that a job was not touched.
pub(super) async fn rejected(
    worker: &Worker,
    message: &Message,
    rejected: &Rejected,
) -> Result<(), BusError> {
    // Nothing of the job is believed: its host and scan are not in our subject.
    let nobody = (HostId(Uuid::nil()), ScanId(Uuid::nil()));
    let payload = rejected.encode();
    let subject = subject::result(Part::Rejected, nobody.0, nobody.1);
    let signed = worker.keys.borrow().sign_result(Part::Rejected.as_str(), &subject, &payload);
    let stored = message.published.unix_timestamp_nanos();
    let id = format!("{}.{}.{stored}.{}", message.stream, message.sequence, Part::Rejected.as_str());
    hold(worker, &outgoing(subject, id, &signed, "executor", payload, message)).await
}

/// Says how it ended. Outcomes are signed with the attempt's key, and so is a failure that came after the vault gave it:
/// what else it says, such as a host key seen for the first time, then counts too.
pub(super) async fn last(
    worker: &Worker,
    message: &Message,
    result: ScanResult,
    key: Option<&ResultKey>,
) -> Result<(), BusError> {
    let mut payload = encode_final(&result);
    let (host, scan, attempt) = (result.host, result.scan, result.attempt);
    // From here on only the compressed bytes are needed, for as long as the bus is away.
    drop(result);
    if payload.len() > INLINE_MOST {
        payload = store_blob(worker, scan, attempt, payload).await?;
    }
    let subject = subject::result(Part::Final, host, scan);
    let part = Part::Final.as_str();
    let (signed, kind) = match key {
        Some(key) => (key.sign(part, &subject, &payload), "attempt"),
        None => (worker.keys.borrow().sign_result(part, &subject, &payload), "executor"),
    };
    let id = message_id(scan, attempt, message.deliveries, Part::Final);
    hold(worker, &outgoing(subject, id, &signed, kind, payload, message)).await
}

async fn store_blob(worker: &Worker, scan: ScanId, attempt: u32, bytes: Bytes) -> Result<Bytes, BusError> {
    let name = format!("{scan}.{attempt}.{}", Uuid::new_v4().simple());
    let begun = Instant::now();
    let mut pause = Duration::from_millis(200);
    let mut held = None;
    loop {
        match worker.bus.put_object(BUCKET_RESULTS, &name, bytes.clone()).await {
            Ok(()) => return Ok(encode_stored(&BlobRef::of(BUCKET_RESULTS, name, &bytes))),
            Err(error @ BusError::Denied { .. }) => return Err(error),
            Err(error) if begun.elapsed() < HOLD => {
                held.get_or_insert_with(Held::new);
                wait(&error, &mut pause).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Offers a message until the bus takes it. A full stream refuses loudly; that too is waited out.
///
/// Told on the first offer that this id is there already, somebody else has used it: ids can be guessed, and a result
/// must not be swallowed for that. It goes out once more under an id that cannot.
async fn hold(worker: &Worker, message: &Outgoing) -> Result<(), BusError> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(200);
    let mut message = message.clone();
    let mut offers = 0;
    let mut held = None;
    loop {
        offers += 1;
        match worker.bus.publish(&message).await {
            Ok(published) if published.duplicate && offers == 1 => {
                message.message_id = format!("{}.{}", message.message_id, Uuid::new_v4().simple());
            }
            Ok(_) => return Ok(()),
            Err(error @ BusError::Denied { .. }) => return Err(error),
            Err(error) if begun.elapsed() < HOLD => {
                held.get_or_insert_with(Held::new);
                wait(&error, &mut pause).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Counts a result that the bus does not take yet. There are never more than slots: each keeps its own.
struct Held;

impl Held {
    fn new() -> Self {
        metrics::gauge!("openwatch_results_held").increment(1.0);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::gauge!("openwatch_results_held").decrement(1.0);
    }
}

async fn wait(error: &BusError, pause: &mut Duration) {
    tracing::warn!(%error, "the result is held until the bus takes it");
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_MOST);
}

fn outgoing(
    subject: String,
    message_id: String,
    signed: &Signed,
    kind: &str,
    payload: Bytes,
    cause: &Message,
) -> Outgoing {
    let headers = vec![
        (KEY_ID.to_owned(), signed.kid.to_string()),
        (MAC.to_owned(), signed.tag.to_string()),
        (KEY_KIND.to_owned(), kind.to_owned()),
        (Traceparent::HEADER.to_owned(), cause.trace.child().to_string()),
    ];
    Outgoing { subject, message_id, headers, payload }
}
